"""Gradient ascent on the forget set."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from multidelete.data.samplers import RetainBatch
from multidelete.methods.base import LossMethod
from multidelete.methods.teacher import Teacher
from multidelete.models.base import Model
from multidelete.models.inputs import Batch


class NegGrad(LossMethod):
    r"""Gradient ascent on D_f [1]_.

    .. math:: L = -\ell(D_f)

    References:
        .. [1] Golatkar et al., "Eternal Sunshine of the Spotless Net: Selective Forgetting in Deep Networks",
           CVPR 2020
    """

    name: ClassVar[str] = "neggrad"
    title: ClassVar[str] = "NegGrad"
    color: ClassVar[str] = "#D55E00"
    properties: ClassVar[tuple[str, ...]] = ("raises_forget_loss", "never_reads_retain")

    epochs: float = Field(default=1.0, gt=0)
    learning_rate: float = Field(default=5e-5, gt=0)

    def losses(self, student: Model, teacher: Teacher, forget: Batch, retain: RetainBatch) -> dict[str, Tensor]:
        """Negative task loss on D_f."""
        return {"forget": -student.losses(forget).mean()}
