"""Unlearning in one call, for Python."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from multidelete.data.corpus import Corpus
from multidelete.data.requests import Request, resolve
from multidelete.data.streams import PairInputs
from multidelete.engine import Engine, History
from multidelete.methods import Method, MultiDelete, UnlearningData
from multidelete.models.base import Model
from multidelete.run import check_splits
from multidelete.store import check_head
from multidelete.tasks import TASKS, Predictions, Task, task_for
from multidelete.training import TrainSettings


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
    history: History


def unlearn(
    model: Model | str | Path,
    corpus: Corpus,
    forget: Sequence[str] | str | Path | int | float,
    method: Method | None = None,
    *,
    task: Task | None = None,
    training: TrainSettings | None = None,
    engine: Engine | None = None,
    seed: int = 0,
) -> Outcome:
    """Make a model forget units of its training data.

    Args:
        model: The trained model, or its folder; it is not changed.
        corpus: What it was trained on, with valid and test splits.
        forget: Ids, a text file with one id in a line, a number of units, or a share of them.
        method: How; MultiDelete with the paper's settings by default.
        task: What the model is for; by default the task that it was trained for.
        training: How the original was trained, for methods that need it (Retrain, FineTune).
        engine: Device and precision.
        seed: Seed of the sample and of every draw.

    Raises:
        InputError: The request or the combination is impossible; nothing was started.
    """
    if isinstance(forget, int | np.integer):
        request = resolve(corpus, count=forget, seed=seed)
    elif isinstance(forget, float):
        request = resolve(corpus, fraction=forget, seed=seed)
    else:
        request = resolve(corpus, ids=forget)
    method, engine = method or MultiDelete(), engine or Engine()
    check_splits(request, [method])
    # A copy: the model that was given stays on its device and in its mode.
    original = copy.deepcopy(model) if isinstance(model, Model) else Model.from_pretrained(model)
    original = original.to(engine.device).eval()
    task = task or TASKS[task_for(type(original), original.config.labels)]()
    task.check(corpus, type(original))
    check_head(original, task)
    inputs = PairInputs.of(corpus, original)
    data = UnlearningData(request, inputs, task, training or TrainSettings(), seed, initial_seed=seed)
    made = method(original, data, engine)
    before = task.predict(original, engine.encoded_inputs(original, inputs), request, engine)
    predictions = task.predict(made.model, made.inputs, request, engine)
    metrics, metrics_before = (task.metrics_beside(each, before) for each in (predictions, before))
    return Outcome(made.model, request, metrics, metrics_before, predictions, made.history)
