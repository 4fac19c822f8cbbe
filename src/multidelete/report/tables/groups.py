"""Tables of groups of rows as text, Markdown and CSV; several seeds as mean ± standard deviation."""

from __future__ import annotations

import csv
import io
import json
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple
from typing import Any

from rich import box
from rich.console import Console, RenderableType
from rich.console import Group as Stacked
from rich.table import Table
from rich.text import Text

from multidelete.metrics.holdouts import HOLDOUTS
from multidelete.metrics.registry import METRICS
from multidelete.runs.groups import (
    TERMS,
    Group,
    comparison_title,
    differences,
    in_order,
    labels,
    reference,
)
from multidelete.runs.reader import Run
from multidelete.runs.row import values_of
from multidelete.utils.format import NONE, duration, percent, signed

Column = Callable[[Group, Group | None], str]  # text of a group, given Retrain's group


def _metric(key: str) -> Column:
    return lambda group, retrain: str(group.metrics.get(key, NONE))


def _update_time(group: Group, retrain: Group | None) -> str:
    seconds, prepared = group.cost.get("update_seconds"), group.prepared
    if seconds is None:
        return NONE
    return duration(seconds.mean, seconds.sd) + (f" (+ {duration(prepared)})" if prepared else "")


def share_of_retrain(group: Group, retrain: Group | None) -> str:
    """Time of a group as a share of Retrain's, preparation included."""
    own, total = group.seconds, retrain.seconds if retrain else None
    return NONE if group.method == "original" or own is None or not total else percent(own / total)


def _mi_ratios(group: Group, retrain: Group | None) -> str:
    """MI ratios of D_f and D_r: in a destroyed model, an attack recognises neither deleted nor kept pairs."""
    result = [group.metrics.get(key) for key in ("mi_ratio", "mi_ratio_retain")]
    return " / ".join(NONE if each is None else each.text(2) for each in result) if any(result) else NONE


def _attack(group: Group, retrain: Group | None) -> str:
    """AUC of the strongest attack: the one farthest from chance, in either direction."""
    aucs = [each for key, each in group.metrics.items() if key.startswith("attack_") and key.endswith("_auc")]
    return str(max(aucs, key=lambda each: abs(each.mean - 50), default=NONE))


TIMES = "Times are those of parameter updates, with preparation in parentheses; the share of Retrain includes both."
OF_ATTACKS: dict[str, Column] = {f"{METRICS['mi_ratio'].heading} / D_r": _mi_ratios, "Attack AUC": _attack}
SALMUBENCH = ("forget_recall_1", "forget_mrr", "forget_cosine", *(f"{name}_cosine" for name in HOLDOUTS))
OF_HOLDOUTS: dict[str, Column] = {METRICS[key].heading: _metric(key) for key in SALMUBENCH}
BELOW = {"membership attacks": OF_ATTACKS, "kept pairs held out": OF_HOLDOUTS}  # of the main table in the terminal
GAP = METRICS["gap_to_retrain"]
NEAR_MISS = "near_miss_score"  # most requests have none

LAST: dict[str, Column] = {
    GAP.heading: _metric("gap_to_retrain"),
    "Update time": _update_time,
    "of Retrain": share_of_retrain,
}


def columns(groups: Sequence[Group]) -> dict[str, Column]:
    """Columns of the main table: registered metrics, attacks and holdouts if any group has them, and times."""
    measured = {key for group in groups for key in group.metrics}
    shown = {
        each.heading: _metric(key)
        for key, each in METRICS.items()
        if each.column and each is not GAP and (key != NEAR_MISS or key in measured)
    }
    held_out = any(f"{name}_score" in measured for name in HOLDOUTS)
    further = OF_ATTACKS | (OF_HOLDOUTS if held_out else {})
    some = {name: column for name, column in further.items() if any(column(group, None) != NONE for group in groups)}
    return {**shown, **some, **LAST}


def cells(groups: Sequence[Group]) -> list[list[str]]:
    """For each group its label, ``columns`` and, with several seeds, their number."""
    several = any(len(group.rows) > 1 for group in groups)
    shown = columns(groups).values()
    return [
        [name, *(column(group, reference(groups, "retrain", group.comparison_key)) for column in shown)]
        + ([str(len(group.rows))] if several else [])
        for name, group in zip(labels(groups), groups, strict=True)
    ]


ABLATED = ("test_score", "forget_auc", "forget_test_auc")  # metrics in the table of an ablation


def ablation(groups: Sequence[Group]) -> list[list[str]]:
    """Full MultiDelete and without each term: label and metrics with differences to the full loss."""
    lines = []
    named = dict(zip(labels(groups), groups, strict=True))
    for name, full_group in named.items():
        parts = {
            label: group for label, group in named.items() if group is not full_group and _is_part(group, full_group)
        }
        for label, group in {name: full_group, **parts}.items() if parts else ():
            line = [label]
            for key in ABLATED:
                own, full = (each.metrics.get(key) for each in (group, full_group))
                change = (
                    f" ({signed(own.mean - full.mean, plus=True)})" if own and full and group is not full_group else ""
                )
                line.append(f"{own or NONE}{change}")
            lines.append([*line, str(len(group.rows))])
    return lines


