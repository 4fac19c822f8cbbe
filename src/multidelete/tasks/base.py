"""The contract of a task: what is asked, how predictions are made and scored. A task knows no method and no loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from multidelete.data.requests import Request
    from multidelete.data.streams import PairInputs
    from multidelete.engine import Engine
    from multidelete.models.base import Model

Predictions = dict[str, dict[str, NDArray[Any]]]


class Task(BaseModel, ABC):
    """A task; its fields are its settings.

    Predictions are ``{split: {name: array}}`` with splits forget, retain, valid, test, and for each pair its unit,
    its text within the unit, and its score s(x).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: ClassVar[str]

    @abstractmethod
    def predict(self, model: Model, inputs: PairInputs, request: Request, engine: Engine) -> Predictions:
        """Everything that metrics need, one pass per split."""

    @abstractmethod
    def metrics(self, predictions: Predictions) -> dict[str, float]:
        """Metrics of one model's predictions: ``test_score``, ``retain_score``, ``forget_auc`` ..."""

    @abstractmethod
    def judge(self, model: Model, inputs: PairInputs, request: Request, engine: Engine) -> dict[str, float]:
        """Utility on valid and forgetting, in points, for the choice of a checkpoint; reads nothing of test.

        Returns:
            ``utility`` (valid score) and ``forget_auc`` (D_f against valid: do deleted pairs look unseen?).
        """


def pair_scores(predictions: Predictions, split: str) -> NDArray[np.floating[Any]]:
    """s(x) of each pair of a split as log-odds, which order pairs as probabilities do but do not saturate."""
    return predictions[split]["match_logit"]
