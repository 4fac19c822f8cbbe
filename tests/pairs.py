"""What the tests of single architectures share: a few texts, pairs of noise and text, and a variant for each task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from multidelete.models import Batch, Model, Tokens

TEXTS = (
    "a red circle",
    "a small blue square left of a large green star",
    "two yellow crosses",
    "nothing but a white triangle above it",
)
SIZE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
VARIANTS: dict[str, dict[str, Any]] = {
    "retrieval": {},
    "entailment": {"labels": ("contradiction", "entailment", "neutral")},
    "reasoning": {"labels": ("False", "True"), "images": 2},
}


def tokens(model: Model, texts: Sequence[str]) -> Tokens:
    ids = model.tokenize(texts)
    longest = max(map(len, ids))
    padding = model.tokenizer.pad_token_id
    return Tokens(
        torch.tensor([row + [padding] * (longest - len(row)) for row in ids]),
        torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids]),
    )


def batch(model: Model, count: int = 4, **changes: Any) -> Batch:
    """Noise beside texts, each pair a unit of its own."""
    several = (model.config.images,) if model.config.images > 1 else ()
    size = model.config.image_size
    noise = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, *several, 3, size, size), dtype=torch.uint8, generator=noise)
    own = {"vision": torch.arange(count), "text": torch.arange(count)}
    labels = torch.arange(count) % len(model.config.labels) if model.config.labels else None
    made = Batch({"vision": pixels, "text": tokens(model, TEXTS[:count])}, own, own, labels=labels)
    return replace(made, **changes)
