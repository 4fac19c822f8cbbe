"""What models read: images, tokens, subgraphs, encodings, and batches of pairs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tokens:
    """Token ids of a batch of texts: ``ids`` and ``mask``, both ``(B, L)``; the mask is 1 on real tokens."""

    ids: Tensor
    mask: Tensor

    def to(self, device: torch.device) -> Tokens:
        """The same tokens on another device."""
        return Tokens(self.ids.to(device), self.mask.to(device))


@dataclass(frozen=True)
class Encoding:
    """What one encoder says of a batch.

    Args:
        tokens: Token states, ``(B, L, D)``.
        mask: 1 on real tokens, ``(B, L)``.
        pooled: One vector of each example, ``(B, P)``.
        stage: ``"embedded"`` straight from the backbone, ``"encoded"`` when the model's own projections are done.
    """

    tokens: Tensor
    mask: Tensor
    pooled: Tensor
    stage: Literal["embedded", "encoded"] = "encoded"

    def __getitem__(self, rows: Tensor) -> Encoding:
        """Encodings of some rows: this is how another pairing is made without a second encoding."""
        return replace(self, tokens=self.tokens[rows], mask=self.mask[rows], pooled=self.pooled[rows])

    def cut(self) -> Encoding:
        """The same encodings without the places that are padding in all of them."""
        longest = int(self.mask.sum(1).max())
        return replace(self, tokens=self.tokens[:, :longest], mask=self.mask[:, :longest])

    def __len__(self) -> int:
        return len(self.pooled)

    def to(self, device: torch.device) -> Encoding:
        """The same encoding on another device."""
        return replace(self, tokens=self.tokens.to(device), mask=self.mask.to(device), pooled=self.pooled.to(device))


@dataclass(frozen=True)
class Subgraphs:
    """Neighbourhoods of a batch of node pairs; the pair stands in the first two places.

    Args:
        nodes: Rows of the graph's nodes, ``(B, L)``; -1 where there is none.
        features: What is known of each node, ``(B, L, FEATURES)``.
        adjacency: 1 where an edge is visible, ``(B, L, L)``.
        mask: 1 on real nodes, ``(B, L)``.
    """

    nodes: Tensor
    features: Tensor
    adjacency: Tensor
    mask: Tensor

    def to(self, device: torch.device) -> Subgraphs:
        """The same subgraphs on another device."""
        return Subgraphs(*(each.to(device) for each in (self.nodes, self.features, self.adjacency, self.mask)))


ModalityInput = Tensor | Tokens | Subgraphs | Encoding


@dataclass(frozen=True)
class Batch:
    """B pairs, ready for a model.

    Args:
        inputs: Per modality the raw input (images: uint8 ``(B, 3, H, W)``, or ``(B, n, 3, H, W)`` for n pictures in an
            example; texts: :class:`Tokens`; graphs: :class:`Subgraphs`) or, where the encoder is frozen and its outputs
            were computed before, an :class:`Encoding`.
        rows: Per modality the rows in the dataset, ``(B,)``.
        examples: Example of each modality's row, ``(B,)``; a pair is a true pair where they are the same.
        generator: Randomness of this step (hard negatives); without one the choice is deterministic.
        labels: Class of each text, ``(B,)``; None in retrieval. Of a mismatched pair it says nothing.
    """

    inputs: dict[str, ModalityInput]
    rows: dict[str, Tensor]
    examples: dict[str, Tensor]
    generator: torch.Generator | None = None
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(next(iter(self.rows.values())))


def within(name: str, parts: Iterable[str]) -> bool:
    """Whether a weight is, or lies in, one of these parts of a model.

    >>> within("text.layer.0.weight", ("text",)), within("text_adapter.weight", ("text",))
    (True, False)
    """
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def iterate_rows(count: int, size: int) -> Iterator[slice]:
    """Consecutive slices of at most ``size`` rows."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
