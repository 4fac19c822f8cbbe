"""The flow, top to bottom: recipe, corpus, request, original, methods, predictions, metrics, record, report."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from multidelete.data.cache import cache_dir
from multidelete.data.corpus import Corpus
from multidelete.data.files import write_file
from multidelete.data.requests import Request
from multidelete.data.streams import PairInputs
from multidelete.engine import Engine, History, digest, weights_hash
from multidelete.errors import InputError
from multidelete.methods import Method, Unlearned, UnlearningData
from multidelete.metrics.cost import peak_memory_mb, reset_peak_memory
from multidelete.metrics.forgetting import gap_to_retrain
from multidelete.models.base import Model, ModelConfig
from multidelete.recipe import Recipe
from multidelete.record import RunFolder, check_out, check_same, command_line, provenance, row_key, write_gallery
from multidelete.report.page import write_report
from multidelete.training import train

TRAINING_FILE = "training.json"


def run(recipe: Recipe, out: Path, engine: Engine, *, resume: bool = False) -> list[dict[str, Any]]:
    """Run a recipe and leave results, predictions, the unlearned model and a report in ``out``.

    Args:
        recipe: What to run.
        out: A new or empty folder, or that of the same run with ``resume``.
        engine: Where to run.
        resume: Continue a run that was stopped.

    Returns:
        The rows of ``results.json``.
    """
    check_out(out, resume=resume)
    corpus = recipe.corpus()
    request = recipe.request(corpus)
    check_splits(request, recipe.methods())
    known = identity(recipe, request)
    check_same(out, known)
    original = find_or_train_original(recipe, corpus, engine)
    check_scopes(original.model, recipe.methods())
    inputs = PairInputs.of(corpus, original.model)
    folder = RunFolder(out, {**known, "original_hash": original.hash}, resume=resume)

    rows: list[dict[str, Any]] = []
    keys: list[str] = []
    for index, method in enumerate([None, *recipe.methods()]):
        name, scope = ("original", "all") if method is None else (method.name, method.scope)
        key = row_key(index, name, scope)
        row = folder.finished(key)
        if row is None:
            reset_peak_memory(engine.device)
            if method is None:
                made = Unlearned(original.model, original.history, 0.0, engine.encoded_inputs(original.model, inputs))
            else:
                data = UnlearningData(
                    request, inputs, recipe.task, recipe.train, recipe.seed, folder.work(key), recipe.seed
                )
                made = find_or_unlearn(method, original, data, engine)
            began = time.perf_counter()
            predictions = recipe.task.predict(made.model, made.inputs, request, engine)
            metrics = recipe.task.metrics(predictions)
            check_finite(metrics, f"{name} ({scope})")
            row = {
                "task": recipe.task.name,
                "data": corpus.name,
                "model": original.model.name,
                "method": name,
                "scope": scope,
                "forget_units": len(request.forget),
                "seed": recipe.seed,
                "settings": recipe.train.model_dump() if method is None else method.model_dump(exclude={"scope"}),
                "metrics": metrics,
                "cost": {
                    "prepare_seconds": made.prepare_seconds,
                    "update_seconds": made.history.update_seconds,
                    "evaluate_seconds": made.history.selection_seconds + time.perf_counter() - began,
                    "peak_memory_mb": peak_memory_mb(engine.device),
                },
            }
            if method is recipe.method:
                made.model.save_pretrained(out / "model")
            folder.add(key, row, predictions, made.history.lines)
        else:
            engine.progress.say(f"{name} ({scope}): finished before, not run again")
        rows.append(row)
        keys.append(key)

    reference = next((row["metrics"] for row in rows if row["method"] == "retrain"), None)
    if reference is not None:
        for row in rows:
            row["metrics"]["gap_to_retrain"] = gap_to_retrain(row["metrics"], reference)
    write_gallery(out, request, max(original.model.config.image_size, 96))
    facts = {"recipe": as_values(recipe), "original_hash": original.hash, "original": original.source}
    folder.finish(keys, rows, provenance(request, engine.device, command_line(), **facts))
    write_report([out], out)
    return rows


@dataclass
class Trained:
    """A model that was trained or found.

    Args:
        model: In eval mode.
        history: How it was trained; empty where it was brought.
        hash: sha256 over its weights.
        source: Where it came from, in words.
        key: What it depends on; the weights themselves where it was brought.
    """

    model: Model
    history: History
    hash: str
    source: str
    key: str


def find_or_train_original(recipe: Recipe, corpus: Corpus, engine: Engine) -> Trained:
    """The model that a recipe brings, or the one that it trains, found again where it was trained before."""
    if recipe.original is not None:
        model = Model.from_pretrained(recipe.original).to(engine.device)
        hashed = weights_hash(model.state_dict())
        return Trained(model, History(), hashed, f"brought: {recipe.original}", hashed)
    assert recipe.model is not None
    name, config = recipe.model
    architecture = recipe.architecture()
    key = digest(
        "original",
        corpus.hash,
        name,
        config.model_dump_json(),
        pretrained_hash(config),
        recipe.train.model_dump_json(),
        recipe.seed,
        place(engine),
    )

    def make() -> tuple[Model, History]:
        model = architecture.build(config, corpus.texts, recipe.seed)
        check_scopes(model, recipe.methods())
        inputs = PairInputs.of(corpus, model)
        pairs = corpus.text_rows(corpus.rows("train"))
        history = train(
            model,
            inputs,
            pairs,
            recipe.train,
            engine,
            seed=recipe.seed,
            what="training the original",
            folder=work(key),
        )
        return model, history

    model, history = stored(key, "the original", make, engine)
    return Trained(model, history, weights_hash(model.state_dict()), f"trained by this recipe ({key[:12]})", key)


def find_or_unlearn(method: Method, original: Trained, data: UnlearningData, engine: Engine) -> Unlearned:
    """Call a method, or find its outcome where it is one that is kept beside the originals (Retrain)."""
    if not method.stored:
        return method(original.model, data, engine)
    key = digest(
        method.name,
        method.model_dump_json(),
        original.key,
        original.model.config.model_dump_json(),
        pretrained_hash(original.model.config),
        data.training.model_dump_json(),
        data.request.corpus.hash,
        data.request.hash,
        data.seed,
        data.initial_seed,
        place(engine),
    )
    prepared = 0.0

    def make() -> tuple[Model, History]:
        nonlocal prepared
        made = method(original.model, UnlearningData(**{**vars(data), "folder": work(key)}), engine)
        prepared = made.prepare_seconds
        return made.model, made.history

    model, history = stored(key, f"{method.title} ({method.scope})", make, engine)
    return Unlearned(model, history, prepared, engine.frozen_inputs(model, data.inputs, method.scope))


def stored(key: str, what: str, make: Callable[[], tuple[Model, History]], engine: Engine) -> tuple[Model, History]:
    """A trained model by what it depends on: from the store, or made and put there."""
    folder = cache_dir() / "models" / key
    if (folder / TRAINING_FILE).is_file():
        engine.progress.say(f"{what}: found as trained before, not trained again ({folder})")
        history = History(**json.loads((folder / TRAINING_FILE).read_text()))
        return Model.from_pretrained(folder).to(engine.device), history
    model, history = make()
    model.save_pretrained(folder)
    write_file(folder / TRAINING_FILE, json.dumps(asdict(history)))
    for left in work(key).glob("*"):
        left.unlink()
    # What was saved is what everybody gets, now and the next time.
    return Model.from_pretrained(folder).to(engine.device), history


def work(key: str) -> Path:
    """Where the checkpoints of a training are kept while it runs."""
    return cache_dir() / "work" / key


def place(engine: Engine) -> str:
    """What a trained model depends on beside its recipe: precision, device, and the code that trains."""
    return f"{engine.device.type} {engine.dtype()} {code_hash()}"


def pretrained_hash(config: ModelConfig) -> str:
    """Hash of the pretrained weights that a configuration names by folder; a hub id stands for itself."""
    sources = [getattr(value, "pretrained", None) for value in vars(config).values()]
    files = [path for source in sources if source for path in sorted(Path(source).glob("*.safetensors"))]
    return digest(*(hashlib.sha256(path.read_bytes()).hexdigest() for path in files))


def code_hash() -> str:
    """Hash of the sources that decide how a model is trained, so that a model of other code is never taken for it."""
    source = Path(__file__).parent
    rooms = (
        "engine.py",
        "training.py",
        "randomness.py",
        "models/*.py",
        "data/streams.py",
        "methods/retrain.py",
    )
    return digest(*(path.read_text() for room in rooms for path in sorted(source.glob(room))))


def check_splits(request: Request, methods: Iterable[Method] = ()) -> None:
    """Refuse a corpus without the splits that judge.

    Raises:
        InputError: There is no test split, or no valid split for a method that chooses its checkpoint there.
    """
    name = request.corpus.name
    if len(request.test) < 2:
        raise InputError(f"corpus '{name}' has {len(request.test)} units in its test split; at least 2 are needed")
    choosing = next((method for method in methods if getattr(method, "evaluations", 0)), None)
    if choosing is not None and len(request.valid) < 2:
        raise InputError(
            f"corpus '{name}' has {len(request.valid)} units in its valid split, where {choosing.name} chooses its "
            "checkpoint; add at least 2, or take the last checkpoint with method.evaluations=0"
        )


def check_scopes(model: Model, methods: Iterable[Method]) -> None:
    """Refuse a scope in which everything is frozen, before anything slow starts.

    Raises:
        InputError: A method could change nothing.
    """
    for method in methods:
        model.parameters_of(method.scope)


def check_finite(metrics: Mapping[str, float], what: str) -> None:
    """Refuse scores that are no numbers: weights that were driven to infinity show here at the latest.

    Raises:
        InputError: A metric is not finite.
    """
    wrong = next((key for key, value in metrics.items() if not math.isfinite(value)), None)
    if wrong is not None:
        raise InputError(
            f"{what}: {wrong} became {metrics[wrong]}, the model's scores are not finite; "
            "a smaller learning rate or fewer epochs usually helps"
        )


def identity(recipe: Recipe, request: Request) -> dict[str, Any]:
    """What a run is, beside its original: another recipe, other data or another request is another run."""
    values = json.loads(json.dumps(as_values(recipe)))
    return {"recipe": values, "data_hash": request.corpus.hash, "forget_hash": request.hash}


def as_values(recipe: Recipe) -> dict[str, Any]:
    """A recipe as plain values, complete with every default."""
    named: Mapping[str, Any] = {
        "task": {"name": recipe.task.name, **recipe.task.model_dump(mode="json")},
        "data": recipe.data,
        "original": recipe.original,
        "model": recipe.model and {"name": recipe.model[0], **recipe.model[1].model_dump(mode="json")},
        "train": recipe.train.model_dump(mode="json"),
        "forget": recipe.forget.model_dump(mode="json", exclude_none=True),
        "method": {"name": recipe.method.name, **recipe.method.model_dump(mode="json")},
        "compare": [{"name": each.name, **each.model_dump(mode="json")} for each in recipe.compare],
        "retrain": recipe.retrain,
        "seed": recipe.seed,
        "precision": recipe.precision,
    }
    return {key: value for key, value in named.items() if value is not None}
