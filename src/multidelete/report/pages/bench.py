"""Table of benches in the layout of the paper: rows are methods, columns tasks, cells D_Test / D_f."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup
from rich import box
from rich.table import Table
from rich.text import Text

from multidelete.report.figures.comparison import by_size
from multidelete.report.pages.run import write_report
from multidelete.report.pages.template import fill
from multidelete.report.tables.groups import as_text, to_csv
from multidelete.runs.bench_folder import CellResult, check_finished, command_of, read_cells
from multidelete.runs.groups import COMPARISON_KEYS, Group, Spread, comparison_title, in_order, labels, summary
from multidelete.runs.reader import Run
from multidelete.runs.row import Seeds, values_of
from multidelete.utils.errors import InputError
from multidelete.utils.format import NONE

PAIR = ("test_score", "forget_auc")  # metrics in a cell of the table
HEADING = "D_Test ↑ / D_f ↓"
DRAWN = (("wide", 9.0), ("narrow", 4.0))  # widths of figures, in inches of 72 points

ComparisonKey = tuple[Any, ...]


@dataclass(frozen=True)
class Bench:
    """Contents of the folders of benches.

    Args:
        runs: Runs of the finished cells.
        groups: All cells by method, scope, settings and comparison key; unfinished ones have no metrics.
        notes: What was left out, failed or has not run, and why.
        commands: Last commands of the benches.
    """

    runs: tuple[Run, ...]
    groups: tuple[Group, ...]
    notes: tuple[str, ...]
    commands: tuple[str, ...] = ()

    @classmethod
    def load(cls, folders: Sequence[Path]) -> Bench:
        """Load the benches in these folders.

        Raises:
            InputError: A folder contains no bench or is given twice, or no cell has finished.
        """
        known = [folder.resolve() for folder in folders]
        twice = next((folder for folder in known if known.count(folder) > 1), None)
        if twice is not None:
            raise InputError(f"{twice} is given twice: its rows would be counted as two seeds")
        cells: list[CellResult] = []
        notes: list[str] = []
        commands: list[str] = []
        for folder in folders:
            result, more = read_cells(folder)
            cells += result
            notes += more
            commands += command_of(folder)
        check_finished(cells, notes)
        runs = [cell.run for cell in cells if cell.finished]
        missing = [cell.run for cell in cells if not cell.finished]
        groups = _in_grid_order(summary([*runs, *missing]))
        return cls(tuple(runs), tuple(groups), tuple(notes), tuple(commands))


def write_bench(bench: Bench, out: Path) -> list[Path]:
    """Write the table as text, CSV, LaTeX and HTML, and a report for each comparison key."""
    out.mkdir(parents=True, exist_ok=True)
    texts = {
        "bench.txt": to_text(bench),
        "bench.csv": to_csv(bench.groups),
        "bench.tex": to_latex(bench),
        "bench.html": to_html(bench),
    }
    for name, text in texts.items():
        (out / name).write_text(text, encoding="utf-8")
    pages = []
    comparison_keys = _comparison_keys(bench.groups)
    for comparison_key in comparison_keys:
        runs = [run for run in bench.runs if tuple(values_of(run.rows[0], COMPARISON_KEYS)) == comparison_key]
        name = "report.html" if len(comparison_keys) == 1 else "report-" + "-".join(map(str, comparison_key)) + ".html"
        pages += [write_report(runs, out / name)] if runs else []
    return [*(out / name for name in texts), *pages]


# -- the table ------------------------------------------------------------------------------------------------------


def headings(groups: Sequence[Group]) -> list[str]:
    """Headings of :func:`lines`: one column for each comparison key, the average over tasks, the number of seeds."""
    comparison_keys = _comparison_keys(groups)
    if len(comparison_keys) == 1:
        return ["Method", HEADING, "Seeds"]
    differing = [
        i for i in range(len(comparison_keys[0])) if len({comparison_key[i] for comparison_key in comparison_keys}) > 1
    ]
    columns = [", ".join(f"{q[i]:,} deleted" if i == 3 else str(q[i]) for i in differing) for q in comparison_keys]
    return ["Method", *columns, *(["Average"] if _averaged(comparison_keys) else []), "Seeds"]


def lines(groups: Sequence[Group]) -> list[list[str]]:
    """For each method and scope the label, ``test score / D_f AUC`` for each comparison key, and number of seeds."""
    comparison_keys = _comparison_keys(groups)
    rows: dict[str, dict[ComparisonKey, Group]] = {}
    for name, group in zip(labels(groups), groups, strict=True):
        rows.setdefault(name, {})[group.comparison_key] = group
    table = []
    for name, result in rows.items():
        counts = sorted({len(group.seeds) for group in result.values()})
        line = [name, *(_cell(result.get(comparison_key), counts[-1]) for comparison_key in comparison_keys)]
        line += [_average([group for group in result.values() if group.seeds])] if _averaged(comparison_keys) else []
        table.append([*line, str(counts[-1])])
    return table


def _cell(group: Group | None, seeds: int) -> str:
    """Metrics of one cell, with the number of seeds if it is below ``seeds``."""
    if group is None:
        return "N/A"
    pair = [group.metrics.get(key) for key in PAIR]
    if not group.seeds:
        return "failed" if any(row.get("failed") for row in group.rows) else NONE
    shown = " / ".join(NONE if spread is None else str(spread) for spread in pair)
    return shown if len(group.seeds) == seeds else f"{shown} (n = {len(group.seeds)})"


def _average(groups: Sequence[Group]) -> str:
    """Mean over the tasks of a method for each seed, then over the seeds that all tasks have."""
    seeds = sorted(set.intersection(*(set(group.seeds) for group in groups))) if groups else []
    if not seeds:
        return NONE
    shown = []
    for key in PAIR:
        values = [
            [
                float(row["metrics"][key])
                for group in groups
                for row in group.rows
                if Seeds.of(row) == seed and row["metrics"]
            ]
            for seed in seeds
        ]
        shown.append(str(Spread.of([sum(each) / len(each) for each in values])))
    return " / ".join(shown)


def _averaged(comparison_keys: Sequence[ComparisonKey]) -> bool:
    """Whether an average makes sense: there are several tasks, each with one comparison key."""
    return len(comparison_keys) > 1 and len({comparison_key[0] for comparison_key in comparison_keys}) == len(
        comparison_keys
    )


def _comparison_keys(groups: Iterable[Group]) -> list[ComparisonKey]:
    return list(dict.fromkeys(group.comparison_key for group in groups))


def _in_grid_order(groups: Sequence[Group]) -> list[Group]:
    """Groups sorted: references first, then methods in the order of the grid, each with its scopes together."""
    order = list(dict.fromkeys(group.method for group in groups))

    def rank(group: Group) -> tuple[int, bool, str]:  # the "-F" row comes last, as in the paper's table
        scope = group.first["scope"]
        return order.index(group.method), scope == "fusion", scope

    return in_order(sorted(groups, key=rank))


# -- formats --------------------------------------------------------------------------------------------------------


def title(groups: Sequence[Group]) -> str:
    """Title of the table, one line."""
    comparison_keys = _comparison_keys(groups)
    spread = "mean ± standard deviation over seeds" if any(len(group.seeds) > 1 for group in groups) else "one seed"
    return f"{comparison_title(comparison_keys[0]) if len(comparison_keys) == 1 else HEADING}; {spread}"


def to_text(bench: Bench, width: int = 160) -> str:
    """Table as text with title and notes."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    for index, heading in enumerate(headings(bench.groups)):
        table.add_column(heading, justify="right" if index else "left")
    for line in lines(bench.groups):
        table.add_row(*map(Text, line))
    text = "\n".join(line.rstrip() for line in as_text(table, width).splitlines())
    return "\n".join([title(bench.groups), "", text, *(["", *bench.notes] if bench.notes else []), ""])


