"""Verification of a run's record: recomputes its hashes and metrics from the files of the run."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

from multidelete.data.dataset import Dataset
from multidelete.data.readers import read
from multidelete.data.requests import hash_of_ids, resolve
from multidelete.judgement.deletion import read_record, record
from multidelete.judgement.recompute import GAP, recomputed, recomputed_contrasts
from multidelete.runs.bench_folder import cell_folders, is_bench
from multidelete.runs.reader import Run
from multidelete.runs.record import (
    HISTORY_FILE,
    IDENTITY_FILE,
    RESULTS_FILE,
    commit,
    differences,
    own_version,
    read_identity,
)
from multidelete.runs.row import values_of
from multidelete.runs.seal import DELETION_FILE, SUMS_FILE, WORK, digest_of, read_seal, sums
from multidelete.store.models import hash_of
from multidelete.store.predictions import read_predictions
from multidelete.tasks import Predictions
from multidelete.utils.errors import InputError

Answers = Iterator[tuple[bool | None, str]]  # holds, message
Look = Callable[..., Answers]

ROUNDING = 1e-12  # relative tolerance; the order of sums may differ between processors and numpy versions


@dataclass(frozen=True)
class Check:
    """Result of one check.

    Args:
        what: Name of the checked part.
        holds: Whether it is as recorded; None if that cannot be checked.
        words: Message.
    """

    what: str
    holds: bool | None
    words: str


def verify(folder: Path, digest: str | None = None, extra: Mapping[str, Look] | None = None) -> Iterator[Check]:
    """Check the record of a run, or of every cell of a bench.

    Args:
        folder: Folder of the run or the bench.
        digest: Digest that the run printed when it finished, if known.
        extra: Further checks of a run by name, e.g. of its pages.

    Raises:
        InputError: There is no finished run, or the digest is malformed.
    """
    digest = digest and digest.strip().lower()
    if digest is not None and not re.fullmatch("[0-9a-f]{64}", digest):
        raise InputError(f"--digest is the line of 64 digits and letters a-f that the run printed, not {digest!r}")
    _dataset.cache_clear()  # the data may have changed since the last call
    if is_bench(folder):
        if digest is not None:
            raise InputError(f"'{folder}' is a bench, and --digest belongs to one run: give the folder of its cell")
        return _bench(folder, extra or {})
    if not any((folder / name).is_file() for name in (SUMS_FILE, RESULTS_FILE)):
        Run.load(folder)  # raises an error that names the missing file
    return _run(folder, digest, extra or {})


def _bench(folder: Path, extra: Mapping[str, Look]) -> Iterator[Check]:
    for cell in cell_folders(folder):
        if not (cell / RESULTS_FILE).is_file() and not (cell / SUMS_FILE).is_file():
            yield Check(cell.name, None, "has not run")
            continue
        for check in _run(cell, None, extra):
            yield Check(f"{cell.name}: {check.what}", check.holds, check.words)


def _run(folder: Path, digest: str | None, extra: Mapping[str, Look]) -> Iterator[Check]:
    yield _digest(folder, digest)
    yield from _checked("files", _files, folder)
    try:
        run = Run.load(folder)
    except InputError as error:
        yield Check("results", False, str(error))
        return
    yield from _checked("results", _results, run)
    yield from _checked("history", _history, run)
    for index in range(len(run.rows)):
        yield from _checked(f"metrics of {run.key(index)}", _metrics, run, index)
    for what, look in (*PARTS.items(), *extra.items()):
        yield from _checked(what, look, run)


def _checked(what: str, look: Look, *where: Any) -> Iterator[Check]:
    """Results of the checks of one part; an exception is a failed check."""
    try:
        for holds, words in look(*where):
            yield Check(what, holds, words)
    except Exception as error:  # a changed file can cause any exception in its reader
        reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        yield Check(what, False, f"cannot be read: {' '.join(reason.split())}")


def _digest(folder: Path, given: str | None) -> Check:
    own = digest_of(folder)
    if own is None:
        return Check("digest", False, f"{SUMS_FILE} is missing: a run writes this list of its files when it is done")
    if given is None:
        return Check(
            "digest", None, f"{own}; --digest with the line that the run printed also detects a replaced record"
        )
    if given != own:
        return Check("digest", False, f"expected {given}, found {own}: this is another record")
    return Check("digest", True, f"{own}, as expected")


def _files(folder: Path) -> Answers:
    """Check that no file was changed, added or removed."""
    recorded, result = read_seal(folder), sums(folder)
    for name in sorted(recorded.keys() | result.keys()):
        if name not in result:
            yield False, f"{name} is missing"
        elif name not in recorded:
            yield False, f"{name} was added"
        elif recorded[name] != result[name]:
            yield False, f"{name} was changed: sha256 recorded {recorded[name]}, found {result[name]}"
    if recorded == result:
        yield True, f"{len(result)} files are as the run left them"


def _results(run: Run) -> Answers:
    """Check that values stored in several files are the same in all of them."""
    wrong = [
        f"{key} is {_short(result)} in {RESULTS_FILE}, but {_short(recorded)} in {location}"
        for location, before, now in _copies(run)
        for key, (recorded, result) in differences(before, now).items()
    ]
    yield from ((False, words) for words in wrong)
    if not wrong:
        yield True, f"{len(run.rows)} rows and their provenance are the same in every file that contains them"


def _copies(run: Run) -> Iterator[tuple[str, Any, Any]]:
    """Copies of values of the results: name of the other file, its value, and the value in the results."""
    recipe = run.provenance["recipe"]
    known = read_identity(run.folder)
    if known is None:
        raise InputError(f"{IDENTITY_FILE} does not say which run this is")
    yield IDENTITY_FILE, known, {key: run.provenance.get(key) for key in known}
    seed, forget = recipe["seed"], recipe["forget"]
    seeds = {name: recipe.get(f"{name}_seed", seed) for name in ("train", "method")}
    common = {"task": recipe["task"]["name"], "seed": seed, "seeds": {**seeds, "forget": forget.get("seed", seed)}}
    rows: list[dict[str, Any]] = [{"method": name, "scope": "all"} for name in ("original", "retrain")]
    rows = rows[: 1 + bool(recipe["retrain"])]
    for method in (recipe["method"], *recipe["compare"]):
        settings = {key: value for key, value in method.items() if key not in ("name", "scope")}
        rows.append({"method": method["name"], "scope": method["scope"], "settings": settings})
    if len(rows) != len(run.rows):
        raise InputError(f"{RESULTS_FILE} has {len(run.rows)} rows, but its recipe makes {len(rows)}")
    for index, (asked, row) in enumerate(zip(rows, run.rows, strict=True)):
        location = f"rows.{index}"
        asked |= common
        yield "its recipe", {location: asked}, {location: dict(zip(asked, values_of(row, asked), strict=True))}
        kept = run.folder / WORK / f"{run.key(index)}.json"
        if kept.is_file():  # not part of the record (only for --resume), but shows which value was changed
            metrics = {key: value for key, value in row["metrics"].items() if key != GAP}
            compared = {key: value for key, value in row.items() if key != "contrasts"}
            yield (
                f"{WORK}/{kept.name}",
                {location: json.loads(kept.read_text())},
                {location: {**compared, "metrics": metrics}},
            )


def _history(run: Run) -> Answers:
    """Check the history against those of the rows, line by line, if these still exist."""
    parts = [run.folder / WORK / f"{run.key(index)}.history.jsonl" for index in range(len(run.rows))]
    if not all(part.is_file() for part in parts):
        yield None, f"the histories of single rows are no longer in {WORK}/"
        return
    recorded = [line for part in parts for line in part.read_text().splitlines()]
    result = (run.folder / HISTORY_FILE).read_text().splitlines()
    for number, (before, now) in enumerate(zip_longest(recorded, result), start=1):
        if before != now:
            yield False, f"{HISTORY_FILE}, line {number} is {_short(now)}, but {_short(before)} in {WORK}/"
            return
    yield True, f"{len(result)} lines match those of the rows"


def _metrics(run: Run, index: int) -> Answers:
    """Check that the metrics of a row follow from its predictions."""
    recorded, result = run.rows[index]["metrics"], recomputed(run, index)
    wrong = [key for key in sorted(recorded.keys() | result.keys()) if not _same(recorded.get(key), result.get(key))]
    yield from ((False, f"{key} recorded {recorded.get(key)}, found {result.get(key)}") for key in wrong)
    if not wrong:
        yield True, f"{len(result)} values follow from the stored predictions"


def _contrasts(run: Run) -> Answers:
    """Check that the differences between models follow from the stored predictions."""
    wrong = {
        f"{run.key(index)}: {name}": each
        for index, found in enumerate(recomputed_contrasts(run))
        for name, each in differences(run.rows[index].get("contrasts", {}), json.loads(json.dumps(found))).items()
        if not _same(*each)
    }
    yield from ((False, f"{name} recorded {was}, found {now}") for name, (was, now) in wrong.items())
    if not wrong:
        yield True, f"the differences of {len(run.rows)} models to Original and Retrain follow from the predictions"


def _request(run: Run) -> Answers:
    """Check that the ids have the recorded hash and are the D_f of all predictions."""
    ids, recorded = _ids(run), run.provenance["forget_hash"]
    result = hash_of_ids(ids)
    if result != recorded:
        yield False, f"the hash of the {len(ids)} ids in {DELETION_FILE}: recorded {recorded}, found {result}"
    else:
        yield True, f"{len(ids)} ids have the hash {result}"
    for index, row in enumerate(run.rows):
        if row["forget_examples"] != len(ids):
            yield False, f"row {index}: forget_examples recorded {row['forget_examples']}, but there are {len(ids)} ids"
        arrays = _predictions(run, index)["forget"]
        predicted = {(str(example), int(text)) for example, text in zip(arrays["example"], arrays["text"], strict=True)}
        examples = {example for example, _ in predicted}
        parts = {f"{example}#{text}": example for example, text in predicted}
        named = {parts[each] for each in ids if each not in examples and each in parts}
        found = (examples - named) | {name for name, example in parts.items() if example in named}
        if found != set(ids):
            yield False, f"predictions of {run.key(index)} are of another D_f: {_other_ids(ids, found)}"


def _data(run: Run) -> Answers:
    """Check that the data are unchanged and that the request resolves to the ids; missing data are no failure."""
    recipe, ids = run.provenance["recipe"], _ids(run)
    try:
        dataset = _dataset(json.dumps(recipe["data"]))
        found = dataset.hash
    except (InputError, OSError) as error:
        yield None, f"cannot be read any more: {error}"
        return
    if found != run.provenance["data_hash"]:
        hashes = f"recorded {run.provenance['data_hash']}, found {found}"
        yield None, f"have another hash now ({hashes}): the ids are not compared with them"
        return
    yield True, f"'{dataset.name}' has the hash {found}"
    try:
        resolve(dataset, ids=ids)
    except InputError as error:
        yield False, f"the ids of the record are not a valid request for these data: {error}"
        return
    asked = {"seed": recipe["seed"], **recipe["forget"]}
    try:
        request = resolve(dataset, **asked)
    except InputError as error:
        yield None, f"the request cannot be read any more: {error}"
        return
    words = f"the request ({_short(recipe['forget'])}) names"
    if request.hash != run.provenance["forget_hash"]:
        yield False, f"{words} other ids now: {_other_ids(ids, request.all_ids)}"
    else:
        yield True, f"{words} these {len(ids)} ids"


def _model(run: Run) -> Answers:
    """Check that the saved model loads and its weights have the recorded hash."""
    recorded, result = run.provenance["model_hash"], hash_of(run.folder / "model")
    if result != recorded:
        yield False, f"the weights in model/ have another hash: recorded {recorded}, found {result}"
    else:
        yield True, f"the weights in model/ load and have the hash {result}"


def _original(run: Run) -> Answers:
    """Check a user-provided original if it still exists; it is not part of the run's folder."""
    brought, recorded = run.provenance["recipe"].get("original"), run.provenance["original_hash"]
    if brought is None:
        yield None, f"was {run.provenance['original']} and is not kept in the run; its hash is {recorded}"
        return
    try:
        result = hash_of(Path(brought))
    except (InputError, OSError) as error:
        yield None, f"cannot be read any more: {error}"
        return
    if result != recorded:
        yield None, f"'{brought}' holds another model now (hash recorded {recorded}, found {result})"
    else:
        yield True, f"'{brought}' has the hash {result}"


