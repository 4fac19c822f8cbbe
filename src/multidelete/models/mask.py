"""The mask of ERM-KTP: to how much each class uses each channel of the last visual feature map."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ChannelMask(nn.Module):
    r"""A mask :math:`M \in [0, 1]^{C \times K}` over K channels, learned with the model, and the channels left open.

    The original's features are whole but in some epochs of its training, which alone moves M: what a model answers
    does not depend on it, so it is a buffer, and in no scope. The model that
    ERM-KTP makes has channels that are closed for good.

    Args:
        classes: Rows C.
        width: Channels K.
    """

    weight: Tensor
    open: Tensor

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.full((classes, width), 0.5))
        self.register_buffer("open", torch.ones(width))

    def penalty(self, share: float, overlap: float) -> Tensor:
        """How far the mask is from being sparse, and its rows from having no channel in common.

        Args:
            share: Part of all entries that the sum of the mask may amount to for nothing.
            overlap: Weight of the inner products of rows.
        """
        # All products of two rows together, those with itself left out, each pair once.
        pairs = (self.weight.sum(0).square().sum() - self.weight.square().sum()) / 2
        return (self.weight.abs().sum() - share * self.weight.numel()).relu() + overlap * pairs

    @torch.no_grad()
    def normalise_(self) -> None:
        """Bring the largest entry of each row to 1, and all into [0, 1]."""
        largest = self.weight.amax(1, keepdim=True).clamp_min(1e-6)
        self.weight.copy_((self.weight / largest).clamp(0, 1))

    def owned(self, row: int) -> Tensor:
        """Which channels belong to this class: it uses them more than any other class does, ``(K,)``."""
        others = torch.cat([self.weight[:row], self.weight[row + 1 :]])
        return self.weight[row] > others.amax(0)
