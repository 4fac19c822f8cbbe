"""Unlearning in one call, for Python."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from multidelete.data.batches import PairInputs
from multidelete.data.dataset import Dataset
from multidelete.data.requests import Request, resolve
from multidelete.methods import Method, MultiDelete, UnlearningData
from multidelete.models.base import Model
from multidelete.pipeline import check_splits
from multidelete.runs.store import check_head
from multidelete.tasks import TASKS, Predictions, Task, task_for
from multidelete.training.engine import Engine, TrainingHistory
from multidelete.training.original import TrainSettings


@dataclass(frozen=True)
class Outcome:
    """What :func:`unlearn` gives back.

    Args:
        model: The unlearned model; ``model.save_pretrained(folder)`` writes it.
        request: What was forgotten and what was kept.
        metrics: Metrics of the unlearned model.
        before: The same metrics of the original.
        predictions: Per-example scores of the unlearned model, by split.
        history: Loss terms of every step.
    """

    model: Model
    request: Request
    metrics: dict[str, float]
    before: dict[str, float]
    predictions: Predictions
    history: TrainingHistory


def unlearn(
    model: Model | str | Path,
    dataset: Dataset,
    forget: Sequence[str] | str | Path | int | float,
    method: Method | None = None,
    *,
    task: Task | None = None,
    training: TrainSettings | None = None,
    engine: Engine | None = None,
    seed: int = 0,
) -> Outcome:
    """Make a model forget examples of its training data.

    Args:
        model: The trained model, or its folder; it is not changed.
        dataset: What it was trained on, with validation and test splits.
        forget: Ids, a text file with one id in a line, a number of examples, or a share of them.
        method: How; MultiDelete with the paper's settings by default.
        task: What the model is for; by default the task that it was trained for.
        training: How the original was trained, for methods that need it (Retrain, FineTune).
        engine: Device and precision.
        seed: Seed of the sample and of every draw.

    Raises:
        InputError: The request or the combination is impossible; nothing was started.
    """
    if isinstance(forget, int | np.integer):
        request = resolve(dataset, count=forget, seed=seed)
    elif isinstance(forget, float):
        request = resolve(dataset, fraction=forget, seed=seed)
    else:
        request = resolve(dataset, ids=forget)
    method, engine = method or MultiDelete(), engine or Engine()
    check_splits(request, [method])
    # A copy: the model that was given stays on its device and in its mode.
    original = copy.deepcopy(model) if isinstance(model, Model) else Model.from_pretrained(model)
    original = original.to(engine.device).eval()
    task = task or TASKS[task_for(type(original), original.config.labels)]()
    task.check(dataset, type(original))
    check_head(original, task)
    inputs = PairInputs.of(dataset, original)
    data = UnlearningData(request, inputs, task, training or TrainSettings(), seed, initial_seed=seed)
    result = method(original, data, engine)
    before = task.predict(original, engine.encoded_inputs(original, inputs), request, engine)
    predictions = task.predict(result.model, result.inputs, request, engine)
    metrics, metrics_before = (task.all_metrics(each, before) for each in (predictions, before))
    return Outcome(result.model, request, metrics, metrics_before, predictions, result.history)
