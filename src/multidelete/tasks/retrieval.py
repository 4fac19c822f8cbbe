"""Image-text retrieval: find the texts of an image and the image of a text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.special import logsumexp

from multidelete.data.batches import Encodings, Rows
from multidelete.metrics.classification import true_label_log_odds
from multidelete.metrics.ranking import CUTS, first_true_ranks, recalls
from multidelete.models.inputs import iterate_rows
from multidelete.tasks.base import SCORE_KEYS, Predictions, Task, true_pairs
from multidelete.training.inference import embeddings, encode_all, pair_logits
from multidelete.utils.randomness import derive

if TYPE_CHECKING:
    from multidelete.data.batches import PairInputs
    from multidelete.data.dataset import Dataset
    from multidelete.data.requests import Request
    from multidelete.models.base import Model
    from multidelete.training.engine import Engine

CANDIDATES = 200  # validation examples used as wrong partners in the rank losses


@dataclass(frozen=True)
class Candidates:
    """Contrastive embeddings of validation examples and their texts, the wrong partners for every pair.

    Args:
        examples: Rows of the examples, ``(C,)``.
        vision: Embeddings of the examples, ``(C, P)`` or ``(C, Q, P)``.
        text: Embeddings of their texts, ``(T, P)``.
        text_examples: Rows of the texts' examples, ``(T,)``.
        scale: Inverse temperature, the factor of similarities.
    """

    examples: Rows
    vision: NDArray[np.float32]
    text: NDArray[np.float32]
    text_examples: Rows
    scale: float


class Retrieval(Task):
    """Retrieval by contrastive similarity; the matching head re-ranks the top ``rerank`` candidates.

    Without contrastive embeddings (ViLT), the matching head scores every pair.

    The score of a pair is the matching head's log-odds; the contrastive cosine is stored too. For recall on D_f and on
    a seeded sample of D_r, that set provides the candidates. All texts that are equal to one of an image's are right.

    Args:
        rerank: k, number of candidates that the matching head re-ranks for each query and direction (ALBEF: 128).
        similarity_weight: Weight of the contrastive similarity (over the temperature) added to the log-odds of a
            re-ranked candidate: 0 as in ALBEF, 1 as in BLIP.
        sample: Maximum number of examples of D_f, D_r, near misses or validation for recall; all of test is ranked.
    """

    name: ClassVar[str] = "retrieval"
    needs: ClassVar[frozenset[str]] = frozenset({"ranking"})

    rerank: int = Field(default=128, ge=1)
    similarity_weight: float = Field(default=0.0, ge=0)
    sample: int = Field(default=1000, ge=2)
    validation_sample: int = Field(default=200, ge=2)

    def predict(self, model: Model, inputs: PairInputs, request: Request, engine: Engine) -> Predictions:
        """See :meth:`Task.predict`; adds ``i2t_rank`` ``(I,)`` and ``t2i_rank`` ``(T,)`` of the ranked examples.

        ``i2t_loss`` and ``t2i_loss`` ``(P,)`` are contrastive cross-entropies of each pair among wrong texts and
        wrong images. The wrong partners are the same for all pairs and splits.
        """
        candidates = self._candidates(model, inputs, request.validation[:CANDIDATES], engine)
        result = {
            split: self._predict_split(
                model, inputs, texts, engine, self._sample(split, len(request.test)), candidates, f"evaluating {split}"
            )
            for split, texts in self.splits(request).items()
        }
        return self.with_features(result, model, inputs, request, engine)

    def _sample(self, split: str, count: int) -> int:
        """Number of ranked examples of a split; all of test, if any are ranked."""
        return max(count, self.sample) if split == "test" and self.sample else self.sample

    def scores_only(self) -> Self:
        """See :meth:`Task.scores_only`; skips ranking."""
        return super().scores_only().model_copy(update={"sample": 0})

    def scores(self, predictions: Predictions) -> dict[str, float]:
        """See :meth:`Task.scores`."""
        scores = {split: recalls(arrays["i2t_rank"], arrays["t2i_rank"]) for split, arrays in predictions.items()}
        test = scores.get("test", {})
        result = {"test_score": test.pop("mean_recall"), **test} if test else {}
        result |= {
            key: scores[split]["mean_recall"]
            for split, key in SCORE_KEYS.items()
            if split in scores and split != "test"
        }
        return result

    def contributions(self, arrays: Mapping[str, NDArray[Any]]) -> tuple[NDArray[Any], NDArray[Any]] | None:
        """See :meth:`Task.contributions`; of each ranked picture the hits of it and of its texts."""
        if "i2t_rank" not in arrays:
            return None
        positions = {name: i for i, name in enumerate(arrays["ranked_example"].tolist())}
        of_pairs = np.array([positions.get(name, -1) for name in arrays["example"].tolist()])
        of_texts, found = of_pairs[of_pairs >= 0], np.zeros(len(positions), dtype=np.int64)
        found[of_pairs[of_pairs >= 0]] = arrays["cluster"][of_pairs >= 0]
        of_pictures, hits = (
            np.mean([100.0 * (ranks < k) for k in CUTS], axis=0) for ranks in (arrays["i2t_rank"], arrays["t2i_rank"])
        )
        share = np.bincount(of_texts, hits, minlength=len(positions)) * len(positions) / len(of_texts)
        return (of_pictures + share) / 2, found

    def validation_metrics(
        self, model: Model, inputs: PairInputs, request: Request, engine: Engine
    ) -> dict[str, float]:
        """See :meth:`Task.validation_metrics`."""
        candidates = self._candidates(model, inputs, request.validation[:CANDIDATES], engine)
        ranked = {"validation": self.validation_sample, "forget": 0}
        found = {
            split: self._predict_split(model, inputs, texts, engine, ranked[split], candidates)
            for split, texts in self.validation_pairs(request).items()
        }
        utility = recalls(found["validation"]["i2t_rank"], found["validation"]["t2i_rank"])["mean_recall"]
        return self.validation_metrics_of(found, utility)

    def predict_pairs(
        self, model: Model, inputs: PairInputs, texts: Rows, request: Request, engine: Engine
    ) -> dict[str, NDArray[Any]]:
        """See :meth:`Task.predict_pairs`."""
        candidates = self._candidates(model, inputs, request.validation[:CANDIDATES], engine)
        return self._predict_split(model, inputs, texts, engine, 0, candidates)

    def _predict_split(
        self,
        model: Model,
        inputs: PairInputs,
        texts: Rows,
        engine: Engine,
        sample: int,
        candidates: Candidates | None = None,
        what: str | None = None,
    ) -> dict[str, NDArray[Any]]:
        dataset = inputs.dataset
        examples, own, named = true_pairs(dataset, texts)
        vision = encode_all(engine, model, inputs, "vision", examples)
        text = encode_all(engine, model, inputs, "text", texts)
        matched = pair_logits(engine, model, vision, text, (own, np.arange(len(texts))))
        result = {**named, "score": match_log_odds(matched)}
        cosines = None
        if model.contrastive:
            embedded = [embeddings(engine, model, m, e) for m, e in (("vision", vision), ("text", text))]
            result["cosine"] = pair_cosines(embedded[0][own], embedded[1])
            if candidates is not None:
                result["i2t_loss"], result["t2i_loss"] = rank_losses(
                    embedded[0], embedded[1], own, examples, candidates
                )
        if not sample:
            return result
        order = np.random.default_rng(derive(len(examples), "ranked sample")).permutation(len(examples))
        ranked = np.sort(order[:sample])
        kept = np.flatnonzero(np.isin(own, ranked))
        true = _true_texts(dataset, examples[ranked], texts[kept])  # (I, T)
        if model.contrastive:
            cosines = all_cosines(embedded[0][ranked], embedded[1][kept])
        scores = self._scores(model, vision, text, (ranked, kept), cosines, engine, what)
        result["ranked_example"] = np.array([dataset.examples[examples[row]].id for row in ranked])
        result["i2t_rank"] = first_true_ranks(scores[0], true)
        result["t2i_rank"] = first_true_ranks(scores[1].T, true.T)
        return result

    def _candidates(self, model: Model, inputs: PairInputs, examples: Rows, engine: Engine) -> Candidates | None:
        """Wrong partners for the rank losses; None without a validation split or contrastive embeddings."""
        if not model.contrastive or not len(examples):
            return None
        texts = inputs.dataset.text_rows(examples)
        vision, text = (
            embeddings(engine, model, modality, encode_all(engine, model, inputs, modality, rows))
            for modality, rows in (("vision", examples), ("text", texts))
        )
        return Candidates(examples, vision, text, inputs.dataset.text_examples[texts], model.contrastive_scale())

    def _scores(
        self,
        model: Model,
        vision: Encodings,
        text: Encodings,
        rows: tuple[Rows, Rows],
        cosine: NDArray[np.floating[Any]] | None,
        engine: Engine,
        what: str | None,
    ) -> tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]:
        """Scores of every image with every text, ``(I, T)`` for each direction; candidates rank above the rest."""
        if cosine is None:
            images, texts = (each.ravel() for each in np.indices((len(rows[0]), len(rows[1]))))
            logits = pair_logits(engine, model, vision, text, (rows[0][images], rows[1][texts]), what=what)
            every = match_log_odds(logits).reshape(len(rows[0]), len(rows[1]))
            return every, every
        if not model.matching:
            return cosine, cosine
        by_image = _top(cosine, self.rerank)
        by_text = _top(cosine.T, self.rerank).T
        images, texts = np.nonzero(by_image | by_text)  # a pair that is a candidate in both directions is fused once
        logits = pair_logits(engine, model, vision, text, (rows[0][images], rows[1][texts]), what=what)
        scale = model.contrastive_scale()
        table = np.full(cosine.shape, -np.inf)
        table[images, texts] = match_log_odds(logits) + self.similarity_weight * scale * cosine[images, texts]
        # Below every candidate, in the order of the contrastive similarity; fp32 would round that order away.
        rest = cosine.astype(np.float64) - 1e6
        return np.where(by_image, table, rest), np.where(by_text, table, rest)


def _true_texts(dataset: Dataset, examples: Rows, texts: Rows) -> NDArray[np.bool_]:
    """Whether each of these texts is one of each example's, or equal to one, ``(I, T)``."""
    equal = dataset.equal_texts
    own = dataset.text_rows(examples)
    keys, count = np.unique(equal[texts]), len(examples)
    known = np.isin(equal[own], keys)
    table = np.zeros((count, len(keys)), dtype=bool)
    of_examples = np.repeat(np.arange(count), dataset.text_counts[examples])
    table[of_examples[known], np.searchsorted(keys, equal[own][known])] = True
    result: NDArray[np.bool_] = table[:, np.searchsorted(keys, equal[texts])]
    return result


