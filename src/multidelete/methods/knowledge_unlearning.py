"""Knowledge unlearning: gradient ascent on the forget set until it looks like what was never seen."""

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
    r"""Ascent in small steps at a constant rate, stopped as soon as deleted pairs look unseen [1]_.

    .. math:: L = -\ell(D_f) \quad \text{until} \quad \bar s'(D_f) \le \bar s(D_{validation})

    The paper's language model is not taught with dropout either, updates once for each chunk of 32 examples, and stops
    when its confidence on D_f is down to what the model before had on unseen validation examples: a threshold that
    stands still, so that ascent reaches it even where it takes all confidence down alike. So does the text side here:
    scope ``text`` by default, ``fusion`` for the "-F" row. Confidence is the mean probability of the true label, or of
    a match. It is asked every few updates (in the paper, whose D_f is one chunk, after each one); where the threshold
    is never reached, the checkpoint that came closest is kept.
    (The talk's slides say "maximising the log likelihood", a slip in the sign.)

    Args:
        scope: ``text``, or ``fusion`` (the "-F" row).
        epochs: Passes over the pairs of D_f at most.
        batch_size: Pairs of D_f in a chunk.
        learning_rate: Constant.
        evaluations: How often it is asked at most whether to stop, at even distances.
        forget_weight: Not used: utility has no say in when to stop.
        forget_target: Not used: the threshold is that of the model before.

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
        """See :meth:`LossMethod.needs_before`; its confidence on validation is the threshold."""
        return True

    def criterion(self, metrics: Mapping[str, float], before: Mapping[str, float]) -> float:
        """How far confidence on D_f is below the threshold: not below 0 is where it stops."""
        return before["confidence_validation"] - metrics["confidence_forget"]

    def stop_at(self) -> float:
        """See :meth:`LossMethod.stop_at`."""
        return 0.0

    def losses(self, student: Model, original: Teacher, forget: Batch, retain: RetainBatch) -> dict[str, Tensor]:
        """The negative of the task's loss on D_f: minimising it is ascent."""
        return {"forget": -student.losses(forget).mean()}
