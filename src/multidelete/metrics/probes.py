"""Linear probes of unimodal features: fitted on the original's features, applied to those of other models."""

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

KEPT = 8  # attributes that a probe predicts, chosen from the candidates
FOLDS = 5
PENALTY = 0.1  # ridge penalty per example; weak on standardised features
FEATURES, SHOWS = "_features", "_shows"  # suffixes of modality names in stored predictions


@dataclass(frozen=True)
class Probe:
    """Binary linear classifiers of K attributes; positive where ``features @ weights.T > thresholds``.

    Args:
        weights: ``(K, D)``.
        thresholds: ``(K,)``; midway between the mean scores of positive and negative examples, so that rare
            attributes have the same recall as frequent ones.
        read: Indices of the K attributes among the C candidates, ``(K,)``.
    """

    weights: Floats
    thresholds: Floats
    read: Ints

    @classmethod
    def fit(cls, features: Floats, shows: Bools, read: Ints | None = None) -> Probe:
        """Ridge regression on standardised features.

        Args:
            features: ``(N, D)``.
            shows: Which of C candidate attributes each example has, ``(N, C)``.
            read: Indices of the attributes; by default the ``KEPT`` with the best balanced accuracy in
                cross-validation. Words that only reflect the wording are not visible in images and not worth a probe.
        """
        model = make_pipeline(StandardScaler(), Ridge(PENALTY * len(features)))
        states, targets = _numbers(features), np.where(shows, 1.0, -1.0)
        scores = cross_val_predict(model, states, targets, cv=FOLDS).reshape(shows.shape)
        thresholds = (np.mean(scores, 0, where=shows) + np.mean(scores, 0, where=~shows)) / 2
        if read is None:
            accuracies = balanced_accuracy(scores > thresholds, shows)
            read = np.sort(np.argsort(-accuracies, kind="stable")[:KEPT])
        scaler, ridge = model.fit(states, targets[:, read])
        weights = np.atleast_2d(ridge.coef_) / scaler.scale_
        return cls(weights, thresholds[read] - ridge.intercept_ + weights @ scaler.mean_, read)

    def accuracy(self, features: Floats, shows: Bools) -> float | None:
        """Mean balanced accuracy over attributes with positive and negative examples, in points; 50 is chance.

        Args:
            features: Features of the model that the probe was fitted on, or of another one, ``(N, D)``.
            shows: As in :meth:`fit`, ``(N, C)``.

        Returns:
            None without any such attribute.
        """
        values = self.contributions(features, shows)
        return None if values is None else float(values.mean())

    def contributions(self, features: Floats, shows: Bools) -> Floats | None:
        """Contribution of each example to :meth:`accuracy`, which is their mean, ``(N,)``."""
        truth = shows[:, self.read]
        hits = (_numbers(features) @ self.weights.T > self.thresholds) == truth
        with np.errstate(divide="ignore", invalid="ignore"):
            each = 50 * hits * np.where(truth, 1 / truth.mean(0), 1 / (~truth).mean(0))
        usable = truth.any(0) & ~truth.all(0)
        return each[:, usable].mean(1) if usable.any() else None


def balanced_accuracy(result: Bools, shows: Bools) -> Floats:
    """Balanced accuracy of each attribute: the mean of sensitivity and specificity.

    Args:
        result: Predictions, ``(N, C)``.
        shows: Ground truth, ``(N, C)``.

    Returns:
        In points (0-100), ``(C,)``; nan where the ground truth has one value only.

    >>> balanced_accuracy(np.array([[True], [True], [False], [True]]), np.array([[True], [True], [False], [False]]))
    array([75.])
    """
    with np.errstate(invalid="ignore"):
        points: Floats = 50 * ((result & shows).sum(0) / shows.sum(0) + (~result & ~shows).sum(0) / (~shows).sum(0))
    return points


def probes(
    predictions: Mapping[str, Mapping[str, NDArray[Any]]], original: Mapping[str, Mapping[str, NDArray[Any]]]
) -> dict[str, float]:
    """Probe accuracy on test examples for the features of each modality [1]_.

    ``probe_<modality>``: the probe is fitted on the original's features of D_r and applied unchanged. It falls where
    features are destroyed, but also where they are only transformed, and for Retrain, whose features never matched the
    original's. ``probe_<modality>_refitted`` therefore fits a probe of the same attributes on the model's own features.

    Args:
        predictions: Predictions of the model under evaluation, by split.
        original: Predictions of the original on the same samples.

    References:
        .. [1] Alain and Bengio, "Understanding intermediate layers using linear classifier probes", 2016; Cheng and
           Amiri, "MultiDelete for Multimodal Machine Unlearning", ECCV 2024 (image classification after unlearning)
    """
    return {name: float(values.mean()) for name, values in probe_contributions(predictions, original).items()}


def probe_contributions(
    predictions: Mapping[str, Mapping[str, NDArray[Any]]], original: Mapping[str, Mapping[str, NDArray[Any]]]
) -> dict[str, Floats]:
    """Contribution of each probed test example to each of :func:`probes`, which are their means, ``(N,)`` each."""
    test = predictions.get("test", {})
    found: dict[str, Floats] = {}
    for modality in (name.removesuffix(FEATURES) for name in original.get("retain", {}) if name.endswith(FEATURES)):
        features, shows = modality + FEATURES, modality + SHOWS
        if features not in test:
            continue
        assert np.array_equal(original["retain"]["probed_example"], predictions["retain"]["probed_example"])
        first = Probe.fit(original["retain"][features], original["retain"][shows])
        own = Probe.fit(predictions["retain"][features], predictions["retain"][shows], first.read)
        for name, probe in ((f"probe_{modality}", first), (f"probe_{modality}_refitted", own)):
            values = probe.contributions(test[features], test[shows])
            if values is not None:
                found[name] = values
    return found


def _numbers(features: Floats) -> NDArray[np.float64]:
    """Features in double precision; non-finite values become 0."""
    return np.nan_to_num(features.astype(np.float64), posinf=0.0, neginf=0.0)
