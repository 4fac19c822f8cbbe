"""Copies of deleted pictures elsewhere in the data: the same content, or pictures that look alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from multidelete.data.dataset import Dataset, Rows

ALIKE = 4  # bits of 64 in which fingerprints of the same picture may differ, after resizing or compression
SHOWN = 3  # pairs named in a note


def copies(dataset: Dataset, deleted: Rows, split: str) -> list[tuple[int, int]]:
    """Deleted examples and those of a split with the same picture (or nodes), as pairs of rows.

    Args:
        dataset: The dataset.
        deleted: Rows of the deleted examples.
        split: ``train`` for examples that are kept, ``validation`` or ``test``.
    """
    content = dataset.content
    first = {int(content[row]): row for row in reversed(deleted.tolist())}
    others = np.setdiff1d(dataset.rows(split), deleted)
    return [(first[int(content[row])], row) for row in others.tolist() if int(content[row]) in first]


def copy_notes(dataset: Dataset, deleted: Rows) -> list[str]:
    """A sentence for each split that has copies of deleted pictures."""
    where = {
        "train": "stay in D_r: the model keeps being trained on them",
        "validation": "are in the validation split: what is measured there is biased",
        "test": "are in the test split: every comparison with unseen data is biased",
    }
    notes = []
    for split, words in where.items():
        if found := copies(dataset, deleted, split):
            notes.append(f"{len(found):,} copies of deleted pictures {words} ({_named(dataset, found)})")
    return notes


def look_alikes(dataset: Dataset, deleted: Rows, prints: NDArray[np.uint64]) -> list[tuple[int, int]]:
    """Deleted examples and others whose pictures look alike but are different files, as pairs of rows.

    Args:
        dataset: The dataset.
        deleted: Rows of the deleted examples.
        prints: Fingerprint of each example, ``(N,)``; see :meth:`Dataset.fingerprints`.
    """
    content, found = dataset.content, []
    for row in deleted.tolist():
        if not prints[row]:
            continue
        near = np.flatnonzero(np.bitwise_count(prints ^ prints[row]) <= ALIKE)
        found += [(row, other) for other in near.tolist() if content[other] != content[row] and prints[other]]
    gone = set(deleted.tolist())
    return [(row, other) for row, other in found if other not in gone]


def look_alike_notes(dataset: Dataset, deleted: Rows, prints: NDArray[np.uint64]) -> list[str]:
    """A sentence about pictures that look like deleted ones; they are not deleted by themselves."""
    found = look_alikes(dataset, deleted, prints)
    if not found:
        return []
    return [
        f"{len(found):,} pictures look like deleted ones; look at them, and name those that must go as well "
        f"({_named(dataset, found)})"
    ]


def _named(dataset: Dataset, found: Sequence[tuple[int, int]]) -> str:
    names = ", ".join(
        f"{dataset.examples[row].id!r} and {dataset.examples[other].id!r} ({dataset.examples[other].split})"
        for row, other in found[:SHOWN]
    )
    return names + (", ..." if len(found) > SHOWN else "")
