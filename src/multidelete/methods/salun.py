"""SalUn: random labelling that moves only the weights on which the forget set depends."""

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
    r"""Saliency unlearning: random labels for D_f, and only salient entries of the weights move [1]_.

    .. math::

        m = 1\big[ |\nabla_\theta \ell(D_f; \theta_0)| \ge \tau \big], \qquad
        \theta = m \odot (\theta_0 + \Delta\theta) + (1 - m) \odot \theta_0, \qquad
        L(\theta) = \ell(D_f, y') + \alpha \, \ell(D_r)

    The saliency is the gradient at the original's weights, tau the quantile of its size over all entries in scope: the
    median by default. Entries outside the mask, and those that the loss on D_f does not reach, stay bit for bit. A
    wrong label y' is drawn at every step. In retrieval, which is ours, it is a text: an image of D_f is trained to
    match a text of another example (see :func:`multidelete.methods.pairs.with_wrong_labels`).

    Args:
        share: Share of the entries that may move, the most salient ones.
        retain_weight: Weight of the task's loss on D_r.
        weight_decay: Must be 0: it would move what the mask holds.

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
        """The most salient entries of every parameter in scope."""
        losses, chunks = chunked_losses(
            student, stream.inputs, stream.forget, self.batch_size, engine, stream.seed, "saliency"
        )
        return salient(mean_gradient(losses, chunks, student.parameters_of(self.scope), len(stream.forget)), self.share)

    def losses(self, student: Model, original: Teacher, forget: Batch, retain: RetainBatch) -> dict[str, Tensor]:
        """The task's loss on D_f with random labels and on D_r as it is."""
        return random_label_losses(student, forget, retain, self.retain_weight)


def salient(gradients: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Masks of the entries with the largest gradients, a share of all of them together; never one that is 0.

    >>> salient({"a": torch.tensor([3.0, -4.0]), "b": torch.tensor([0.0, 1.0])}, share=0.5)
    {'a': tensor([True, True]), 'b': tensor([False, False])}
    """
    sizes = torch.cat([gradient.abs().flatten() for gradient in gradients.values()])
    kept = max(1, round(share * len(sizes)))
    threshold = sizes.kthvalue(len(sizes) - kept + 1).values
    return {name: (gradient.abs() >= threshold) & (gradient != 0) for name, gradient in gradients.items()}
