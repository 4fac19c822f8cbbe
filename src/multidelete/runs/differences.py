"""Paired differences: how far a method lies from Retrain, or Original, of the same seeds, with 95 % intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scipy.special import stdtrit

from multidelete.runs.reader import Row, Seeds, numbers

LEVEL = 0.95
LEAST = 3  # pairs; the interval of two is a dozen times as wide as they lie apart
DISTANCES = ("gap_to_retrain",)  # metrics that are differences to Retrain already


@dataclass(frozen=True)
class Difference:
    """Mean of ``n`` paired differences with the interval of Student's t; fewer than ``LEAST`` have none."""

    mean: float
    low: float | None
    high: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Difference:
        """The difference that at least one pair shows.

        >>> Difference.of([1.0, 2.0])
        Difference(mean=1.5, low=None, high=None, n=2)
        """
        mean, n = statistics.fmean(values), len(values)
        if n < LEAST:
            return cls(mean, None, None, n)
        half = float(stdtrit(n - 1, (1 + LEVEL) / 2)) * statistics.stdev(values) / math.sqrt(n)
        return cls(mean, mean - half, mean + half, n)


def paired(rows: Iterable[Row], reference: Iterable[Row]) -> dict[str, Difference]:
    """How far repeats of one experiment lie from Retrain (or Original), by metric.

    A pair is a row and the reference with the same seeds of training and deletion set. Several seeds of unlearning
    beside one reference share what is particular about it: they are one pair, their mean, and only where there is no
    other pair do they count one by one. The interval then holds for this reference and this deletion set.

    Args:
        rows: Of one group; those that have no reference are left out.
        reference: Rows of Retrain (or Original) that answer the same question.
    """
    aims = {Seeds.of(row).shared: numbers(row["metrics"]) for row in reference}
    result: dict[str, dict[tuple[int, int], list[float]]] = {}
    for row in rows:
        pair = Seeds.of(row).shared
        aim = aims.get(pair, {})
        for key, value in numbers(row["metrics"]).items():
            if key in aim and key not in DISTANCES:
                result.setdefault(key, {}).setdefault(pair, []).append(value - aim[key])
    return {
        key: Difference.of(list(map(statistics.fmean, pairs.values())) if len(pairs) > 1 else pairs.popitem()[1])
        for key, pairs in result.items()
    }
