"""What the tests of single architectures share: a few texts, pairs of noise and text, and a variant for each task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
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
    """Noise images with texts, one pair per example."""
    several = (model.config.images,) if model.config.images > 1 else ()
    size = model.config.image_size
    noise = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, *several, 3, size, size), dtype=torch.uint8, generator=noise)
    own = {"vision": torch.arange(count), "text": torch.arange(count)}
    labels = torch.arange(count) % len(model.config.labels) if model.config.labels else None
    result = Batch({"vision": pixels, "text": tokens(model, TEXTS[:count])}, own, own, labels=labels)
    return replace(result, **changes)


def check_repairing(model: Model) -> None:
    """Encodings in another order, fused, are the fused pairs in that order: no second encoding is needed."""
    given = batch(model)
    encodings = model.encode(given)
    order = torch.tensor([2, 0, 3, 1])
    words = given.inputs["text"]
    assert isinstance(words, Tokens)
    other = replace(given, inputs={**given.inputs, "text": Tokens(words.ids[order], words.mask[order])})
    repaired = model.fuse({**encodings, "text": encodings["text"][order]})
    torch.testing.assert_close(repaired, model.fused(other), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(repaired, model.fuse(encodings), atol=1e-3)


def check_round_trip(model: Model, folder: Path) -> None:
    """A folder gives the same model back, bit for bit."""
    model.save_pretrained(folder)
    loaded = Model.from_pretrained(folder)
    assert type(loaded) is type(model)
    assert loaded.config == model.config
    before, after = model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    given = batch(model)
    assert torch.equal(loaded.losses(given), model.losses(given))
