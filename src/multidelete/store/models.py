"""Trained models: trained once, stored under a key of everything that they depend on, with their training settings."""

from __future__ import annotations

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
from huggingface_hub.errors import HFValidationError
from pydantic import BaseModel, ValidationError

from multidelete.data.batches import PairInputs
from multidelete.data.dataset import Dataset
from multidelete.data.requests import Request
from multidelete.methods import Method, Original, Unlearned, UnlearningData
from multidelete.models.base import Model
from multidelete.models.config import ModelConfig
from multidelete.models.folder import model_folder
from multidelete.recipe import Recipe, load
from multidelete.store.predictions import read_predictions
from multidelete.tasks import Predictions, Task
from multidelete.training.engine import Engine
from multidelete.training.extras import check_extra
from multidelete.training.features import encoded_inputs, frozen_inputs
from multidelete.training.loop import TrainingHistory
from multidelete.training.original import TrainSettings, initial_model, train
from multidelete.utils.cache import cache_dir, has_entry, new_entry
from multidelete.utils.errors import InputError
from multidelete.utils.files import write_file
from multidelete.utils.keys import cache_key, folder_hash, weights_hash

logger = logging.getLogger(__name__)

TRAINING_FILE = "training.json"
HISTORY_FILE = "history.json"
SECONDS_FILE = "seconds.json"


@dataclass
class Trained:
    """A trained or user-provided model.

    Args:
        model: Model in eval mode.
        history: Training history; empty if the model is user-provided.
        hash: sha256 over the weights.
        source: Description of the origin.
        key: Key in the store; the hash of the weights if the model is user-provided.
        training: Training settings, if known.
    """

    model: Model
    history: TrainingHistory
    hash: str
    source: str
    key: str
    training: Training | None

    @property
    def repeatable(self) -> bool:
        """See :func:`repeatable`."""
        return self.training is not None and repeatable(self.model, self.training.settings, self.training.start)


class Training(BaseModel):
    """Training settings of a model, stored in its folder, so that Retrain can use the same recipe.

    Args:
        settings: Training settings.
        seed: Seed of the initial weights.
        start: Folder of the start model, if any.
    """

    settings: TrainSettings
    seed: int = 0
    start: Path | None = None


def repeatable(model: Model, settings: TrainSettings | None, start: str | Path | None) -> bool:
    """Whether a training can be repeated: its settings, and the model that it started from, are known."""
    # A pretrained model that was trained from scratch would be no reference for one that was fine-tuned.
    return settings is not None and (start is not None or not model.fine_tuned)


def save_model(model: Model, folder: Path, training: Training | None) -> None:
    """Write a model, together with the training settings of its original."""
    model.save_pretrained(folder)
    if training is not None and not model.fine_tuned:  # a folder of transformers stays one
        write_file(folder / TRAINING_FILE, training.model_dump_json(indent=2) + "\n")


def hash_of(folder: Path) -> str:
    """sha256 over the weights of the model in a folder, loaded as users load it.

    Raises:
        InputError: There is no model, or it is damaged.
    """
    return weights_hash(Model.from_pretrained(folder).state_dict())


def read_training(folder: Path) -> Training | None:
    """Read the training settings of a model, if its folder has them.

    Raises:
        InputError: The file is damaged.
    """
    path = folder / TRAINING_FILE
    if not path.is_file():
        return None
    try:
        return Training.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is damaged: expected training settings ({str(error).splitlines()[0]})") from error


def training_of(recipe: Recipe, original: Trained) -> Training:
    """How the original was trained; default settings if that is unknown and no method needs it.

    Raises:
        InputError: A method needs the settings, or the start, of a training that are unknown.
    """
    for method in recipe.methods():
        hint = ", or skip Retrain with --no-retrain" if method.name == "retrain" else ""
        if method.needs_training and original.training is None:
            raise InputError(
                f"the training settings of '{recipe.original}' are unknown, and {method.name} needs them; add [train] "
                f"(or train.epochs=...){hint}"
            )
        if method.needs_start and not original.repeatable:
            raise InputError(
                f"it is unknown what '{recipe.original}' was fine-tuned from, and {method.name} starts from there; "
                f"give --base{hint}"
            )
    return original.training or Training(settings=TrainSettings())


def get_or_train_original(recipe: Recipe, dataset: Dataset, engine: Engine, model: Model | None = None) -> Trained:
    """The original of a recipe: user-provided, from the store, or newly trained.

    Args:
        recipe: Recipe of the run.
        dataset: Dataset of the recipe.
        engine: Device, precision, progress.
        model: User-provided model, if it is in memory; it is moved to the device.
    """
    seed = recipe.seeds()["train"]
    if recipe.original is not None:
        model = (model or Model.from_pretrained(recipe.original, recipe.processor)).to(engine.device).eval()
        recipe.task.check(dataset, type(model))
        check_head(model, recipe.task)
        hashed, training = weights_hash(model.state_dict()), read_training(Path(recipe.original))
        start = start_folder(recipe, engine)
        if recipe.train is not None or start is not None:
            known = training or Training(settings=TrainSettings(), seed=seed)
            given = {"settings": recipe.train, "start": start}
            training = known.model_copy(update={key: value for key, value in given.items() if value is not None})
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
        if extra.uses_request:  # only such originals depend on the deletion request
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
        # The vocabulary of a word-level tokenizer holds no word that only validation or test has.
        texts = [dataset.texts[row] for row in dataset.learned.tolist()]
        model = initial_model(architecture, config, texts, seed, training.start)
        check_scopes(model, recipe.methods())
        inputs = PairInputs.of(dataset, model)
        pairs = dataset.learned
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
    source = f"trained by this recipe ({key[:12]})"
    return Trained(model, history, weights_hash(model.state_dict()), source, key, training)


