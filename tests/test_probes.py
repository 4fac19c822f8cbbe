"""Probes of one modality: planted knowledge is found, what was moved or destroyed is not, and what they are fed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import balanced_accuracy_score

import tiny
from multidelete.data.batches import Encodings, PairInputs, Ragged
from multidelete.data.dataset import Dataset
from multidelete.data.requests import resolve
from multidelete.methods import MultiDelete, Unlearned, UnlearningData
from multidelete.metrics.probes import KEPT, Probe, balanced_accuracy, probes
from multidelete.models import Model
from multidelete.report.pages.run import write_report
from multidelete.runs.reader import Run
from multidelete.tasks import TASKS, Predictions, Retrieval
from multidelete.tasks.features import ASKED, LEAST, balanced, mean_tokens, shown, unimodal, words
from multidelete.training.features import encoded_inputs
from test_report import ROWS, make_run

TASK = Retrieval(rerank=4, sample=10)
CPU = torch.device("cpu")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def planted(
    rng: np.random.Generator, count: int, *, things: int = 3, noise: float = 1.0, share: float = 0.5
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Features of width 20 in which each thing that is shown adds a direction of its own."""
    shows = rng.random((count, things)) < share
    directions = 3 * np.eye(things, 20)
    return shows @ directions + noise * rng.normal(size=(count, 20)), shows


# -- the classifier -------------------------------------------------------------------------------------------------


def test_balanced_accuracy_by_hand() -> None:
    result = np.array([[1, 1], [1, 0], [0, 0], [1, 0], [0, 0]], dtype=bool)
    shows = np.array([[1, 1], [1, 0], [1, 0], [0, 0], [0, 0]], dtype=bool)
    # first: 2 of 3 that show it, 1 of 2 that do not; second: 1 of 1 and 4 of 4
    assert balanced_accuracy(result, shows) == pytest.approx([50 * (2 / 3 + 1 / 2), 100])
    assert np.isnan(balanced_accuracy(result, np.ones_like(shows))).all()


def test_balanced_accuracy_is_that_of_scikit_learn(rng: np.random.Generator) -> None:
    result, shows = rng.random((2, 60, 5)) < 0.4
    expected = [100 * balanced_accuracy_score(show, each) for show, each in zip(shows.T, result.T, strict=True)]
    assert balanced_accuracy(result, shows) == pytest.approx(expected)


def test_a_planted_attribute_is_found_and_noise_is_not(rng: np.random.Generator) -> None:
    features, shows = planted(rng, 400)
    probe = Probe.fit(features, shows)
    accuracy = probe.accuracy(*planted(rng, 400))
    # one direction of length 3 under noise of 1: both kinds lie 1.5 deviations from the threshold, Φ(1.5) = 93.3 %
    assert accuracy == pytest.approx(93.3, abs=1.5)
    nothing = Probe.fit(rng.normal(size=(400, 20)), shows).accuracy(*planted(rng, 400, noise=1e6))
    assert nothing == pytest.approx(50, abs=5)


def test_a_rare_thing_is_found_as_often_as_a_common_one(rng: np.random.Generator) -> None:
    features, shows = planted(rng, 2000, things=1, share=0.05)
    probe = Probe.fit(features, shows)
    features, shows = planted(rng, 2000, things=1, share=0.05)
    result = features @ probe.weights.T > probe.thresholds
    assert result[shows].mean() == pytest.approx(0.933, abs=0.08)
    assert (~result)[~shows].mean() == pytest.approx(0.933, abs=0.05)


def test_words_that_features_do_not_encode_are_not_probed(rng: np.random.Generator) -> None:
    features, shows = planted(rng, 300, things=KEPT)
    chance = rng.random((300, ASKED - KEPT)) < 0.5  # turns of phrase
    asked = np.hstack([chance, shows])
    probe = Probe.fit(features, asked)
    assert probe.read.tolist() == list(range(ASKED - KEPT, ASKED))
    again = Probe.fit(features, asked[:, probe.read], np.arange(KEPT))
    np.testing.assert_allclose(probe.weights, again.weights)
    assert Probe.fit(features, asked, np.array([3])).read.tolist() == [3]


