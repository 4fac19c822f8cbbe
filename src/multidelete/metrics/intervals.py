"""Bootstrap confidence intervals, resampled over clusters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multidelete.utils.randomness import derive

Floats = NDArray[np.floating[Any]]

CONFIDENCE = 0.95
AT_A_TIME = 100  # resamples per block; bounds the memory of arrays (resamples, pairs)


@dataclass(frozen=True)
class Resamples:
    """Bootstrap counts: how often each of U clusters is in each of R samples drawn with replacement.

    Clusters are drawn together with all their pairs: pairs of one image or of the same two nodes are not independent,
    and intervals that assume independence are too narrow.

    Args:
        own: Index of each pair's cluster, ``(P,)``.
        counts: ``(R, U)``.
    """

    own: NDArray[np.int64]
    counts: NDArray[np.int32]

    @classmethod
    def of(cls, clusters: NDArray[Any], resamples: int, *purpose: int | str) -> Resamples:
        """Draw resamples; they depend only on the clusters and the purpose.

        Args:
            clusters: Cluster of each pair, ``(P,)``.
            resamples: R.
            purpose: Seed and names for :func:`derive`.
        """
        ids, own = np.unique(clusters, return_inverse=True)
        randomness = np.random.default_rng(derive(*purpose))
        counts = np.empty((resamples, len(ids)), dtype=np.int32)
        for row in counts:
            row[:] = np.bincount(randomness.integers(len(ids), size=len(ids)), minlength=len(ids))
        return cls(own, counts)

    def weights(self, rows: slice, order: NDArray[np.int64]) -> NDArray[np.float64]:
        """Counts of the pairs, permuted by ``order``, in the samples ``rows``, ``(rows, P)``."""
        return self.counts[rows][:, self.own[order]].astype(np.float64)

    def means(self, values: Floats) -> Floats:
        """Mean over pairs in each sample, ``(R,)``."""
        count = self.counts.shape[1]
        sums = np.bincount(self.own, values, minlength=count)
        result: Floats = self.counts @ sums / (self.counts @ np.bincount(self.own, minlength=count))
        return result


def interval(values: Floats) -> tuple[float, float]:
    """95 % percentile interval of the resampled values."""
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


def bounds(total: Any, one_in: int) -> tuple[Any, Any]:
    """Allowed false positives among the lowest and among the highest of ``total`` non-members.

    >>> bounds(500, 100)
    (2, 3)
    """
    allowed = total // one_in
    return allowed // 2, (allowed + 1) // 2


def resampled_rates(
    members: Floats, others: Floats, member_draws: Resamples, other_draws: Resamples, one_in: tuple[int, ...]
) -> tuple[Floats, list[Floats]]:
    """AUC and true-positive rates of an attack in each resample, in points; the scores are sorted once.

    Args:
        members: Scores of members, ``(F,)``; higher means "member".
        others: Scores of non-members, ``(O,)``.
        member_draws: R resamples of the members' clusters.
        other_draws: R resamples of the non-members' clusters.
        one_in: Allowed false-positive rates as reciprocals: 100 for 1 %.

    Returns:
        :func:`~multidelete.metrics.forgetting.forget_auc` of each resample, ``(R,)``, and for each rate
        :func:`~multidelete.membership.attacks.true_positive_rate`, ``(R,)``.
    """
    down, others_down = np.argsort(-members, kind="stable"), np.argsort(-others, kind="stable")
    ranked = others[others_down]
    ascending = members[down[::-1]]
    above = len(members) - np.searchsorted(ascending, ranked, "right")  # members above each non-member, (O,)
    reached = len(members) - np.searchsorted(ascending, ranked, "left")  # the same plus ties
    aucs: list[Floats] = []
    rates: list[list[Floats]] = [[] for _ in one_in]
    for start in range(0, len(member_draws.counts), AT_A_TIME):
        rows = slice(start, start + AT_A_TIME)
        weight = other_draws.weights(rows, others_down)
        passed = np.cumsum(weight, axis=1)
        result = np.cumsum(member_draws.weights(rows, down), axis=1)
        result = np.concatenate([np.zeros((len(result), 1)), result], axis=1)  # weight of the first m members
        total, other_total = result[:, -1:], passed[:, -1:]
        wins = np.einsum("ro,ro->r", weight, result[:, above] + result[:, reached]) / 2
        aucs.append(100 * wins / (total * other_total)[:, 0])
        risen = np.cumsum(weight[:, ::-1], axis=1)
        for rate, kept in zip(one_in, rates, strict=True):
            low, high = bounds(other_total, rate)
            top = above[(passed <= high).sum(1)]  # members above the first non-member that exceeds the rate
            bottom = reached[len(others) - 1 - (risen <= low).sum(1)]  # all but the members below the last one
            beyond = (
                total + np.take_along_axis(result, top[:, None], 1) - np.take_along_axis(result, bottom[:, None], 1)
            )
            kept.append(100 * (beyond / total)[:, 0])
    return np.concatenate(aucs), [np.concatenate(kept) for kept in rates]
