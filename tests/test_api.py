"""Unlearning in one call: every form of a request, and a model that stays as it was given."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import multidelete
import tiny
from multidelete import FineTune, InputError, Model, MultiDelete, Retrieval
from multidelete.data.dataset import Dataset
from multidelete.pipeline import run
from multidelete.recipe import MembershipSettings, load
from multidelete.training.engine import Engine
from multidelete.utils.keys import weights_hash

IDS = ["train-00017", "train-00003"]


def quick(**settings: Any) -> MultiDelete:
    return MultiDelete(
        **{
            "scope": "fusion",
            "stop": "lowest",
            "min_steps": 3,
            "epochs": 1,
            "batch_size": 8,
            "evaluations": 2,
            **settings,
        }
    )


def unlearn(model: Model | str | Path, forget: Any, **options: Any) -> multidelete.Outcome:
    options = {"method": quick(), "engine": tiny.engine(), **options}
    return multidelete.unlearn(model, tiny.dataset(), forget=forget, **options)


def ids_file(folder: Path) -> str:
    (folder / "forget.txt").write_text("# two to go\n" + "\n".join(IDS) + "\n")
    return str(folder / "forget.txt")


@pytest.mark.parametrize("name", tiny.IN_DEPTH)
@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (lambda folder: IDS, IDS),
        (lambda folder: tuple(IDS), IDS),
        (ids_file, IDS),
        (lambda folder: Path(ids_file(folder)), IDS),
        (lambda folder: 5, 5),
        (lambda folder: np.int64(5), 5),
        (lambda folder: 0.1, 4),
        (lambda folder: np.float64(0.1), 4),
    ],
    ids=["list", "tuple", "file", "path", "count", "numpy-count", "fraction", "numpy-fraction"],
)
def test_every_form_of_a_request(
    name: str, form: Callable[[Path], Any], expected: list[str] | int, tmp_path: Path
) -> None:
    model = tiny.original(name)
    outcome = unlearn(model, form(tmp_path))
    if isinstance(expected, list):
        assert list(outcome.request.ids) == expected
    else:
        assert len(outcome.request.ids) == expected
    moved = tiny.changed(tiny.weights(model), tiny.weights(outcome.model))
    assert moved
    assert moved <= set(model.parameters_of("fusion"))
    assert set(outcome.metrics) == set(outcome.before)
    expected = Retrieval().metrics(outcome.predictions)
    assert {name: outcome.metrics[name] for name in expected} == expected
    probes = {f"probe_{m}{end}" for m in ("vision", "text") for end in ("", "_refitted")}
    others = outcome.metrics.keys() - expected - probes
    assert probes < outcome.metrics.keys()
    assert "attack_loss_auc" in others
    assert all(name.startswith("attack_") for name in others)  # no shadow model: the training is not known
    assert all(np.isfinite(value) for value in outcome.metrics.values())
    assert len([line for line in outcome.history.lines if "losses" in line]) >= 3


def test_scores_before_are_those_of_the_original() -> None:
    model = tiny.original("albef")
    outcome = unlearn(model, IDS)
    data = tiny.data_for(model, outcome.request)
    predictions = Retrieval().predict(model, data.inputs, outcome.request, tiny.engine())
    expected = Retrieval().metrics(predictions)
    assert {name: outcome.before[name] for name in expected} == pytest.approx(expected, rel=1e-6)
    assert outcome.before != outcome.metrics


@pytest.mark.parametrize("name", tiny.IN_DEPTH)
@pytest.mark.parametrize(
    "method",
    [quick(), quick(scope="all"), FineTune(min_steps=3, epochs=1)],
    ids=["multidelete-fusion", "multidelete-all", "finetune"],
)
def test_model_that_is_given_stays_as_it_is(name: str, method: multidelete.Method) -> None:
    model: Any = copy.deepcopy(tiny.original(name)).train()
    for scope, moving in (("vision", True), ("text", False)):
        for parameter in model.parameters_of(scope).values():
            parameter.requires_grad_(moving)
    next(module for module in model.modules() if isinstance(module, torch.nn.LayerNorm)).eval()
    before = tiny.weights(model)
    flags = [parameter.requires_grad for parameter in model.parameters()]
    positions = [parameter.data_ptr() for parameter in model.parameters()]
    modes = [module.training for module in model.modules()]
    known = {"training": tiny.TRAINING, "retrain": False, "membership": MembershipSettings(shadow=False)}
    outcome = unlearn(model, IDS, method=method, **known)
    assert tiny.changed(before, tiny.weights(model)) == set()
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert [parameter.data_ptr() for parameter in model.parameters()] == positions
    assert [module.training for module in model.modules()] == modes
    assert {parameter.device for parameter in model.parameters()} == {torch.device("cpu")}
    assert not set(positions) & {parameter.data_ptr() for parameter in outcome.model.parameters()}
    again = unlearn(tiny.original(name), IDS, method=method, **known)  # in eval mode from the start: the same outcome
    assert tiny.changed(tiny.weights(again.model), tiny.weights(outcome.model)) == set()


def test_model_can_be_given_as_its_folder_and_the_outcome_written(tmp_path: Path) -> None:
    model = tiny.original("albef")
    model.save_pretrained(tmp_path / "model")
    one, two = unlearn(tmp_path / "model", IDS), unlearn(str(tmp_path / "model"), IDS)
    assert tiny.changed(tiny.weights(one.model), tiny.weights(two.model)) == set()
    one.model.save_pretrained(tmp_path / "unlearned")
    loaded = Model.from_pretrained(tmp_path / "unlearned")
    assert weights_hash(loaded.state_dict()) == weights_hash(one.model.state_dict())


def test_seed_decides_sample_and_outcome() -> None:
    model = tiny.original("albef")
    first, again, other = (unlearn(model, 5, seed=seed) for seed in (0, 0, 1))
    assert first.request.ids == again.request.ids != other.request.ids
    assert tiny.changed(tiny.weights(first.model), tiny.weights(again.model)) == set()
    assert first.metrics == again.metrics


@pytest.mark.parametrize(
    ("forget", "expected"),
    [
        (["train-00099"], "'train-00099' is not in the training split; did you mean 'train-000"),
        (["test-00001"], "is in the test split"),
        (40, "nothing would be left to retain"),
        (True, "is not an integer"),
        (1.5, "is not between 0 and 1"),
        ("nowhere.txt", "there is no file nowhere.txt"),
    ],
)
def test_impossible_request_is_refused(forget: Any, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        unlearn(tiny.original("albef"), forget)


@pytest.mark.parametrize("single", ["validation", "test"])
def test_a_single_unseen_example_is_refused_before_anything_starts(single: str) -> None:
    dataset = tiny.dataset()
    extra = dataset.rows(single)[1:]
    kept = [row for row in range(len(dataset)) if row not in extra]
    pixels = dataset.images(tiny.PIXELS)[kept]
    short = Dataset("short", [dataset.examples[row] for row in kept], pixels=pixels)

    class Asked(MultiDelete):
        def unlearn(self, *_: Any) -> Any:  # type: ignore[misc]
            pytest.fail("started")

    with pytest.raises(InputError, match=rf"dataset 'short' has (1 examples|one example) in its {single} split"):
        multidelete.unlearn(tiny.original("albef"), short, forget=IDS, method=Asked(), engine=tiny.engine())


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[multidelete.Outcome, list[dict[str, Any]]]:
    """One recipe twice: by the Python call, and the rows that the command line leaves in ``results.json``."""
    folder = tmp_path_factory.mktemp("compared")
    tiny.original("albef").save_pretrained(folder / "model")
    tiny.dataset().save(folder / "photos")
    (folder / "recipe.toml").write_text(
        'precision = "fp32"\ncompare = [{name = "neggrad", epochs = 1, evaluations = 1}]\n'
        "train = {epochs = 1, batch_size = 32}\nforget = {count = 5}\n"
        'method = {name = "multidelete", scope = "fusion", min_steps = 3, epochs = 1, evaluations = 2, '
        'stop = "lowest"}\n'
        f'original = "{folder / "model"}"\ndata = {{reader = "manifest", root = "{folder / "photos"}"}}\n'
    )
    recipe = load(folder / "recipe.toml")
    run(recipe, folder / "run", Engine("fp32"))
    outcome = multidelete.unlearn(
        folder / "model",
        recipe.dataset(),
        forget=5,
        method=recipe.method,
        compare=recipe.compare,
        training=recipe.train,
        engine=Engine("fp32"),
    )
    return outcome, json.loads((folder / "run" / "results.json").read_text())["rows"]


def test_the_python_call_and_the_command_line_agree_on_every_metric(compared: Any) -> None:
    outcome, rows = compared
    frame = outcome.to_dataframe()
    assert (
        frame["method"].tolist() == [row["method"] for row in rows] == ["original", "retrain", "multidelete", "neggrad"]
    )
    for (_, line), row in zip(frame.iterrows(), rows, strict=True):
        assert row["metrics"].keys() <= set(frame.columns)
        assert {name: line[name] for name in row["metrics"]} == row["metrics"]
    assert {"mi_ratio", "gap_to_retrain", "attack_svc_auc"} <= outcome.metrics.keys()


def test_an_outcome_is_short_to_read(compared: Any) -> None:
    outcome, rows = compared
    lines = repr(outcome).splitlines()
    assert len(lines) == 3 + len(rows)
    assert lines[-1] == outcome.sentence
    assert lines[0].startswith("MultiDelete-F: 5 of 40 training examples deleted")
    assert all(len(line) < 120 for line in lines[:-1])
    assert outcome._repr_html_().count("<tr>") == 1 + len(rows)
    assert outcome.metrics.test_score == outcome.metrics["test_score"] == rows[2]["metrics"]["test_score"]
    assert outcome.retrained is not None
    assert outcome.retrained.gap_to_retrain == 0
    with pytest.raises(AttributeError, match="did you mean 'test_score'"):
        _ = outcome.metrics.tst_score
    assert outcome.plot().axes[0].get_title() == "test_score"


def test_history_as_a_frame(compared: Any) -> None:
    frame = compared[0].history_to_dataframe()
    assert {"step", "learning_rate", "loss_md", "loss_mkr", "validation_utility", "selected"} <= set(frame.columns)
    assert frame["step"].is_unique
    assert frame["loss_total"].notna().all()


def test_every_public_name_can_be_imported() -> None:
    for name in multidelete.__all__:
        value = getattr(multidelete, name)
        assert name.isupper() or name == "__version__" or value.__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = multidelete.nothing


def test_train_is_what_a_recipe_trains_and_evaluate_what_the_command_prints(
    tmp_path: Path, terminal: Callable[[str], Any]
) -> None:
    dataset = tiny.dataset()
    settings = multidelete.TrainSettings(epochs=1, batch_size=32)
    model = multidelete.train(tiny.albef(), dataset, settings=settings, engine=tiny.engine(), out=tmp_path / "model")
    recipe = load(
        None,
        [],
        {
            "precision": "fp32",
            "data": {"reader": "scenes", "train": 40, "validation": 12, "test": 12, "size": tiny.PIXELS},
            "model": {"name": "albef", **tiny.albef().model_dump(mode="json")},
            "train": settings.model_dump(),
            "forget": {"count": 3},
            "retrain": False,
            "method": {"name": "neggrad", "epochs": 1, "min_steps": 1, "evaluations": 0},
        },
    )
    outcome = run(recipe, tmp_path / "run", tiny.engine())
    metrics = multidelete.evaluate(tmp_path / "model", dataset, 3, engine=tiny.engine())
    assert weights_hash(model.state_dict()) == weights_hash(Model.from_pretrained(tmp_path / "model").state_dict())
    assert {name: outcome.rows[0]["metrics"][name] for name in metrics} == pytest.approx(metrics)
    kept = multidelete.evaluate(model, dataset, engine=tiny.engine())
    assert kept == {name: value for name, value in metrics.items() if not name.startswith(("forget", "retain"))}
    words = "--reader scenes --set rerank=128 --precision fp32 --forget 3"
    assert terminal(f"evaluate {tmp_path / 'model'} {words}").code == 0


def test_train_refuses_an_unknown_architecture() -> None:
    with pytest.raises(InputError, match=r"'albeef' is not a model .* did you mean 'albef'"):
        multidelete.train("albeef", tiny.dataset())


def test_registries_are_exported() -> None:
    for table, name in (
        ("METHODS", "scrub"),
        ("MODELS", "dual_encoder"),
        ("TASKS", "retrieval"),
        ("METRICS", "forget_auc"),
        ("READERS", "pgr"),
    ):
        assert name in getattr(multidelete, table)
    assert multidelete.__version__