def start_folder(recipe: Recipe, engine: Engine) -> Path | None:
    """Folder of the start model of a recipe's training, which may be the original of another recipe."""
    if recipe.start is None:
        return None
    if not recipe.start.endswith(".toml"):
        return model_folder(recipe.start).resolve()
    other = load(Path(recipe.start))
    return cache_dir() / "models" / get_or_train_original(other, other.dataset(), engine).key


def start_hash(folder: Path | None) -> str:
    """Hash of the start model's weights."""
    return folder_hash(folder) if folder else ""


def get_or_unlearn(method: Method, original: Trained, data: UnlearningData, engine: Engine) -> Unlearned:
    """Result of a method; stored controls (Retrain) are looked up in the store, Original is already known."""
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
    """Store key of the result of a method."""
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
    """Whether the store has a trained model with this key."""
    return has_entry(cache_dir() / "models" / key)


def stored(
    key: str, what: str, make: Callable[[], tuple[Model, TrainingHistory]], engine: Engine
) -> tuple[Model, TrainingHistory]:
    """Load a trained model from the store, or train and store it; other processes wait."""
    folder = cache_dir() / "models" / key
    with _alone(key, what, engine):
        if is_stored(key):
            logger.info("%s: trained before, loaded from the store (%s)", what, folder)
            history = TrainingHistory(**json.loads((folder / HISTORY_FILE).read_text()))
        else:
            model, history = make()
            with new_entry(folder) as part:
                model.save_pretrained(part)
                (part / HISTORY_FILE).write_text(json.dumps(asdict(history)))
            for left in work(key).glob("*"):
                left.unlink()
    # Always use the saved model, so that the first run equals later ones.
    return Model.from_pretrained(folder).to(engine.device), history


@contextmanager
def _alone(key: str, what: str, engine: Engine) -> Iterator[None]:
    """Lock a key for one process at a time; the lock of a killed process is free."""
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
    """Predictions of a model that many runs share, computed once, and the seconds of the computation.

    Args:
        result: Model and its inputs.
        what: Name and settings of a control, which may blank a modality.
        task: Task.
        request: Request with the splits.
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
    if not has_entry(folder):
        began = time.perf_counter()
        predictions = task.predict(result.model, result.inputs, request, engine)
        with new_entry(folder) as part:
            for split, arrays in predictions.items():
                np.savez(part / f"{split}.npz", **arrays)  # type: ignore[arg-type]
            (part / SECONDS_FILE).write_text(json.dumps(time.perf_counter() - began))
    return read_predictions(folder), float(json.loads((folder / SECONDS_FILE).read_text()))


def work(key: str) -> Path:
    """Folder of the checkpoints of a training."""
    return cache_dir() / "work" / key


def pretrained_hash(config: ModelConfig) -> str:
    """Hash of the pretrained models that a configuration names, by folder or hub id."""
    parts = (config, *vars(config).values())
    return " ".join(_source_hash(source) for part in parts if (source := getattr(part, "pretrained", None)))


def _source_hash(source: str) -> str:
    if not Path(source).is_dir():
        try:
            file = try_to_load_from_cache(source, "config.json")
        except HFValidationError:  # neither a folder nor an id: refused where it is loaded
            file = None
        if not isinstance(file, str):
            return source  # not downloaded yet: nothing of it is in the cache either
        source = str(Path(file).parent)
    return folder_hash(Path(source))


def _code(architecture: type[Model], settings: TrainSettings) -> tuple[str, ...]:
    """Modules that decide how a model is trained."""
    extra = () if settings.extra is None else (type(settings.extra).__module__,)
    return (train.__module__, architecture.__module__, *extra)


def check_head(model: Model, task: Task) -> None:
    """Check that the head of a model fits the task.

    Raises:
        InputError: The model classifies and the task matches pairs, or vice versa.
    """
    if bool(model.config.labels) != task.labelled:
        does = f"classifies {', '.join(model.config.labels)}" if model.config.labels else "matches pairs (retrieval)"
        raise InputError(f"the task '{task.name}' does not fit this {model.name} model, whose head {does}")


def check_scopes(model: Model, methods: Iterable[Method], request: Request | None = None) -> None:
    """Check that all methods apply to a model, before anything slow starts.

    Raises:
        InputError: The scope of a method is frozen, or the method does not apply to the model.
    """
    for method in methods:
        method.check(model, request)
