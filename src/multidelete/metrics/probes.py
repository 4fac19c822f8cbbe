"""What is still known of each modality alone: linear probes fitted on the original's features, applied to others'."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]
Ints = NDArray[np.integer[Any]]

KEPT = 8  # things that a probe reads, out of those it may be asked about
FOLDS = 5
PENALTY = 0.1  # of ridge regression, for each example: on standardised features little, but not nothing
FEATURES, SHOWS = "_features", "_shows"  # what follows a modality's name in stored predictions


@dataclass(frozen=True)
class Probe:
    """Linear classifiers, one for each thing that is read: it is shown where ``features @ weights.T > thresholds``.

    Args:
        weights: ``(K, D)``.
        thresholds: ``(K,)``; midway between the mean scores of examples that show it and of those that do not, so that
            what is rarely shown is found as often as what is often shown.
        read: Which of the things that could be asked about, ``(K,)``.
    """

    weights: Floats
    thresholds: Floats
    read: Ints

    @classmethod
    def fit(cls, features: Floats, shows: Bools, read: Ints | None = None) -> Probe:
        """Ridge regression on standardised features.

        Args:
            features: ``(N, D)``.
            shows: Which of C things each example shows, ``(N, C)``.
            read: What to read; by default the ``KEPT`` things that are told best in cross-validation. Words that are
                chosen for the turn of phrase are in no picture, and a probe of them would say nothing.
        """
        model = make_pipeline(StandardScaler(), Ridge(PENALTY * len(features)))
        states, targets = _numbers(features), np.where(shows, 1.0, -1.0)
        scores = cross_val_predict(model, states, targets, cv=FOLDS).reshape(shows.shape)
        thresholds = (np.mean(scores, 0, where=shows) + np.mean(scores, 0, where=~shows)) / 2
        if read is None:
            told = balanced_accuracy(scores > thresholds, shows)
            read = np.sort(np.argsort(-told, kind="stable")[:KEPT])
        scaler, ridge = model.fit(states, targets[:, read])
        weights = np.atleast_2d(ridge.coef_) / scaler.scale_
        return cls(weights, thresholds[read] - ridge.intercept_ + weights @ scaler.mean_, read)

    def accuracy(self, features: Floats, shows: Bools) -> float | None:
        """Balanced accuracy over the things that some of the examples show and some do not, in points; 50 is chance.

        Args:
            features: ``(N, D)``, of the model that the probe was fitted on or of another.
            shows: As in :meth:`fit`, ``(N, C)``.

        Returns:
            None where there is no such thing.
        """
        result = balanced_accuracy(_numbers(features) @ self.weights.T > self.thresholds, shows[:, self.read])
        return float(np.mean(result[~np.isnan(result)])) if not np.isnan(result).all() else None


def balanced_accuracy(result: Bools, shows: Bools) -> Floats:
    """Mean of the shares of examples that are judged rightly among those that show a thing and those that do not.

    Args:
        result: What each example is judged to show, ``(N, C)``.
        shows: What it shows, ``(N, C)``.

    Returns:
        In points (0-100), ``(C,)``; nan where all examples show it or none does.

    >>> balanced_accuracy(np.array([[True], [True], [False], [True]]), np.array([[True], [True], [False], [False]]))
    array([75.])
    """
    with np.errstate(invalid="ignore"):
        points: Floats = 50 * ((result & shows).sum(0) / shows.sum(0) + (~result & ~shows).sum(0) / (~shows).sum(0))
    return points


def probes(
    predictions: Mapping[str, Mapping[str, NDArray[Any]]], original: Mapping[str, Mapping[str, NDArray[Any]]]
) -> dict[str, float]:
    """What features of each modality alone still tell of test examples [1]_.

    ``probe_<modality>``: to a probe fitted on the original's features of D_r and applied unchanged. Features that were
    moved elsewhere as a whole lose it as those that were destroyed do, and Retrain's were never where the original's
    are; so beside it ``probe_<modality>_refitted``: to a probe of the same things fitted on the model's own features.

    Args:
        predictions: Of the model in question, by split.
        original: Of the original, on the same samples.

    References:
        .. [1] Alain and Bengio, "Understanding intermediate layers using linear classifier probes", 2016; Cheng and
           Amiri, "MultiDelete for Multimodal Machine Unlearning", ECCV 2024 (image classification after unlearning)
    """
    test = predictions["test"]
    metrics = {}
    for modality in (name.removesuffix(FEATURES) for name in original["retain"] if name.endswith(FEATURES)):
        features, shows = modality + FEATURES, modality + SHOWS
        if features not in test:
            continue
        assert np.array_equal(original["retain"]["probed_example"], predictions["retain"]["probed_example"])
        first = Probe.fit(original["retain"][features], original["retain"][shows])
        own = Probe.fit(predictions["retain"][features], predictions["retain"][shows], first.read)
        for name, probe in ((f"probe_{modality}", first), (f"probe_{modality}_refitted", own)):
            accuracy = probe.accuracy(test[features], test[shows])
            if accuracy is not None:
                metrics[name] = accuracy
    return metrics


def _numbers(features: Floats) -> NDArray[np.float64]:
    """Stored features as numbers to reckon with; what is none says nothing, as 0 does."""
    return np.nan_to_num(features.astype(np.float64), posinf=0.0, neginf=0.0)
