"""Fine-tuning on the retain set; relies on catastrophic forgetting of the forget set."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from multidelete.data.samplers import RetainBatch
from multidelete.methods.base import LossMethod, UnlearningData
from multidelete.methods.teacher import Teacher
from multidelete.models.base import Model
from multidelete.models.inputs import Batch


class FineTune(LossMethod):
    r"""Fine-tuning on D_r with a larger learning rate [1]_.

    .. math:: L = \ell(D_r)

    The talk's slides say "on D_f", a slip: catastrophic forgetting of D_f comes from training on everything else.

    Args:
        rate_factor: Peak learning rate as a multiple of the original's. ``learning_rate`` is not used.

    References:
        .. [1] Golatkar et al., "Eternal Sunshine of the Spotless Net: Selective Forgetting in Deep Networks",
           CVPR 2020
    """

    name: ClassVar[str] = "finetune"
    title: ClassVar[str] = "FineTune"
    color: ClassVar[str] = "#E69F00"
    needs_training: ClassVar[bool] = True
    properties: ClassVar[tuple[str, ...]] = ("never_reads_forget", "lowers_retain_loss")

    rate_factor: float = Field(default=2.0, gt=0)

    def peak_rate(self, data: UnlearningData) -> float:
        """Multiple of the original's learning rate."""
        return self.rate_factor * data.training.learning_rate

    def losses(self, student: Model, teacher: Teacher, forget: Batch, retain: RetainBatch) -> dict[str, Tensor]:
        """Task loss on D_r."""
        return {"retain": student.losses(retain).mean()}
