"""The flow, top to bottom: recipe, dataset, request, original, methods, predictions, metrics, record, report."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from multidelete.data.batches import PairInputs
from multidelete.data.dataset import Dataset
from multidelete.data.requests import Request
from multidelete.membership.references import (
    get_or_measure,
    get_or_train,
    get_or_unlearn_references,
    halves_of,
    metrics_of,
)
from multidelete.methods import Method, Unlearned, UnlearningData
from multidelete.metrics.cost import peak_memory_mb, reset_peak_memory
from multidelete.metrics.forgetting import gap_to_retrain
from multidelete.recipe import Recipe, as_values
from multidelete.report.deletion import record, write_deletion
from multidelete.report.page import write_report
from multidelete.runs.reader import Run
from multidelete.runs.record import RunFolder, check_out, check_same, command_line, provenance, row_key, write_gallery
from multidelete.runs.store import (
    check_scopes,
    get_or_predict,
    get_or_train_original,
    get_or_unlearn,
    hash_of,
    no_training,
    save_model,
)
from multidelete.tasks import Predictions
from multidelete.training.engine import Engine
from multidelete.utils.errors import InputError


def run(
    recipe: Recipe,
    out: Path,
    engine: Engine,
    *,
    resume: bool = False,
    dataset: Dataset | None = None,
    command: str | None = None,
    page: bool = True,
) -> list[dict[str, Any]]:
    """Run a recipe and leave results, predictions, the unlearned model and a report in ``out``.

    Args:
        recipe: What to run.
        out: A new or empty folder, or that of the same run with ``resume``.
        engine: Where to run.
        resume: Continue a run that was stopped.
        dataset: The recipe's data, where they were read before.
        command: The command that asks for this run; by default the one that was typed.
        page: Whether to draw the report. Many runs that are looked at together do not each need one.

    Returns:
        The rows of ``results.json``.
    """
    check_out(out, resume=resume)
    dataset = dataset or recipe.dataset()
    recipe.task.check(dataset)
    request = recipe.request(dataset)
    merged = request.with_earlier()
    check_splits(request, recipe.methods())
    seeds = recipe.seeds()
    halves = halves_of(dataset, recipe.membership, seeds["train"])
    known = identity(recipe, request)
    check_same(out, known)
    original = get_or_train_original(recipe, dataset, engine)
    check_scopes(original.model, recipe.methods(), request)
    training = original.training or no_training(recipe)
    inputs = PairInputs.of(dataset, original.model)
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
    references = get_or_train(halves, original, data, engine, folder, recipe.membership.u_lira)

    before: Predictions = {}
    rows: list[dict[str, Any]] = []
    keys: list[str] = []
    for index, method in enumerate([None, *recipe.methods()]):
        name, scope = ("original", "all") if method is None else (method.name, method.scope)
        key = row_key(index, name, scope)
        row = folder.finished(key)
        if row is None:
            reset_peak_memory(engine.device)
            unlearned: dict[str, Predictions] = {}
            if method is None:
                result = Unlearned(original.model, original.history, 0.0, engine.encoded_inputs(original.model, inputs))
            else:
                # What is stored is trained as the original was.
                seed = seeds["train" if method.stored else "method"]
                own = replace(data, seed=seed, folder=folder.work(key))
                result = get_or_unlearn(method, original, own, engine)
            if method is None or method.stored:  # many runs have this model in common
                reads = "" if method is None else f"{name} {method.model_dump_json()}"
                predictions, seconds = get_or_predict(result, reads, recipe.task, merged, engine)
            else:
                began = time.perf_counter()
                predictions = recipe.task.predict(result.model, result.inputs, merged, engine)
                seconds = time.perf_counter() - began
            memory = peak_memory_mb(engine.device)
            if method is not None and references and name in recipe.membership.u_lira:
                took = result.prepare_seconds + result.history.update_seconds + result.history.selection_seconds
                unlearned = get_or_unlearn_references(method, key, halves, original, own, engine, folder, took)
            membership = (recipe.task, predictions, before or predictions, references)
            if (method is None or method.stored) and not unlearned:
                metrics = get_or_measure(*membership, recipe.membership, seeds["train"])
            else:
                metrics = metrics_of(*membership, unlearned, recipe.membership, seeds["train"])
            check_finite(metrics, f"{name} ({scope})")
            row = {
                "task": recipe.task.name,
                "data": dataset.name,
                "model": original.model.name,
                "method": name,
                "scope": scope,
                "forget_examples": len(merged.forget),
                "seed": recipe.seed,
                "seeds": seeds,
                "settings": training.settings.model_dump() if method is None else method.model_dump(exclude={"scope"}),
                "metrics": metrics,
                "cost": {
                    "prepare_seconds": result.prepare_seconds,
                    "update_seconds": result.history.update_seconds,
                    "evaluate_seconds": result.history.selection_seconds + seconds,
                    "peak_memory_mb": memory,
                },
            }
            if method is recipe.method:
                save_model(result.model, out / "model", original.training)
            folder.add(key, row, predictions, result.history.lines)
        else:
            engine.progress.say(f"{name} ({scope}): finished before, not run again")
        before = before or folder.predictions(key)  # the original's, which is the first
        rows.append(row)
        keys.append(key)

    reference = next((row["metrics"] for row in rows if row["method"] == "retrain"), None)
    if reference is not None:
        for row in rows:
            row["metrics"]["gap_to_retrain"] = gap_to_retrain(row["metrics"], reference)
    if not folder.sealed:
        write_gallery(out, request, max(original.model.config.image_size, 96))
        facts = {"recipe": as_values(recipe), "original_hash": original.hash, "original": original.source}
        facts |= {"model_hash": hash_of(out / "model"), "began": folder.began}
        told = provenance(request, engine.device, command or command_line(), **facts)
        earlier = [dataset.examples[row].id for row in request.earlier]
        folder.finish(keys, rows, told, record(Run(out, tuple(rows), told), request.ids, earlier))
    if page:
        write_report([Run.load(out)], out)
    write_deletion(out)
    return rows


def check_splits(request: Request, methods: Iterable[Method] = ()) -> None:
    """Refuse a dataset without the splits that judge.

    Raises:
        InputError: There is no test split, or no validation split for a method that chooses its checkpoint there.
    """
    name = request.dataset.name
    if len(request.test) < 2:
        raise InputError(f"dataset '{name}' has {len(request.test)} examples in its test split; at least 2 are needed")
    choosing = next((method for method in methods if getattr(method, "evaluations", 0)), None)
    if choosing is not None and len(request.validation) < 2:
        raise InputError(
            f"dataset '{name}' has {len(request.validation)} examples in its validation split, "
            f"where {choosing.name} chooses its checkpoint; "
            "add at least 2, or take the last checkpoint with method.evaluations=0"
        )


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
    return {"recipe": values, "data_hash": request.dataset.hash, "forget_hash": request.hash}
