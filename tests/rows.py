"""Made-up rows of results, as a run would write them."""

from __future__ import annotations

import re
from typing import Any

from multidelete.methods import METHODS, Original


def display(method: str) -> dict[str, str]:
    """Title and color of a method; those of a foreign method follow from its name."""
    kind = Original if method == "original" else METHODS.get(method)
    return kind.display() if kind else {"title": method.replace("_", " ").title(), "color": "#44475A"}


def seed_values(seed: int) -> dict[str, Any]:
    """The seeds of a row where all are the same."""
    return {"seed": seed, "seeds": {"train": seed, "forget": seed, "method": seed}}


def with_contrasts(rows: Any, error: float = 1.0, clusters: int = 400) -> tuple[dict[str, Any], ...]:
    """Rows of one run with differences to Original and Retrain that follow from their metrics.

    Args:
        rows: The rows.
        error: Standard error of each difference.
        clusters: Clusters that it is over.
    """
    named = {row["method"]: row for row in reversed(rows) if row["method"] in ("original", "retrain")}
    return tuple(
        {
            **row,
            "contrasts": {
                name: _compared(row, other, error, clusters) for name, other in named.items() if other is not row
            },
        }
        for row in rows
    )


def _compared(row: Any, other: Any, error: float, clusters: int) -> dict[str, Any]:
    own, known = row["metrics"], other["metrics"]
    changes = {
        key: {
            "value": own[key] - known[key],
            "error": error,
            "others": error / 2,
            "clusters": clusters,
            "freedom": 1000.0,
        }
        for key in own
        if key in known
    }
    attacks = {
        key.removeprefix("attack_"): changes[key] for key in changes if re.fullmatch(r"attack_\w+_(auc|tpr1)", key)
    }
    result: dict[str, Any] = {"changes": {key: changes[key] for key in changes if key not in attacks}}
    return result | ({"attacks": {"factor": 2.5, "changes": attacks}} if attacks else {})
