"""Metrics: the table is the registry, and packages add to it by the entry point ``multidelete.metrics``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import NDArray

from multidelete.metrics.forgetting import forget_auc, true_label_loss
from multidelete.metrics.holdouts import HOLDOUTS
from multidelete.utils.registry import with_entry_points

Predictions = Mapping[str, Mapping[str, NDArray[Any]]]
Compute = Callable[[Predictions, Predictions | None], float | None]
Ideal = Literal["high", "low", "retrain"]

ARROWS = {"high": " ↑", "low": " ↓", "retrain": " (≈ Retrain)", None: ""}
ATTACKS = {
    "loss": "loss",
    "confidence": "confidence",
    "entropy": "entropy",
    "modified_entropy": "modified entropy",
    "cosine": "cosine",
    "i2t": "i2t loss",
    "t2i": "t2i loss",
    "svc": "SVC",
    "lira": "LiRA",
    "rmia": "RMIA",
    "u_lira": "U-LiRA",
}
MODALITIES = {"vision": "Pictures", "graph": "Graph", "text": "Texts"}


@dataclass(frozen=True)
class Metric:
    """A metric, as tables show it and as it is computed.

    Args:
        title: Column title.
        ideal: Where a good method is: ``"high"``, ``"low"``, or at Retrain's value (``"retrain"``). None: undecided,
            because the value is good for one purpose and bad for another.
        compute: The metric from the predictions of one model and those of the original, which are None where there is
            no original; None where the metric does not apply. Without a function the task computes it.
        column: Whether it has a column in the main table.
    """

    title: str
    ideal: Ideal | None = None
    compute: Compute | None = None
    column: bool = False

    @property
    def heading(self) -> str:
        """Title with the direction."""
        return self.title + ARROWS[self.ideal]


def metric(title: str, ideal: Ideal | None = None, *, column: bool = True) -> Callable[[Compute], Metric]:
    """Make a function a metric that every run computes; see :class:`Metric`.

    >>> @metric("Mean score of D_f", "low")
    ... def mean_score(predictions, original):
    ...     return predictions["forget"]["score"].mean()
    >>> mean_score.heading
    'Mean score of D_f ↓'
    """
    return lambda compute: Metric(title, ideal, compute, column)


def _auc(others: str, array: str = "score") -> Compute:
    def compute(predictions: Predictions, original: Predictions | None) -> float | None:
        if others not in predictions or array not in predictions["forget"]:
            return None
        return forget_auc(predictions["forget"][array], predictions[others][array])

    return compute


def _loss(split: str) -> Compute:
    return lambda predictions, original: true_label_loss(predictions[split]["score"])


def _cosine(split: str) -> Compute:
    """Mean cosine of the pairs of a split, times 100."""
    return lambda predictions, original: (
        100 * float(predictions[split]["cosine"].mean()) if "cosine" in predictions.get(split, ()) else None
    )


def _rank(split: str, of_rank: Callable[[NDArray[Any]], NDArray[Any]]) -> Compute:
    """Mean of a function of the rank of the true text of each picture, times 100; only where holdouts are measured."""

    def compute(predictions: Predictions, original: Predictions | None) -> float | None:
        if "i2t_rank" not in predictions.get(split, ()) or not any(name in predictions for name in HOLDOUTS):
            return None
        return 100 * float(of_rank(predictions[split]["i2t_rank"]).mean())

    return compute


METRICS: dict[str, Metric] = with_entry_points(
    "multidelete.metrics",
    {
        "test_score": Metric("Test score", "high", column=True),
        "retain_score": Metric("D_r score", column=True),
        "forget_score": Metric("D_f score", column=True),
        "near_miss_score": Metric("Near misses", "retrain", column=True),
        "valid_score": Metric("Validation score", "high"),
        "forget_auc": Metric("D_f AUC", "low", _auc("retain"), column=True),
        "forget_test_auc": Metric("D_f vs test AUC", "retrain", _auc("test"), column=True),
        "forget_loss": Metric("D_f loss", compute=_loss("forget")),
        "retain_loss": Metric("D_r loss", compute=_loss("retain")),
        "forget_auc_cosine": Metric("D_f cosine AUC", "low", _auc("retain", "cosine")),
        "forget_test_auc_cosine": Metric("D_f vs test cosine AUC", "retrain", _auc("test", "cosine")),
        # The columns of SALMUBench: association strength, identity holdout and association holdout, forget retrieval.
        "forget_cosine": Metric("D_f cosine", "retrain", _cosine("forget")),
        **{f"{name}_cosine": Metric(f"{title} cosine", "retrain", _cosine(name)) for name, title in HOLDOUTS.items()},
        **{f"{name}_score": Metric(f"{title} score", "retrain") for name, title in HOLDOUTS.items()},
        "forget_recall_1": Metric("D_f R@1", "retrain", _rank("forget", lambda rank: rank == 0)),
        "forget_mrr": Metric("D_f MRR", "retrain", _rank("forget", lambda rank: 1 / (1 + rank))),
        "mi_ratio": Metric("MI ratio D_f", "high"),
        "mi_ratio_retain": Metric("MI ratio D_r"),
        **{f"attack_{name}_auc": Metric(f"{title} AUC", "retrain") for name, title in ATTACKS.items()},
        **{f"attack_{name}_tpr1": Metric(f"{title} TPR at 1 % FPR", "retrain") for name, title in ATTACKS.items()},
        **{f"probe_{name}": Metric(f"{title}: Original's probe", "high") for name, title in MODALITIES.items()},
        **{f"probe_{name}_refitted": Metric(f"{title}: refitted", "high") for name, title in MODALITIES.items()},
        "gap_to_retrain": Metric("Gap to Retrain", "low", column=True),
    },
)


# Metrics in summaries of a run, in this order.
SUMMARY = (
    "test_score",
    "retain_score",
    "forget_score",
    "near_miss_score",
    "forget_auc",
    "forget_test_auc",
    "gap_to_retrain",
)


def computed(predictions: Predictions, original: Predictions | None) -> dict[str, float]:
    """Every registered metric that is a function of predictions and applies to them."""
    values = {
        name: entry.compute(predictions, original) for name, entry in METRICS.items() if entry.compute is not None
    }
    return {name: float(value) for name, value in values.items() if value is not None}
