"""Clusters: the largest sets of examples that share a picture, a pair of nodes or a group.

What is drawn, deleted or resampled is a cluster. The pairs of one are not independent of each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

if TYPE_CHECKING:
    from multidelete.data.dataset import Dataset, Rows


def groups_by_row(dataset: Dataset) -> list[str]:
    """The group of each example; an example without a group gets its own."""
    return [example.group or f"\0{row}" for row, example in enumerate(dataset.examples)]


def clusters(dataset: Dataset, rows: Rows) -> Rows:
    """Cluster of each of these examples, ``(E,)``: numbers from 0 in the order in which the clusters appear.

    Args:
        dataset: The dataset.
        rows: Rows of the examples; only what they share with each other connects them.
    """
    edges = [_numbered(keys, rows) for keys in (dataset.image_digests(), groups_by_row(dataset))]
    sizes = [len(rows), *(int(each.max(initial=-1)) + 1 for each in edges)]
    offsets = np.cumsum(sizes)
    own = np.tile(np.arange(len(rows)), 2)
    shared = np.concatenate([offset + each for offset, each in zip(offsets, edges, strict=False)])
    table = coo_array((np.ones(len(own), dtype=np.int8), (own, shared)), shape=(offsets[-1], offsets[-1]))
    found = connected_components(table, directed=False)[1][: len(rows)]
    _, first, numbers = np.unique(found, return_index=True, return_inverse=True)
    result: Rows = np.argsort(np.argsort(first))[numbers]
    return result


def members(numbers: Rows) -> list[Rows]:
    """Positions of the members of each cluster, in order.

    >>> [each.tolist() for each in members(np.array([0, 1, 0, 2]))]
    [[0, 2], [1], [3]]
    """
    order = np.argsort(numbers, kind="stable")
    return np.split(order, np.cumsum(np.bincount(numbers))[:-1])


def _numbered(keys: Sequence[str], rows: Rows) -> Rows:
    """Number of each row's key."""
    known: dict[str, int] = {}
    return np.array([known.setdefault(keys[row], len(known)) for row in rows.tolist()], dtype=np.int64)
