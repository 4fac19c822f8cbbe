"""What verdicts rest on: shadow and reference models for membership attacks, and metrics from stored predictions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np

from multidelete.data.dataset import Dataset
from multidelete.data.requests import Request, resolve
from multidelete.membership.attacks import SHADOW, membership
from multidelete.methods import Method, Retrain, UnlearningData
from multidelete.recipe import MembershipSettings
from multidelete.report.tables import duration
from multidelete.runs.record import RunFolder
from multidelete.runs.store import Trained, get_or_predict, get_or_unlearn, is_stored, outcome_key, source_hash
from multidelete.tasks import Predictions, Task
from multidelete.training.engine import Engine, digest
from multidelete.utils.cache import cache_dir
from multidelete.utils.errors import InputError
from multidelete.utils.files import write_file
from multidelete.utils.randomness import derive


class HalfRetrain(Retrain):
    """Retrain, by the name under which progress tells it: D_f is half of the training examples here."""

    title: ClassVar[str] = "Model on half of the data"


def get_or_train(
    halves: Mapping[str, Request],
    original: Trained,
    data: UnlearningData,
    engine: Engine,
    folder: RunFolder,
    u_lira: Sequence[str] = (),
) -> dict[str, Predictions]:
    """Predictions of the shadow model and of the reference models: from the run, else from the store, else made.

    Args:
        halves: What :func:`halves_of` gave.
        original: What they are trained like.
        data: What the methods of the run work with.
        engine: Where to run.
        folder: Where their predictions are kept, under the names that they have here.
        u_lira: Methods that will run on each reference model, to be told with the cost.

    Returns:
        ``shadow``, ``reference-000`` ...; nothing where it is not known how the original was trained.
    """
    if halves and original.training is None:
        engine.progress.say(
            "how the original was trained is not known, so that no shadow or reference model can be made: "
            "membership attacks that need one are left out (a table [train] would tell)"
        )
        return {}
    missing = {name: replace(data, request=half) for name, half in halves.items() if not folder.predictions(name)}
    report_cost(missing, original, engine, u_lira)
    for name, own in missing.items():
        result = get_or_unlearn(HalfRetrain(), original, own, engine)
        predictions, _ = get_or_predict(result, "", data.task.scores_only(), own.request, engine)
        folder.keep(name, predictions)
    return {name: folder.predictions(name) for name in halves}


def get_or_unlearn_references(
    method: Method,
    key: str,
    halves: Mapping[str, Request],
    original: Trained,
    data: UnlearningData,
    engine: Engine,
    folder: RunFolder,
    seconds: float,
) -> dict[str, Predictions]:
    """Predictions of the reference models after a method made each forget what it knew of D_f: from the run, else made.

    Args:
        method: What is attacked.
        key: Of its row; their predictions are kept under names that begin with it.
        halves: What :func:`halves_of` gave.
        original: What the reference models are trained like.
        data: What it works with in the run.
        engine: Where to run.
        folder: The run's.
        seconds: That it took in the run, to tell about how long it will take.

    Returns:
        By the names of the reference models, of D_f whole and of what judges it.
    """
    result = {name: folder.predictions(f"{key}-{name}") for name in halves if name != SHADOW}
    merged = replace(data.request.with_earlier(), retain=data.request.retain[:0])
    missing = sum(not each for each in result.values())
    if missing:
        what = f"U-LiRA: {method.title} ({method.scope}) runs on {missing} reference model{'s' * (missing > 1)}"
        engine.progress.say(f"{what}, about {duration(missing * seconds)}")
    for number, (name, half) in enumerate(halves.items()):
        if name == SHADOW or result[name]:
            continue
        own = replace(data, request=half)
        model = get_or_unlearn(HalfRetrain(), original, own, engine).model
        reference = replace(original, model=model, key=outcome_key(HalfRetrain(), original, own, engine))
        known = np.isin(data.request.forget, half.retain)
        request = replace(
            half, forget=data.request.forget[known], retain=np.setdiff1d(half.retain, data.request.forget)
        )
        told = replace(
            data, request=request, seed=derive(data.seed, "u-lira", number), folder=data.folder and data.folder / name
        )
        outcome = get_or_unlearn(method, reference, told, engine)
        result[name] = data.task.scores_only().predict(outcome.model, outcome.inputs, merged, engine)
        folder.keep(f"{key}-{name}", result[name])
    return result


def metrics_of(
    task: Task,
    predictions: Predictions,
    original: Predictions,
    references: Mapping[str, Predictions],
    unlearned: Mapping[str, Predictions],
    settings: MembershipSettings,
    seed: int,
) -> dict[str, float]:
    """All metrics of one model but the gap to Retrain, from nothing but stored predictions.

    Args:
        task: What was asked.
        predictions: Of the model.
        original: Of the model before unlearning.
        references: What :func:`get_or_train` gave.
        unlearned: What :func:`get_or_unlearn_references` gave, where U-LiRA was asked for.
        settings: The recipe's.
        seed: Of the original's training: what runs have in common has the same intervals in all of them.
    """
    attacked = membership(predictions, original, references, unlearned, resamples=settings.resamples, seed=seed)
    return task.all_metrics(predictions, original) | attacked


def get_or_measure(
    task: Task,
    predictions: Predictions,
    original: Predictions,
    references: Mapping[str, Predictions],
    settings: MembershipSettings,
    seed: int,
) -> dict[str, float]:
    """:func:`metrics_of` a model that many runs have in common: from the store, where all it depends on is the same."""
    key = digest(
        "metrics",
        task.name,
        task.model_dump_json(),
        settings.model_dump_json(),
        seed,
        contents(predictions),
        contents(original),
        *(f"{name} {contents(each)}" for name, each in references.items()),
        source_hash("membership/*.py", "metrics/*.py", "tasks/*.py"),
    )
    path = cache_dir() / "metrics" / f"{key}.json"
    if not path.is_file():
        result = metrics_of(task, predictions, original, references, {}, settings, seed)
        write_file(path, json.dumps(result))
    metrics: dict[str, float] = json.loads(path.read_text())
    return metrics


def contents(predictions: Predictions) -> str:
    """Hash of all that predictions hold."""
    total = hashlib.sha256()
    for split, arrays in predictions.items():
        for name, values in arrays.items():
            total.update(f"{split} {name} {values.dtype} {values.shape}".encode())
            total.update(values.tobytes())
    return total.hexdigest()


def halves_of(dataset: Dataset, settings: MembershipSettings, seed: int) -> dict[str, Request]:
    """For each model by its name a request whose ``retain`` it is trained on, and whose ``forget`` it never sees.

    Halves are drawn from the training split by the seed of training, whatever is to be deleted: all runs of an original
    share their models. Examples that share an image, nodes or a group stay together. Reference models come in
    complementary pairs, so that each training example is out of exactly half of them.

    Raises:
        InputError: Nearly all examples belong together.
    """
    count = len(dataset.rows("train")) // 2

    def half(*purpose: str | int) -> Request:
        try:
            return resolve(dataset, count=count, seed=derive(seed, *purpose))
        except InputError as error:
            raise InputError(
                f"the training examples cannot be halved for a shadow or reference model ({error}); "
                "leave these out with membership.shadow=false membership.references=0"
            ) from error

    result = {SHADOW: half("shadow")} if settings.shadow else {}
    for i in range(0, settings.references, 2):
        first = half("reference", i)
        result |= {f"reference-{i:03d}": first, f"reference-{i + 1:03d}": first.complement()}
    return result


def report_cost(
    missing: Mapping[str, UnlearningData], original: Trained, engine: Engine, u_lira: Sequence[str] = ()
) -> None:
    """Say how many models have to be trained, and about how long that takes."""
    keys = [outcome_key(HalfRetrain(), original, own, engine) for own in missing.values()]
    new = sum(not is_stored(key) for key in keys)
    if not new:
        return
    seconds = original.history.update_seconds * new / 2
    engine.progress.say(
        f"membership attacks need {new} model{'s' * (new > 1)} trained on half of the data, about as long as "
        f"{new / 2:g} training{'s' * (new != 2)} of the original"
        + (f": {duration(seconds)}" if seconds else "")
        + (f"; for U-LiRA {' and '.join(u_lira)} will then run on each reference model" if u_lira else "")
    )
