"""The deletion request: which pairs to forget and which to retain."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from multidelete.data.clusters import clusters, groups_by_row, members
from multidelete.data.conditions import groups_of, matching
from multidelete.data.copies import copy_notes
from multidelete.data.dataset import Dataset, Rows
from multidelete.data.naming import entries_of, named_pairs, numbered_pairs, pair_names
from multidelete.metrics.holdouts import HOLDOUTS
from multidelete.utils.errors import InputError, raise_all

KINDS = ("ids", "group", "where", "rows", "count", "fraction", "pairs")  # ways to say what must go
NO_ROWS: Rows = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Request:
    """``D_f`` and ``D_r`` as pairs, and the validation and test splits.

    An example may have pairs in both, if only some of its texts are deleted: its picture then stays.

    Args:
        dataset: The dataset that the rows refer to.
        forget_pairs: Text rows of the pairs in ``D_f``, in the order of the request.
        retain_pairs: Text rows of the pairs in ``D_r``, the rest of the training split, in dataset order.
        validation: Rows of the examples of the validation split.
        test: Rows of the examples of the test split.
        earlier_pairs: Text rows of pairs that previous requests deleted; in neither ``D_f`` nor ``D_r``.
        merged: Names that were repeated in the request, one sentence each.
    """

    dataset: Dataset
    forget_pairs: Rows
    retain_pairs: Rows
    validation: Rows
    test: Rows
    earlier_pairs: Rows = field(default_factory=lambda: NO_ROWS)
    merged: tuple[str, ...] = ()

    @cached_property
    def forget(self) -> Rows:
        """Rows of the examples with pairs in ``D_f``, in the order of the request."""
        return self.dataset.example_rows(self.forget_pairs)

    @cached_property
    def retain(self) -> Rows:
        """Rows of the examples with pairs in ``D_r``, in dataset order."""
        return self.dataset.example_rows(self.retain_pairs)

    @cached_property
    def earlier(self) -> Rows:
        """Rows of the examples with pairs that previous requests deleted."""
        return self.dataset.example_rows(self.earlier_pairs)

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Names of what is forgotten, in the order of the request: an id of a complete example, "ID#2" for one pair."""
        return pair_names(self.dataset, self.forget_pairs)

    @cached_property
    def earlier_ids(self) -> tuple[str, ...]:
        """Names of what previous requests deleted."""
        return pair_names(self.dataset, self.earlier_pairs)

    @property
    def all_ids(self) -> tuple[str, ...]:
        """Names of what this request and earlier ones delete."""
        return (*self.earlier_ids, *self.ids)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was noticed, one sentence each: repeated names, and copies of deleted pictures elsewhere."""
        return (*self.merged, *copy_notes(self.dataset, self.with_earlier().forget))

    @property
    def complete(self) -> bool:
        """Whether only complete examples are deleted, not single texts of one."""
        return len(self.forget_pairs) == int(self.dataset.text_counts[self.forget].sum())

    @cached_property
    def near_misses(self) -> Rows:
        """Text rows of the pairs in ``D_r`` that have a picture or a text in common with ``D_f``.

        They are what a deletion damages first.
        """
        data = self.dataset
        shares_picture = np.isin(data.content[data.text_examples[self.retain_pairs]], data.content[self.forget])
        shares_text = np.isin(data.equal_texts[self.retain_pairs], data.equal_texts[self.forget_pairs])
        return self.retain_pairs[shares_picture | shares_text]

    @property
    def holdouts(self) -> dict[str, Rows]:
        """Text rows of kept pairs that the deletion must not use, by the name of their split."""
        return {split: self.dataset.text_rows(self.dataset.rows(split)) for split in HOLDOUTS}

    def splits(self) -> dict[str, Rows]:
        """Text rows of the pairs by name: forget, retain, near_miss, validation, test, holdouts; without empty ones."""
        parts = {
            "forget": self.forget_pairs,
            "retain": self.retain_pairs,
            "near_miss": self.near_misses,
            "validation": self.dataset.text_rows(self.validation),
            "test": self.dataset.text_rows(self.test),
            **self.holdouts,
        }
        return {name: rows for name, rows in parts.items() if len(rows)}

    def first(self, split: str, count: int) -> Rows:
        """Text rows of the pairs of the first examples of a split.

        Args:
            split: ``forget`` or ``validation``.
            count: Maximum number of examples.
        """
        if split == "validation":
            return self.dataset.text_rows(self.validation[:count])
        return self.forget_pairs[np.isin(self.dataset.text_examples[self.forget_pairs], self.forget[:count])]

    def complement(self) -> Request:
        """The request with ``D_f`` and ``D_r`` swapped."""
        return replace(self, forget_pairs=self.retain_pairs, retain_pairs=np.sort(self.forget_pairs))

    def with_earlier(self) -> Request:
        """This request merged with the earlier ones: all deleted pairs are in ``D_f``. Used for evaluation."""
        forget = np.concatenate([self.earlier_pairs, self.forget_pairs])
        return replace(self, forget_pairs=forget, earlier_pairs=NO_ROWS)

    @cached_property
    def hash(self) -> str:
        """Hash of all deleted names, earlier ones included; see :func:`hash_of_ids`."""
        return hash_of_ids(self.all_ids)


def hash_of_ids(ids: Iterable[str]) -> str:
    """SHA-256 over the sorted ids, one per line; independent of their order."""
    return hashlib.sha256("".join(f"{example_id}\n" for example_id in sorted(ids)).encode()).hexdigest()


def resolve(
    dataset: Dataset,
    *,
    ids: Any = None,
    group: str | Sequence[str] | None = None,
    where: str | None = None,
    rows: str | Path | Sequence[int] | None = None,
    count: int | None = None,
    fraction: float | None = None,
    pairs: int | None = None,
    column: str | None = None,
    bare: str | None = None,
    seed: int = 0,
    part: Sequence[int] | None = None,
    earlier: Any = None,
) -> Request:
    """Split the training pairs into D_f and D_r: what is named, a group, a condition, or a seeded sample.

    With one seed, a smaller sample is a prefix of a larger one. Training examples that share an image file, a pair of
    nodes or a group are sampled together, so that no forgotten image stays in the retain set under another id. Each
    such cluster is as likely as any other, however many examples it has. The sample can exceed the requested size by
    the copies of its last example.

    Args:
        dataset: The dataset.
        ids: What to forget: a list of names, or the path of a file with them (text, CSV, JSON), or names separated by
            commas. A name is the id of an example, its file name or path, the id of a text, ``NAME#2`` for the third
            text of an example, or (image, text).
        group: ``NAME=VALUE``, or several: all pairs whose metadata has this value; ``VALUE`` alone is a group.
        where: A condition on the metadata, such as ``licence == "NC" and year < 2015``.
        rows: Numbers of training pairs in the order of the data, from 0, or a file with one in each line.
        count: Number of training examples to sample; with ``rows``, only its first entries are used.
        fraction: Fraction of the training split to sample, between 0 and 1.
        pairs: Number of single pairs to sample, each of another example.
        column: Column of the names, if ``ids`` is a table.
        bare: The number, if ``count`` or ``fraction`` was given as a number alone; it is refused if it is also an id.
        seed: Seed of the sample.
        part: ``(2, 5)`` for the second of five parts of the request; the first then counts as ``earlier``.
        earlier: What previous requests deleted from the model, named like ``ids``.

    Raises:
        InputError: The request is invalid, or leaves fewer than two examples to retain.
    """
    ways = {"ids": ids, "group": group, "where": where, "rows": rows}
    ways |= {"count": count if rows is None else None, "fraction": fraction, "pairs": pairs}
    given = [name for name, value in ways.items() if value is not None]
    if len(given) != 1:
        got = " and ".join(given) or "none"
        raise InputError(f"a deletion request is given by exactly one of {', '.join(KINDS)}; got {got}")
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise InputError(f"the seed of a deletion request is an integer of at least 0, got {seed!r}")
    dataset.check_train()
    merged: list[str] = []
    before = NO_ROWS if earlier is None else named_pairs(dataset, *entries_of(earlier, "earlier"), merged)
    train = dataset.rows("train")
    if given[0] in ("count", "fraction", "pairs"):
        source, number = _sample_size(count if pairs is None else pairs, fraction, len(train), given[0])
        if bare is not None:
            _check_bare(dataset, bare)
        rows_of_examples = _sample(dataset, np.setdiff1d(train, dataset.example_rows(before)), number, seed)
        forget = dataset.text_rows(rows_of_examples)
        if pairs is not None:
            forget = _one_text_each(dataset, rows_of_examples[:number], seed)
        takes = f"{source} takes"
    else:
        if ids is not None:
            source, entries = entries_of(ids, "ids", column)
            forget = named_pairs(dataset, source, entries, merged)
        elif rows is not None:
            source, forget = numbered_pairs(dataset, rows, count)
        elif where is not None:
            source, forget = "the condition", matching(dataset, where)
        else:
            assert group is not None
            source, forget = "group", groups_of(dataset, group)
        again = np.flatnonzero(np.isin(forget, before))
        if len(again):
            name = pair_names(dataset, forget[again[:1]])[0]
            raise InputError(f"{source} names {name!r}, which was deleted earlier")
        takes = f"{source} names"
        _check_copies(dataset, source, np.concatenate([before, forget]))
    if part is not None:
        parts, number = _parts(dataset, forget, part), part[0] - 1
        before, forget = np.concatenate([before, *parts[:number]]), parts[number]
    deleted = np.concatenate([before, forget])
    retain = np.setdiff1d(dataset.text_rows(train), deleted)
    _check_retain(takes, dataset, deleted, retain)
    return Request(dataset, forget, retain, dataset.rows("validation"), dataset.rows("test"), before, tuple(merged))


def _check_bare(dataset: Dataset, text: str) -> None:
    if text in dataset.rows_by_id or any(text in example.text_ids for example in dataset.examples):
        raise InputError(
            f"--forget {text} is ambiguous: {text!r} is also an id; write --forget-count or --forget-fraction for a "
            f"sample, or 'forget.ids=[\"{text}\"]' for the id"
        )


def _check_retain(takes: str, dataset: Dataset, deleted: Rows, retain: Rows) -> None:
    total, left = len(dataset.rows("train")), len(dataset.example_rows(retain))
    if left < 2:
        leaves = "nothing would be left to retain"
        if left == 1:
            leaves = "one would be left to retain, but mismatched pairs need at least two"
        examples = (
            "relations" if dataset.graph is not None else "images" if dataset.images_per_example == 1 else "examples"
        )
        number = len(dataset.example_rows(deleted))
        raise InputError(f"{takes} {number:,} of {total:,} {examples}: {leaves}")


def _check_copies(dataset: Dataset, source: str, deleted: Rows) -> None:
    """Refuse to forget a complete example, and retain its image under another id, or the rest of its group."""
    forget = dataset.example_rows(deleted)
    complete = (
        np.bincount(dataset.text_examples[deleted], minlength=len(dataset))[forget] == dataset.text_counts[forget]
    )
    same = "is about the same two nodes" if dataset.graph is not None else "is the same image file"
    problems: list[str] = []
    named = set(forget.tolist())
    for keys, why, rows in (
        (dataset.image_digests(), f"{same}; delete both, or name single pairs (ID#0)", forget[complete]),
        (groups_by_row(dataset), "belongs to the same group; delete both", forget),
    ):
        forgotten = {keys[row]: row for row in rows.tolist()}
        problems += [
            f"{source} names {dataset.examples[forgotten[keys[row]]].id!r} but not {dataset.examples[row].id!r}, "
            f"which {why}"
            for row in dataset.rows("train").tolist()
            if row not in named and keys[row] in forgotten
        ]
    raise_all(problems, "copies")


def _sample_size(count: int | None, fraction: float | None, total: int, name: str) -> tuple[str, int]:
    """Name of the sample for messages, and its size."""
    if count is not None:
        if isinstance(count, bool) or not isinstance(count, int | np.integer):
            raise InputError(f"{name} = {count!r} is not an integer; expected the number of examples to forget")
        if count < 1:
            raise InputError(f"{name} = {count} is too small; expected at least one example to forget")
        if count > total:
            raise InputError(f"{name} = {count} is too large; the training split has {total:,} examples")
        return f"{name} = {count}", int(count)
    if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction < 1:
        raise InputError(f"fraction = {fraction!r} is not between 0 and 1; 0.05 stands for one example in twenty")
    number = round(fraction * total)
    if number == 0:
        raise InputError(
            f"fraction = {fraction} of {total:,} examples rounds to none; use a larger fraction, or count = 1"
        )
    return f"fraction = {fraction}", number


def _sample(dataset: Dataset, train: Rows, number: int, seed: int) -> Rows:
    """Rows of clusters, each as likely as any other, until there are enough examples."""
    together = members(clusters(dataset, train))
    drawn: list[int] = []
    for each in np.random.default_rng(seed).permutation(len(together)).tolist():
        if len(drawn) >= number:
            break
        drawn += train[together[each]].tolist()
    return np.array(drawn, dtype=np.int64)


def _one_text_each(dataset: Dataset, examples: Rows, seed: int) -> Rows:
    """A random text of each example, the same for an example in every sample of a seed."""
    randomness = np.random.default_rng([seed, 1]).random(len(dataset))[examples]
    rows: Rows = dataset.text_starts[examples] + (randomness * dataset.text_counts[examples]).astype(np.int64)
    return rows


def _parts(dataset: Dataset, forget: Rows, part: Sequence[int]) -> list[Rows]:
    """Split a request into parts of similar size, in order; examples that are sampled together stay in one part."""
    if len(part) != 2 or not 1 <= part[0] <= part[1]:
        raise InputError(f"part = {list(part)} is not a part of a request; expected [2, 5] for the second of five")
    count = part[1]
    examples = dataset.example_rows(forget)
    parts: list[list[int]] = [[] for _ in range(count)]
    taken = 0
    for each in members(clusters(dataset, examples)):
        parts[taken * count // len(examples)] += examples[each].tolist()
        taken += len(each)
    if not all(parts):
        raise InputError(
            f"part = {list(part)}: {len(examples):,} examples cannot be deleted in {count} parts; use fewer"
        )
    own = dataset.text_examples[forget]
    return [np.concatenate([forget[own == row] for row in rows]) for rows in parts]
