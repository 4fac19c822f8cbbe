"""Retrieval metrics: ranks among candidates, and recall at k."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]

CUTS = (1, 5, 10)


def first_true_ranks(scores: Floats, true: NDArray[np.bool_]) -> Ints:
    """Rank of each query's best true candidate, counted from 0: the number of wrong candidates ranked above it.

    Ties and nan count against the query: a model that gives every pair the same score ranks nothing.

    Args:
        scores: Higher is better, ``(Q, N)``.
        true: Mask of the correct candidates, ``(Q, N)``, at least one for each query.

    >>> first_true_ranks(np.array([[0.9, 0.5, 0.7]]), np.array([[False, True, False]]))
    array([2])
    """
    best = np.where(true, scores, -np.inf).max(1, keepdims=True)
    ranks: Ints = (~(scores < best) & ~true).sum(1)  # not "scores >= best", under which nan would rank first
    return ranks


def recall_at(ranks: Ints, k: int) -> float:
    """Share of queries whose first true candidate is among the first k, in points (0-100).

    >>> round(recall_at(np.array([0, 4, 10]), 5), 2)
    66.67
    """
    return float(100 * np.mean(np.asarray(ranks) < k))


def recalls(i2t: Ints, t2i: Ints) -> dict[str, float]:
    """R@1, R@5, R@10 of both directions, their means, and the mean of all six.

    Args:
        i2t: For each image the rank of its best true text, ``(I,)``.
        t2i: For each text the rank of its image, ``(T,)``.
    """
    metrics = {f"{name}_r{k}": recall_at(ranks, k) for name, ranks in (("i2t", i2t), ("t2i", t2i)) for k in CUTS}
    metrics["i2t_mean_recall"] = float(np.mean([metrics[f"i2t_r{k}"] for k in CUTS]))
    metrics["t2i_mean_recall"] = float(np.mean([metrics[f"t2i_r{k}"] for k in CUTS]))
    metrics["mean_recall"] = (metrics["i2t_mean_recall"] + metrics["t2i_mean_recall"]) / 2
    return metrics
