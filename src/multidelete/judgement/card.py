"""Model card of an unlearned model: what it was, what was deleted in numbers, and how to verify it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from multidelete.metrics.registry import METRICS, SUMMARY
from multidelete.runs.row import Row


def card(rows: Sequence[Row], index: int, facts: Mapping[str, Any], count: int) -> str:
    """The card in Markdown; it holds no id and no content of deleted examples.

    Args:
        rows: Rows of the run.
        index: Position of the unlearned model in ``rows``.
        facts: Provenance of the run.
        count: Number of deleted examples.
    """
    row = rows[index]
    models = [each for each in rows if each["method"] in ("original", "retrain")] + [row]
    keys = [key for key in SUMMARY if key in row["metrics"]]
    table = [["", *(each["title"] for each in models)]]
    table += [
        [METRICS[key].heading, *(f"{each['metrics'][key]:.1f}" if key in each["metrics"] else "–" for each in models)]
        for key in keys
    ]
    lines = [f"| {' | '.join(line)} |" for line in table]
    lines.insert(1, "|---|" + "---:|" * len(models))
    version, digest = facts["version"], facts["model_hash"]
    original = str(facts["original"]).removeprefix("brought: ")
    start = facts["recipe"].get("start")
    base = f", which was trained from `{start}`" if start else ""
    missing = (
        ""
        if any(each["method"] == "retrain" for each in models)
        else ("\nThere is no reference: no model was retrained without the deleted examples.\n")
    )
    return f"""---
tags: [machine-unlearning]
---

# {row["model"]} after the deletion of {count:,} training examples

The original is `{original}` (weights {str(facts["original_hash"])[:12]}){base}.
{row["title"]} (scope `{row["scope"]}`) made it forget that the pictures or graphs and the texts of {count:,} training
examples of the dataset `{row["data"]}` belong together.
The SHA-256 of the sorted ids is `{facts["forget_hash"]}`; the ids are not in this card.

{chr(10).join(lines)}
{missing}
Scores and AUCs are in points. A D_f AUC of 50 means that deleted pairs are not distinguished from others.

Made by multidelete {version}; the SHA-256 of the weights is `{digest}`.
With the folder of the run, `multidelete verify` checks every number.
"""
