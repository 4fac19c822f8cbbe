"""One run, top to bottom: dataset, request, original, reference models, then each method, its metrics and the record.

The command line, ``bench``, ``study`` and :func:`multidelete.unlearn` all call :func:`run`.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from multidelete.data.batches import PairInputs
from multidelete.data.dataset import Dataset
from multidelete.data.requests import Request
from multidelete.judgement.card import card
from multidelete.judgement.contrasts import contrasts
from multidelete.judgement.deletion import record
from multidelete.membership.metrics import get_or_measure, metrics_of
from multidelete.membership.references import get_or_train, get_or_unlearn_references, halves_of
from multidelete.methods import Method, Original, Unlearned, UnlearningData
from multidelete.metrics.cost import peak_memory_mb, reset_peak_memory
from multidelete.metrics.forgetting import gap_to_retrain
from multidelete.models.base import Model, same_weights
from multidelete.models.wrapped import Wrapped
from multidelete.outcome import Outcome
from multidelete.recipe import Recipe, as_values
from multidelete.runs.reader import Run
from multidelete.runs.record import (
    RunFolder,
    check_out,
    check_same,
    command_line,
    provenance,
    row_key,
    write_gallery,
)
from multidelete.runs.row import Row
from multidelete.store.models import (
    Trained,
    check_scopes,
    get_or_predict,
    get_or_train_original,
    get_or_unlearn,
    hash_of,
    save_model,
    training_of,
)
from multidelete.tasks import Predictions
from multidelete.training.engine import Engine
from multidelete.utils.errors import InputError
from multidelete.utils.files import locked, write_file

logger = logging.getLogger(__name__)

ORIGINAL_KEY = row_key(0, Original.name, "all")  # Original is the first row of every run


@dataclass(frozen=True)
class Prepared:
    """Everything that the methods of a run share.

    Args:
        recipe: Validated recipe.
        request: D_f, D_r, validation and test.
        evaluated: The request merged with earlier ones; every model is evaluated on it.
        original: Model before unlearning.
        data: Inputs of the methods.
        halves: Request of each shadow or reference model, which is trained on ``retain``, but not on ``forget``.
        references: Predictions of the shadow and reference models.
        folder: Folder of rows and predictions.
        engine: Device, precision, progress.
    """

    recipe: Recipe
    request: Request
    evaluated: Request
    original: Trained
    data: UnlearningData
    halves: Mapping[str, Request]
    references: Mapping[str, Predictions]
    folder: RunFolder
    engine: Engine


def run(
    recipe: Recipe,
    out: Path,
    engine: Engine,
    *,
    resume: bool = False,
    dataset: Dataset | None = None,
    model: Model | None = None,
    command: str | None = None,
) -> Outcome:
    """Run a recipe; writes results, predictions, the record and the unlearned model to ``out``.

    Args:
        recipe: Recipe to run.
        out: New or empty folder, or the folder of the same run with ``resume``.
        engine: Device, precision, progress.
        resume: Resume an interrupted run.
        dataset: Dataset of the recipe, if it is in memory already.
        model: User-provided original of the recipe, if it is in memory already; it is not changed.
        command: Command to record for this run; by default the current command line.

    Raises:
        InputError: Recipe, data and folder are inconsistent, or a loss is not finite.
    """
    with locked(out):
        prepared = prepare(recipe, out, engine, resume=resume, dataset=dataset, model=model)
        recipe = prepared.recipe
        rows: dict[str, Row] = {}
        unlearned: Unlearned | None = None
        for index, method in enumerate([Original(), *recipe.methods()]):
            key = row_key(index, method.name, method.scope)
            row = prepared.folder.finished(key)
            if row is not None:
                logger.info("%s (%s): already finished, skipped", method.name, method.scope)
            else:
                result, row = run_method(prepared, key, method)
                if method is recipe.method:
                    unlearned = result
            rows[key] = row
        return finish(prepared, rows, command or command_line(), unlearned)


def prepare(
    recipe: Recipe,
    out: Path,
    engine: Engine,
    *,
    resume: bool = False,
    dataset: Dataset | None = None,
    model: Model | None = None,
) -> Prepared:
    """Check everything, then load or train the original and the reference models. See :func:`run` for arguments."""
    check_out(out, resume=resume)
    dataset = dataset or recipe.dataset()
    recipe.task.check(dataset)
    request = recipe.request(dataset)
    if not len(request.validation):
        recipe = without_selection(recipe)
    check_splits(request, recipe.methods())
    for note in (*dataset.notes, *request.notes):
        logger.warning(note)
    if not len(request.test):
        logger.warning(
            "dataset '%s' has no test split: without pairs that the model was not trained on, nothing can say whether "
            "the deleted ones look unseen; --unseen DATA brings such pairs",
            dataset.name,
        )
    seeds = recipe.seeds()
    halves = halves_of(dataset, recipe.membership, seeds["train"])
    known = identity(recipe, request)
    check_same(out, known)
    original = get_or_train_original(recipe, dataset, engine, model)
    check_scopes(original.model, recipe.methods(), request)
    training = training_of(recipe, original)
    inputs = PairInputs.of(dataset, original.model)  # reads all images: a damaged one stops the run here
    folder = RunFolder(out, {**known, "original_hash": original.hash}, resume=resume)
    data = UnlearningData(
        request,
        inputs,
        recipe.task,
        training.settings,
        seeds["train"],
        initial_seed=training.seed,
        start=training.start,
    )
    references = get_or_train(halves, original, data, engine, folder.predictions, recipe.membership.u_lira)
    return Prepared(recipe, request, request.with_earlier(), original, data, halves, references, folder, engine)


def run_method(prepared: Prepared, key: str, method: Method) -> tuple[Unlearned, Row]:
    """Unlearn with one method, predict, compute metrics, and write the row under its key."""
    recipe, engine, folder, original = prepared.recipe, prepared.engine, prepared.folder, prepared.original
    reset_peak_memory(engine.device)
    seeds = recipe.seeds()
    # Stored controls (Original, Retrain) use the original's training seed, not the seed of unlearning.
    data = replace(prepared.data, seed=seeds["train" if method.stored else "method"], folder=folder.work(key))
    result = get_or_unlearn(method, original, data, engine)
    if method.stored:
        reads = f"{method.name} {method.model_dump_json()}"
        predictions, seconds = get_or_predict(result, reads, recipe.task, prepared.evaluated, engine)
    else:
        began = time.perf_counter()
        predictions = recipe.task.predict(result.model, result.inputs, prepared.evaluated, engine)
        seconds = time.perf_counter() - began
    memory = peak_memory_mb(engine.device)
    metrics = measure(prepared, key, method, data, result, predictions)
    display, updated = method.display(), result.history.update_seconds
    row: Row = {
        "task": recipe.task.name,
        "data": prepared.request.dataset.name,
        "model": original.model.name,
        "method": method.name,
        "title": display["title"],
        "color": display["color"],
        "scope": method.scope,
        "forget_examples": len(prepared.request.all_ids),
        "seed": recipe.seed,
        "seeds": {"train": seeds["train"], "forget": seeds["forget"], "method": seeds["method"]},
        "settings": method.settings(data),
        "metrics": metrics,
        "cost": {
            **({"prepare_seconds": result.prepare_seconds, "update_seconds": updated} if method.timed else {}),
            "evaluate_seconds": result.history.selection_seconds + seconds,
            "peak_memory_mb": memory,
        },
    }
    if not method.stored and same_weights(result.model, original.model):
        row["unchanged"] = True
    if result.note:
        row["note"] = result.note
        logger.warning("%s (%s): %s", method.name, method.scope, result.note)
    if method is recipe.method:
        if recipe.merge and isinstance(result.model, Wrapped):
            result.model = result.model.merged()
        save_model(result.model, folder.path / "model", original.training)
    folder.add(key, row, predictions, result.history.lines)
    return result, row


def measure(
    prepared: Prepared,
    key: str,
    method: Method,
    data: UnlearningData,
    result: Unlearned,
    predictions: Predictions,
) -> dict[str, float]:
    """All metrics of a model except its gap to Retrain, from stored predictions."""
    recipe, engine, folder = prepared.recipe, prepared.engine, prepared.folder
    before = folder.predictions.read(ORIGINAL_KEY) or predictions
    seed = recipe.seeds()["train"]
    if prepared.references and method.name in recipe.membership.u_lira:
        seconds = result.prepare_seconds + result.history.update_seconds + result.history.selection_seconds
        references = get_or_unlearn_references(
            method, key, prepared.halves, prepared.original, data, engine, folder.predictions, seconds
        )
        metrics = metrics_of(recipe.task, predictions, before, prepared.references, references, recipe.membership, seed)
    elif method.stored:
        metrics = get_or_measure(recipe.task, predictions, before, prepared.references, recipe.membership, seed)
    else:
        metrics = metrics_of(recipe.task, predictions, before, prepared.references, {}, recipe.membership, seed)
    check_finite(metrics, f"{method.name} ({method.scope})")
    return metrics


def finish(prepared: Prepared, rows: Mapping[str, Row], command: str, unlearned: Unlearned | None) -> Outcome:
    """Compare every row with Retrain, write and seal the record, and return the outcome."""
    recipe, request, original, folder = prepared.recipe, prepared.request, prepared.original, prepared.folder
    retrain = next((row["metrics"] for row in rows.values() if row["method"] == "retrain"), None)
    found = contrasts(rows, recipe.task, folder.predictions.read, list(prepared.references))
    for key, row in rows.items():
        row["contrasts"] = found[key]
        if retrain is not None:
            row["metrics"]["gap_to_retrain"] = gap_to_retrain(row["metrics"], retrain)
    if not folder.sealed:
        write_gallery(folder.path, request, max(original.model.config.image_size, 96))
        facts: dict[str, Any] = {
            "recipe": as_values(recipe),
            "original_hash": original.hash,
            "original": original.source,
        }
        facts |= {"model_hash": hash_of(folder.path / "model"), "began": folder.began}
        known_ids = request.dataset.rows_by_id
        if not all(name in known_ids for name in request.all_ids):
            complete = sum(name in known_ids for name in request.ids)
            facts["single_texts"] = {"names": list(request.all_ids), "complete": complete}
        known = provenance(request, prepared.engine.device, command, **facts)
        text = card(tuple(rows.values()), 1 + bool(recipe.retrain), known, len(request.all_ids))
        write_file(folder.path / "model" / "README.md", text)
        deletion = record(Run(folder.path, tuple(rows.values()), known), request.ids, request.earlier_ids)
        folder.finish(list(rows), list(rows.values()), known, deletion)
    index = 1 + bool(recipe.retrain)  # after Original and Retrain
    key = list(rows)[index]
    return Outcome(
        tuple(rows.values()),
        index,
        request,
        folder.predictions.read(key),
        folder.history(key),
        folder.path,
        None if unlearned is None else unlearned.model,
    )


def without_selection(recipe: Recipe) -> Recipe:
    """A recipe whose methods keep their last checkpoint, for data without a validation split to select one."""

    def last(method: Method) -> Method:
        if not getattr(method, "evaluations", 0):
            return method
        logger.warning("%s keeps its last checkpoint: there is no validation split to select one", method.title)
        return type(method).model_validate({**method.model_dump(), "evaluations": 0})

    changed = {"method": last(recipe.method), "compare": tuple(map(last, recipe.compare))}
    return recipe.model_copy(update=changed)


def check_splits(request: Request, methods: Iterable[Method] = ()) -> None:
    """Check that a dataset has the splits for evaluation.

    Raises:
        InputError: The test split has a single example, or the validation split is too small for a method that selects
            its checkpoint there.
    """
    name = request.dataset.name
    if len(request.test) == 1:
        raise InputError(f"dataset '{name}' has one example in its test split; expected none, or at least 2")
    selecting = next((method for method in methods if getattr(method, "evaluations", 0)), None)
    if selecting is not None and len(request.validation) == 1:
        raise InputError(
            f"dataset '{name}' has one example in its validation split, "
            f"where {selecting.name} selects its checkpoint; "
            "add at least 2 (--validation or --unseen), or take the last checkpoint with method.evaluations=0"
        )


def check_finite(metrics: Mapping[str, float], name: str) -> None:
    """Check that metrics are finite, which detects diverged weights.

    Raises:
        InputError: A metric is not finite.
    """
    broken = next((key for key, value in metrics.items() if not math.isfinite(value)), None)
    if broken is not None:
        raise InputError(
            f"{name}: {broken} became {metrics[broken]}, the model's scores are not finite; "
            "a smaller learning rate or fewer epochs usually helps"
        )


def identity(recipe: Recipe, request: Request) -> dict[str, Any]:
    """Values that identify a run besides its original: recipe, data and deletion request."""
    values = json.loads(json.dumps(as_values(recipe)))
    return {"recipe": values, "data_hash": request.dataset.hash, "forget_hash": request.hash}
