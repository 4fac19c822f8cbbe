"""L1-sparse: fine-tuning on the retain set with an L1 penalty, since sparse models forget more easily."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from multidelete.data.samplers import RetainBatch
from multidelete.methods.base import LossMethod, UnlearningData
from multidelete.methods.teacher import Teacher
from multidelete.models.base import Model
from multidelete.models.inputs import Batch


class L1Sparse(LossMethod):
    r"""Fine-tuning on D_r with a decaying L1 penalty on the weights in scope [1]_.

    .. math:: L_t = \ell(D_r) + \gamma \, (1 - t / T) \, \|\theta\|_1

    The penalty weight decreases linearly, which the paper finds better than a constant or increasing one: utility
    recovers at the end.

    Args:
        gamma: Penalty weight in the first step. The paper's 5e-4 is for SGD, where it moves an entry by the learning
            rate times gamma; Adam moves an entry with little other gradient by the learning rate, whatever gamma is.
        rate_factor: Peak learning rate as a multiple of the original's. ``learning_rate`` is not used.

    References:
        .. [1] Jia et al., "Model Sparsity Can Simplify Machine Unlearning", NeurIPS 2023
    """

    name: ClassVar[str] = "l1_sparse"
    title: ClassVar[str] = "L1-sparse"
    color: ClassVar[str] = "#2A6F97"
    needs_training: ClassVar[bool] = True
    properties: ClassVar[tuple[str, ...]] = ("never_reads_forget",)

    gamma: float = Field(default=1e-4, gt=0)
    rate_factor: float = Field(default=0.5, gt=0)

    def peak_rate(self, data: UnlearningData) -> float:
        """Multiple of the original's learning rate."""
        return self.rate_factor * data.training.learning_rate

    def losses(self, student: Model, teacher: Teacher, forget: Batch, retain: RetainBatch) -> dict[str, Tensor]:
        """Task loss on D_r and the penalty of this step."""
        norm = torch.stack([parameter.abs().sum() for parameter in student.parameters_of(self.scope).values()]).sum()
        return {
            "retain": student.losses(retain).mean(),
            "l1": self.gamma * (1 - retain.progress) * norm,
        }