def test_the_scale_of_a_feature_does_not_matter(rng: np.random.Generator) -> None:
    features, shows = planted(rng, 200)
    other, truth = planted(rng, 200)
    scale, shift = 10 ** rng.uniform(-3, 3, 20), rng.normal(size=20)
    expected = Probe.fit(features, shows).accuracy(other, truth)
    assert Probe.fit(features * scale + shift, shows).accuracy(other * scale + shift, truth) == pytest.approx(expected)


def test_what_all_or_none_of_test_shows_does_not_count(rng: np.random.Generator) -> None:
    features, shows = planted(rng, 200)
    probe = Probe.fit(features, shows)
    other, truth = planted(rng, 100)
    full = balanced_accuracy(other @ probe.weights.T > probe.thresholds, truth)
    truth[:, 1] = True
    assert probe.accuracy(other, truth) == pytest.approx((full[0] + full[2]) / 2)
    assert probe.accuracy(other, np.ones_like(truth)) is None


# -- from stored predictions ----------------------------------------------------------------------------------------


def stored(rng: np.random.Generator) -> Predictions:
    """Predictions of an original that knows of both modalities."""
    result: Predictions = {}
    for split in ("retain", "test"):
        features, shows = planted(rng, 150)
        words_of = {"text_features": features[:, ::-1].astype(np.float16), "text_shows": shows}
        result[split] = {"vision_features": features.astype(np.float16), "vision_shows": shows, **words_of}
        result[split] |= {"probed_example": np.array([f"{split}-{number}" for number in range(150)])}
    return result


def changed(original: Predictions, change: Any) -> Predictions:
    """The same predictions with the features of pictures changed."""
    return {
        split: {**arrays, "vision_features": change(arrays["vision_features"])} for split, arrays in original.items()
    }


def test_unchanged_features_have_exactly_the_accuracy_of_the_original(rng: np.random.Generator) -> None:
    original = stored(rng)
    result = probes(original, original)
    assert result.keys() == {f"probe_{each}{end}" for each in ("vision", "text") for end in ("", "_refitted")}
    assert result["probe_vision"] == result["probe_vision_refitted"] > 85
    assert probes(changed(original, np.copy), original) == result
    probe = Probe.fit(original["retain"]["text_features"], original["retain"]["text_shows"])
    assert result["probe_text"] == probe.accuracy(original["test"]["text_features"], original["test"]["text_shows"])


def test_moved_features_lose_the_probe_and_destroyed_ones_all(rng: np.random.Generator) -> None:
    original = stored(rng)
    before = probes(original, original)
    turn = np.linalg.qr(rng.normal(size=(20, 20)))[0]
    turned = probes(changed(original, lambda features: features @ turn), original)
    noise = probes(changed(original, lambda features: rng.normal(size=features.shape)), original)
    assert turned["probe_vision"] < before["probe_vision"] - 15
    assert turned["probe_vision_refitted"] == pytest.approx(before["probe_vision"], abs=3)
    assert noise["probe_vision"] == pytest.approx(50, abs=6)
    assert noise["probe_vision_refitted"] == pytest.approx(50, abs=6)
    for other in (turned, noise):
        assert other["probe_text"] == before["probe_text"]


@pytest.mark.parametrize("value", [0.0, np.inf, np.nan])
def test_features_that_say_nothing_are_at_chance(value: float, rng: np.random.Generator) -> None:
    original = stored(rng)
    result = probes(changed(original, lambda features: np.full_like(features, value)), original)
    assert [result["probe_vision"], result["probe_vision_refitted"]] == pytest.approx([50, 50])


def test_without_features_there_are_no_probes(rng: np.random.Generator) -> None:
    assert probes({"retain": {}, "test": {}}, {"retain": {}, "test": {}}) == {}


# -- what examples show ---------------------------------------------------------------------------------------------


def test_what_is_balanced_comes_first() -> None:
    shows = [{"all", "half" if number % 2 else "rest", "ten"} if number < 10 else {"all"} for number in range(20)]
    # of 20: "ten" is in 10, "half" and "rest" in 5 each, "all" in every one
    assert balanced(shows) == ["ten", "half", "rest"]
    assert balanced([{"rare"}] * (LEAST - 1) + [set()] * 40) == []
    assert len(balanced([{f"word{number}" for number in range(2 * ASKED)}] * 5 + [set()] * 5)) == ASKED