def to_latex(bench: Bench) -> str:
    """Table as a LaTeX ``tabular``, which needs no package."""
    columns = headings(bench.groups)
    body = "".join(" & ".join(map(latex, line)) + r" \\" + "\n" for line in lines(bench.groups))
    comments = "".join(f"% {line}\n" for line in (title(bench.groups), *bench.notes))
    head = " & ".join(map(latex, columns)) + r" \\"
    begin = rf"\begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}"
    return f"{comments}{begin}\n\\hline\n{head}\n\\hline\n{body}\\hline\n\\end{{tabular}}\n"


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{each: f"\\{each}" for each in "&%$#_{}"},
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "≈": r"$\approx$",
    "·": r"$\cdot$",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "γ": r"$\gamma$",
}


def latex(text: str) -> str:
    r"""Text as LaTeX, with D_f, D_r and D_Test in math mode.

    >>> latex("erm_ktp, 5 % of D_f: 97.1 ± 0.2")
    'erm\\_ktp, 5 \\% of $D_{f}$: 97.1 $\\pm$ 0.2'
    """
    parts = re.split(r"\bD_(f|r|Test)\b", text)
    for i, part in enumerate(parts):
        name = part if len(part) == 1 else rf"\mathrm{{{part}}}"
        parts[i] = f"$D_{{{name}}}$" if i % 2 else "".join(_LATEX.get(each, each) for each in part)
    return "".join(parts)


def to_html(bench: Bench) -> str:
    """Table as an HTML page."""
    return fill(
        "bench.html.j2",
        title=title(bench.groups),
        headings=headings(bench.groups),
        lines=lines(bench.groups),
        sizes=[
            (
                " · ".join(map(str, comparison_key)),
                *(Markup(by_size(part, ids=f"{ids}-{i}", width=wide)) for ids, wide in DRAWN),
            )
            for i, (comparison_key, part) in enumerate(_by_size(bench.groups).items())
        ],
        notes=bench.notes,
    )


def _by_size(groups: Sequence[Group]) -> Mapping[ComparisonKey, list[Group]]:
    """Groups with several sizes of D_f, by task, data and model."""
    parts: dict[ComparisonKey, list[Group]] = {}
    for group in groups:
        parts.setdefault(group.comparison_key[:-1], []).append(group)
    return {key: part for key, part in parts.items() if len(_comparison_keys(part)) > 1}
