"""Gradient ascent on the forget set, balanced by descent on the retain set."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from multidelete.data.samplers import RetainBatch
from multidelete.methods.base import LossMethod
from multidelete.methods.teacher import Teacher
from multidelete.models.base import Model
from multidelete.models.inputs import Batch


class NegGradPlus(LossMethod):
    r"""Gradient ascent on D_f and descent on D_r, also known as gradient difference [1]_.

    .. math:: L = \beta \, \ell(D_r) - (1 - \beta) \, \ell(D_f)

    Args:
        beta: Weight of D_r, between 0 (NegGrad) and 1 (only fine-tuning).

    References:
        .. [1] Kurmanji et al., "Towards Unbounded Machine Unlearning", NeurIPS 2023; with equal weights, as gradient
           difference: Liu, Liu and Stone, "Continual Learning and Private Unlearning", CoLLAs 2022
    """

    name: ClassVar[str] = "neggrad_plus"
    title: ClassVar[str] = "NegGrad+"
    color: ClassVar[str] = "#8C4A00"

    beta: float = Field(default=0.95, ge=0, le=1)

    def losses(self, student: Model, teacher: Teacher, forget: Batch, retain: RetainBatch) -> dict[str, Tensor]:
        """Weighted task losses on D_r and D_f; those with weight 0 are not computed."""
        terms = {}
        if self.beta > 0:
            terms["retain"] = self.beta * student.losses(retain).mean()
        if self.beta < 1:
            terms["forget"] = -(1 - self.beta) * student.losses(forget).mean()
        return terms