def _is_part(group: Group, full_group: Group) -> bool:
    """Whether ``group`` is ``full_group`` with the weight of at least one term set to 0."""
    if (
        group.method != "multidelete"
        or full_group.method != "multidelete"
        or group.comparison_key != full_group.comparison_key
    ):
        return False
    settings, full = (each.first["settings"] for each in (group, full_group))
    without = [weight for weight in TERMS if settings.get(weight) == 0 != full.get(weight)]
    same = {**full, **dict.fromkeys(without, 0)} == dict(settings)
    return bool(without) and same and group.first["scope"] == full_group.first["scope"]


def headings(groups: Sequence[Group]) -> list[str]:
    """Headings of ``cells``."""
    return ["Method", *columns(groups)] + (["Seeds"] if any(len(group.rows) > 1 for group in groups) else [])


def _title(comparison_key: tuple[Any, ...], groups: Sequence[Group]) -> str:
    """Title of a comparison key; with the number of seeds if there is no column for it."""
    return comparison_title(comparison_key) + ("" if any(len(group.rows) > 1 for group in groups) else " · n = 1")


def rows_table(run: Run) -> RenderableType:
    """Rows of one run as a table for the terminal, not grouped."""
    return summary_table([Group.of([row]) for row in run.rows])


def summary_table(groups: Sequence[Group]) -> RenderableType:
    """Groups as tables for the terminal, with one section for each comparison key.

    Results of attacks and on holdouts are in further tables, so that all fit into 80 columns.
    """
    parts = _by_comparison(groups)
    groups = [group for part in parts.values() for group in part]
    named, rows = headings(groups), cells(groups)
    below = {title: {i for i, heading in enumerate(named) if heading in of} for title, of in BELOW.items()}
    first = set(range(len(named))) - set().union(*below.values())
    shown = [(_title(next(iter(parts)), groups) if len(parts) == 1 else None, first)]
    shown += [(title, {0} | indices) for title, indices in below.items() if indices]
    tables = []
    for title, indices in shown:
        table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False, title=title)
        for i in sorted(indices):
            table.add_column("\n".join(textwrap.wrap(named[i], 8)), justify="right" if i else "left")
        lines = iter(rows)
        for comparison_key, part in parts.items():
            if len(parts) > 1:
                table.add_section()
                table.add_row(Text(_title(comparison_key, groups), style="bold"))
            for _ in part:
                line = next(lines)
                table.add_row(*(Text(line[i]) for i in sorted(indices)))
        tables.append(table)
    return Stacked(*tables)


def to_text(groups: Sequence[Group], width: int = 140) -> str:
    """Summary as plain text."""
    return as_text(summary_table(groups), width)


def as_text(table: RenderableType, width: int = 140) -> str:
    """Table as plain text."""
    console = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def to_markdown(groups: Sequence[Group]) -> str:
    """Summary as Markdown, one table per comparison key."""
    blocks = []
    for comparison_key, part in _by_comparison(groups).items():
        blocks.append(f"**{_title(comparison_key, part)}**\n\n{markdown(headings(part), cells(part))}")
    return "\n".join(blocks)


def markdown(headings: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Table in Markdown; the first column is text, the others are numbers."""
    written = [headings, ["---", *["---:"] * (len(headings) - 1)], *lines]
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in written]
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped)


def to_csv(groups: Sequence[Group]) -> str:
    """Summary as CSV: every metric and cost as ``_mean``, ``_sd`` (empty for one seed) and ``_n``.

    Metrics also as paired differences ``_to_retrain_mean`` with the bounds ``_low`` and ``_high`` of their 95 %
    interval (empty for fewer than three pairs) and ``_n``.
    """
    keys = list(dict.fromkeys(key for group in groups for key in [*group.metrics, *group.cost]))
    compared = [differences(group, groups) for group in groups]
    compared_keys = list(dict.fromkeys(key for result in compared for key in result))
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    common = ["task", "data", "model", "method", "scope", "forget_examples"]
    numbered = [f"{key}_{part}" for key in keys for part in ("mean", "sd", "n")]
    numbered += [f"{key}_to_retrain_{part}" for key in compared_keys for part in ("mean", "low", "high", "n")]
    writer.writerow(["label", *common, "settings", "seeds", *numbered])
    for name, group, result in zip(labels(groups), groups, compared, strict=True):
        line = [name, *values_of(group.first, common)]
        line += [json.dumps(group.first["settings"], sort_keys=True), " ".join(map(str, group.seeds))]
        for key in keys:
            spread = group.spread(key)
            sd = "" if spread is None or spread.sd is None else spread.sd
            line += ["", "", 0] if spread is None else [spread.mean, sd, spread.n]
        for key in compared_keys:  # None is written as an empty field
            line += astuple(result[key]) if key in result else ["", "", "", 0]
        writer.writerow(line)
    return file.getvalue()


def _by_comparison(groups: Sequence[Group]) -> dict[tuple[Any, ...], list[Group]]:
    parts: dict[tuple[Any, ...], list[Group]] = {}
    for group in in_order(groups):
        parts.setdefault(group.comparison_key, []).append(group)
    return parts
