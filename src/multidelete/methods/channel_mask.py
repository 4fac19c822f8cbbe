"""Mask over visual channels for ERM-KTP, trained together with the original."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from multidelete.data.batches import Rows
from multidelete.data.dataset import Dataset
from multidelete.models.base import Model
from multidelete.models.extras import EXTRA
from multidelete.models.inputs import Batch, Encoding
from multidelete.training.extras import Extra, ExtraTraining
from multidelete.utils.randomness import derive


class ChannelMask(nn.Module):
    r"""Mask :math:`M \in [0, 1]^{C \times K}` over the K channels of the last visual feature map.

    The feature map is what the fusion reads of an image: token states, or the pooled vector if no token is read. It is
    multiplied with rows of M only inside :meth:`seen_through`, and always with ``open``, which is 0 for the channels
    that ERM-KTP has removed.

    Args:
        classes: Number of rows C.
        width: Number of channels K.
        pooled: Whether the feature map is the pooled vector.
    """

    weight: Tensor
    open: Tensor

    def __init__(self, classes: int, width: int, *, pooled: bool = False) -> None:
        super().__init__()
        self.register_buffer("weight", torch.full((classes, width), 0.5))
        self.register_buffer("open", torch.ones(width))
        self.pooled = pooled
        self._rows: Tensor | None = None

    def forward(self, modality: str, encoding: Encoding) -> Encoding:
        """Multiply the feature map by the mask; other modalities are unchanged."""
        if modality != "vision":
            return encoding
        encoding = self.gated(encoding, self.open)
        return encoding if self._rows is None else self.gated(encoding, self.weight[self._rows])

    def feature_map(self, vision: Encoding) -> Tensor:
        """Feature map of images, ``(B, L, K)``."""
        return vision.pooled[:, None] if self.pooled else vision.tokens

    def gated(self, vision: Encoding, gates: Tensor) -> Encoding:
        """Multiply the channels by gates, ``(K,)`` or ``(B, K)``."""
        tokens = vision.tokens * gates[..., None, :]
        return replace(vision, tokens=tokens, pooled=vision.pooled * gates if self.pooled else vision.pooled)

    @contextmanager
    def seen_through(self, rows: Tensor) -> Iterator[None]:
        """Context in which the next batch of images is multiplied with these rows of the mask, ``(B,)``."""
        self._rows = rows
        try:
            yield
        finally:
            self._rows = None

    def penalty(self, share: float, overlap: float) -> Tensor:
        """Penalty on dense masks, and on channels that several rows share.

        Args:
            share: Mask density allowed before the penalty applies.
            overlap: Weight of the inner products of rows.
        """
        # Sum of the inner products of all pairs of different rows.
        pairs = (self.weight.sum(0).square().sum() - self.weight.square().sum()) / 2
        return (self.weight.abs().sum() - share * self.weight.numel()).relu() + overlap * pairs

    @torch.no_grad()
    def normalise_(self) -> None:
        """Scale the largest entry of each channel to 1, and clamp all entries to [0, 1]."""
        largest = self.weight.amax(0, keepdim=True).clamp_min(1e-6)
        self.weight.copy_((self.weight / largest).clamp(0, 1))

    def used(self, row: int, least: float) -> Tensor:
        """Channels that this class uses by more than ``least``, and not all classes do, ``(K,)``."""
        above = self.weight > least
        return above[row] & ~above.all(0)


class ChannelMaskSettings(Extra):
    r"""Mask over visual channels, trained together with the original: the first half of ERM-KTP [1]_.

    In every third epoch each image's last visual feature map is multiplied with its class's row of M; in every step

    .. math:: 10^{-3} \left( \max(0, \lVert M \rVert_1 - 0.1 \, C K) + 0.1 \sum_{i<j} \langle M_i, M_j \rangle \right)

    is added to the loss, and after each step M is divided by the largest entry of each channel. Thus each class learns
    to use its own channels, and the class to delete can be removed later.

    The paper deletes classes of images; we delete pairs. Classes are groups: D_f is the last, and the other examples
    are assigned to the rest by a hash of their ids (:func:`groups_of`), also in tasks with labels: labels belong to
    texts, and masking images by label would reveal the answer. The mask, and the original that is trained with it, thus
    depend on the deletion request.

    Args:
        classes: Number of rows C, including D_f's.
        every: The mask is applied in each epoch whose number (from 1) is a multiple of this.
        weight: Weight of the entire term.
        share: Mask density allowed before the penalty applies.
        overlap: Weight of the inner products of rows.
        learning_rate: Learning rate of M, by plain gradient descent (paper: 0.1, for many more steps). The penalty
            alone lowers an entry by this times ``weight`` in a step. On scenes, 562 steps at 5, 10 and 30 leave a
            density of 0.77, 0.48 and 0.32, and the original a test score of 95, 86 and 77 of 97.

    References:
        .. [1] Lin et al., "ERM-KTP: Knowledge-Level Machine Unlearning via Knowledge Transfer", CVPR 2023
    """

    name: ClassVar[str] = "channel_mask"
    requires: ClassVar[frozenset[str]] = frozenset({"vision"})
    scopes: ClassVar[tuple[str, ...]] = ("all", "vision")
    uses_request: ClassVar[bool] = True

    classes: int = Field(default=10, ge=2)
    every: int = Field(default=3, ge=1)
    weight: float = Field(default=1e-3, ge=0)
    share: float = Field(default=0.1, ge=0, le=1)
    overlap: float = Field(default=0.1, ge=0)
    learning_rate: float = Field(default=5.0, gt=0)

    def check(self, epochs: float) -> None:
        """See :meth:`Extra.check`; the mask must be applied at least once."""
        if epochs < self.every:
            raise ValueError(
                f"the mask is applied in one epoch of {self.every}, but there are {epochs:g}; "
                "set extra.every to fewer, or epochs to more"
            )

    def facts(self) -> dict[str, Any]:
        """See :meth:`Extra.facts`."""
        return {"classes": self.classes}

    @classmethod
    def build(cls, model: Model, facts: Mapping[str, Any]) -> ChannelMask:
        """See :meth:`Extra.build`."""
        pooled = model.fusion_reads == "pooled"
        return ChannelMask(facts["classes"], model.encoding_width("vision"), pooled=pooled)

    def training(self, model: Model, dataset: Dataset, forget: Rows | None) -> ExtraTraining:
        """See :meth:`Extra.training`."""
        return _MaskTraining(self, model, dataset, forget)


class _MaskTraining(ExtraTraining):
    def __init__(self, settings: ChannelMaskSettings, model: Model, dataset: Dataset, forget: Rows | None) -> None:
        self.settings, self.mask = settings, mask_of(model)
        groups = groups_of(dataset, settings.classes, forget)
        self.groups = torch.from_numpy(groups).to(self.mask.weight.device)
        weight = self.mask.weight.requires_grad_(True)
        self.hook = weight.register_post_accumulate_grad_hook(self._descend)

    @torch.no_grad()
    def _descend(self, weight: Tensor) -> None:
        """Step of plain gradient descent, as soon as the gradient is known; then normalise."""
        assert weight.grad is not None
        weight -= self.settings.learning_rate * weight.grad
        weight.grad = None
        self.mask.normalise_()

    def losses(self, model: Model, batch: Batch, step: int, epoch: int) -> dict[str, Tensor]:
        """See :meth:`ExtraTraining.losses`."""
        if (epoch + 1) % self.settings.every == 0:
            with self.mask.seen_through(self.groups[batch.examples["vision"]]):
                task = model.losses(batch).mean()
        else:
            task = model.losses(batch).mean()
        penalty = self.mask.penalty(self.settings.share, self.settings.overlap)
        return {"task": task, "mask": self.settings.weight * penalty}

    def finish(self) -> None:
        """See :meth:`ExtraTraining.finish`."""
        self.hook.remove()
        self.mask.weight.requires_grad_(False)


def mask_of(model: Model) -> ChannelMask:
    """Channel mask of a model."""
    mask = model.get_submodule(EXTRA)
    assert isinstance(mask, ChannelMask)
    return mask


def groups_of(dataset: Dataset, classes: int, forget: Rows | None = None) -> Rows:
    """Mask class of each example: D_f is the last class, the others are assigned by a hash of their ids.

    Args:
        dataset: The examples.
        classes: Number of classes, including D_f's.
        forget: Rows of the examples of D_f.
    """
    groups = np.array([derive("mask", example.id) % (classes - 1) for example in dataset.examples], dtype=np.int64)
    if forget is not None:
        groups[forget] = classes - 1
    return groups
