"""What deleted pairs would look like had they not been trained on, as far as the original and validation can say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multidelete.metrics.contrasts import standard_error
from multidelete.metrics.forgetting import forget_auc
from multidelete.metrics.signals import check_signals
from multidelete.training.loop import TrainingHistory

Arrays = Mapping[str, NDArray[Any]]
Floats = NDArray[np.floating[Any]]

HEAD = frozenset({"score", "certainty"})  # signals of the fused representation; all others are of the similarities
SURE = 1.96  # standard errors of a 95 % interval


@dataclass(frozen=True)
class Unseen:
    """Signals at which deleted pairs look unseen, from the original's signals of kept and of validation pairs.

    Both are ordered by how hard a pair is: among the kept pairs, which were trained on like the deleted ones, and among
    validation pairs, which were not. A deleted pair at some quantile of the kept pairs should move to the same quantile
    of the validation pairs. So a single pair has a target too, and a D_f that is harder or easier than D_r by chance
    keeps that. The aim of the AUC of D_f against validation is thus the original's AUC of D_f against D_r.

    Args:
        kept: Signals of kept pairs under the original, sorted.
        validation: Signals of validation pairs under the original, sorted.
        aims: For each signal the AUC of D_f against validation pairs at which D_f looks unseen.
        above: Largest distance of an AUC above its aim that does not count, in points.
        below: The same below; larger where the original is further below already.
        counted: Signals that count: those that the method can move.
    """

    kept: Mapping[str, Floats]
    validation: Mapping[str, Floats]
    aims: Mapping[str, float]
    above: Mapping[str, float]
    below: Mapping[str, float]
    counted: frozenset[str]

    @classmethod
    def of(
        cls, kept: Arrays, validation: Arrays, forget: Arrays, *, tolerance: float, fused: bool, similarities: bool
    ) -> Unseen:
        """From the original's predictions of true pairs.

        Args:
            kept: Predictions of pairs of D_r.
            validation: Predictions of validation pairs.
            forget: Predictions of D_f.
            tolerance: Distance that never counts, in points; chance may add to it (95 % interval over pictures).
            fused: Whether signals of the fused representation count.
            similarities: Whether signals of the similarities count.
        """
        signals = [check_signals(each) for each in (kept, validation, forget)]
        aims, above, below = {}, {}, {}
        for name, own in signals[2].items():
            aims[name] = forget_auc(own, signals[0][name])
            errors = [
                standard_error(own, found[name], each["cluster"])
                for found, each in zip(signals, (kept, validation), strict=False)
            ]
            above[name] = max(tolerance, SURE * math.hypot(*errors))
            below[name] = max(above[name], aims[name] - forget_auc(own, signals[1][name]))
        ordered = [{name: np.sort(values) for name, values in each.items()} for each in signals[:2]]
        counted = {name for name in aims if (fused if name in HEAD else similarities)}
        return cls(ordered[0], ordered[1], aims, above, below, frozenset(counted))

    def distance(self, metrics: Mapping[str, float]) -> float:
        """Points by which the worst signal is beyond what does not count; 0 or less if D_f looks unseen.

        Args:
            metrics: :meth:`Task.validation_metrics` of a checkpoint.
        """
        beyond = []
        for name in self.counted:
            away = metrics["forget_auc" if name == "score" else f"forget_auc_{name}"] - self.aims[name]
            beyond.append(away - self.above[name] if away > 0 else -away - self.below[name])
        return max(beyond)

    def lowered(self, name: str, values: Floats) -> Floats:
        """Signal of each deleted pair had it not been trained on; never more than it is, ``(F,)``."""
        rank = np.searchsorted(self.kept[name], values, "left") + np.searchsorted(self.kept[name], values, "right")
        unseen = np.quantile(self.validation[name], rank / (2 * len(self.kept[name])))
        result: Floats = np.minimum(values, unseen)
        return result

    @staticmethod
    def untouched(start: dict[str, float]) -> TrainingHistory:
        """History without a step, of validation metrics of the original."""
        return TrainingHistory([{"step": 0, "validation": start, "selected": True}])

    def note(self, history: TrainingHistory) -> str:
        """What a reader must know of how a method ended that aims at unseen pairs, as a sentence; often nothing."""
        lines = [line for line in history.lines if "validation" in line]
        if not lines:
            return ""
        steps, kept = lines[-1]["step"], next(line for line in lines if line.get("selected"))
        distance = kept["validation"]["distance"]
        if steps == 0:
            return (
                "Nothing was done, since the original does not treat the deleted pairs as pairs that it was trained "
                "on: no signal differs from that of unseen pairs by more than chance."
            )
        if kept["step"] == 0:
            return (
                f"In {steps} steps no checkpoint came closer to unseen pairs without losing too much utility on "
                "validation, so the original was left as it is; a smaller learning rate may help."
            )
        if distance > 0:
            return (
                f"After {steps} steps the deleted pairs are still {distance:.1f} points from looking unseen; "
                "more epochs or a larger learning rate may help."
            )
        return ""
