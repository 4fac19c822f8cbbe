"""The deletion request: which examples to forget and which to retain."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from multidelete.data.dataset import Dataset, Rows
from multidelete.utils.errors import InputError, did_you_mean, raise_all


@dataclass(frozen=True, eq=False)
class Request:
    """``D_f``, ``D_r``, and the validation and test splits, as rows of examples.

    Args:
        dataset: The dataset that the rows refer to.
        forget: ``D_f``, in the order of the request.
        retain: ``D_r``, the rest of the training split, in dataset order.
        validation: The validation split.
        test: The test split.
        earlier: Rows that previous requests deleted; in neither ``D_f`` nor ``D_r``.
    """

    dataset: Dataset
    forget: Rows
    retain: Rows
    validation: Rows
    test: Rows
    earlier: Rows = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the examples to forget, in the order of the request."""
        return tuple(self.dataset.examples[row].id for row in self.forget)

    def splits(self) -> dict[str, Rows]:
        """Rows by name (forget, retain, validation, test), without empty ones."""
        parts = {"forget": self.forget, "retain": self.retain, "validation": self.validation, "test": self.test}
        return {name: rows for name, rows in parts.items() if len(rows)}

    def complement(self) -> Request:
        """The request with ``forget`` and ``retain`` swapped."""
        return replace(self, forget=self.retain, retain=np.sort(self.forget))

    def with_earlier(self) -> Request:
        """This request merged with the earlier ones: all deleted examples are in ``forget``. Used for evaluation."""
        return replace(self, forget=np.concatenate([self.earlier, self.forget]), earlier=self.earlier[:0])

    @cached_property
    def hash(self) -> str:
        """Hash of all deleted ids, earlier ones included; see :func:`hash_of_ids`."""
        return hash_of_ids(self.with_earlier().ids)


def hash_of_ids(ids: Iterable[str]) -> str:
    """SHA-256 over the sorted ids, one per line; independent of their order."""
    return hashlib.sha256("".join(f"{example_id}\n" for example_id in sorted(ids)).encode()).hexdigest()


def resolve(
    dataset: Dataset,
    *,
    ids: Sequence[str] | str | Path | None = None,
    count: int | None = None,
    fraction: float | None = None,
    seed: int = 0,
    part: Sequence[int] | None = None,
    earlier: Sequence[str] | str | Path | None = None,
) -> Request:
    """Split the training examples into forget and retain sets, by ids or by a seeded sample.

    With one seed, a smaller sample is a prefix of a larger one. Training examples that share an image file, a pair of
    nodes or a group are sampled together, so that no forgotten image stays in the retain set under another id. The
    sample can exceed the requested size by the copies of its last example.

    Args:
        dataset: The dataset.
        ids: The ids to forget, or the path of a text file with one id per line (``#`` starts a comment).
        count: Number of training examples to sample.
        fraction: Fraction of the training split to sample, between 0 and 1.
        seed: Seed of the sample.
        part: ``(2, 5)`` for the second of five parts of the request; the first then counts as ``earlier``.
        earlier: Ids that previous requests deleted from the model.

    Raises:
        InputError: The request is invalid, or leaves fewer than two examples to retain.
    """
    given = [name for name, value in (("ids", ids), ("count", count), ("fraction", fraction)) if value is not None]
    if len(given) != 1:
        got = " and ".join(given) or "none"
        raise InputError(f"a deletion request is given by exactly one of ids, count and fraction; got {got}")
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise InputError(f"the seed of a deletion request is an integer of at least 0, got {seed!r}")
    dataset.check_train()
    train = dataset.rows("train")
    before = np.empty(0, dtype=np.int64)
    if earlier is not None:
        before = _named_rows(dataset, *_entries(earlier, "earlier"))
    if ids is not None:
        source, entries = _entries(ids)
        forget = _named_rows(dataset, source, entries)
        again = np.flatnonzero(np.isin(forget, before))
        if len(again):
            raise InputError(f"{source} names {dataset.examples[forget[again[0]]].id!r}, which was deleted earlier")
        takes = f"{source} names"
        _check_copies(dataset, source, np.concatenate([before, forget]), train)
    else:
        source, number = _sample_size(count, fraction, len(train))
        forget = _sample(dataset, np.setdiff1d(train, before), number, seed)
        takes = f"{source} takes"
    if part is not None:
        parts, number = _parts(dataset, forget, part), part[0] - 1
        before, forget = np.concatenate([before, *parts[:number]]), parts[number]
    deleted = np.concatenate([before, forget])
    _check_retain(takes, deleted, dataset)
    return Request(
        dataset, forget, np.setdiff1d(train, deleted), dataset.rows("validation"), dataset.rows("test"), before
    )


def _entries(ids: Sequence[str] | str | Path, name: str = "ids") -> tuple[str, list[tuple[str, str]]]:
    """Name of the list of ids for messages, and its entries as (location, id)."""
    if isinstance(ids, str | Path):
        path = Path(ids)
        lines = [(f"line {number}", line.strip()) for number, line in enumerate(_lines(path), start=1)]
        return path.name, [(location, line) for location, line in lines if line and not line.startswith("#")]
    for number, entry in enumerate(ids, start=1):
        if not isinstance(entry, str):
            raise InputError(f"{name}, entry {number}: expected an id as a string, got {entry!r}")
    return name, [(f"entry {number}", entry) for number, entry in enumerate(ids, start=1)]


