"""Trained models: made once, found again by everything that they depend on; and how each was trained."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from huggingface_hub import try_to_load_from_cache
from pydantic import BaseModel, ValidationError

from multidelete.data.batches import PairInputs
from multidelete.data.dataset import Dataset
from multidelete.data.requests import Request
from multidelete.methods import Method, Original, Unlearned, UnlearningData
from multidelete.models.base import Model
from multidelete.models.config import ModelConfig
from multidelete.models.folder import WEIGHTS_FILE
from multidelete.recipe import Recipe, load
from multidelete.store.predictions import read_predictions
from multidelete.tasks import Predictions, Task
from multidelete.training.engine import Engine
from multidelete.training.extras import check_extra
from multidelete.training.features import encoded_inputs, frozen_inputs
from multidelete.training.loop import TrainingHistory
from multidelete.training.original import TrainSettings, initial_model, train
from multidelete.utils.cache import cache_dir
from multidelete.utils.errors import InputError
from multidelete.utils.files import write_atomically, write_file
from multidelete.utils.keys import cache_key, folder_hash, weights_hash

logger = logging.getLogger(__name__)

TRAINING_FILE = "training.json"
HISTORY_FILE = "history.json"
SECONDS_FILE = "seconds.json"


@dataclass
class Trained:
    """A model that was trained or found.

    Args:
        model: In eval mode.
        history: How it was trained; empty where it was brought.
        hash: sha256 over its weights.
        source: Where it came from, in words.
        key: What it depends on; the weights themselves where it was brought.
        training: How it was trained, where that is known.
    """

    model: Model
    history: TrainingHistory
    hash: str
    source: str
    key: str
    training: Training | None


class Training(BaseModel):
    """How a model was trained: it stands in the model's folder, so that Retrain can be made by the same recipe.

    Args:
        settings: Settings of the training.
        seed: Seed of the initial weights.
        start: Folder of the model that it started from, if it did from one.
    """

    settings: TrainSettings
    seed: int = 0
    start: Path | None = None


def save_model(model: Model, folder: Path, training: Training | None) -> None:
    """Write a model, and beside it how its original was trained."""
    model.save_pretrained(folder)
    if training is not None:
        write_file(folder / TRAINING_FILE, training.model_dump_json(indent=2) + "\n")


def hash_of(folder: Path) -> str:
    """sha256 over the weights of the model in a folder, which is read as anybody would read it.

    Raises:
        InputError: There is no model, or it is damaged.
    """
    return weights_hash(Model.from_pretrained(folder).state_dict())


def read_training(folder: Path) -> Training | None:
    """How a model was trained, where its folder says so.

    Raises:
        InputError: It says so in a file that is damaged.
    """
    path = folder / TRAINING_FILE
    if not path.is_file():
        return None
    try:
        return Training.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} is damaged: expected the settings of a training ({str(error).splitlines()[0]})"
        ) from error


def no_training(recipe: Recipe) -> Training:
    """Settings that stand in where nobody knows how the original was trained, and no method asks.

    Raises:
        InputError: A method asks.
    """
    asking = next((method for method in recipe.methods() if method.needs_training), None)
    if asking is not None:
        raise InputError(
            f"how '{recipe.original}' was trained is not known, and {asking.name} needs it: give a table [train] "
            "(or train.epochs=...)" + (", or leave Retrain out with --no-retrain" if asking.name == "retrain" else "")
        )
    return Training(settings=TrainSettings())


def get_or_train_original(recipe: Recipe, dataset: Dataset, engine: Engine, model: Model | None = None) -> Trained:
    """The original: the model that a recipe brings, or the one that it trains, from the store if it was trained before.

    Args:
        recipe: The run.
        dataset: Its data.
        engine: Device, precision, progress.
        model: The model that the recipe brings, where it is in memory; it is copied.
    """
    seed = recipe.seeds()["train"]
    if recipe.original is not None:
        model = copy.deepcopy(model) if model is not None else Model.from_pretrained(recipe.original)
        model = model.to(engine.device).eval()
        recipe.task.check(dataset, type(model))
        check_head(model, recipe.task)
        hashed = weights_hash(model.state_dict())
        training = read_training(Path(recipe.original))
        if recipe.train is not None:
            training = (training or Training(settings=recipe.train, seed=seed)).model_copy(
                update={"settings": recipe.train}
            )
        if training is not None:
            check_extra(model, training.settings.extra)
        return Trained(model, TrainingHistory(), hashed, f"brought: {recipe.original}", hashed, training)
    assert recipe.model is not None
    assert recipe.train is not None
    training = Training(settings=recipe.train, seed=seed, start=start_folder(recipe, engine))
    name, config = recipe.model
    architecture = recipe.architecture()
    recipe.task.check(dataset, architecture)
    extra, request = training.settings.extra, None
    config = config.for_dataset(dataset, labelled=recipe.task.labelled).model_copy(update={"extra": None})
    if extra is not None:
        facts = {"name": extra.name, **extra.facts()}
        if extra.uses_request:  # the one kind of original that depends on what is to be deleted
            request = recipe.request(dataset)
            facts["request"] = request.hash
        config = config.model_copy(update={"extra": facts})
    key = cache_key(
        "original",
        dataset.hash,
        name,
        config.canonical(),
        pretrained_hash(config),
        training.settings.model_dump_json(),
        seed,
        start_hash(training.start),
        engine.device_key(),
        code=_code(architecture, training.settings),
    )

    def make() -> tuple[Model, TrainingHistory]:
        model = initial_model(architecture, config, dataset.texts, seed, training.start)
        check_scopes(model, recipe.methods())
        inputs = PairInputs.of(dataset, model)
        pairs = dataset.text_rows(dataset.rows("train"))
        history = train(
            model,
            inputs,
            pairs,
            training.settings,
            engine,
            seed=seed,
            what=f"training the original ({recipe.task.name})",
            folder=work(key),
            forget=None if request is None else request.forget,
        )
        return model, history

    model, history = stored(key, f"the original ({recipe.task.name})", make, engine)
    return Trained(
        model, history, weights_hash(model.state_dict()), f"trained by this recipe ({key[:12]})", key, training
    )


def start_folder(recipe: Recipe, engine: Engine) -> Path | None:
    """Folder of the model that a recipe's training starts from: a model's, or that of another recipe's original."""
    if recipe.start is None:
        return None
    if Path(recipe.start).is_dir():
        return Path(recipe.start).resolve()
    other = load(Path(recipe.start))
    return cache_dir() / "models" / get_or_train_original(other, other.dataset(), engine).key


