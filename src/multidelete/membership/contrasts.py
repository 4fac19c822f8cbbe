"""Whether attacks tell deleted pairs from unseen ones better on one model than on another: all of them in one test."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multidelete.membership.attacks import RATES, hits
from multidelete.metrics.contrasts import Change, Family, auc_change, covariance, critical, placements

Floats = NDArray[np.floating[Any]]
Scores = Mapping[str, tuple[Floats, Floats]]

RATE = "tpr1"


def family(first: Scores, second: Scores, clusters: NDArray[Any], other_clusters: NDArray[Any]) -> Family:
    """Compare the attacks on two models.

    Args:
        first: Scores of D_f and of test by each attack on the first model, see :func:`attacks`.
        second: The same on the second model; attacks that it lacks are left out.
        clusters: Cluster of each pair of D_f.
        other_clusters: Cluster of each test pair.
    """
    names = [name for name in first if name in second]
    changes = {f"{name}_auc": auc_change(first[name], second[name], clusters, other_clusters) for name in names}
    of_forget, of_others = [], []
    for name in names:
        both = [placements(*scores[name]) for scores in (first, second)]
        of_forget.append(both[0][0] - both[1][0])
        of_others.append(both[0][1] - both[1][1])
    count, one_in = len(other_clusters), RATES[RATE]
    if count >= one_in:
        for name in names:
            found = [100.0 * hits(*scores[name], one_in) for scores in (first, second)]
            of_forget.append(found[0] - found[1])
    total = np.asarray(covariance(np.stack(of_forget), clusters))
    known = len(names)
    total[:known, :known] += covariance(np.stack(of_others), other_clusters)
    freedom = min(change.freedom for change in changes.values())
    if len(of_forget) > known:
        # Each threshold is a quantile of test: the rate at which unseen pairs exceed it varies too.
        others = 100 * math.sqrt(2 / one_in * (1 - 1 / one_in) / count)
        total[known:, known:] += others**2 * np.eye(known)
        for i, name in enumerate(names, start=known):
            some = changes[f"{name}_auc"]
            changes[f"{name}_{RATE}"] = Change(
                float(of_forget[i].mean()), math.sqrt(total[i, i]), others, some.clusters, some.freedom
            )
    return Family(changes, critical(total, freedom))
