"""SalUn: random labels for the forget set, with updates of salient weights only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from multidelete.data.samplers import ForgetRetainStream, RetainBatch
from multidelete.methods.base import LossMethod
from multidelete.methods.pairs import chunked_losses, random_label_losses
from multidelete.methods.teacher import Teacher
from multidelete.models.base import Model
from multidelete.models.inputs import Batch
from multidelete.numerics.gradients import mean_gradient
from multidelete.training.engine import Engine


class SalUn(LossMethod):
    r"""Saliency unlearning: random labels for D_f, with updates of salient weights only [1]_.

    .. math::

        m = 1\big[ |\nabla_\theta \ell(D_f; \theta_0)| \ge \tau \big], \qquad
        \theta = m \odot (\theta_0 + \Delta\theta) + (1 - m) \odot \theta_0, \qquad
        L(\theta) = \ell(D_f, y') + \alpha \, \ell(D_r)

    The saliency is the absolute gradient at the original's weights, and tau its quantile over all entries in scope, by
    default the median. Entries outside the mask or with zero gradient do not change. A wrong label y' is drawn at every
    step. In retrieval it is a text: an image of D_f is trained to match a text of another example (ours; see
    :func:`multidelete.methods.pairs.with_wrong_labels`).

    Args:
        share: Share of entries to update, the most salient ones.
        retain_weight: Weight of the task loss on D_r.
        weight_decay: Must be 0: it would change entries outside the mask.

    References:
        .. [1] Fan et al., "SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency in Both Image
           Classification and Generation", ICLR 2024
    """

    name: ClassVar[str] = "salun"
    title: ClassVar[str] = "SalUn"
    color: ClassVar[str] = "#117733"

    share: float = Field(default=0.5, gt=0, le=1)
    retain_weight: float = Field(default=1.0, ge=0)
    learning_rate: float = Field(default=1e-4, gt=0)
    weight_decay: float = Field(default=0.0, ge=0, le=0)

    def masks(self, student: Model, stream: ForgetRetainStream, engine: Engine) -> Mapping[str, Tensor]:
        """Masks of the most salient entries of the parameters in scope."""
        losses, chunks = chunked_losses(
            student, stream.inputs, stream.forget, self.batch_size, engine, stream.seed, "saliency"
        )
        return salient(mean_gradient(losses, chunks, student.parameters_of(self.scope), len(stream.forget)), self.share)

    def losses(self, student: Model, teacher: Teacher, forget: Batch, retain: RetainBatch) -> dict[str, Tensor]:
        """Task loss on D_f with random labels and on D_r with true labels."""
        return random_label_losses(student, forget, retain, self.retain_weight)


def salient(gradients: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Masks of the given share of all entries, those with the largest absolute gradients; zero gradients excluded.

    >>> salient({"a": torch.tensor([3.0, -4.0]), "b": torch.tensor([0.0, 1.0])}, share=0.5)
    {'a': tensor([True, True]), 'b': tensor([False, False])}
    """
    sizes = torch.cat([gradient.abs().flatten() for gradient in gradients.values()])
    kept = max(1, round(share * len(sizes)))
    threshold = sizes.kthvalue(len(sizes) - kept + 1).values
    return {name: (gradient.abs() >= threshold) & (gradient != 0) for name, gradient in gradients.items()}
