"""Contrasts of a run: how each model differs from Original and Retrain on the same pairs, with standard errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multidelete.membership.attacks import attacks
from multidelete.membership.contrasts import Scores, family
from multidelete.metrics.contrasts import Change, auc_change, mean_change
from multidelete.metrics.probes import probe_contributions
from multidelete.runs.row import Row
from multidelete.tasks.base import SCORE_KEYS, Predictions, Task

Floats = NDArray[np.floating[Any]]

REFERENCES = ("original", "retrain")
FORGETTING = {"forget_test_auc": "score", "forget_test_auc_cosine": "cosine"}  # metric: array


@dataclass(frozen=True)
class Seen:
    """What is compared of one model.

    Args:
        predictions: Its predictions.
        scores: Scores of D_f and test by each attack; empty without a test split.
        probed: Contribution of each probed example to the accuracy of each probe of the original's features.
    """

    predictions: Predictions
    scores: Scores
    probed: Mapping[str, Floats]

    @classmethod
    def of(
        cls,
        predictions: Predictions,
        original: Predictions,
        references: Mapping[str, Predictions],
        unlearned: Mapping[str, Predictions],
        seed: int,
    ) -> Seen:
        """Of a model in a run; see :func:`~multidelete.membership.attacks.membership` for the arguments."""
        found = attacks(predictions, references, unlearned, seed) if "test" in predictions else {}
        return cls(predictions, found, probe_contributions(predictions, original))


def contrasts(
    rows: Mapping[str, Row], task: Task, read: Callable[[str], Predictions], references: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Differences of every model of a run to Original and to Retrain.

    Args:
        rows: Rows of the run, by key.
        task: The task of the run.
        read: Reads stored predictions by their key; none are empty.
        references: Names of the shadow and reference models.

    Returns:
        For each row, by the name of the reference, ``changes``, a :class:`Change` for each metric, and ``attacks``, a
        :class:`Family`, as values. A model is not compared with itself.
    """
    stored = {name: read(name) for name in references}
    named: dict[str, str] = {}
    for key, row in rows.items():
        if row["method"] in REFERENCES:
            named.setdefault(row["method"], key)
    original = read(named["original"]) if "original" in named else {}
    seen = {}
    for key, row in rows.items():
        unlearned = {name: each for name in references if (each := read(f"{key}-{name}"))}
        seen[key] = Seen.of(read(key), original, stored, unlearned, row["seeds"]["train"])
    return {
        key: {name: compare(task, seen[key], seen[other]) for name, other in named.items() if other != key}
        for key in rows
    }


def compare(task: Task, own: Seen, other: Seen) -> dict[str, Any]:
    """Differences of one model to another, see :func:`contrasts`."""
    first, second = own.predictions, other.predictions
    changes: dict[str, Change] = {}
    if "test" in first:
        clusters = first["forget"]["cluster"], first["test"]["cluster"]
        for metric, array in FORGETTING.items():
            if array in first["forget"] and array in second["forget"]:
                own_scores, other_scores = ((each["forget"][array], each["test"][array]) for each in (first, second))
                changes[metric] = auc_change(own_scores, other_scores, *clusters)
    for split, metric in SCORE_KEYS.items():
        change = _score_change(task, first.get(split), second.get(split))
        if change is not None:
            changes[metric] = change
    for metric in own.probed.keys() & other.probed.keys():
        changes[metric] = mean_change(own.probed[metric], other.probed[metric], probed_clusters(first["test"]))
    result: dict[str, Any] = {"changes": {name: asdict(change) for name, change in changes.items()}}
    if own.scores and other.scores:
        found = family(own.scores, other.scores, first["forget"]["cluster"], first["test"]["cluster"])
        result["attacks"] = asdict(found)
    return result


def probed_clusters(arrays: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """Cluster of each probed example, that of its pairs; an example without pairs in this split is its own."""
    known = dict(zip(arrays["example"].tolist(), arrays["cluster"].tolist(), strict=True))
    return np.array([str(known.get(each, f"example {each}")) for each in arrays["probed_example"].tolist()])


def _score_change(
    task: Task, first: Mapping[str, NDArray[Any]] | None, second: Mapping[str, NDArray[Any]] | None
) -> Change | None:
    if first is None or second is None:
        return None
    sides = [found for each in (first, second) if (found := task.contributions(each)) is not None]
    if len(sides) < 2:
        return None
    (values, clusters), (others, _) = sides
    return mean_change(values, others, clusters)
