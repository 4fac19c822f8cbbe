"""Made-up rows of results, as a run would write them."""

from __future__ import annotations

from typing import Any

from multidelete.methods import METHODS, Original


def display(method: str) -> dict[str, str]:
    """Title and color of a method; those of a foreign method follow from its name."""
    kind = Original if method == "original" else METHODS.get(method)
    return kind.display() if kind else {"title": method.replace("_", " ").title(), "color": "#44475A"}


def seed_values(seed: int) -> dict[str, Any]:
    """The seeds of a row where all are the same."""
    return {"seed": seed, "seeds": {"train": seed, "forget": seed, "method": seed}}
