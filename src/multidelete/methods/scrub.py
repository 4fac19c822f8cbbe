"""SCRUB: a student that leaves its teacher on the forget set and obeys it on the retain set."""

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
    r"""Steps away from the original on D_f in turn with steps towards it on D_r; the last are of the second kind [1]_.

    .. math::

        \max_{f'} \; d(D_f), \qquad \min_{f'} \; \alpha \, d(D_r) + \gamma \, \ell(D_r), \qquad
        d(x) = KL\big(p_f(x) \,\|\, p_{f'}(x)\big)

    p is the softmax of the head over the temperature: of classes, or in retrieval of "matches" and "does not match", so
    that there the divergence is about the decision on a pair, and the contrastive similarity is in the task's loss
    alone. The paper turns from one kind to the other after each epoch, the first of them away; we do after each step,
    and what it calls the number of max epochs is a share of the steps here. The first step is one towards: a student
    that equals its teacher has no gradient to leave it by, and Adam would make a full step out of the rounding.

    Args:
        alpha: Weight of the divergence on D_r.
        gamma: Weight of the task's loss on D_r.
        temperature: Of the divergence.
        ascent: Share of the steps, from the first on, in which every other one is a step away on D_f.

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

    def losses(self, student: Model, original: Teacher, forget: Batch, retain: RetainBatch) -> dict[str, Tensor]:
        """The terms of a max step or of a min step."""
        if retain.step % 2 == 1 and retain.progress < self.ascent:
            away = divergence(student.head(student.fused(forget)), original.logits(forget), self.temperature)
            return {"forget": -away}
        batch = encoded(student, retain)
        stay = divergence(student.head(student.fused(batch)), original.logits(retain), self.temperature)
        terms = {"retain": self.alpha * stay}
        if self.gamma:
            terms["task"] = self.gamma * student.losses(batch).mean()
        return terms
