"""Negative preference optimisation: gradient ascent whose weight vanishes as a pair is forgotten."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from multidelete.data.samplers import RetainBatch
from multidelete.methods.base import LossMethod
from multidelete.methods.pairs import label_log_probabilities
from multidelete.methods.teacher import Teacher
from multidelete.models.base import Model
from multidelete.models.inputs import Batch


class NPO(LossMethod):
    r"""Preference optimisation with the true labels of D_f as rejected answers, and retention on D_r [1]_.

    .. math::

        L = -\frac{2}{\beta} \, \log \sigma\Big( -\beta \log \frac{\pi_{f'}(y \mid x)}{\pi_f(y \mid x)} \Big)
            + \gamma \, \ell(D_r)

    For beta to 0 this is gradient ascent on −log pi; otherwise the gradient of log pi has the weight
    :math:`2 \pi_{f'}^\beta / (\pi_{f'}^\beta + \pi_f^\beta)`, which vanishes with :math:`\pi_{f'}`. With the second
    term it is the paper's NPO+RT. In the paper y is a text and pi the probability of all its tokens; here y is the
    label of a pair, in retrieval "match".

    Args:
        beta: Inverse temperature; larger values reduce the weight sooner. The paper's 0.1 is for log-probabilities of
            texts, sums over tokens; those of single labels are much smaller, so our default is larger.
        gamma: Weight of the task's loss on D_r; 0 is NPO alone.

    References:
        .. [1] Zhang et al., "Negative Preference Optimization: From Catastrophic Collapse to Effective Unlearning",
           COLM 2024
    """

    name: ClassVar[str] = "npo"
    title: ClassVar[str] = "NPO"
    color: ClassVar[str] = "#B5179E"
    needs_teacher: ClassVar[bool] = True

    beta: float = Field(default=1.0, gt=0)
    gamma: float = Field(default=1.0, ge=0)

    def losses(self, student: Model, teacher: Teacher, forget: Batch, retain: RetainBatch) -> dict[str, Tensor]:
        """Negative preference loss on D_f and the task loss on D_r."""
        now = label_log_probabilities(student, student.head(student.fused(forget)), forget)
        before = label_log_probabilities(teacher.model, teacher.logits(forget), forget)
        terms = {"forget": negative_preference(now - before, self.beta).mean()}
        if self.gamma:
            terms["retain"] = self.gamma * student.losses(retain).mean()
        return terms


def negative_preference(log_ratio: Tensor, beta: float) -> Tensor:
    """NPO loss of each pair, ``(B,)``, from the log-ratio of its probabilities under student and original."""
    return -2 / beta * F.logsigmoid(-beta * log_ratio)
