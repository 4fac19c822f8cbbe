"""Image-text retrieval: find the texts of an image and the image of a text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.special import logsumexp

from multidelete.data.streams import Encodings, Rows
from multidelete.metrics.classification import true_label_log_odds
from multidelete.metrics.forgetting import forget_auc, forgetting
from multidelete.metrics.ranking import first_true_ranks, recalls
from multidelete.models.base import iterate_rows
from multidelete.randomness import derive
from multidelete.tasks.base import Predictions, Task, true_pairs

if TYPE_CHECKING:
    from multidelete.data.requests import Request
    from multidelete.data.streams import PairInputs
    from multidelete.engine import Engine
    from multidelete.models.base import Model

CANDIDATES = 200  # units of valid among which the rank losses of a pair are measured


@dataclass(frozen=True)
class Candidates:
    """Contrastive embeddings of the same wrong partners for every pair: units of valid and their texts.

    Args:
        units: Rows of the units, ``(C,)``.
        vision: Theirs, ``(C, P)``.
        text: Those of their texts, ``(T, P)``.
        text_units: Rows of the units of the texts, ``(T,)``.
        scale: What similarities are multiplied with, the inverse of the temperature.
    """

    units: Rows
    vision: NDArray[np.float32]
    text: NDArray[np.float32]
    text_units: Rows
    scale: float


class Retrieval(Task):
    """Candidates by contrastive similarity, the first ``rerank`` re-ordered by the matching head.

    A model without contrastive embeddings (ViLT) has its head score every pair.

    The score of a pair is the matching head's log-odds; the contrastive cosine stands beside it. Recall on D_f and
    on a seeded sample of D_r is measured with that set as the candidates.

    Args:
        rerank: Candidates k that the matching head re-orders, for each query and direction (ALBEF: 128).
        similarity_weight: Weight of the contrastive similarity (over the temperature) added to the log-odds of a
            re-ranked candidate: 0 is ALBEF's rule, 1 is BLIP's.
        sample: Largest number of units of D_f or D_r among which recall is measured.
    """

    name: ClassVar[str] = "retrieval"

    rerank: int = Field(default=128, ge=1)
    similarity_weight: float = Field(default=0.0, ge=0)
    sample: int = Field(default=1000, ge=2)

    def predict(self, model: Model, inputs: PairInputs, request: Request, engine: Engine) -> Predictions:
        """See :meth:`Task.predict`; ``i2t_rank`` ``(I,)`` and ``t2i_rank`` ``(T,)`` are of the ranked units.

        ``i2t_loss`` and ``t2i_loss`` ``(P,)`` say how a pair's contrastive similarity stands out among those of its
        image with wrong texts and of its text with wrong images. These are the same for every pair, whatever the split.
        """
        candidates = self._candidates(model, inputs, request.valid[:CANDIDATES], engine)
        found = {
            split: self._predict_split(model, inputs, units, engine, self.sample, candidates, f"evaluating {split}")
            for split, units in request.splits().items()
        }
        return self.with_features(found, model, inputs, request, engine)

    def pairs_alone(self) -> Self:
        """See :meth:`Task.pairs_alone`; nothing is ranked."""
        return super().pairs_alone().model_copy(update={"sample": 0})

    def metrics(self, predictions: Predictions) -> dict[str, float]:
        """See :meth:`Task.metrics`."""
        scores = {split: recalls(arrays["i2t_rank"], arrays["t2i_rank"]) for split, arrays in predictions.items()}
        found = {"test_score": scores["test"].pop("mean_recall"), **scores["test"]}
        found |= {
            f"{split}_score": scores[split]["mean_recall"] for split in ("valid", "retain", "forget") if split in scores
        }
        found |= forgetting(predictions)
        if "cosine" in predictions["forget"]:
            for name, others in (("forget_auc_cosine", "retain"), ("forget_test_auc_cosine", "test")):
                found[name] = forget_auc(predictions["forget"]["cosine"], predictions[others]["cosine"])
        return found

    def judge(self, model: Model, inputs: PairInputs, request: Request, engine: Engine) -> dict[str, float]:
        """See :meth:`Task.judge`; at most 200 units of valid and of D_f are looked at."""
        valid = self._predict_split(model, inputs, request.valid[:200], engine, 200)
        forget = self._predict_split(model, inputs, request.forget[:200], engine, 0)
        utility = recalls(valid["i2t_rank"], valid["t2i_rank"])["mean_recall"]
        return self.judged_by({"valid": valid, "forget": forget}, utility)

    def _predict_split(
        self,
        model: Model,
        inputs: PairInputs,
        units: Rows,
        engine: Engine,
        sample: int,
        candidates: Candidates | None = None,
        what: str | None = None,
    ) -> dict[str, NDArray[Any]]:
        corpus = inputs.corpus
        texts, own, named = true_pairs(corpus, units)
        vision = engine.encode_all(model, inputs, "vision", units)
        text = engine.encode_all(model, inputs, "text", texts)
        matched = engine.pair_logits(model, vision, text, (own, np.arange(len(texts))))
        found = {**named, "score": match_log_odds(matched)}
        cosines = None
        if model.contrastive:
            embeddings = [engine.embeddings(model, m, e) for m, e in (("vision", vision), ("text", text))]
            found["cosine"] = np.einsum("pd,pd->p", embeddings[0][own], embeddings[1]).astype(np.float32)
            if candidates is not None:
                found["i2t_loss"], found["t2i_loss"] = rank_losses(embeddings[0], embeddings[1], own, units, candidates)
        if not sample:
            return found
        order = np.random.default_rng(derive(len(units), "ranked sample")).permutation(len(units))
        ranked = np.sort(order[:sample])
        kept = np.flatnonzero(np.isin(own, ranked))
        true = own[kept][None, :] == ranked[:, None]  # (I, T)
        if model.contrastive:
            cosines = embeddings[0][ranked] @ embeddings[1][kept].T
        scores = self._scores(model, vision, text, (ranked, kept), cosines, engine, what)
        found["ranked_unit"] = np.array([corpus.units[units[row]].id for row in ranked])
        found["i2t_rank"] = first_true_ranks(scores[0], true)
        found["t2i_rank"] = first_true_ranks(scores[1].T, true.T)
        return found

    def _candidates(self, model: Model, inputs: PairInputs, units: Rows, engine: Engine) -> Candidates | None:
        """The wrong partners that every pair is held against; None without a valid split or contrastive embeddings."""
        if not model.contrastive or not len(units):
            return None
        texts = inputs.corpus.text_rows(units)
        vision, text = (
            engine.embeddings(model, modality, engine.encode_all(model, inputs, modality, rows))
            for modality, rows in (("vision", units), ("text", texts))
        )
        return Candidates(units, vision, text, inputs.corpus.text_units[texts], model.contrastive_scale())

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
        """Scores of every image with every text, ``(I, T)`` for each direction: candidates stand above the rest."""
        if cosine is None:  # a model without contrastive embeddings sees every pair
            images, texts = (each.ravel() for each in np.indices((len(rows[0]), len(rows[1]))))
            logits = engine.pair_logits(model, vision, text, (rows[0][images], rows[1][texts]), what=what)
            every = match_log_odds(logits).reshape(len(rows[0]), len(rows[1]))
            return every, every
        if not model.matching:
            return cosine, cosine
        by_image = _top(cosine, self.rerank)
        by_text = _top(cosine.T, self.rerank).T
        images, texts = np.nonzero(by_image | by_text)  # a pair that is a candidate in both directions is fused once
        logits = engine.pair_logits(model, vision, text, (rows[0][images], rows[1][texts]), what=what)
        scale = model.contrastive_scale()
        table = np.full(cosine.shape, -np.inf)
        table[images, texts] = match_log_odds(logits) + self.similarity_weight * scale * cosine[images, texts]
        # Below every candidate, in the order of the contrastive similarity; fp32 would round that order away.
        rest = cosine.astype(np.float64) - 1e6
        return np.where(by_image, table, rest), np.where(by_text, table, rest)


def match_log_odds(logits: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Log-odds that a pair matches, ``(P,)``, from the matching head's two logits."""
    return true_label_log_odds(logits, np.ones(len(logits), dtype=np.int64))


