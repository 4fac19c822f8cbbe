"""Retrieval against a slow twin that fuses every image with every text, one pair at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import tiny
from multidelete.data.batches import Encodings, PairInputs
from multidelete.data.dataset import Dataset
from multidelete.data.examples import Example
from multidelete.data.requests import Request, resolve
from multidelete.metrics.forgetting import forget_auc, true_label_loss
from multidelete.metrics.ranking import recalls
from multidelete.models import Model
from multidelete.tasks import TASKS, Retrieval
from multidelete.tasks.base import SCORE_KEYS
from multidelete.tasks.retrieval import match_log_odds
from multidelete.training.features import encoded_inputs
from multidelete.training.inference import pair_logits

CPU = torch.device("cpu")
Scores = NDArray[np.float64]


def varied(name: str) -> Model:
    """A model with very different scores, so that rounding does not affect ranks."""
    model = tiny.build(tiny.CONFIGS[name])
    randomness = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(0.6 * torch.randn(parameter.shape, generator=randomness))
    return model


@pytest.fixture(params=tiny.IN_DEPTH)
def model(request: pytest.FixtureRequest) -> Model:
    return varied(request.param)


@pytest.fixture(scope="module")
def uneven() -> Dataset:
    """The tiny scenes with one, two or three texts to an image."""
    dataset = tiny.dataset()
    examples = [
        Example(example.id, example.split, example.texts[: 1 + row % 3]) for row, example in enumerate(dataset.examples)
    ]
    return Dataset("uneven", examples, pixels=dataset.images(tiny.PIXELS))


def request_of(dataset: Dataset) -> Request:
    """A deletion request in an order of its own."""
    return resolve(dataset, ids=[f"train-{number:05d}" for number in (31, 4, 17, 0, 25, 8)])


@torch.no_grad()
def all_pairs(model: Model, dataset: Dataset, examples: NDArray[np.int64]) -> tuple[Scores, Scores, NDArray[np.bool_]]:
    """Log-odds, cosines and truth of every image with every text, ``(I, T)``, pair after pair."""
    inputs = PairInputs.of(dataset, model)
    texts = [row for example in examples for row in range(len(dataset.texts)) if dataset.text_examples[row] == example]
    logits, cosines = np.empty((2, len(examples), len(texts)))
    for i, example in enumerate(examples):
        for j, text in enumerate(texts):
            encodings = model.encode(inputs.batch({"vision": np.array([example]), "text": np.array([text])}, CPU))
            logits[i, j] = match_log_odds(model.head(model.fuse(encodings)).numpy()).item()
            vision, words = (model.embedding(modality, encodings[modality])[0] for modality in ("vision", "text"))
            cosines[i, j] = float(vision @ words)
    return (
        logits,
        cosines,
        np.array([[dataset.text_examples[text] == example for text in texts] for example in examples]),
    )


def slow_ranks(scores: Scores, true: NDArray[np.bool_]) -> list[int]:
    best = [max(score for score, right in zip(*row, strict=True) if right) for row in zip(scores, true, strict=True)]
    return [
        sum(score >= best[i] and not right for score, right in zip(scores[i], true[i], strict=True))
        for i in range(len(scores))
    ]


def slow_reranked(logits: Scores, cosines: Scores, k: int) -> Scores:
    """Of each row the k most similar by their log-odds, the others behind them by their similarity."""
    ordered = np.empty(logits.shape)
    for i in range(len(logits)):
        candidates = sorted(range(logits.shape[1]), key=lambda j: -cosines[i, j])[:k]
        rest = [j for j in range(logits.shape[1]) if j not in candidates]
        positions = sorted(candidates, key=lambda j: -logits[i, j]) + sorted(rest, key=lambda j: -cosines[i, j])
        for position, j in enumerate(positions):
            ordered[i, j] = -position
    return ordered


def test_task_is_in_the_table() -> None:
    assert TASKS[Retrieval.name] is Retrieval


def test_predictions_are_those_of_the_slow_twin(model: Model, uneven: Dataset) -> None:
    request = request_of(uneven)
    assert list(request.forget) != sorted(request.forget)
    predictions = Retrieval(probed=0).predict(model, PairInputs.of(uneven, model), request, tiny.engine())
    splits = {
        "forget": request.forget,
        "retain": request.retain,
        "validation": request.validation,
        "test": request.test,
    }
    assert set(predictions) == set(splits)
    for split in ("forget", "test"):
        examples, result = splits[split], predictions[split]
        logits, cosines, true = all_pairs(model, uneven, examples)
        own, columns = np.nonzero(true)
        assert columns.tolist() == list(range(len(columns)))  # example after example
        np.testing.assert_allclose(result["score"], logits[true], atol=1e-4)
        np.testing.assert_allclose(result["cosine"], cosines[true], atol=1e-5)
        assert result["example"].tolist() == [uneven.examples[examples[i]].id for i in own]
        assert result["text"].tolist() == [
            j for example in examples for j in range(len(uneven.examples[example].texts))
        ]
        assert result["ranked_example"].tolist() == [uneven.examples[example].id for example in examples]
        scores = logits if model.matching else cosines
        assert result["i2t_rank"].tolist() == slow_ranks(scores, true)
        assert result["t2i_rank"].tolist() == slow_ranks(scores.T, true.T)
    for split, examples in splits.items():
        texts = sum(len(uneven.examples[example].texts) for example in examples)
        shapes = {name: values.shape for name, values in predictions[split].items()}
        assert shapes == {
            **dict.fromkeys(
                ("example", "text", "cluster", "score", "cosine", "i2t_loss", "t2i_loss", "t2i_rank"), (texts,)
            ),
            **dict.fromkeys(("ranked_example", "i2t_rank"), (len(examples),)),
        }


@torch.no_grad()
def test_rank_losses_are_those_of_a_slow_twin(model: Model, uneven: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multidelete.tasks.retrieval.CANDIDATES", 5)
    request, inputs = request_of(uneven), PairInputs.of(uneven, model)
    predictions = Retrieval(probed=0).predict(model, inputs, request, tiny.engine())
    alone = Retrieval().scores_only().predict(model, inputs, request, tiny.engine())

    def embeddings(modality: str) -> list[torch.Tensor]:
        rows = [inputs.sources[modality].take(np.array([row])) for row in range(inputs.count(modality))]
        scale = model.contrastive_scale() ** 0.5
        return [scale * model.embedding(modality, model.encode_one(modality, row))[0] for row in rows]

    images, words = embeddings("vision"), embeddings("text")
    for split, examples in (("forget", request.forget), ("test", request.test), ("validation", request.validation)):
        rows = [row for example in examples for row in range(len(uneven.texts)) if uneven.text_examples[row] == example]
        for position, row in enumerate(rows):
            example = int(uneven.text_examples[row])
            image, text = images[example], words[row]
            wrong = [each for each in request.validation[:5] if each != example]
            texts = [each for each in range(len(uneven.texts)) if uneven.text_examples[each] in wrong]
            i2t = torch.stack([image @ text, *(image @ words[each] for each in texts)])
            t2i = torch.stack([image @ text, *(text @ images[each] for each in wrong)])
            for name, similar in (("i2t_loss", i2t), ("t2i_loss", t2i)):
                expected = -similar.log_softmax(0)[0].item()
                assert predictions[split][name][position] == pytest.approx(expected, abs=1e-3)
    for split, arrays in predictions.items():
        assert set(arrays) - set(alone[split]) == {"ranked_example", "i2t_rank", "t2i_rank"}
        for name, values in alone[split].items():
            assert (values == arrays[name]).all()


@pytest.mark.parametrize("k", [1, 3, 8, 12])
def test_only_the_most_similar_are_reranked(k: int, uneven: Dataset) -> None:
    model = varied("albef")
    request = request_of(uneven)
    logits, cosines, true = all_pairs(model, uneven, request.test)
    result = Retrieval(rerank=k).predict(model, PairInputs.of(uneven, model), request, tiny.engine())["test"]
    assert result["i2t_rank"].tolist() == slow_ranks(slow_reranked(logits, cosines, k), true)
    assert result["t2i_rank"].tolist() == slow_ranks(slow_reranked(logits.T, cosines.T, k), true.T)


def test_similarity_is_added_to_the_log_odds_of_candidates(uneven: Dataset) -> None:
    model = varied("albef")
    request = request_of(uneven)
    logits, cosines, true = all_pairs(model, uneven, request.test)
    task = Retrieval(similarity_weight=0.5)
    result = task.predict(model, PairInputs.of(uneven, model), request, tiny.engine())["test"]
    mixed = logits + 0.5 * model.contrastive_scale() * cosines
    assert result["i2t_rank"].tolist() == slow_ranks(mixed, true) != slow_ranks(logits, true)
    assert result["t2i_rank"].tolist() == slow_ranks(mixed.T, true.T)
    np.testing.assert_allclose(result["score"], logits[true], atol=1e-4)  # s(x) stays the matching head's


def test_recall_of_a_large_set_is_that_of_a_sample(uneven: Dataset) -> None:
    model = varied("albef")
    request, inputs = request_of(uneven), PairInputs.of(uneven, model)
    result, again = (Retrieval(sample=5).predict(model, inputs, request, tiny.engine())["retain"] for _ in "ab")
    ids = result["ranked_example"].tolist()
    assert ids == again["ranked_example"].tolist()
    assert len(set(ids)) == 5
    examples = np.array([uneven.row_of(example_id) for example_id in ids])
    assert set(examples.tolist()) <= set(request.retain.tolist())
    logits, _, true = all_pairs(model, uneven, examples)
    assert result["i2t_rank"].tolist() == slow_ranks(logits, true)
    assert result["t2i_rank"].tolist() == slow_ranks(logits.T, true.T)
    assert len(result["score"]) == len(uneven.text_rows(request.retain))  # every pair has its score


def test_metrics_come_from_the_predictions(model: Model, uneven: Dataset) -> None:
    task, request = Retrieval(), request_of(uneven)
    predictions = task.predict(model, PairInputs.of(uneven, model), request, tiny.engine())
    result = task.metrics(predictions)
    for split in ("test", "validation", "retain", "forget"):
        expected = recalls(predictions[split]["i2t_rank"], predictions[split]["t2i_rank"])
        assert result[SCORE_KEYS[split]] == expected["mean_recall"]
        if split == "test":
            assert {name: result[name] for name in expected if name != "mean_recall"} == {
                name: value for name, value in expected.items() if name != "mean_recall"
            }
    for suffix, scores in (("", "score"), ("_cosine", "cosine")):
        of = {split: predictions[split][scores] for split in predictions}
        assert result[f"forget_auc{suffix}"] == forget_auc(of["forget"], of["retain"])
        assert result[f"forget_test_auc{suffix}"] == forget_auc(of["forget"], of["test"])
    for split in ("forget", "retain"):
        assert result[f"{split}_loss"] == true_label_loss(predictions[split]["score"])


def test_model_without_knowledge_has_no_recall(uneven: Dataset) -> None:
    """All scores are the same: to rank by the order of the rows would find every pair."""
    model = tiny.build(tiny.albef())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    task = Retrieval()
    metrics = task.metrics(task.predict(model, PairInputs.of(uneven, model), request_of(uneven), tiny.engine()))
    assert metrics["i2t_r10"] == 0
    assert metrics["t2i_r10"] == 0
    assert metrics["forget_auc"] == 50


# -- judging a checkpoint -----------------------------------------------------------------------------------------


class Reading(PairInputs):
    """Inputs that remember which examples were read."""

    def watch(self) -> set[int]:
        read: set[int] = set()
        examples = {"vision": np.arange(len(self.dataset.examples)), "text": self.dataset.text_examples}
        for modality, source in self.sources.items():
            self.sources[modality] = Watched(source, examples[modality], read)
        return read


class Watched:
    def __init__(self, source: Any, examples: NDArray[np.int64], read: set[int]) -> None:
        self.source, self.examples, self.seen = source, examples, read

    def take(self, rows: NDArray[np.int64]) -> Any:
        self.seen.update(self.examples[rows].tolist())
        return self.source.take(rows)


def test_validation_metrics_read_nothing_of_test(model: Model, uneven: Dataset) -> None:
    request, plain = request_of(uneven), PairInputs.of(uneven, model)
    inputs = Reading(uneven, dict(plain.sources))
    read = inputs.watch()
    result = Retrieval().validation_metrics(model, inputs, request, tiny.engine())
    assert read == set(request.validation.tolist()) | set(request.forget.tolist())
    predictions = Retrieval().predict(model, plain, request, tiny.engine())
    assert result["utility"] == Retrieval().metrics(predictions)["valid_score"]
    expected = forget_auc(predictions["forget"]["score"], predictions["validation"]["score"])
    assert result["forget_auc"] == pytest.approx(expected, abs=0.5)


def test_predictions_from_kept_encodings_are_the_same(model: Model, uneven: Dataset) -> None:
    request, plain = request_of(uneven), PairInputs.of(uneven, model)
    kept = encoded_inputs(tiny.engine(), model, plain)
    assert all(isinstance(source, Encodings) for source in kept.sources.values())
    one, two = (Retrieval().predict(model, inputs, request, tiny.engine()) for inputs in (plain, kept))
    for split, arrays in one.items():
        for name in ("score", "cosine"):
            np.testing.assert_allclose(arrays[name], two[split][name], atol=1e-4)
        assert arrays["example"].tolist() == two[split]["example"].tolist()


def test_many_pairs_at_once_are_fused_as_few_are(uneven: Dataset) -> None:
    """Large batches may be split and reordered internally; the output order must be kept."""
    model = varied("albef")
    inputs = PairInputs.of(uneven, model)
    rng = np.random.default_rng(0)
    rows = {"vision": rng.integers(0, len(uneven), 300), "text": rng.integers(0, len(uneven.texts), 300)}
    with torch.no_grad():
        full = model.fused(inputs.batch(rows, CPU))
        for start in (0, 130, 290):
            part = {modality: chosen[start : start + 10] for modality, chosen in rows.items()}
            few = model.fused(inputs.batch(part, CPU))
            torch.testing.assert_close(full[start : start + 10], few, atol=1e-4, rtol=1e-4)


def test_engine_of_another_batch_size_gives_the_same(monkeypatch: pytest.MonkeyPatch, uneven: Dataset) -> None:
    model = varied("albef")
    inputs, request = PairInputs.of(uneven, model), request_of(uneven)
    plain = Retrieval().predict(model, inputs, request, tiny.engine())
    monkeypatch.setattr(
        "multidelete.tasks.retrieval.pair_logits",
        lambda *given, **options: pair_logits(*given, **options, batch_size=7),
    )
    small = Retrieval().predict(model, inputs, request, tiny.engine())
    for split, arrays in plain.items():
        np.testing.assert_allclose(arrays["score"], small[split]["score"], atol=1e-5)