def _lines(path: Path) -> list[str]:
    if path.is_dir():
        raise InputError(f"{path} is a folder; expected a text file with one id per line")
    try:
        return path.read_bytes().decode("utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise InputError(
            f"there is no file {path}; expected a text file with one id per line (ids as such go in a list)"
        ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8; save it as a UTF-8 text file with one id per line") from error


def _named_rows(dataset: Dataset, source: str, entries: Sequence[tuple[str, str]]) -> Rows:
    if not entries:
        raise InputError(f"{source} names no ids; expected at least one example to forget")
    known = {example.id: row for row, example in enumerate(dataset.examples)}
    trainable = [example.id for example in dataset.examples if example.split == "train"]
    locations: dict[str, str] = {}
    rows: list[int] = []
    problems: list[str] = []
    for location, entry in entries:
        example_id = entry
        if location.startswith("line") and entry not in known:
            example_id = re.split(r"\s#", entry)[0].strip()  # a comment after the id, unless the id itself contains it
        if example_id in locations:
            problem = f"{example_id!r} was already named in {locations[example_id]}"
        elif example_id not in known:
            # The search for a similar id is slow, and only the first problem is shown in full.
            hint = "" if problems else did_you_mean(example_id, trainable)
            problem = f"{example_id!r} is not in the training split{hint}"
        elif (split := dataset.examples[known[example_id]].split) != "train":
            problem = f"{example_id!r} is in the {split} split; only examples of the training split can be forgotten"
        else:
            problem = ""
            rows.append(known[example_id])
        locations.setdefault(example_id, location)
        if problem:
            problems.append(f"{source}, {location}: {problem}")
    raise_all(problems, "lines" if entries[0][0].startswith("line") else "entries")
    return np.array(rows, dtype=np.int64)


def _check_retain(takes: str, forget: Rows, dataset: Dataset) -> None:
    train = dataset.rows("train")
    left = len(train) - len(forget)
    if left < 2:
        leaves = "nothing would be left to retain"
        if left == 1:
            leaves = "one would be left to retain, but mismatched pairs need at least two"
        examples = (
            "relations" if dataset.graph is not None else "images" if dataset.images_per_example == 1 else "examples"
        )
        raise InputError(f"{takes} {len(forget):,} of {len(train):,} {examples}: {leaves}")


def _check_copies(dataset: Dataset, source: str, forget: Rows, train: Rows) -> None:
    """Refuse to forget an image under one id and retain it under another."""
    same = "is about the same two nodes" if dataset.graph is not None else "is the same image file"
    problems: list[str] = []
    for keys, why in ((dataset.image_digests(), same), (_groups(dataset), "belongs to the same group")):
        forgotten = {keys[row]: row for row in forget}
        named = set(forget.tolist())
        problems += [
            f"{source} names {dataset.examples[forgotten[keys[row]]].id!r} but not {dataset.examples[row].id!r}, "
            f"which {why}; delete both"
            for row in train
            if row not in named and keys[row] in forgotten
        ]
    raise_all(problems, "copies")


def _groups(dataset: Dataset) -> list[str]:
    """The group of each example; an example without a group gets its own."""
    return [example.group or f"\0{row}" for row, example in enumerate(dataset.examples)]


def _drawn_together(dataset: Dataset, rows: Rows) -> dict[int, list[int]]:
    """For each row, all rows connected to it by a shared image, pair of nodes or group (union-find)."""
    parent = {row: row for row in rows.tolist()}

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for keys in (dataset.image_digests(), _groups(dataset)):
        first: dict[str, int] = {}
        for row in rows.tolist():
            parent[root(row)] = root(first.setdefault(keys[row], row))
    members: defaultdict[int, list[int]] = defaultdict(list)
    for row in rows.tolist():
        members[root(row)].append(row)
    return {row: members[root(row)] for row in rows.tolist()}


def _sample_size(count: int | None, fraction: float | None, total: int) -> tuple[str, int]:
    """Name of the sample for messages, and its size."""
    if count is not None:
        if isinstance(count, bool) or not isinstance(count, int | np.integer):
            raise InputError(f"count = {count!r} is not an integer; expected the number of examples to forget")
        if count < 1:
            raise InputError(f"count = {count} is too small; expected at least one example to forget")
        if count > total:
            raise InputError(f"count = {count} is too large; the training split has {total:,} examples")
        return f"count = {count}", int(count)
    if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction < 1:
        raise InputError(f"fraction = {fraction!r} is not between 0 and 1; 0.05 stands for one example in twenty")
    number = round(fraction * total)
    if number == 0:
        raise InputError(
            f"fraction = {fraction} of {total:,} examples rounds to none; use a larger fraction, or count = 1"
        )
    return f"fraction = {fraction}", number


def _sample(dataset: Dataset, train: Rows, number: int, seed: int) -> Rows:
    together = _drawn_together(dataset, train)
    drawn: dict[int, None] = {}
    for row in np.random.default_rng(seed).permutation(train).tolist():
        if len(drawn) >= number:
            break
        drawn.update(dict.fromkeys(together[row]))
    return np.array(list(drawn), dtype=np.int64)


def _parts(dataset: Dataset, forget: Rows, part: Sequence[int]) -> list[Rows]:
    """Split a request into parts of similar size, in order; rows that are sampled together stay in one part."""
    if len(part) != 2 or not 1 <= part[0] <= part[1]:
        raise InputError(f"part = {list(part)} is not a part of a request; expected [2, 5] for the second of five")
    count = part[1]
    together = _drawn_together(dataset, forget)
    parts: list[list[int]] = [[] for _ in range(count)]
    taken = 0
    for rows in dict.fromkeys(tuple(together[row]) for row in forget.tolist()):
        parts[taken * count // len(forget)] += rows
        taken += len(rows)
    if not all(parts):
        raise InputError(f"part = {list(part)}: {len(forget):,} examples cannot be deleted in {count} parts; use fewer")
    return [np.array(rows, dtype=np.int64) for rows in parts]
