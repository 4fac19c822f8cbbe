"""Inputs of models: tokens, subgraphs, encodings, and batches of pairs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

# What peft puts into the name of a parameter, where it adds low-rank matrices or keeps a copy to be trained in full.
_ADAPTER = re.compile(r"\.(base_layer|original_module|modules_to_save\.\w+|lora_\w+\.\w+)(?=\.|$)")


@dataclass(frozen=True)
class Tokens:
    """Token ids of a batch of texts: ``ids`` and ``mask``, both ``(B, L)``; the mask is 1 on real tokens."""

    ids: Tensor
    mask: Tensor

    def to(self, device: torch.device) -> Tokens:
        """Copy to a device."""
        return Tokens(self.ids.to(device), self.mask.to(device))


@dataclass(frozen=True)
class Encoding:
    """Output of one encoder for a batch.

    Args:
        tokens: Token states, ``(B, L, D)``.
        mask: 1 on real tokens, ``(B, L)``.
        pooled: One vector of each example, ``(B, P)``.
        stage: ``"embedded"`` for outputs of the backbone, ``"encoded"`` after the model's own projections.
    """

    tokens: Tensor
    mask: Tensor
    pooled: Tensor
    stage: Literal["embedded", "encoded"] = "encoded"

    @classmethod
    def of_vectors(cls, pooled: Tensor) -> Encoding:
        """Output of a backbone that gives one vector of each example, ``(B, P)``, and no token states."""
        return cls(pooled[:, None], pooled.new_ones(len(pooled), 1, dtype=torch.long), pooled, "embedded")

    def __getitem__(self, rows: Tensor) -> Encoding:
        """Select rows, for example to form other pairs without encoding again."""
        return replace(self, tokens=self.tokens[rows], mask=self.mask[rows], pooled=self.pooled[rows])

    def cut(self) -> Encoding:
        """Drop the positions that are padding in all rows."""
        longest = int(self.mask.sum(1).max())
        return replace(self, tokens=self.tokens[:, :longest], mask=self.mask[:, :longest])

    def __len__(self) -> int:
        return len(self.pooled)

    def to(self, device: torch.device) -> Encoding:
        """Copy to a device."""
        return replace(self, tokens=self.tokens.to(device), mask=self.mask.to(device), pooled=self.pooled.to(device))


@dataclass(frozen=True)
class Subgraphs:
    """Neighbourhoods of a batch of node pairs; the pair is at the first two positions.

    Args:
        nodes: Rows of the graph's nodes, ``(B, L)``; -1 where there is none.
        features: Features of each node, ``(B, L, FEATURES)``.
        adjacency: 1 where an edge is visible, ``(B, L, L)``.
        mask: 1 on real nodes, ``(B, L)``.
    """

    nodes: Tensor
    features: Tensor
    adjacency: Tensor
    mask: Tensor

    def to(self, device: torch.device) -> Subgraphs:
        """Copy to a device."""
        return Subgraphs(*(each.to(device) for each in (self.nodes, self.features, self.adjacency, self.mask)))


ModalityInput = Tensor | Tokens | Subgraphs | Encoding


@dataclass(frozen=True)
class Batch:
    """Model input: B pairs.

    Args:
        inputs: Per modality the raw input (images: uint8 ``(B, 3, H, W)``, or ``(B, n, 3, H, W)`` for n images per
            example, or as :class:`Processor` keeps them; texts: :class:`Tokens`; graphs: :class:`Subgraphs`), or an
            :class:`Encoding` that a frozen encoder computed before.
        rows: Per modality the rows in the dataset, ``(B,)``.
        examples: Per modality the example of each row, ``(B,)``; a pair is matched if both are equal.
        generator: Random generator of this step (hard negatives); without it the choice is deterministic.
        labels: Class of each text, ``(B,)``; None in retrieval. Not valid for mismatched pairs.
    """

    inputs: dict[str, ModalityInput]
    rows: dict[str, Tensor]
    examples: dict[str, Tensor]
    generator: torch.Generator | None = None
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(next(iter(self.rows.values())))


def within(name: str, parts: Iterable[str]) -> bool:
    """Whether a parameter name is, or lies below, one of these module names.

    >>> within("text.layer.0.weight", ("text",)), within("text_adapter.weight", ("text",))
    (True, False)
    """
    plain = unadapted(name)
    return any(plain == part or plain.startswith(f"{part}.") for part in parts)


def unadapted(name: str) -> str:
    """Name of the parameter that stood in the place of this one before an adapter (peft) was added.

    >>> unadapted("text.query.base_layer.weight"), unadapted("text.query.lora_A.default.weight")
    ('text.query.weight', 'text.query.weight')
    """
    return _ADAPTER.sub("", name)


def iterate_rows(count: int, size: int) -> Iterator[slice]:
    """Yield consecutive slices of at most ``size`` rows."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
