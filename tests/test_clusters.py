"""Clusters: examples that share a picture, a pair of nodes or a group are drawn, and counted, as one."""

from __future__ import annotations

from collections import Counter

import numpy as np

import tiny
from multidelete.data.clusters import clusters, members
from multidelete.data.requests import resolve
from test_requests import make


def test_examples_that_share_something_are_one_cluster() -> None:
    dataset = make(copies={1: 0, 5: 3, 6: 5})
    assert clusters(dataset, np.arange(8)).tolist() == [0, 0, 1, 2, 3, 2, 2, 4]
    assert clusters(dataset, np.array([5, 1, 0, 2])).tolist() == [0, 1, 1, 2]
    assert clusters(dataset, np.empty(0, dtype=np.int64)).tolist() == []
    assert [each.tolist() for each in members(np.array([1, 0, 1]))] == [[1], [0, 2]]


def test_every_cluster_is_as_likely_as_any_other() -> None:
    """Drawn by examples, the cluster of fifteen would come first three times in four."""
    dataset = make(copies=dict.fromkeys(range(1, 10), 0) | dict.fromkeys(range(12, 17), 0))
    first = Counter(len(resolve(dataset, count=1, seed=seed).forget) for seed in range(300))
    assert set(first) == {1, 15}
    assert 30 <= first[15] <= 75  # one of six


def test_predictions_name_the_cluster_of_each_pair() -> None:
    data = tiny.data_for(tiny.original("albef"))
    found = data.task.predict_pairs(
        tiny.original("albef"), data.inputs, data.request.forget_pairs, data.request, tiny.engine()
    )
    assert len(found["cluster"]) == len(found["example"])
    assert len(set(zip(found["cluster"].tolist(), found["example"].tolist(), strict=True))) == len(
        set(found["example"])
    )
