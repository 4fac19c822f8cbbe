"""Differences of groups of runs to Original or Retrain, from the contrasts in their rows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from multidelete.metrics.contrasts import Change, Family
from multidelete.runs.groups import Group


def change(group: Group, reference: str, metric: str) -> Change | None:
    """Difference of a group of runs to Original or Retrain, by metric; None where some row has no such contrasts.

    The errors of runs with different deletion sets are independent as far as they are due to D_f, but all runs are
    compared with the same test pairs. The spread over the runs counts where it is larger.
    """
    found = [row.get("contrasts", {}).get(reference, {}).get("changes", {}).get(metric) for row in group.rows]
    return _combined(group, [Change(**each) for each in found if each is not None])


def attacked(group: Group, reference: str) -> Family | None:
    """As :func:`change`, all attacks that every row has."""
    found = [row.get("contrasts", {}).get(reference, {}).get("attacks") for row in group.rows]
    if not all(found):
        return None
    names = [name for name in found[0]["changes"] if all(name in each["changes"] for each in found)]
    changes = {name: _combined(group, [Change(**each["changes"][name]) for each in found]) for name in names}
    known = {name: each for name, each in changes.items() if each is not None}
    return Family(known, max(each["factor"] for each in found)) if known else None


def _combined(group: Group, changes: Sequence[Change]) -> Change | None:
    count = len(changes)
    if not count or count < len(group.rows):
        return None
    if count == 1:
        return changes[0]
    value = statistics.fmean(each.value for each in changes)
    others = statistics.fmean(each.others**2 for each in changes)
    own = statistics.fmean(each.error**2 - each.others**2 for each in changes)
    separate = len({row["seeds"]["forget"] for row in group.rows}) == count
    error, freedom = math.sqrt(own / (count if separate else 1) + others), sum(each.freedom for each in changes)
    over_runs = statistics.stdev(each.value for each in changes) / math.sqrt(count)
    if over_runs > error:
        error, freedom = over_runs, count - 1
    clusters = sum(each.clusters for each in changes) if separate else changes[0].clusters
    return Change(value, error, math.sqrt(others), clusters, freedom)
