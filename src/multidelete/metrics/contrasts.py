"""Differences between two models on the same pairs, with what chance can do: standard errors over clusters.

Analytic, after DeLong, DeLong and Clarke-Pearson 1988, for clustered pairs: each pair has a value under both models
(its hit, or its placement among the pairs that it is compared with), and the error of the mean difference comes from
the spread of the differences over the clusters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

Floats = NDArray[np.floating[Any]]
Clusters = NDArray[Any]

LEVEL = 0.98
PRIOR = 10.0  # points; spread of one more cluster, which a few equal clusters may hide
DRAWS = 4000  # simulated families of tests


@dataclass(frozen=True)
class Change:
    """Difference of a metric between two models on the same pairs, in points.

    Args:
        value: First minus second.
        error: Standard error.
        others: Part of it that is due to the pairs that D_f is compared with; 0 for means.
        clusters: Number of clusters that the mean is over.
        freedom: Degrees of freedom of the standard error.
    """

    value: float
    error: float
    others: float
    clusters: int
    freedom: float

    def half(self, family: int = 1) -> float:
        """Half the width of the interval; with several questions, all intervals hold together with 98 %."""
        return self.error * float(stdtrit(self.freedom, 1 - (1 - LEVEL) / (2 * family)))

    def needed(self, margin: float, family: int = 1) -> int | None:
        """Number of clusters for an interval of at most ``margin`` on each side; None if no number suffices.

        Args:
            margin: In points.
            family: See :meth:`half`.
        """
        factor = float(stdtrit(1e9, 1 - (1 - LEVEL) / (2 * family)))
        room = (margin / factor) ** 2 - self.others**2
        if room <= 0:
            return None
        return max(self.clusters + 1, math.ceil((self.error**2 - self.others**2) * self.clusters / room))


@dataclass(frozen=True)
class Family:
    """Differences of all attacks between two models.

    Args:
        changes: Difference of each ``NAME_auc`` and ``NAME_tpr1``.
        factor: Number of standard errors that chance lets the largest of them exceed with 2 %.
    """

    changes: Mapping[str, Change]
    factor: float


def mean_change(first: Floats, second: Floats, clusters: Clusters) -> Change:
    """Difference of two means over the same rows.

    Args:
        first: Values under the first model, in points, ``(P,)``.
        second: Values under the second model, ``(P,)``.
        clusters: Cluster of each row, ``(P,)``.
    """
    difference = np.asarray(first, dtype=np.float64) - second
    error, count = _error(difference, clusters)
    return Change(float(difference.mean()), error, 0.0, count, max(1, count - 1))


def auc_change(
    first: tuple[Floats, Floats], second: tuple[Floats, Floats], clusters: Clusters, other_clusters: Clusters
) -> Change:
    """Difference of two AUCs of D_f against the same other pairs.

    Args:
        first: Scores of D_f, ``(F,)``, and of the others, ``(O,)``, under the first model.
        second: The same under the second model.
        clusters: Cluster of each pair of D_f, ``(F,)``.
        other_clusters: Cluster of each other pair, ``(O,)``.
    """
    of_forget, of_others = (a - b for a, b in zip(placements(*first), placements(*second), strict=True))
    (error, count), (others, other_count) = _error(of_forget, clusters), _error(of_others, other_clusters)
    total = math.hypot(error, others)
    freedom = total**4 / (error**4 / max(1, count - 1) + others**4 / max(1, other_count - 1))
    return Change(float(of_forget.mean()), total, others, count, max(1.0, freedom))


def placements(forget: Floats, others: Floats) -> tuple[Floats, Floats]:
    """Share of the others below each pair of D_f, ``(F,)``, and of D_f above each other pair, ``(O,)``, in points.

    Ties count half; both means are the AUC.
    """
    return _below(others, forget), 100 - _below(forget, others)


def _below(scores: Floats, at: Floats) -> Floats:
    ordered = np.sort(scores)
    result: Floats = 50 * (np.searchsorted(ordered, at, "left") + np.searchsorted(ordered, at, "right")) / len(scores)
    return result


def standard_error(forget: Floats, others: Floats, clusters: Clusters) -> float:
    """Standard error of the AUC of D_f due to the choice of the others, in points; D_f is taken as given.

    Args:
        forget: Scores of D_f, ``(F,)``.
        others: Scores of the other pairs, ``(O,)``.
        clusters: Cluster of each of the others, ``(O,)``.
    """
    sums = cluster_sums(placements(forget, others)[1][None], clusters)[0]
    count = len(sums)
    return math.sqrt(count / (count - 1) * float((sums**2).sum())) / len(others) if count > 1 else 50.0


def _error(values: Floats, clusters: Clusters) -> tuple[float, int]:
    """Standard error of the mean over clusters, and their number."""
    return math.sqrt(covariance(values[None], clusters)[0, 0]), len(np.unique(clusters))


def cluster_sums(values: Floats, clusters: Clusters) -> Floats:
    """Sum of the deviations from the mean in each cluster, ``(K, U)``, of K rows of values, ``(K, P)``."""
    _, own = np.unique(clusters, return_inverse=True)
    centred = values - values.mean(1, keepdims=True)
    return np.stack([np.bincount(own, row) for row in centred])


def covariance(values: Floats, clusters: Clusters) -> Floats:
    """Covariance of the means of K rows of values, ``(K, K)``, over clusters.

    Args:
        values: ``(K, P)``.
        clusters: ``(P,)``.
    """
    sums = cluster_sums(values, clusters) / (values.shape[1] / len(np.unique(clusters)))
    count = sums.shape[1]
    if count == 1:
        return (2 * PRIOR) ** 2 * np.eye(len(values))
    result: Floats = (sums @ sums.T + PRIOR**2 * np.eye(len(values))) / count**2
    return result


def critical(covariances: Floats, freedom: float) -> float:
    """Number of standard errors that the largest of K differences exceeds by chance with 2 %.

    As the tests of a family are correlated, this is less than by Bonferroni; by simulation of the multivariate t.

    Args:
        covariances: ``(K, K)``.
        freedom: Degrees of freedom.
    """
    errors = np.sqrt(np.diag(covariances))
    correlations = covariances / errors[:, None] / errors[None, :]
    values, vectors = np.linalg.eigh(correlations)
    randomness = np.random.default_rng(0)  # a constant of the test, not part of the run's chance
    normal = randomness.standard_normal((DRAWS, len(errors))) * np.sqrt(values.clip(0)) @ vectors.T
    scale = np.sqrt(randomness.chisquare(freedom, DRAWS) / freedom)
    return float(np.quantile(np.abs(normal).max(1) / scale, LEVEL))
