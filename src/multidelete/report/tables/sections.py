"""Additional tables as headings and lines: differences to Retrain, membership attacks, unimodal probes."""

from __future__ import annotations

from collections.abc import Sequence

from multidelete.metrics.registry import ATTACKS, METRICS, MODALITIES
from multidelete.runs.differences import Difference
from multidelete.runs.groups import Group, differences, labels
from multidelete.utils.format import NONE, signed

Lines = list[tuple[Group, list[str]]]
Section = tuple[list[str], Lines]

# Metrics in the table of differences to Retrain, by title.
COMPARED = {
    METRICS[key].title: key for key in ("test_score", "retain_score", "forget_score", "forget_auc", "forget_test_auc")
}
STRICT = ("loss", "lira", "rmia", "u_lira")  # attacks whose true-positive rate at 1 % false positives is shown


def differences_to_retrain(groups: Sequence[Group]) -> Section:
    """Mean differences of each group to Retrain, intervals and number of pairs; only groups with several pairs."""
    lines: Lines = []
    for name, group in zip(labels(groups), groups, strict=True):
        result = differences(group, groups)
        shown = [result[key] for key in COMPARED.values() if key in result]
        if shown and max(each.n for each in shown) > 1:
            texts = [_difference(result.get(key)) for key in COMPARED.values()]
            lines.append((group, [name, *texts, str(max(each.n for each in shown))]))
    return ["Method", *COMPARED, "n"], lines


def _difference(result: Difference | None) -> str:
    if result is None:
        return NONE
    mean, *ends = (signed(each, plus=True) for each in (result.mean, result.low, result.high) if each is not None)
    return f"{mean} [{', '.join(ends)}]" if ends else mean


def attacks(groups: Sequence[Group]) -> Section:
    """AUC of each membership attack for each group, and true-positive rates at 1 % false positives."""
    keys = [f"attack_{name}_auc" for name in ATTACKS] + [f"attack_{name}_tpr1" for name in STRICT]
    columns = {METRICS[key].title: key for key in keys if any(key in group.metrics for group in groups)}
    lines = [
        (group, [name, *(str(group.metrics.get(key, NONE)) for key in columns.values()), str(len(group.rows))])
        for name, group in zip(labels(groups), groups, strict=True)
    ]
    return ["Method", *columns, "n"], lines if columns else []


def probes(groups: Sequence[Group]) -> Section:
    """Accuracy of Original's probe and of a refitted one for each modality and group."""
    probed = [each for each in MODALITIES if any(f"probe_{each}" in group.metrics for group in groups)]
    headings = ["Method"]
    for modality in probed:
        headings += [METRICS[f"probe_{modality}"].heading, "vs Original", "refitted ↑"]
    lines: Lines = []
    for name, group in zip(labels(groups), groups, strict=True):
        texts, lost_by = [name], differences(group, groups, "original")
        for key in (f"probe_{modality}" for modality in probed):
            result = [group.metrics.get(each) for each in (key, f"{key}_refitted")]
            unchanged, refitted = (NONE if each is None else str(each) for each in result)
            lost = signed(lost_by[key].mean, plus=True) if key in lost_by else NONE
            texts += [unchanged, lost, refitted]
        lines.append((group, [*texts, str(len(group.rows))]))
    return [*headings, "n"], lines if probed else []
