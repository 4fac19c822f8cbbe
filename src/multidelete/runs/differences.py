"""Paired differences of a method to Retrain or Original with the same seeds, with 95 % intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scipy.special import stdtrit

from multidelete.runs.reader import numbers
from multidelete.runs.row import Row, Seeds

LEVEL = 0.95
LEAST = 3  # minimum number of pairs; with two, the interval is twelve times as wide as their difference
DISTANCES = ("gap_to_retrain",)  # metrics that are differences to Retrain already


@dataclass(frozen=True)
class Difference:
    """Mean of ``n`` paired differences with Student's t interval; no interval for fewer than ``LEAST``."""

    mean: float
    low: float | None
    high: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Difference:
        """Mean and interval of at least one paired difference.

        >>> Difference.of([1.0, 2.0])
        Difference(mean=1.5, low=None, high=None, n=2)
        """
        mean, n = statistics.fmean(values), len(values)
        if n < LEAST:
            return cls(mean, None, None, n)
        half = float(stdtrit(n - 1, (1 + LEVEL) / 2)) * statistics.stdev(values) / math.sqrt(n)
        return cls(mean, mean - half, mean + half, n)


def paired(rows: Iterable[Row], reference: Iterable[Row]) -> dict[str, Difference]:
    """Paired differences of repeats to Retrain (or Original), by metric.

    A pair is a row and the reference with the same training seed and deletion set. Rows that share a reference and
    differ only in the unlearning seed are not independent: their mean is one pair. If all rows share one reference,
    each counts as a pair, and the interval is conditional on this reference and deletion set.

    Args:
        rows: Rows of one group; those without a reference are ignored.
        reference: Rows of Retrain (or Original) with the same comparison key.
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
