"""Shadow and reference models in a run: which halves they see, what they are shared by, what metrics come of them."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import multidelete.membership.references
import multidelete.pipeline
import tiny
from messages import logged
from multidelete.data.dataset import Dataset, Example
from multidelete.judgement.recompute import recomputed
from multidelete.membership.metrics import metrics_of
from multidelete.membership.references import halves_of
from multidelete.methods import METHODS, Method
from multidelete.pipeline import run
from multidelete.recipe import MembershipSettings, Recipe, merged, validate
from multidelete.runs.reader import Run
from multidelete.store.predictions import read_predictions
from multidelete.training.engine import Engine
from multidelete.utils.errors import InputError
from test_bad_input import RECIPE
from test_requests import make

MEMBERSHIP = {"shadow": True, "references": 2, "resamples": 100}
KEYS = ("00-original-all", "01-retrain-all", "02-multidelete-fusion")
ATTACKS = ("loss", "confidence", "entropy", "modified_entropy", "cosine", "i2t", "t2i", "svc", "lira", "rmia")


def recipe(**changes: Any) -> Recipe:
    values = merged(tomllib.loads(RECIPE), {"retrain": True, "membership": MEMBERSHIP})
    values = {key: value for key, value in merged(values, changes).items() if value is not None}
    return validate(values, "here")


# -- halves -------------------------------------------------------------------------------------------------------


def test_reference_models_come_in_complementary_pairs() -> None:
    dataset = make(train=41)
    train = set(dataset.rows("train").tolist())
    result = halves_of(dataset, MembershipSettings(references=6), seed=0)
    assert list(result) == ["shadow", *(f"reference-{i:03d}" for i in range(6))]
    for half in result.values():
        assert set(half.forget) | set(half.retain) == train
        assert not set(half.forget) & set(half.retain)
        assert abs(len(half.forget) - len(half.retain)) <= 1
        assert half.retain.tolist() == sorted(half.retain)
        assert (half.validation.tolist(), half.test.tolist()) == (
            dataset.rows("validation").tolist(),
            dataset.rows("test").tolist(),
        )
    for i in range(0, 6, 2):
        one, other = result[f"reference-{i:03d}"], result[f"reference-{i + 1:03d}"]
        assert set(one.forget) == set(other.retain)
    for row in train:
        assert sum(row in result[f"reference-{i:03d}"].forget for i in range(6)) == 3
    assert len({half.hash for half in result.values()}) == 7
    assert list(halves_of(dataset, MembershipSettings(shadow=False), 0)) == []


def test_halves_depend_on_dataset_and_seed_and_split_any_deletion_in_two() -> None:
    dataset, settings = make(train=100), MembershipSettings()
    assert halves_of(dataset, settings, 5)["shadow"].hash == halves_of(dataset, settings, 5)["shadow"].hash
    assert halves_of(dataset, settings, 5)["shadow"].hash != halves_of(dataset, settings, 6)["shadow"].hash
    deleted = dataset.rows("train")[:20]  # whichever: the halves do not know it
    out = [np.isin(deleted, halves_of(dataset, settings, seed)["shadow"].forget).mean() for seed in range(60)]
    assert np.mean(out) == pytest.approx(0.5, abs=0.05)
    assert min(out) > 0
    assert max(out) < 1


def test_what_belongs_together_stays_together() -> None:
    dataset = make(copies={2: 7, 15: 7})
    examples = [
        Example(**{**_fields(example), "group": "one" if row in (0, 4, 9) else ""})
        for row, example in enumerate(dataset.examples)
    ]
    assert dataset.pixels is not None
    grouped = Dataset("grouped", examples, pixels=dataset.pixels)
    sides = set()
    for seed in range(10):
        for half in halves_of(grouped, MembershipSettings(references=2), seed).values():
            forgotten = set(half.forget.tolist())
            assert forgotten & {2, 7, 15} in (set(), {2, 7, 15})
            assert forgotten & {0, 4, 9} in (set(), {0, 4, 9})
            sides.add((7 in forgotten, 0 in forgotten))
    assert len(sides) == 4


def _fields(example: Example) -> dict[str, Any]:
    return {name: getattr(example, name) for name in Example.__slots__}


def test_examples_that_cannot_be_halved_are_refused() -> None:
    dataset = make()
    assert dataset.pixels is not None
    examples = [Example(**{**_fields(example), "group": "all"}) for example in dataset.examples]
    full = Dataset("whole", examples, pixels=dataset.pixels)
    with pytest.raises(InputError, match=r"cannot be halved .*leave these out with membership\.shadow=false"):
        halves_of(full, MembershipSettings(), 0)
    assert halves_of(full, MembershipSettings(shadow=False), 0) == {}


# -- a run --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[str]]]:
    """A finished run with a shadow model and two reference models, in a store of its own, and the messages."""
    folder = tmp_path_factory.mktemp("membership")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MULTIDELETE_CACHE", str(folder / "cache"))
        with logged() as messages:
            run(recipe(), folder / "run", Engine("fp32"))
        yield folder / "run", messages


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return list(json.loads((folder / "results.json").read_text())["rows"])


def test_a_run_writes_every_metric(finished: tuple[Path, list[str]]) -> None:
    rows = rows_of(finished[0])
    assert [row["method"] for row in rows] == ["original", "retrain", "multidelete"]
    ends = ("", "_low", "_high")
    expected = {f"attack_{name}_auc{end}" for name in ATTACKS for end in ends}  # 36 test pairs: too few for 1 %
    expected |= {f"{name}{end}" for name in ("mi_ratio", "mi_ratio_retain") for end in ends}
    for row in rows:
        result = row["metrics"]
        assert {name for name in result if name.startswith(("attack", "mi_"))} == expected
        for name in expected:
            if name + "_low" in result:
                assert result[name + "_low"] <= result[name] <= result[name + "_high"], name
        assert result["attack_loss_auc"] == result["forget_test_auc"]
        assert result["attack_cosine_auc"] == result["forget_test_auc_cosine"]
    assert rows[0]["metrics"]["mi_ratio"] == rows[0]["metrics"]["mi_ratio_retain"] == 1


def test_the_cost_is_reported_before_it_arises(finished: tuple[Path, list[str]]) -> None:
    sentences = finished[1]
    cost = next(each for each in sentences if each.startswith("membership attacks need 3 models"))
    assert "trained on half of the data, about as long as 1.5 trainings of the original: " in cost
    assert not any("trained before, loaded from the store" in each for each in sentences[: sentences.index(cost)])


def test_metrics_can_be_computed_again_from_the_run_alone(finished: tuple[Path, list[str]]) -> None:
    folder = finished[0]
    stored = {path.name: read_predictions(path) for path in (folder / "predictions").iterdir()}
    assert set(stored) == {*KEYS, "shadow", "reference-000", "reference-001"}
    references = {name: each for name, each in stored.items() if name not in KEYS}
    unasked = {"i2t_rank", "probed_example"}  # nobody wants to know how well a shadow model ranks
    assert unasked <= set(stored[KEYS[0]]["test"])
    assert not unasked & set(references["shadow"]["test"])
    result = recipe()
    for key, row in zip(KEYS, rows_of(folder), strict=True):
        again = metrics_of(result.task, stored[key], stored[KEYS[0]], references, {}, result.membership, result.seed)
        assert again == {name: value for name, value in row["metrics"].items() if name != "gap_to_retrain"}


def test_another_deletion_finds_the_models_of_the_first(finished: tuple[Path, list[str]], tmp_path: Path) -> None:
    asked = {"references": 4, "u_lira": ["multidelete"]}
    with logged() as messages:
        run(recipe(forget={"count": 5}, retrain=False, membership=asked), tmp_path / "run", Engine("fp32"))
    text = "\n".join(messages)
    assert "; for U-LiRA multidelete will then run on each reference model" in text
    assert "membership attacks need 2 models" in text
    assert "about as long as 1 training of the original: " in text
    assert (
        text.count("Model on half of the data (all): trained before, loaded from the store") == 3 + 4
    )  # and for U-LiRA


def test_killed_and_resumed_gives_the_same_numbers(
    finished: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    get_or_unlearn = multidelete.pipeline.get_or_unlearn

    def killed(method: Method, *given: Any) -> Any:
        if method.name == "multidelete":
            raise KeyboardInterrupt
        return get_or_unlearn(method, *given)

    with monkeypatch.context() as patch:
        patch.setattr(multidelete.pipeline, "get_or_unlearn", killed)
        with pytest.raises(KeyboardInterrupt):
            run(recipe(), tmp_path / "run", tiny.engine())
    assert not (tmp_path / "run/results.json").exists()
    with monkeypatch.context() as patch:
        patch.setattr(
            multidelete.membership.references, "get_or_unlearn", lambda *_: pytest.fail("its predictions are there")
        )
        run(recipe(), tmp_path / "run", Engine("fp32", resume=True), resume=True)
    for one, other in zip(rows_of(tmp_path / "run"), rows_of(finished[0]), strict=True):
        assert one["metrics"] == other["metrics"]


@pytest.fixture(scope="module")
def attacked(finished: tuple[Path, list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run in which one of two methods is attacked by U-LiRA too."""
    folder = tmp_path_factory.mktemp("u-lira") / "run"
    asked = {"shadow": False, "references": 4, "u_lira": ["multidelete"]}
    with logged() as messages:
        run(recipe(membership=asked, forget={"count": 6}, compare=[{"name": "neggrad"}]), folder, Engine("fp32"))
    text = "\n".join(messages)
    assert re.search(r"U-LiRA: MultiDelete \(\w+\) runs on 4 reference models, about [\d.]+ (s|min)", text)
    return folder