def rank_losses(
    vision: NDArray[np.float32], text: NDArray[np.float32], own: Rows, units: Rows, candidates: Candidates
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cross-entropy of each pair among the candidates' texts for its image, and images for its text, ``(P,)`` both.

    Args:
        vision: Embeddings of images, ``(I, P)``.
        text: Embeddings of the pairs' texts, ``(P, P)``.
        own: Which image each text belongs to, ``(P,)``.
        units: Rows of the images' units, ``(I,)``: of its own unit a pair has no wrong partner.
        candidates: The wrong partners.
    """
    true = candidates.scale * np.einsum("pd,pd->p", vision[own], text)
    wrong_text = _wrong(vision, candidates.text, candidates.scale, units, candidates.text_units)[own]
    wrong_image = _wrong(text, candidates.vision, candidates.scale, units[own], candidates.units)
    i2t, t2i = ((np.logaddexp(true, wrong) - true).astype(np.float32) for wrong in (wrong_text, wrong_image))
    return i2t, t2i


def _wrong(
    queries: NDArray[np.float32], partners: NDArray[np.float32], scale: float, units: Rows, partner_units: Rows
) -> NDArray[np.floating[Any]]:
    """Logarithm of the summed exponentials of each query's similarities to partners of other units, ``(Q,)``."""
    found = np.empty(len(queries))
    for part in iterate_rows(len(queries), 4096):
        similar = scale * (queries[part] @ partners.T).astype(np.float64)
        similar[units[part][:, None] == partner_units] = -np.inf
        found[part] = logsumexp(similar, axis=1)
    return found


def _top(scores: NDArray[np.floating[Any]], k: int) -> NDArray[np.bool_]:
    """Mask of the k largest of each row."""
    mask = np.zeros(scores.shape, dtype=bool)
    if k >= scores.shape[1]:
        mask[:] = True
    else:
        np.put_along_axis(mask, np.argpartition(-scores, k - 1, axis=1)[:, :k], True, axis=1)
    return mask
