"""Base class of tasks with classes: predictions of true pairs, accuracy, log-odds of the true label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from multidelete.metrics.classification import accuracy, true_label_log_odds
from multidelete.tasks.base import SCORE_KEYS, Predictions, Task, true_pairs
from multidelete.training.inference import encode_all, pair_logits

if TYPE_CHECKING:
    from multidelete.data.batches import PairInputs, Rows
    from multidelete.data.requests import Request
    from multidelete.models.base import Model
    from multidelete.training.engine import Engine


class Classification(Task):
    """Classification of pairs; the score of a pair is the log-odds of its true label."""

    labelled: ClassVar[bool] = True

    def predict(self, model: Model, inputs: PairInputs, request: Request, engine: Engine) -> Predictions:
        """See :meth:`Task.predict`; adds ``logits`` ``(P, C)`` and the true ``label`` ``(P,)`` of each pair."""
        result = {
            split: self._predict_split(model, inputs, texts, engine, f"evaluating {split}")
            for split, texts in self.splits(request).items()
        }
        return self.with_features(result, model, inputs, request, engine)

    def scores(self, predictions: Predictions) -> dict[str, float]:
        """See :meth:`Task.scores`; scores are accuracies."""
        result = {
            SCORE_KEYS[split]: accuracy(arrays["logits"], arrays["label"]) for split, arrays in predictions.items()
        }
        first = {"test_score": result["test_score"]} if "test_score" in result else {}
        return {**first, **result}

    def contributions(self, arrays: Mapping[str, NDArray[Any]]) -> tuple[NDArray[Any], NDArray[Any]] | None:
        """See :meth:`Task.contributions`; of each pair whether it is classified correctly."""
        right = true_label_log_odds(arrays["logits"], arrays["label"], against_best=True) > 0
        return 100.0 * right, arrays["cluster"]

    def validation_metrics(
        self, model: Model, inputs: PairInputs, request: Request, engine: Engine
    ) -> dict[str, float]:
        """See :meth:`Task.validation_metrics`."""
        result = {
            split: self._predict_split(model, inputs, texts, engine)
            for split, texts in self.validation_pairs(request).items()
        }
        return self.validation_metrics_of(
            result, accuracy(result["validation"]["logits"], result["validation"]["label"])
        )

    def predict_pairs(
        self, model: Model, inputs: PairInputs, texts: Rows, request: Request, engine: Engine
    ) -> dict[str, NDArray[Any]]:
        """See :meth:`Task.predict_pairs`."""
        return self._predict_split(model, inputs, texts, engine)

    def _predict_split(
        self, model: Model, inputs: PairInputs, texts: Rows, engine: Engine, what: str | None = None
    ) -> dict[str, NDArray[Any]]:
        dataset = inputs.dataset
        examples, own, named = true_pairs(dataset, texts)
        image_or_graph, text = (
            encode_all(engine, model, inputs, modality, rows)
            for modality, rows in zip(inputs.modalities, (examples, texts), strict=True)
        )
        logits = pair_logits(engine, model, image_or_graph, text, (own, np.arange(len(texts))), what=what)
        assert dataset.labels is not None
        label = dataset.labels[texts]
        return {
            **named,
            "label": label.astype(np.int32),
            "logits": logits,
            "score": true_label_log_odds(logits, label),
        }