def test_u_lira_runs_the_method_on_every_reference_model(attacked: Path) -> None:
    dataset, result = tiny.dataset(), recipe(forget={"count": 6})
    deleted = set(result.request(dataset).ids)
    rows = rows_of(attacked)
    assert ["attack_u_lira_auc" in row["metrics"] for row in rows] == [False, False, True, False]
    for number in range(4):
        reference = read_predictions(attacked / f"predictions/reference-{number:03d}")
        unlearned = read_predictions(attacked / f"predictions/{KEYS[2]}-reference-{number:03d}")
        assert set(unlearned) == {"forget", "validation", "test"}
        assert set(unlearned["forget"]["example"]) == deleted
        assert unlearned["test"]["example"].tolist() == reference["test"]["example"].tolist()
        assert not np.array_equal(unlearned["test"]["score"], reference["test"]["score"])
    assert not any(path.is_dir() for path in (attacked / "work").iterdir())
    assert recomputed(Run.load(attacked), 2) == pytest.approx(rows[2]["metrics"])


def test_each_reference_model_forgets_what_it_knew_and_keeps_the_rest(
    finished: tuple[Path, list[str]], attacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, get_or_unlearn = [], multidelete.membership.references.get_or_unlearn

    def noted(method: Method, original: Any, data: Any, engine: Engine) -> Any:
        if method.name == "multidelete":
            given.append(data)
            if len(given) == 3:
                raise KeyboardInterrupt
        return get_or_unlearn(method, original, data, engine)

    asked = {"shadow": False, "references": 4, "u_lira": ["multidelete"]}
    values = recipe(membership=asked, forget={"count": 6}, compare=[{"name": "neggrad"}])
    monkeypatch.setattr(multidelete.membership.references, "get_or_unlearn", noted)
    with pytest.raises(KeyboardInterrupt):
        run(values, tmp_path / "run", tiny.engine())
    run(values, tmp_path / "run", Engine("fp32", resume=True), resume=True)
    assert len(given) == 5, "what was finished before the kill is not made again"
    full, halves = values.request(tiny.dataset()), halves_of(tiny.dataset(), values.membership, 0)
    for data, number in zip(given, (0, 1, 2, 2, 3), strict=True):
        half, request = halves[f"reference-{number:03d}"], data.request
        assert set(request.forget) == set(full.forget) & set(half.retain)
        assert set(request.retain) == set(half.retain) - set(full.forget)
        assert len(request.retain)
    assert len({data.seed for data in given}) == 4
    for one, other in zip(rows_of(tmp_path / "run"), rows_of(attacked), strict=True):
        assert one["metrics"] == other["metrics"]


def test_no_shadow_where_nobody_knows_how_the_original_was_trained(tiny_model: Path, tmp_path: Path) -> None:
    brought = recipe(original=str(tiny_model), model=None, train=None, retrain=False)
    with logged() as messages:
        run(brought, tmp_path / "run", Engine("fp32"), dataset=tiny.dataset())
    assert sum("the original's training recipe is not known" in each for each in messages) == 1
    assert sorted(path.name for path in (tmp_path / "run/predictions").iterdir()) == [KEYS[0], "01-multidelete-fusion"]
    for row in rows_of(tmp_path / "run"):
        result = {name for name in row["metrics"] if name.startswith(("attack", "mi_")) and name.endswith("_auc")}
        assert result == {f"attack_{name}_auc" for name in ATTACKS[:7]}
        assert "mi_ratio" not in row["metrics"]


# -- a model that memorises ---------------------------------------------------------------------------------------


def by_heart(count: int, seed: int = 0) -> Dataset:
    """Words without sense, called true or false by chance: there is nothing to learn but the pairs themselves."""
    rng = np.random.default_rng(seed)
    words = [f"w{number}" for number in range(60)]
    examples = []
    for split in ("train", "test", "validation"):
        for number in range(count if split != "validation" else 10):
            texts = tuple(" ".join(rng.choice(words, 6)) for _ in range(4))
            labels = tuple(rng.choice(["true", "false"], 4).tolist())
            examples.append(Example(f"{split}-{number:03d}", split, texts, labels=labels))
    pixels = rng.integers(0, 256, (len(examples), 1, 1, 3), dtype=np.uint8).repeat(24, 1).repeat(24, 2)
    return Dataset("by heart", examples, pixels=pixels)


@pytest.mark.slow
def test_what_is_learned_by_heart_is_found_out_and_retrain_is_not(tmp_path: Path) -> None:
    dataset = by_heart(80)
    values = recipe(
        task={"name": "reasoning"},
        forget={"count": 40},
        train={"epochs": 30, "learning_rate": 8e-3},
        method={"name": "retrain"},
        retrain=False,
    )
    rows = run(values, tmp_path / "run", tiny.engine(), dataset=dataset).rows
    original, retrained = (row["metrics"] for row in rows)
    assert original["retain_score"] > 85
    assert original["test_score"] < 60
    for name in ("loss", "modified_entropy", "svc", "rmia"):
        assert original[f"attack_{name}_auc"] > 62, name
        assert original[f"attack_{name}_auc_low"] > 55, name
        assert retrained[f"attack_{name}_auc"] == pytest.approx(50, abs=10), name
    assert {"attack_loss_tpr1", "attack_loss_tpr1_low", "attack_loss_tpr1_high"} <= set(original)
    assert retrained["mi_ratio_low"] > 1.1
    assert retrained["mi_ratio_retain"] < 1.1


# -- recipes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"references": 3}, "'membership.references' should be a multiple of 2, got 3"),
        ({"references": -2}, "'membership.references' should be greater than or equal to 0, got -2"),
        ({"references": 2.0}, "'membership.references' should be a valid integer, got 2.0"),
        ({"resamples": 5}, "'membership.resamples' should be greater than or equal to 100, got 5"),
        (
            {"shadow": "maybe"},
            "'membership.shadow' should be a valid boolean, unable to interpret input, got 'maybe'",
        ),
        (
            {"u_lira": ["neggrad"], "references": 2},
            "'membership': u_lira needs at least 4 reference models, references is 2",
        ),
        (
            {"u_lira": ["negrad"], "references": 4},
            "'membership.u_lira': 'negrad' is not a method (there are X); did you mean 'neggrad'?",
        ),
        (
            {"u_lira": ["erm_ktp"], "references": 4},
            "'membership.u_lira': erm_ktp cannot run on reference models, because it needs a model that was trained "
            "for the same deletion; remove it",
        ),
        ({"shadows": 1}, "'membership' has no setting 'shadows'; did you mean 'shadow'?"),
        ("shadow", "'membership' must be a table, not 'shadow'"),
    ],
)
def test_wrong_settings_are_reported(given: Any, sentence: str) -> None:
    with pytest.raises(InputError) as raised:
        recipe(membership=given)
    assert str(raised.value) == f"here: {sentence.replace('X', ', '.join(METHODS))}"


def test_the_default_is_a_shadow_model_and_no_references() -> None:
    assert validate({"forget": {"count": 3}}, "here").membership == MembershipSettings(shadow=True, references=0)
