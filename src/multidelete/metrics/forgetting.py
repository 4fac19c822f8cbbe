"""Whether D_f can be told apart, and how far a model is from one that never saw it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Floats = NDArray[np.floating[Any]]


def forget_auc(forget: Floats, others: Floats) -> float:
    """``100 · P(s(x_f) > s(x_o))``, ties counted half: the exact Mann-Whitney value over all pairs.

    50 means that the scores do not tell the two sets apart, below 50 that D_f scores lower. The mean over random
    subsets of the others, as the paper computes it, has this value as its expectation.

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
    """Mean absolute difference to Retrain over test, D_f and D_r score and membership, in points; 0 is ideal.

    Membership is told by ``forget_test_auc``: how D_f scores beside pairs that nobody trained on.
    """
    return float(np.mean([abs(metrics[name] - retrain[name]) for name in GAP_METRICS]))


def true_label_loss(score: Floats) -> float:
    """Mean of −log s(x) over pairs: the head's cross-entropy, one example at a time.

    Args:
        score: Log-odds of the true label (of a match, in retrieval), ``(P,)``.
    """
    with np.errstate(invalid="ignore"):  # weights that were driven to infinity are reported by who asked
        return float(np.mean(np.logaddexp(0, -np.asarray(score, dtype=np.float64))))


def forgetting(predictions: Mapping[str, Mapping[str, NDArray[Any]]]) -> dict[str, float]:
    """What stored scores say of D_f: beside D_r, beside test, and the losses of both parts of the training data."""
    scores = {split: arrays["score"] for split, arrays in predictions.items()}
    return {
        "forget_auc": forget_auc(scores["forget"], scores["retain"]),
        "forget_test_auc": forget_auc(scores["forget"], scores["test"]),
        "forget_loss": true_label_loss(scores["forget"]),
        "retain_loss": true_label_loss(scores["retain"]),
    }
