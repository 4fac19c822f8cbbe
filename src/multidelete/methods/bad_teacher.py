"""Bad teacher: distillation from an untrained model on the forget set and from the original on the retain set."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from multidelete.data.samplers import ForgetRetainStream, RetainBatch
from multidelete.methods.base import LossMethod
from multidelete.methods.pairs import divergence
from multidelete.methods.teacher import Teacher
from multidelete.models.base import Model
from multidelete.models.inputs import Batch


class BadTeacher(LossMethod):
    r"""Distillation from an incompetent teacher on D_f and from the original on D_r [1]_.

    .. math:: L = KL\big(p_b(D_f) \,\|\, p_{f'}(D_f)\big) + KL\big(p_f(D_r) \,\|\, p_{f'}(D_r)\big)

    The incompetent teacher b has the original's configuration and initial weights (pretrained encoders included). p is
    the softmax of the head's logits over the temperature. The paper deletes classes and examples of image
    classification. In retrieval the classes are "no match" and "match"; all pairs of D_r match, so only
    ``retain_mismatched`` provides pairs that do not. Each divergence is a mean over its own pairs here; the paper's is
    over all pairs of a batch, where D_r weighs as much more as it has more pairs: ``retain_kl = retain_ratio``.

    Args:
        forget_kl: Weight of the divergence from the incompetent teacher.
        retain_kl: Weight of the divergence from the original.
        temperature: Temperature of both divergences.
        retain_mismatched: Share of mismatched pairs in the D_r batch, also distilled from the original. Ours; 0 is the
            paper.

    References:
        .. [1] Chundawat et al., "Can Bad Teaching Induce Forgetting? Unlearning in Deep Networks Using an Incompetent
           Teacher", AAAI 2023
    """

    name: ClassVar[str] = "bad_teacher"
    title: ClassVar[str] = "Bad Teacher"
    color: ClassVar[str] = "#994455"
    needs_teacher: ClassVar[bool] = True
    needs_initial: ClassVar[bool] = True
    needs_start: ClassVar[bool] = True

    forget_kl: float = Field(default=1.0, gt=0)
    retain_kl: float = Field(default=1.0, ge=0)
    temperature: float = Field(default=1.0, gt=0)
    retain_mismatched: float = Field(default=0.0, ge=0, lt=1)

    def mismatched_share(self) -> float:
        """See :meth:`LossMethod.mismatched_share`."""
        return self.retain_mismatched

    def prepare(self, student: Model, teacher: Teacher, stream: ForgetRetainStream, steps: int) -> None:
        """Cache the original's outputs for the mismatched pairs that the steps will draw."""
        if stream.num_mismatched:
            teacher.remember([stream.mismatched_rows(stream.num_mismatched, step, "retain") for step in range(steps)])

    def losses(self, student: Model, teacher: Teacher, forget: Batch, retain: RetainBatch) -> dict[str, Tensor]:
        """Divergences from the two teachers."""
        assert teacher.initial is not None
        terms = {}
        for name, weight, source, batch in (
            ("forget", self.forget_kl, teacher.initial, forget),
            ("retain", self.retain_kl, teacher, retain),
        ):
            if weight:
                now = student.head(student.fused(batch))
                terms[name] = weight * divergence(now, source.logits(batch), self.temperature)
        return terms