def test_pictures_show_what_their_texts_state() -> None:
    dataset = tiny.dataset_for("entailment")
    affirms = TASKS["entailment"].affirms
    assert affirms in dataset.classes
    for row in range(5):
        example = dataset.examples[row]
        true = {
            word
            for text, label in zip(example.texts, example.labels, strict=True)
            if label == affirms
            for word in words(text)
        }
        assert shown(dataset, row, affirms) == true
        assert true < shown(dataset, row, "")
    assert TASKS["reasoning"].affirms in tiny.dataset_for("reasoning").classes
    assert shown(tiny.dataset(), 0, "") == words(" ".join(tiny.dataset().examples[0].texts))


def test_nodes_show_what_lies_above_them() -> None:
    dataset = tiny.dataset_for("graph_text")
    assert dataset.graph is not None
    for row in range(5):
        result = shown(dataset, row, "")
        assert "phenotypic abnormality" in result  # the root of the hierarchy
        assert len(result) == 3  # a branch, a module and the root; a gene has nothing above it


def test_means_are_over_real_tokens_alone() -> None:
    tokens = Ragged(np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 9.0]], dtype=np.float32), np.array([0, 2, 3]))
    encodings = Encodings(tokens, np.zeros((2, 1), dtype=np.float32), "encoded")
    assert mean_tokens(encodings).tolist() == [[2, 3], [5, 9]]
    assert mean_tokens(encodings).dtype == np.float16
    huge = Encodings(Ragged(1e9 * tokens.flat, tokens.offsets), encodings.pooled, "encoded")
    assert np.isfinite(mean_tokens(huge)).all()


# -- from models ----------------------------------------------------------------------------------------------------


def dataset_of(task: str) -> tuple[Dataset, Model]:
    return tiny.dataset_for(task), tiny.original_for(task, "graph_text" if task == "graph_text" else "albef")


@pytest.mark.parametrize("task", TASKS)
def test_features_are_those_of_the_encoders_one_by_one(task: str) -> None:
    dataset, model = dataset_of(task)
    inputs, request = PairInputs.of(dataset, model), resolve(dataset, count=6)
    result = unimodal(
        model, inputs, TASKS[task]().splits(request), tiny.engine(), count=20, affirms=TASKS[task].affirms
    )
    assert result.keys() == {"retain", "test"}
    kept = {dataset.examples[row].id for row in request.retain}
    assert set(result["retain"]["probed_example"]) <= kept
    assert len(set(result["retain"]["probed_example"])) == 20
    for split, arrays in result.items():
        for modality in dataset.modalities:
            assert arrays[f"{modality}_asked"].tolist() == result["retain"][f"{modality}_asked"].tolist()
            for position in (0, len(arrays["probed_example"]) - 1):
                row = dataset.row_of(str(arrays["probed_example"][position]))
                text = int(dataset.text_rows(np.array([row]))[arrays["probed_text"][position]])
                own = row if modality != "text" else text
                with torch.no_grad():
                    encoding = model.encode_one(modality, inputs.sources[modality].take(np.array([own])))
                mean = encoding.tokens[0][encoding.mask[0].bool()].mean(0)
                np.testing.assert_allclose(arrays[f"{modality}_features"][position], mean, atol=2e-3, rtol=2e-3)
                shows = words(dataset.texts[text]) if modality == "text" else shown(dataset, row, TASKS[task].affirms)
                assert arrays[f"{modality}_shows"][position].tolist() == [
                    each in shows for each in arrays[f"{modality}_asked"]
                ], split