def start_hash(folder: Path | None) -> str:
    """Hash of the weights that a training starts from."""
    return hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest() if folder else ""


def get_or_unlearn(method: Method, original: Trained, data: UnlearningData, engine: Engine) -> Unlearned:
    """Outcome of a method; that of a stored control (Retrain) is looked up first, and Original is known already."""
    if not method.stored:
        return method(original.model, data, engine)
    if isinstance(method, Original):
        return Unlearned(original.model, original.history, 0.0, encoded_inputs(engine, original.model, data.inputs))
    key = outcome_key(method, original, data, engine)
    prepared = 0.0

    def make() -> tuple[Model, TrainingHistory]:
        nonlocal prepared
        result = method(original.model, UnlearningData(**{**vars(data), "folder": work(key)}), engine)
        prepared = result.prepare_seconds
        return result.model, result.history

    model, history = stored(key, f"{method.title} ({method.scope})", make, engine)
    inputs = frozen_inputs(engine, model, method.reads(data.inputs, model), method.scope)
    return Unlearned(model, history, prepared, inputs)


def outcome_key(method: Method, original: Trained, data: UnlearningData, engine: Engine) -> str:
    """What the outcome of a method that is kept depends on."""
    return cache_key(
        "outcome",
        method.name,
        method.model_dump_json(),
        original.key,
        original.model.config.canonical(),
        pretrained_hash(original.model.config),
        data.training.model_dump_json(),
        data.request.dataset.hash,
        data.request.hash,
        data.seed,
        data.initial_seed,
        start_hash(data.start),
        engine.device_key(),
        code=(type(method).__module__, *_code(type(original.model), data.training)),
    )


def is_stored(key: str) -> bool:
    """Whether the store has a trained model of this key."""
    return (cache_dir() / "models" / key / HISTORY_FILE).is_file()


