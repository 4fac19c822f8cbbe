"""The model before unlearning, as a control in every comparison."""

from __future__ import annotations

from typing import Any, ClassVar

from multidelete.methods.base import Method, Unlearned, UnlearningData
from multidelete.models.base import Model
from multidelete.training.engine import Engine
from multidelete.training.features import encoded_inputs
from multidelete.training.loop import TrainingHistory


class Original(Method):
    """The original model, unchanged: start and baseline of every method. It unlearns nothing."""

    name: ClassVar[str] = "original"
    title: ClassVar[str] = "Original"
    color: ClassVar[str] = "#6f757d"
    stored: ClassVar[bool] = True

    def unlearn(self, student: Model, original: Model, data: UnlearningData, engine: Engine) -> Unlearned:
        """See :meth:`Method.unlearn`; returns an unchanged copy of the original."""
        return Unlearned(student, TrainingHistory(), 0.0, encoded_inputs(engine, student, data.inputs))

    def settings(self, data: UnlearningData) -> dict[str, Any]:
        """See :meth:`Method.settings`; the training settings."""
        return data.training.model_dump()
