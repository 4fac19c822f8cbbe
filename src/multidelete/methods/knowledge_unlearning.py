"""Knowledge unlearning: gradient ascent on the forget set until its confidence falls to that of unseen pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from multidelete.data.samplers import RetainBatch
from multidelete.methods.base import LossMethod, Scope
from multidelete.methods.teacher import Teacher
from multidelete.models.base import Model
from multidelete.models.inputs import Batch


class KnowledgeUnlearning(LossMethod):
    r"""Gradient ascent at a constant learning rate until deleted pairs look unseen [1]_.

    .. math:: L = -\ell(D_f) \quad \text{until} \quad \bar s'(D_f) \le \bar s(D_{validation})

    As in the paper, which unlearns a language model, there is no dropout, each update uses a chunk of 32 examples, and
    training stops when the confidence on D_f falls to the original's confidence on validation. This threshold is fixed,
    so ascent reaches it even if confidence falls equally on all pairs. Scope ``text`` is the default, ``fusion`` the
    "-F" row. Confidence is the mean probability of the true label, or of a match. It is evaluated every few updates (in
    the paper, whose D_f is one chunk, after each one). If the threshold is not reached, the closest checkpoint is kept.
    (The talk's slides say "maximising the log likelihood", a slip in the sign.)

    Args:
        scope: ``text``, or ``fusion`` (the "-F" row).
        epochs: Maximum number of passes over D_f.
        batch_size: Pairs of D_f in a chunk.
        learning_rate: Constant learning rate.
        evaluations: Maximum number of evaluations of the stopping criterion, evenly spaced.
        forget_weight: Not used: stopping does not depend on utility.
        forget_target: Not used: the threshold depends on the original.

    References:
        .. [1] Jang et al., "Knowledge Unlearning for Mitigating Privacy Risks in Language Models", ACL 2023
    """

    name: ClassVar[str] = "knowledge_unlearning"
    title: ClassVar[str] = "UL"
    color: ClassVar[str] = "#8A8A00"
    properties: ClassVar[tuple[str, ...]] = ("raises_forget_loss", "never_reads_retain")
    scopes: ClassVar[tuple[str, ...]] = ("text", "fusion")
    schedule: ClassVar[Literal["cosine", "constant"]] = "constant"

    scope: Scope = "text"
    epochs: float = Field(default=20.0, gt=0)
    batch_size: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=5e-5, gt=0)
    warmup: float = Field(default=0.0, ge=0, lt=1)
    evaluations: int = Field(default=200, ge=1)

    def needs_before(self) -> bool:
        """See :meth:`LossMethod.needs_before`; the original's confidence on validation is the threshold."""
        return True

    def criterion(self, metrics: Mapping[str, float], before: Mapping[str, float]) -> float:
        """Threshold minus the confidence on D_f; training stops at 0 or above."""
        return before["confidence_validation"] - metrics["confidence_forget"]

    def stop_at(self) -> float:
        """See :meth:`LossMethod.stop_at`."""
        return 0.0

    def losses(self, student: Model, teacher: Teacher, forget: Batch, retain: RetainBatch) -> dict[str, Tensor]:
        """Negative task loss on D_f."""
        return {"forget": -student.losses(forget).mean()}
