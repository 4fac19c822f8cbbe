"""Forgetting metrics: AUC and loss on D_f, and the gap to Retrain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Floats = NDArray[np.floating[Any]]


def forget_auc(forget: Floats, others: Floats) -> float:
    """AUC of D_f against other pairs, ``100 · P(s(x_f) > s(x_o))``: the exact Mann-Whitney value, ties counted half.

    50 means that the scores do not distinguish the two sets; below 50, D_f scores lower. The paper averages over
    random subsets of the others; this value is the expectation of that mean.

    Args:
        forget: Scores of D_f, ``(F,)``; only their order matters.
        others: Scores of D_r, or of D_Test for ``forget_test_auc``, ``(O,)``.

    >>> forget_auc(np.array([0.1, 0.6]), np.array([0.5, 0.9]))
    25.0
    """
    ranks = rankdata(np.concatenate([forget, others]))
    wins = ranks[: len(forget)].sum() - len(forget) * (len(forget) + 1) / 2
    return float(100 * wins / (len(forget) * len(others)))


GAP_METRICS = ("test_score", "forget_score", "retain_score", "forget_test_auc")


def gap_to_retrain(metrics: Mapping[str, float], retrain: Mapping[str, float]) -> float:
    """Mean absolute difference to Retrain over ``GAP_METRICS`` (those that were measured), in points; 0 is ideal."""
    return float(np.mean([abs(metrics[name] - retrain[name]) for name in GAP_METRICS if name in metrics]))


def true_label_loss(score: Floats) -> float:
    """Mean of −log s(x) over pairs: the cross-entropy of the head.

    Args:
        score: Log-odds of the true label (of a match, in retrieval), ``(P,)``.
    """
    with np.errstate(invalid="ignore"):  # the caller reports infinite weights
        return float(np.mean(np.logaddexp(0, -np.asarray(score, dtype=np.float64))))