@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_probed(task: str) -> None:
    dataset, model = dataset_of(task)
    settings = {"rerank": 4, "sample": 10} if task == "retrieval" else {}
    request, inputs = resolve(dataset, count=6), PairInputs.of(dataset, model)
    predictions = TASKS[task](**settings).predict(model, inputs, request, tiny.engine())
    result = TASKS[task](**settings).metrics(predictions, predictions)
    for modality in dataset.modalities:
        assert 0 <= result[f"probe_{modality}"] <= 100
    off = TASKS[task](probed=0, **settings)
    without = off.predict(model, inputs, request, tiny.engine())
    assert not any(name.endswith(("_features", "_shows")) for arrays in without.values() for name in arrays)
    metrics = {name: value for name, value in result.items() if not name.startswith("probe_")}
    assert off.metrics(without, without) == metrics


def predicted(model: Model, data: UnlearningData, result: Unlearned | None = None) -> Predictions:
    inputs = result.inputs if result else encoded_inputs(tiny.engine(), model, data.inputs)
    return TASK.predict(result.model if result else model, inputs, data.request, tiny.engine())


def test_what_does_not_move_is_known_as_before() -> None:
    model = tiny.original("albef")
    data = tiny.data_for(model)
    before = predicted(model, data)
    for scope, still in (("fusion", ("vision", "text")), ("text", ("vision",)), ("vision", ("text",))):
        outcome = MultiDelete(scope=scope, epochs=1, min_steps=4, evaluations=0)(model, data, tiny.engine())
        after = predicted(model, data, outcome)
        for modality in ("vision", "text"):
            equal = all(
                np.array_equal(before[split][f"{modality}_features"], after[split][f"{modality}_features"])
                for split in ("retain", "test")
            )
            assert equal is (modality in still), (scope, modality)
        result, expected = probes(after, before), probes(before, before)
        for modality in still:
            assert result[f"probe_{modality}"] == expected[f"probe_{modality}"]
            assert result[f"probe_{modality}_refitted"] == expected[f"probe_{modality}_refitted"]


def test_noise_on_an_encoder_shows_in_its_modality_alone() -> None:
    """What Descent-to-Delete does at the end: noise on the weights."""
    model = tiny.original("albef")
    data = tiny.data_for(model)
    before = predicted(model, data)
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        destroyed = tiny.build(tiny.albef())
        destroyed.load_state_dict(model.state_dict())
        for name, parameter in destroyed.named_parameters():
            if name.startswith("vision."):
                parameter.add_(torch.randn(parameter.shape, generator=noise))
    after = TASK.predict(destroyed, data.inputs, data.request, tiny.engine())
    expected, result = probes(before, before), probes(after, before)
    assert result["probe_text"] == expected["probe_text"]
    assert expected["probe_vision"] > 55
    assert result["probe_vision"] < expected["probe_vision"]


def test_unimodal_retention_keeps_features_nearer() -> None:
    """γ = 0 is the ablation "− UKR": encoders drift further from the original's."""
    model = tiny.original("albef")
    data = tiny.data_for(model)
    before = predicted(model, data)

    def drift(gamma: float) -> float:
        method = MultiDelete(gamma=gamma, scope="all", epochs=4, learning_rate=2e-3, evaluations=0)
        after = predicted(model, data, method(model, data, tiny.engine()))
        return sum(
            float(np.square(after["test"][name].astype(float) - before["test"][name]).mean())
            for name in ("vision_features", "text_features")
        )

    assert drift(0.0) > drift(1.0) > 0


def test_the_page_shows_what_is_known_of_each_modality(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", rows=ROWS[:5], parts="")
    content = json.loads((folder / "results.json").read_text())
    for row in content["rows"]:
        lost = 10.0 if row["method"] == "neggrad" else 0.0
        row["metrics"] |= {"probe_vision": 81.25 - lost, "probe_vision_refitted": 81.25, "probe_text": 90.5}
    (folder / "results.json").write_text(json.dumps(content))
    html = write_report(Run.load_all([folder]), tmp_path / "out").read_text()
    assert "Linear probes of each modality" in html
    assert "<td>71.2</td><td>−10.0</td><td>81.2</td><td>90.5</td><td>0.0</td><td>–</td><td>1</td>" in html
    assert "Graph: Original" not in html
    without = make_run(tmp_path / "other", rows=ROWS[:5], parts="")
    assert "each modality alone" not in write_report(Run.load_all([without]), tmp_path / "no").read_text()
