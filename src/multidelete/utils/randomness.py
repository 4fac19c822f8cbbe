"""Random numbers that depend on a seed, a purpose and a step, and on nothing that happened before."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive(*parts: int | str) -> int:
    """A 63-bit seed from a seed and the names of what it is for: ``derive(seed, "retain", epoch)``."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator of its own for one purpose: a stream that starts here owes nothing to steps before it."""
    return torch.Generator().manual_seed(derive(*parts))


@contextmanager
def seeded(*parts: int | str) -> Iterator[None]:
    """Torch's own generator seeded inside the block (weight initialisation, dropout), as it was after it."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(derive(*parts))
        yield
