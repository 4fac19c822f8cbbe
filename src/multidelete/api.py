"""Unlearning in one call, for Python."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from multidelete.data.dataset import Dataset
from multidelete.methods import Method, MultiDelete
from multidelete.models.base import Model
from multidelete.outcome import Outcome
from multidelete.pipeline import run
from multidelete.recipe import IN_MEMORY, ForgetSettings, MembershipSettings, Recipe
from multidelete.store.models import read_training
from multidelete.tasks import TASKS, Task, task_for
from multidelete.training.engine import Engine
from multidelete.training.original import TrainSettings


def unlearn(
    model: Model | str | Path,
    dataset: Dataset,
    forget: Sequence[str] | str | Path | int | float,
    method: Method | None = None,
    *,
    compare: Sequence[Method] = (),
    retrain: bool | None = None,
    task: Task | None = None,
    training: TrainSettings | None = None,
    membership: MembershipSettings | None = None,
    engine: Engine | None = None,
    seed: int = 0,
    out: str | Path | None = None,
) -> Outcome:
    """Make a model forget examples of its training data: the flow of ``multidelete unlearn``, on objects in memory.

    Args:
        model: The trained model, or its folder; it is not changed.
        dataset: What it was trained on, with validation and test splits.
        forget: Ids, a text file with one id per line, a number of examples, or a share of them.
        method: MultiDelete with the paper's settings by default.
        compare: Other methods to run on the same request.
        retrain: Whether Retrain is made; by default where it is known how the original was trained.
        task: What the model is for; by default the task that it was trained for.
        training: How the original was trained, for Retrain and shadow models; by default what its folder says.
        membership: Settings of membership attacks.
        engine: Device, precision, progress.
        seed: Seed of the sample and of every draw.
        out: Folder for the record of the run; by default nothing is kept on disk.

    Raises:
        InputError: The request or the combination is impossible; nothing was started.
    """
    engine = engine or Engine()
    if isinstance(model, str | Path):
        training = training or getattr(read_training(Path(model)), "settings", None)
        original: Model = Model.from_pretrained(model)
        source = str(model)
    else:
        original, source = model, IN_MEMORY
    recipe = Recipe(
        task=task or TASKS[task_for(type(original), original.config.labels)](),
        data={"reader": IN_MEMORY, "name": dataset.name},
        original=source,
        train=training,
        forget=_request(forget),
        method=method or MultiDelete(),
        compare=tuple(compare),
        retrain=training is not None if retrain is None else retrain,
        seed=seed,
        precision=engine.precision,
        membership=membership or MembershipSettings(),
    )
    with tempfile.TemporaryDirectory(prefix="multidelete-") as temporary:
        folder = Path(out) if out else Path(temporary) / "run"
        outcome = run(recipe, folder, engine, dataset=dataset, model=original, command="multidelete.unlearn")
        return outcome if out else replace(outcome, unlearned=outcome.model, folder=None)


def _request(forget: Sequence[str] | str | Path | int | float) -> ForgetSettings:
    """The request as a recipe states it; what is wrong with it is said when it is resolved."""
    given: dict[str, Any] = {"ids": forget if isinstance(forget, str) else None}
    if isinstance(forget, Path):
        given = {"ids": str(forget)}
    elif isinstance(forget, bool | int | np.integer):
        given = {"count": forget if isinstance(forget, bool) else int(forget)}
    elif isinstance(forget, float):
        given = {"fraction": float(forget)}
    elif not isinstance(forget, str):
        given = {"ids": list(forget)}
    return ForgetSettings.model_construct(**{**dict.fromkeys(ForgetSettings.model_fields), **given})
