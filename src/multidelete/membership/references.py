"""Shadow and reference models: trained like the original, on one half of its training examples."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np

from multidelete.data.dataset import Dataset
from multidelete.data.requests import NO_ROWS, Request, resolve
from multidelete.membership.attacks import SHADOW
from multidelete.methods import Method, Retrain, UnlearningData
from multidelete.recipe import MembershipSettings
from multidelete.store.models import Trained, get_or_predict, get_or_unlearn, is_stored, outcome_key
from multidelete.store.predictions import PredictionFolder
from multidelete.tasks import Predictions
from multidelete.training.engine import Engine
from multidelete.utils.errors import InputError
from multidelete.utils.format import duration
from multidelete.utils.randomness import derive

logger = logging.getLogger(__name__)


class HalfRetrain(Retrain):
    """Retrain on one half of the training examples, with its own progress label."""

    title: ClassVar[str] = "Model on half of the data"


def halves_of(dataset: Dataset, settings: MembershipSettings, seed: int) -> dict[str, Request]:
    """One request for each shadow and reference model, which is trained on ``retain`` and never reads ``forget``.

    Halves depend on the training split and the training seed, not on the deletion request, so all runs of an original
    share these models. Examples that share an image, nodes or a group stay together. Reference models come in
    complementary pairs, so half of them were not trained on a given training example.

    Raises:
        InputError: Nearly all examples belong to one group.
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

    halves = {SHADOW: half("shadow")} if settings.shadow else {}
    for i in range(0, settings.references, 2):
        first = half("reference", i)
        halves |= {f"reference-{i:03d}": first, f"reference-{i + 1:03d}": first.complement()}
    return halves


def get_or_train(
    halves: Mapping[str, Request],
    original: Trained,
    data: UnlearningData,
    engine: Engine,
    folder: PredictionFolder,
    u_lira: Sequence[str] = (),
) -> dict[str, Predictions]:
    """Predictions of the shadow and reference models: read from the run, else from the store, else trained.

    Args:
        halves: See :func:`halves_of`.
        original: Original, whose training recipe is used.
        data: Data of the run's methods.
        engine: Device, precision, progress.
        folder: Folder of the run's predictions; the names in ``halves`` are the keys.
        u_lira: Methods that will run on each reference model, for the message about the cost.

    Returns:
        ``shadow``, ``reference-000`` ...; empty if the original's training recipe is unknown.
    """
    if halves and not original.repeatable:
        logger.info(
            "the original's training recipe is not known: no shadow or reference model can be trained, and membership "
            "attacks that need one are left out (add a table [train] to the recipe)"
        )
        return {}
    missing = {name: replace(data, request=half) for name, half in halves.items() if not folder.read(name)}
    _report_cost(missing, original, engine, u_lira)
    for name, own in missing.items():
        result = get_or_unlearn(HalfRetrain(), original, own, engine)
        predictions, _ = get_or_predict(result, "", data.task.scores_only(), own.request, engine)
        folder.write(name, predictions)
    return {name: folder.read(name) for name in halves}


def get_or_unlearn_references(
    method: Method,
    key: str,
    halves: Mapping[str, Request],
    original: Trained,
    data: UnlearningData,
    engine: Engine,
    folder: PredictionFolder,
    seconds: float,
) -> dict[str, Predictions]:
    """Predictions of the reference models after a method unlearned D_f: read from the run, else unlearned.

    Args:
        method: Method under attack.
        key: Key of its row, the prefix of the predictions' names.
        halves: See :func:`halves_of`.
        original: Original, whose training recipe the reference models use.
        data: Data of the method in the run.
        engine: Device, precision, progress.
        folder: Predictions of the run.
        seconds: Duration of the method in the run, for the message about the cost.

    Returns:
        For each reference model its predictions on all of D_f, validation and test.
    """
    results = {name: folder.read(f"{key}-{name}") for name in halves if name != SHADOW}
    evaluated = replace(data.request.with_earlier(), retain_pairs=NO_ROWS)
    missing = sum(not each for each in results.values())
    if missing:
        what = f"U-LiRA: {method.title} ({method.scope}) runs on {missing} reference model{'s' * (missing > 1)}"
        logger.info("%s, about %s", what, duration(missing * seconds))
    for number, (name, half) in enumerate(halves.items()):
        if name == SHADOW or results[name]:
            continue
        own = replace(data, request=half)
        model = get_or_unlearn(HalfRetrain(), original, own, engine).model
        reference = replace(original, model=model, key=outcome_key(HalfRetrain(), original, own, engine))
        forget = data.request.forget_pairs
        forget = forget[np.isin(forget, half.retain_pairs)]  # it can forget only what it was trained on
        request = replace(half, forget_pairs=forget, retain_pairs=np.setdiff1d(half.retain_pairs, forget))
        given = replace(
            data, request=request, seed=derive(data.seed, "u-lira", number), folder=data.folder and data.folder / name
        )
        result = get_or_unlearn(method, reference, given, engine)
        results[name] = data.task.scores_only().predict(result.model, result.inputs, evaluated, engine)
        folder.write(f"{key}-{name}", results[name])
    return results


def _report_cost(
    missing: Mapping[str, UnlearningData], original: Trained, engine: Engine, u_lira: Sequence[str]
) -> None:
    """Report how many models will be trained, and the estimated time."""
    keys = [outcome_key(HalfRetrain(), original, own, engine) for own in missing.values()]
    new = sum(not is_stored(key) for key in keys)
    if not new:
        return
    seconds = original.history.update_seconds * new / 2
    logger.info(
        f"membership attacks need {new} model{'s' * (new > 1)} trained on half of the data, about as long as "
        f"{new / 2:g} training{'s' * (new != 2)} of the original"
        + (f": {duration(seconds)}" if seconds else "")
        + (f"; for U-LiRA {' and '.join(u_lira)} will then run on each reference model" if u_lira else "")
    )