def stored(
    key: str, what: str, make: Callable[[], tuple[Model, TrainingHistory]], engine: Engine
) -> tuple[Model, TrainingHistory]:
    """A trained model by what it depends on: from the store, or made and put there; other processes wait for it."""
    folder = cache_dir() / "models" / key
    with _alone(key, what, engine):
        if is_stored(key):
            logger.info("%s: found as trained before, not trained again (%s)", what, folder)
            history = TrainingHistory(**json.loads((folder / HISTORY_FILE).read_text()))
        else:
            model, history = make()
            model.save_pretrained(folder)
            write_file(folder / HISTORY_FILE, json.dumps(asdict(history)))
            for left in work(key).glob("*"):
                left.unlink()
    # What was saved is what everybody gets, now and the next time.
    return Model.from_pretrained(folder).to(engine.device), history


@contextmanager
def _alone(key: str, what: str, engine: Engine) -> Iterator[None]:
    """One process at a time; the lock of one that was killed is free."""
    lock = FileLock(cache_dir() / "locks" / key)
    Path(lock.lock_file).parent.mkdir(exist_ok=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("%s: another process trains it, waiting", what)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def get_or_predict(
    result: Unlearned, what: str, task: Task, request: Request, engine: Engine
) -> tuple[Predictions, float]:
    """Predictions of a model that many runs have in common, made once, and the seconds that this took.

    Args:
        result: The model and what it reads.
        what: How it reads: the name of a control and its settings, which may blank a modality.
        task: What is asked.
        request: The splits.
        engine: Device and precision.
    """
    key = cache_key(
        "predictions",
        what,
        weights_hash(result.model.state_dict()),
        result.model.config.canonical(),
        pretrained_hash(result.model.config),
        task.name,
        task.model_dump_json(),
        request.dataset.hash,
        request.hash,
        engine.device_key(),
        code=(__name__, type(task).__module__, type(result.model).__module__),
    )
    folder = cache_dir() / "predictions" / key
    if not folder.is_dir():
        began = time.perf_counter()
        predictions = task.predict(result.model, result.inputs, request, engine)
        with write_atomically(folder) as part:
            for split, arrays in predictions.items():
                np.savez(part / f"{split}.npz", **arrays)  # type: ignore[arg-type]
            (part / SECONDS_FILE).write_text(json.dumps(time.perf_counter() - began))
    return read_predictions(folder), float(json.loads((folder / SECONDS_FILE).read_text()))


def work(key: str) -> Path:
    """Where the checkpoints of a training are kept while it runs."""
    return cache_dir() / "work" / key


def pretrained_hash(config: ModelConfig) -> str:
    """Hash of the pretrained encoders that a configuration names, by folder or hub id."""
    sources = [getattr(value, "pretrained", None) for value in vars(config).values()]
    return " ".join(_source_hash(source) for source in sources if source)


def _source_hash(source: str) -> str:
    if not Path(source).is_dir():
        file = try_to_load_from_cache(source, "config.json")
        if not isinstance(file, str):
            return source  # not downloaded yet: nothing of it is in the cache either
        source = str(Path(file).parent)
    return folder_hash(Path(source))


def _code(architecture: type[Model], settings: TrainSettings) -> tuple[str, ...]:
    """Modules that decide how a model is trained."""
    extra = () if settings.extra is None else (type(settings.extra).__module__,)
    return (train.__module__, architecture.__module__, *extra)


def check_head(model: Model, task: Task) -> None:
    """Refuse a model whose head answers another question.

    Raises:
        InputError: It tells classes apart and the task is about matching pairs, or the other way round.
    """
    if bool(model.config.labels) != task.labelled:
        does = f"tells {', '.join(model.config.labels)} apart" if model.config.labels else "matches pairs (retrieval)"
        raise InputError(f"the task '{task.name}' cannot be asked of this {model.name} model, whose head {does}")


def check_scopes(model: Model, methods: Iterable[Method], request: Request | None = None) -> None:
    """Refuse a scope in which everything is frozen, and what else a method refuses, before anything slow starts.

    Raises:
        InputError: A method could change nothing, or does not apply to the model.
    """
    for method in methods:
        method.check(model, request)
