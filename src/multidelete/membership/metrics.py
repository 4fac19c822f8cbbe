"""All metrics of one model, computed from stored predictions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from multidelete.membership.attacks import membership
from multidelete.metrics.registry import METRICS
from multidelete.recipe import MembershipSettings
from multidelete.tasks import Predictions, Task
from multidelete.utils.cache import cache_dir, has_entry, new_entry
from multidelete.utils.keys import cache_key

METRICS_FILE = "metrics.json"


def metrics_of(
    task: Task,
    predictions: Predictions,
    original: Predictions,
    references: Mapping[str, Predictions],
    unlearned: Mapping[str, Predictions],
    settings: MembershipSettings,
    seed: int,
) -> dict[str, float]:
    """All metrics of one model except the gap to Retrain.

    Args:
        task: The task of the run.
        predictions: Predictions of the model.
        original: Predictions of the model before unlearning.
        references: Predictions of the shadow and reference models, see :mod:`multidelete.membership.references`.
        unlearned: Predictions of the reference models after unlearning, for U-LiRA.
        settings: Settings of the membership attacks.
        seed: Seed of the original's training, so that models shared by runs have the same intervals in all of them.
    """
    attacks = membership(predictions, original, references, unlearned, resamples=settings.resamples, seed=seed)
    return task.metrics(predictions, original) | attacks


def get_or_measure(
    task: Task,
    predictions: Predictions,
    original: Predictions,
    references: Mapping[str, Predictions],
    settings: MembershipSettings,
    seed: int,
) -> dict[str, float]:
    """:func:`metrics_of` a model that many runs share; read from the cache if all dependencies are unchanged."""
    key = cache_key(
        "metrics",
        task.name,
        task.model_dump_json(),
        settings.model_dump_json(),
        seed,
        _hash_of(predictions),
        _hash_of(original),
        *(f"{name} {_hash_of(each)}" for name, each in references.items()),
        code=(__name__, type(task).__module__, *(each.compute.__module__ for each in METRICS.values() if each.compute)),
    )
    folder = cache_dir() / "metrics" / key
    if not has_entry(folder):
        found = metrics_of(task, predictions, original, references, {}, settings, seed)
        with new_entry(folder) as part:
            (part / METRICS_FILE).write_text(json.dumps(found))
    metrics: dict[str, float] = json.loads((folder / METRICS_FILE).read_text())
    return metrics


def _hash_of(predictions: Predictions) -> str:
    """Hash of all arrays of predictions."""
    total = hashlib.sha256()
    for split, arrays in predictions.items():
        for name, values in arrays.items():
            total.update(f"{split} {name} {values.dtype} {values.shape}".encode())
            total.update(values.tobytes())
    return total.hexdigest()
