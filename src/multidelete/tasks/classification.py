"""What every task with classes shares: predictions of true pairs, accuracy, and the probability of the true label."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from multidelete.metrics.classification import accuracy, true_label_log_odds
from multidelete.metrics.forgetting import forgetting
from multidelete.tasks.base import Predictions, Task, true_pairs

if TYPE_CHECKING:
    from multidelete.data.requests import Request
    from multidelete.data.streams import PairInputs, Rows
    from multidelete.engine import Engine
    from multidelete.models.base import Model


class Classification(Task):
    """Each text of a unit belongs to one of several classes; the score of a pair is the probability of its true one.

    Args:
        judged: Largest number of units of valid and of D_f that a choice of a checkpoint looks at.
    """

    labelled: ClassVar[bool] = True

    judged: int = Field(default=500, ge=2)

    def predict(self, model: Model, inputs: PairInputs, request: Request, engine: Engine) -> Predictions:
        """See :meth:`Task.predict`; ``logits`` ``(P, C)`` and the true ``label`` ``(P,)`` of each pair."""
        found = {
            split: self._predict_split(model, inputs, units, engine, f"evaluating {split}")
            for split, units in request.splits().items()
        }
        return self.with_features(found, model, inputs, request, engine)

    def metrics(self, predictions: Predictions) -> dict[str, float]:
        """See :meth:`Task.metrics`; scores are accuracies."""
        found = {f"{split}_score": accuracy(arrays["logits"], arrays["label"]) for split, arrays in predictions.items()}
        return {"test_score": found.pop("test_score"), **found, **forgetting(predictions)}

    def judge(self, model: Model, inputs: PairInputs, request: Request, engine: Engine) -> dict[str, float]:
        """See :meth:`Task.judge`."""
        splits = {"valid": request.valid[: self.judged], "forget": request.forget[: self.judged]}
        made = {split: self._predict_split(model, inputs, units, engine) for split, units in splits.items()}
        return self.judged_by(made, accuracy(made["valid"]["logits"], made["valid"]["label"]))

    def _predict_split(
        self, model: Model, inputs: PairInputs, units: Rows, engine: Engine, what: str | None = None
    ) -> dict[str, NDArray[Any]]:
        corpus = inputs.corpus
        texts, own, named = true_pairs(corpus, units)
        whole, text = (
            engine.encode_all(model, inputs, modality, rows)
            for modality, rows in zip(inputs.modalities, (units, texts), strict=True)
        )
        logits = engine.pair_logits(model, whole, text, (own, np.arange(len(texts))), what=what)
        assert corpus.labels is not None
        label = corpus.labels[texts]
        return {
            **named,
            "label": label.astype(np.int32),
            "logits": logits,
            "score": true_label_log_odds(logits, label),
        }
