"""Classification metrics: accuracy, F1, log-odds of the true label, and certainty."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, logsumexp

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]


def accuracy(logits: Floats, label: Ints) -> float:
    """Share of pairs whose true class has the largest logit, in points (0-100).

    Ties and nan count as wrong: a model that gives every class the same logit has learned nothing.

    Args:
        logits: ``(P, C)``.
        label: True class of each pair, ``(P,)``.

    >>> accuracy(np.array([[2.0, 1.0], [0.0, 0.0]]), np.array([0, 1]))
    50.0
    """
    return float(100 * np.mean(true_label_log_odds(logits, label, against_best=True) > 0))


def f1(logits: Floats, label: Ints, positive: int) -> float:
    """F1 score of one class, in points (0-100); 0 without true positives.

    >>> f1(np.array([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]]), np.array([1, 0, 1]), positive=1)
    50.0
    """
    named, true = logits.argmax(1) == positive, label == positive
    result = int((named & true).sum())
    return float(200 * result / (named.sum() + true.sum())) if result else 0.0


def true_label_log_odds(logits: Floats, label: Ints, *, against_best: bool = False) -> NDArray[np.float32]:
    """Log-odds of the true label, ``(P,)``; their sigmoid is s(x), the probability of the true label.

    Log-odds order pairs as the probability does but do not saturate. With two classes, they are the logit difference.

    Args:
        logits: ``(P, C)``.
        label: True class of each pair, ``(P,)``.
        against_best: Compare with the best other class only, instead of all other classes together.

    >>> true_label_log_odds(np.array([[1.0, 3.0]]), np.array([1]))
    array([2.], dtype=float32)
    """
    wide = np.asarray(logits, dtype=np.float64)
    rows = np.arange(len(wide))
    others = wide.copy()
    others[rows, label] = -np.inf
    rest = others.max(1) if against_best else logsumexp(others, axis=1)
    odds: NDArray[np.float32] = (wide[rows, label] - rest).astype(np.float32)
    return odds


def head_logits(arrays: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """Stored class logits, ``(P, C)``; in retrieval the logits of "no match" and "match", computed from ``score``."""
    if "logits" in arrays:
        return arrays["logits"]
    return np.stack([np.zeros_like(arrays["score"]), arrays["score"]], axis=1)


def certainty(logits: Floats) -> Floats:
    """Negative entropy of the class probabilities, in nats, ``(P,)``; independent of the true label.

    Args:
        logits: ``(P, C)``.

    >>> certainty(np.array([[0.0, 0.0], [0.0, 100.0]])).round(3) + 0
    array([-0.693,  0.   ])
    """
    logarithms = log_softmax(np.asarray(logits, dtype=np.float64), axis=1)
    sure: Floats = (np.exp(logarithms) * logarithms).sum(1)
    return sure