def _deletion(run: Run) -> Answers:
    """Check that the deletion record follows from the results."""
    outcome = record(run, *_lists(run))
    if outcome is None:
        yield True, "does not exist: the method of the run is a control, which deletes nothing"
        return
    result, same = read_record(run.folder), is_same_version(run)
    wrong = differences(json.loads(json.dumps(outcome)), result)
    for key, (expected, recorded) in wrong.items():
        holds = None if key.startswith(("result", "findings")) and not same else False
        yield holds, f"{key} is {_short(recorded)} in {DELETION_FILE}, but {_short(expected)} by {RESULTS_FILE}"
    if not wrong:
        yield True, f"{DELETION_FILE} follows from {RESULTS_FILE}"


def is_same_version(run: Run) -> bool:
    """Whether this version of the package made the run; other versions may use other sentences."""
    return (run.provenance["version"], run.provenance["commit"]) == (own_version(), commit()[0])


PARTS: dict[str, Look] = {
    "contrasts": _contrasts,
    "request": _request,
    "data": _data,
    "model": _model,
    "original": _original,
    "deletion record": _deletion,
}


def _ids(run: Run) -> list[str]:
    """Ids of this deletion and of earlier ones."""
    return [example_id for ids in _lists(run) for example_id in ids]


def _lists(run: Run) -> tuple[list[str], list[str]]:
    """Ids of this deletion, and of earlier ones; for a control, which has no record, those of its predictions."""
    if (run.folder / DELETION_FILE).is_file():
        deleted = read_record(run.folder)["deleted"]
        return list(map(str, deleted["ids"])), list(map(str, deleted.get("earlier", [])))
    parts = run.provenance.get("single_texts")
    return (parts["names"] if parts else list(dict.fromkeys(_predictions(run, 0)["forget"]["example"].tolist()))), []


def _predictions(run: Run, index: int) -> Predictions:
    return read_predictions(run.folder / "predictions" / run.key(index))


@lru_cache(maxsize=1)  # the cells of a bench share their dataset
def _dataset(data: str) -> Dataset:
    options = json.loads(data)
    return read(options.pop("reader"), **options)


def _other_ids(recorded: Iterable[str], result: Iterable[str]) -> str:
    """Differences of two lists of ids as text."""
    missing, added = sorted(set(recorded) - set(result)), sorted(set(result) - set(recorded))
    parts = [f"{len(ids)} {how}, e.g. {ids[0]!r}" for ids, how in ((missing, "missing"), (added, "added")) if ids]
    return " and ".join(parts)


def _same(recorded: Any, result: Any) -> bool:
    if not isinstance(recorded, int | float) or not isinstance(result, int | float):
        return False
    return math.isclose(recorded, result, rel_tol=ROUNDING, abs_tol=ROUNDING)


def _short(value: Any) -> str:
    """Short text of a value, for messages."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else f"{text[:97]}..."