def match_log_odds(logits: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Log-odds of a match, ``(P,)``, from the two logits of the matching head."""
    return true_label_log_odds(logits, np.ones(len(logits), dtype=np.int64))


def rank_losses(
    vision: NDArray[np.float32], text: NDArray[np.float32], own: Rows, examples: Rows, candidates: Candidates
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Contrastive cross-entropy of each pair, image-to-text and text-to-image, ``(P,)`` both.

    Args:
        vision: Image embeddings, ``(I, D)`` or ``(I, Q, D)``.
        text: Text embeddings of the pairs, ``(P, D)``.
        own: Index of each text's image, ``(P,)``.
        examples: Rows of the images' examples, ``(I,)``, to exclude a pair's own example from its wrong partners.
        candidates: Wrong partners.
    """
    true = candidates.scale * pair_cosines(vision[own], text)
    wrong_text = _wrong(
        lambda part: all_cosines(vision[part], candidates.text), candidates.scale, examples, candidates.text_examples
    )[own]
    wrong_image = _wrong(
        lambda part: all_cosines(candidates.vision, text[part]).T,
        candidates.scale,
        examples[own],
        candidates.examples,
    )
    i2t, t2i = ((np.logaddexp(true, wrong) - true).astype(np.float32) for wrong in (wrong_text, wrong_image))
    return i2t, t2i


def pair_cosines(vision: NDArray[np.float32], text: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cosine of each pair, ``(P,)``; the largest if an image has several vectors."""
    cosines = np.einsum("p...d,pd->p...", vision, text).astype(np.float32)
    result: NDArray[np.float32] = cosines if cosines.ndim == 1 else cosines.max(1)
    return result


def all_cosines(vision: NDArray[np.float32], text: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cosine of every image with every text, ``(I, T)``; the largest if an image has several vectors."""
    cosines: NDArray[np.float32] = vision @ text.T
    result: NDArray[np.float32] = cosines if cosines.ndim == 2 else cosines.max(1)
    return result


def _wrong(
    cosines: Callable[[slice], NDArray[np.float32]], scale: float, examples: Rows, partner_examples: Rows
) -> NDArray[np.floating[Any]]:
    """Log-sum-exp of each query's similarities to partners from other examples, ``(Q,)``."""
    result = np.empty(len(examples))
    for part in iterate_rows(len(examples), 4096):
        similar = scale * cosines(part).astype(np.float64)
        similar[examples[part][:, None] == partner_examples] = -np.inf
        result[part] = logsumexp(similar, axis=1)
    return result


def _top(scores: NDArray[np.floating[Any]], k: int) -> NDArray[np.bool_]:
    """Mask of the k largest entries of each row."""
    mask = np.zeros(scores.shape, dtype=bool)
    if k >= scores.shape[1]:
        mask[:] = True
    else:
        np.put_along_axis(mask, np.argpartition(-scores, k - 1, axis=1)[:, :k], True, axis=1)
    return mask
