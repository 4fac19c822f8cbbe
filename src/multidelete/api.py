"""Training, unlearning and evaluation in one call each, for Python."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from multidelete.data.batches import PairInputs
from multidelete.data.dataset import Dataset
from multidelete.data.requests import resolve
from multidelete.methods import Method, MultiDelete
from multidelete.models import MODELS
from multidelete.models.base import Model
from multidelete.models.config import ModelConfig
from multidelete.models.wrapped import Wrapped
from multidelete.outcome import Outcome
from multidelete.pipeline import check_splits, run
from multidelete.recipe import IN_MEMORY, ForgetSettings, MembershipSettings, Recipe, adapter_base
from multidelete.store.models import get_or_train_original, read_training, repeatable, save_model
from multidelete.tasks import TASKS, Task, task_for
from multidelete.training.engine import Engine
from multidelete.training.original import TrainSettings
from multidelete.utils.registry import choose

Forget = Iterable[str | int | tuple[str, str] | Mapping[str, Any]] | Mapping[str, Any] | str | Path | int | float


def load(model: nn.Module | str | Path, processor: Any = None) -> Model:
    """Load a trained model.

    Args:
        model: Folder that multidelete, ``transformers`` or peft wrote, or a model in memory, which is copied.
        processor: The ``transformers`` processor of a model of ``transformers`` or peft in memory, or the folder of the
            processor of a folder that has none.

    Raises:
        InputError: The folder is damaged or incomplete, or the class is not supported.
    """
    if isinstance(model, Model):
        return copy.deepcopy(model)
    if isinstance(model, str | Path):
        return Model.from_pretrained(model, processor)
    return Wrapped.wrap(model, processor)


def unlearn(
    model: nn.Module | str | Path,
    dataset: Dataset,
    forget: Forget,
    method: Method | None = None,
    *,
    compare: Sequence[Method] = (),
    retrain: bool | str | Path | None = None,
    task: Task | None = None,
    training: TrainSettings | None = None,
    membership: MembershipSettings | None = None,
    engine: Engine | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    processor: Any = None,
    base: str | Path | None = None,
    merge: bool = False,
) -> Outcome:
    """Make a model forget examples of its training data, like ``multidelete unlearn``, on objects in memory.

    Args:
        model: Trained model or its folder; it is not changed.
        dataset: Training data of the model, with validation and test splits.
        forget: What must go: a list of names (an id, file name, path, ``NAME#2`` for one text, or (image, text)), a
            file of them, a number of examples, or a fraction of them; or a mapping with another kind of request, as
            ``{"where": "year < 2015"}``, ``{"group": "person=P17"}`` or ``{"pairs": 100}``.
        method: Unlearning method; by default MultiDelete with the paper's settings.
        compare: Other methods to run on the same request.
        retrain: Whether to train Retrain, by default if the training settings are known; or folder or hub id of a
            model that was trained without what must go.
        task: Task of the model; by default the task that it was trained for.
        training: Training settings of the original, for Retrain and shadow models; by default read from its folder.
        membership: Settings of membership attacks.
        engine: Device, precision, progress.
        seed: Seed of the request and all other random draws.
        out: Folder for the record of the run; by default nothing is kept on disk.
        processor: Processor of a model of ``transformers`` in memory, see :func:`load`; the same class comes out.
        base: Folder or hub id of the model that it was fine-tuned from, from which Retrain and reference models start;
            by default the base of an adapter.
        merge: Whether to merge an adapter (peft) into its base; by default an adapter comes out as one.

    Raises:
        InputError: The request or the combination is impossible; nothing was started.
    """
    engine = engine or Engine()
    retrain = str(retrain) if isinstance(retrain, Path) else retrain
    original, source = load(model, processor), IN_MEMORY
    if isinstance(model, str | Path):
        training = training or getattr(read_training(Path(model)), "settings", None)
        source = str(model)
        base = base or adapter_base(model)
    if base is not None:
        training = training or TrainSettings()
    recipe = Recipe(
        task=task or TASKS[task_for(type(original), original.config.labels)](),
        data={"reader": IN_MEMORY, "name": dataset.name},
        original=source,
        processor=str(processor) if isinstance(model, str | Path) and processor is not None else None,
        start=None if base is None else str(base),
        train=training,
        forget=_request(forget),
        method=method or MultiDelete(),
        compare=tuple(compare),
        retrain=repeatable(original, training, base) if retrain is None else retrain,
        seed=seed,
        precision=engine.precision,
        membership=membership or MembershipSettings(),
        merge=merge,
    )
    with tempfile.TemporaryDirectory(prefix="multidelete-") as temporary:
        folder = Path(out) if out else Path(temporary) / "run"
        outcome = run(recipe, folder, engine, dataset=dataset, model=original, command="multidelete.unlearn")
        outcome = outcome if out else replace(outcome, unlearned=outcome.model, folder=None)
    if not isinstance(model, Model | str | Path):
        assert isinstance(outcome.model, Wrapped)
        return replace(outcome, unlearned=outcome.model.unwrapped())
    return outcome


def train(
    model: str | ModelConfig,
    dataset: Dataset,
    *,
    task: Task | None = None,
    settings: TrainSettings | None = None,
    engine: Engine | None = None,
    seed: int = 0,
    out: str | Path | None = None,
) -> Model:
    """Train an original model, or load it from the cache if the same was trained before.

    Args:
        model: Name of an architecture (``"albef"``), or its configuration.
        dataset: Training data.
        task: Retrieval by default, or the task of the dataset's labels.
        settings: Epochs, batch size, learning rate.
        engine: Device, precision, progress.
        seed: Seed of initial weights and training.
        out: Folder for the model and how it was trained; :func:`unlearn` reads both.

    Raises:
        InputError: Model, task and data do not fit together, or the loss became infinite.
    """
    engine = engine or Engine()
    name = (
        model if isinstance(model, str) else next(n for n, kind in MODELS.items() if kind.config_class is type(model))
    )
    architecture = choose(MODELS, name, "model")
    recipe = Recipe(
        task=task or TASKS[task_for(architecture, dataset.classes)](),
        data={"reader": IN_MEMORY, "name": dataset.name},
        model=(name, architecture.config_class() if isinstance(model, str) else model),
        train=settings or TrainSettings(),
        forget=_request(1),
        method=MultiDelete(),
        seed=seed,
        precision=engine.precision,
    )
    trained = get_or_train_original(recipe, dataset, engine)
    if out is not None:
        save_model(trained.model, Path(out), trained.training)
    return trained.model


def evaluate(
    model: nn.Module | str | Path,
    dataset: Dataset,
    forget: Forget | None = None,
    *,
    task: Task | None = None,
    engine: Engine | None = None,
    seed: int = 0,
    processor: Any = None,
) -> dict[str, float]:
    """Metrics of one model, by name, in points unless their name says otherwise.

    Args:
        model: The model, or its folder; it is not changed.
        dataset: Data with a test split.
        forget: D_f as in :func:`unlearn`; without it there are no metrics of D_f and D_r.
        task: The task of the model; by default the task that it was trained for.
        engine: Device, precision, progress.
        seed: Seed of the sample, if ``forget`` is a number or a share.
        processor: Processor of a model of ``transformers`` in memory, see :func:`load`.

    Raises:
        InputError: Model, task and data do not fit together.
    """
    engine = engine or Engine()
    model = load(model, processor)
    model = model.to(engine.device).eval()
    task = task or TASKS[task_for(type(model), model.config.labels)]()
    task.check(dataset, type(model))
    request = resolve(dataset, **_request(1 if forget is None else forget).model_dump(exclude={"seed"}), seed=seed)
    check_splits(request)
    metrics = task.metrics(task.predict(model, PairInputs.of(dataset, model), request, engine))
    if forget is None:
        metrics = {name: value for name, value in metrics.items() if not name.startswith(("forget", "retain"))}
    return metrics


def _request(forget: Forget) -> ForgetSettings:
    """Deletion settings of a recipe, not validated; errors are raised when the request is resolved."""
    given: dict[str, Any] = {"ids": forget if isinstance(forget, str) else None}
    if isinstance(forget, Path):
        given = {"ids": str(forget)}
    elif isinstance(forget, bool | int | np.integer):
        given = {"count": forget if isinstance(forget, bool) else int(forget)}
    elif isinstance(forget, float):
        given = {"fraction": float(forget)}
    elif isinstance(forget, Mapping):
        given = dict(forget)
    elif not isinstance(forget, str):
        given = {"ids": list(forget)}
    return ForgetSettings.model_construct(**{**dict.fromkeys(ForgetSettings.model_fields), **given})
