"""Knowledge unlearning: gradient ascent on the forget set until it looks like what was never seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from multidelete.data.streams import RetainBatch
from multidelete.methods.base import LossMethod, Scope, Teacher
from multidelete.models.base import Batch, Model


class KnowledgeUnlearning(LossMethod):
    r"""Ascent in small steps at a constant rate, stopped as soon as deleted pairs look unseen [1]_.

    .. math:: L = -\ell(D_f) \quad \text{until} \quad s(D_f) \le s(D_{valid})

    The paper's language model is not taught with dropout either, updates once for each chunk of 32 examples, and stops
    when its confidence on D_f is down to that on unseen validation examples. So does the text side here: scope ``text``
    by default, ``fusion`` for the "-F" row. Of pairs we compare the confidence in the true label, or in the match, by
    rank: it is no higher on D_f when ``forget_auc``, the probability that a deleted pair scores above a valid one, is
    at most 50. Judged once in an epoch; where it never comes so far, the checkpoint that came closest is kept.
    (The talk's slides say "maximising the log likelihood", a slip in the sign.)

    Args:
        scope: ``text``, or ``fusion`` (the "-F" row).
        epochs: Passes over the pairs of D_f at most.
        batch_size: Pairs of D_f in a chunk.
        learning_rate: Constant.
        evaluations: How often it is asked whether to stop, at even distances; with the default once in an epoch.
        forget_weight: Not used: utility has no say in when to stop.
        forget_target: It stops when ``forget_auc`` on valid is at most this.

    References:
        .. [1] Jang et al., "Knowledge Unlearning for Mitigating Privacy Risks in Language Models", ACL 2023
    """

    name: ClassVar[str] = "knowledge_unlearning"
    title: ClassVar[str] = "UL"
    claims: ClassVar[tuple[str, ...]] = ("raises_forget_loss", "never_reads_retain")
    scopes: ClassVar[tuple[str, ...]] = ("text", "fusion")
    schedule: ClassVar[Literal["cosine", "constant"]] = "constant"

    scope: Scope = "text"
    epochs: float = Field(default=20.0, gt=0)
    batch_size: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=5e-5, gt=0)
    warmup: float = Field(default=0.0, ge=0, lt=1)
    evaluations: int = Field(default=20, ge=1)
    forget_target: float = Field(default=50.0, ge=0, le=100)

    def criterion(self, found: Mapping[str, float]) -> float:
        """How far deleted pairs are below the target: not below 0 is where it stops."""
        return self.forget_target - found["forget_auc"]

    def stop_at(self) -> float:
        """See :meth:`LossMethod.stop_at`."""
        return 0.0

    def losses(self, student: Model, original: Teacher, forget: Batch, retain: RetainBatch) -> dict[str, Tensor]:
        """The negative of the task's loss on D_f: minimising it is ascent."""
        return {"forget": -student.losses(forget).mean()}
