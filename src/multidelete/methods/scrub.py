"""SCRUB: divergence from the original is maximised on the forget set and minimised on the retain set."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from multidelete.data.samplers import RetainBatch
from multidelete.methods.base import LossMethod
from multidelete.methods.pairs import divergence, encoded
from multidelete.methods.teacher import Teacher
from multidelete.models.base import Model
from multidelete.models.inputs import Batch


class Scrub(LossMethod):
    r"""Alternating max steps away from the original on D_f and min steps towards it on D_r, then min steps only [1]_.

    .. math::

        \max_{f'} \; d(D_f), \qquad \min_{f'} \; \alpha \, d(D_r) + \gamma \, \ell(D_r), \qquad
        d(x) = KL\big(p_f(x) \,\|\, p_{f'}(x)\big)

    p is the softmax of the head's logits over the temperature, over the classes or, in retrieval, over "no match" and
    "match"; contrastive similarity is then only in the task loss. The paper alternates after each epoch, starting with
    a max epoch; we alternate after each step, and ``ascent`` replaces its number of max epochs. The first step is a min
    step: a student that equals its teacher has zero gradient, and Adam would amplify rounding errors to a full step.

    Alpha, gamma and the temperature were set by the paper for each of its tasks; 1 is our default for all of them.

    Args:
        alpha: Weight of the divergence on D_r.
        gamma: Weight of the task loss on D_r.
        temperature: Temperature of the divergence.
        ascent: Initial share of the steps in which every second one is a max step on D_f.

    References:
        .. [1] Kurmanji et al., "Towards Unbounded Machine Unlearning", NeurIPS 2023
    """

    name: ClassVar[str] = "scrub"
    title: ClassVar[str] = "SCRUB"
    color: ClassVar[str] = "#5D3A9B"
    needs_teacher: ClassVar[bool] = True

    alpha: float = Field(default=1.0, gt=0)
    gamma: float = Field(default=1.0, ge=0)
    temperature: float = Field(default=1.0, gt=0)
    ascent: float = Field(default=0.5, gt=0, lt=1)
    learning_rate: float = Field(default=1e-4, gt=0)

    def losses(self, student: Model, teacher: Teacher, forget: Batch, retain: RetainBatch) -> dict[str, Tensor]:
        """Loss terms of a max step or a min step."""
        if retain.step % 2 == 1 and retain.progress < self.ascent:
            away = divergence(student.head(student.fused(forget)), teacher.logits(forget), self.temperature)
            return {"forget": -away}
        batch = encoded(student, retain)
        stay = divergence(student.head(student.fused(batch)), teacher.logits(retain), self.temperature)
        terms = {"retain": self.alpha * stay}
        if self.gamma:
            terms["task"] = self.gamma * student.losses(batch).mean()
        return terms
