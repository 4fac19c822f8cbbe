"""Random labels: fine-tuning with wrong labels on the forget set."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from multidelete.data.samplers import RetainBatch
from multidelete.methods.base import LossMethod
from multidelete.methods.pairs import random_label_losses
from multidelete.methods.teacher import Teacher
from multidelete.models.base import Model
from multidelete.models.inputs import Batch


class RandomLabel(LossMethod):
    r"""Fine-tuning on D_f with random wrong labels and on D_r with true labels [1]_.

    .. math:: L = \ell(D_f, y') + \alpha \, \ell(D_r), \qquad y' \ne y \;\text{random}

    A wrong label is drawn for each pair at every step. In retrieval it is a text: an image of D_f is trained to match a
    text of another example (ours; see :func:`multidelete.methods.pairs.with_wrong_labels`).

    Args:
        retain_weight: Weight of the task loss on D_r.

    References:
        .. [1] Golatkar et al., "Eternal Sunshine of the Spotless Net: Selective Forgetting in Deep Networks",
           CVPR 2020; Graves, Nagisetty and Ganesh, "Amnesiac Machine Learning", AAAI 2021
    """

    name: ClassVar[str] = "random_label"
    title: ClassVar[str] = "Random Label"
    color: ClassVar[str] = "#E07A5F"

    retain_weight: float = Field(default=1.0, ge=0)
    learning_rate: float = Field(default=1e-4, gt=0)

    def losses(self, student: Model, teacher: Teacher, forget: Batch, retain: RetainBatch) -> dict[str, Tensor]:
        """Task loss on D_f with random labels and on D_r with true labels."""
        return random_label_losses(student, forget, retain, self.retain_weight)
