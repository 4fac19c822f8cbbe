"""The table of one or several benches in the published layout: rows are methods, columns tasks, D_Test / D_f."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape
from rich import box
from rich.table import Table
from rich.text import Text

from multidelete.errors import InputError
from multidelete.report.page import write_report
from multidelete.report.runs import Run, Seeds, read_json
from multidelete.report.tables import (
    NONE,
    Group,
    Spread,
    as_text,
    in_order,
    labels,
    question_title,
    summary,
    to_csv,
)

GRID_FILE = "bench.json"
FAILED_FILE = "failed.json"
CELLS = "cells"
PAIR = ("test_score", "forget_auc")  # what a cell of the table shows
HEADING = "D_Test ↑ / D_f ↓"

Question = tuple[Any, ...]


@dataclass(frozen=True)
class Bench:
    """What the folders of one or several benches hold.

    Args:
        runs: The finished cells.
        groups: All cells by method, scope, settings and question; one that failed or has not run has no metrics.
        notes: What was left out, what failed and why, and what has not run.
        commands: By which they were last asked for.
    """

    runs: tuple[Run, ...]
    groups: tuple[Group, ...]
    notes: tuple[str, ...]
    commands: tuple[str, ...] = ()

    @classmethod
    def load(cls, folders: Sequence[Path]) -> Bench:
        """The benches in these folders.

        Raises:
            InputError: A folder holds none, or is given twice, or no cell has finished.
        """
        known = [folder.resolve() for folder in folders]
        twice = next((folder for folder in known if known.count(folder) > 1), None)
        if twice is not None:
            raise InputError(f"{twice} is given twice: its rows would be counted as two seeds")
        runs: list[Run] = []
        missing: list[Run] = []
        notes: list[str] = []
        commands: list[str] = []
        for folder in folders:
            content = read_bench(folder / GRID_FILE)
            commands += [content["command"]] if "command" in content else []
            failed = read_bench(folder / FAILED_FILE) if (folder / FAILED_FILE).is_file() else {}
            notes += content["notes"]
            waiting = 0
            for cell in content["cells"]:
                place = folder / CELLS / cell["name"]
                reason = failed.get(cell["name"])
                if (place / "results.json").is_file():
                    run = Run.load(place)
                    # Of another seed D_f may be larger by a copy; the size that was asked for is the same.
                    rows = tuple({**row, "forget_units": cell["row"]["forget_units"]} for row in run.rows)
                    runs.append(Run(run.folder, rows, run.provenance))
                    continue
                row = {**cell["row"], "metrics": {}, "cost": {}, "failed": reason is not None}
                missing.append(Run(place, (row,), {}))
                waiting += reason is None
                notes += [] if reason is None else [f"failed: {cell['name']}: {reason}"]
            if waiting:
                notes.append(f"{waiting} of {len(content['cells'])} cells in {folder} have not run")
        if not runs:
            raise InputError("\n".join([*notes, "no cell of this bench has finished: there is nothing to show"]))
        groups = _in_grid_order(summary([*runs, *missing]))
        return cls(tuple(runs), tuple(groups), tuple(notes), tuple(commands))


def is_bench(folder: Path) -> bool:
    """Whether a folder holds a bench."""
    return (folder / GRID_FILE).is_file()


def study_of(folder: Path) -> str | None:
    """Name of the study that a bench is, if it is one."""
    name: str | None = read_bench(folder / GRID_FILE).get("study") if is_bench(folder) else None
    return name


def cell_folders(folder: Path) -> list[Path]:
    """The folders of the cells of a bench, finished or not."""
    return [folder / CELLS / cell["name"] for cell in read_bench(folder / GRID_FILE)["cells"]]


def write_bench(bench: Bench, out: Path) -> list[Path]:
    """Write the table as text, CSV, LaTeX and HTML, and for each question the report over all its cells."""
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
    questions = _questions(bench.groups)
    for question in questions:
        runs = [run for run in bench.runs if all(run.rows[0][key] == value for key, value in _keyed(question).items())]
        name = "report.html" if len(questions) == 1 else "report-" + "-".join(map(str, question)) + ".html"
        pages += [write_report(runs, out / name)] if runs else []
    return [*(out / name for name in texts), *pages]


# -- the table ------------------------------------------------------------------------------------------------------


def headings(groups: Sequence[Group]) -> list[str]:
    """The headings that go with :func:`lines`: a column for each question, the average of several tasks, the seeds."""
    questions = _questions(groups)
    if len(questions) == 1:
        return ["Method", HEADING, "Seeds"]
    differing = [i for i in range(len(questions[0])) if len({question[i] for question in questions}) > 1]
    columns = [", ".join(f"{q[i]:,} deleted" if i == 3 else str(q[i]) for i in differing) for q in questions]
    return ["Method", *columns, *(["Average"] if _averaged(questions) else []), "Seeds"]


def lines(groups: Sequence[Group]) -> list[list[str]]:
    """For each method and scope its label, its ``test score / D_f AUC`` under each question, and how many seeds."""
    questions = _questions(groups)
    rows: dict[str, dict[Question, Group]] = {}
    for name, group in zip(labels(groups), groups, strict=True):
        rows.setdefault(name, {})[group.question] = group
    table = []
    for name, found in rows.items():
        counts = sorted({len(group.seeds) for group in found.values()})
        line = [name, *(_cell(found.get(question), counts[-1]) for question in questions)]
        line += [_average([group for group in found.values() if group.seeds])] if _averaged(questions) else []
        table.append([*line, str(counts[-1])])
    return table


def _cell(group: Group | None, seeds: int) -> str:
    """The pair of one method under one question, and how many seeds where they are fewer than elsewhere in its row."""
    if group is None:
        return "N/A"
    pair = [group.metrics.get(key) for key in PAIR]
    if not group.seeds:
        return "failed" if any(row.get("failed") for row in group.rows) else NONE
    shown = " / ".join(NONE if spread is None else str(spread) for spread in pair)
    return shown if len(group.seeds) == seeds else f"{shown} (n = {len(group.seeds)})"


def _average(groups: Sequence[Group]) -> str:
    """Mean over the tasks that a method does, for each seed, then over the seeds that all of them have."""
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


def _averaged(questions: Sequence[Question]) -> bool:
    """Whether an average says something: of several tasks, each once."""
    return len(questions) > 1 and len({question[0] for question in questions}) == len(questions)


def _questions(groups: Iterable[Group]) -> list[Question]:
    return list(dict.fromkeys(group.question for group in groups))


def _keyed(question: Question) -> Mapping[str, Any]:
    return dict(zip(("task", "data", "model", "forget_units"), question, strict=True))


def _in_grid_order(groups: Sequence[Group]) -> list[Group]:
    """References first, then methods, each with its scopes together, a method that is nowhere finished at its place."""
    order = list(dict.fromkeys(group.method for group in groups))
    return in_order(sorted(groups, key=lambda group: (order.index(group.method), group.first["scope"])))


# -- formats --------------------------------------------------------------------------------------------------------


def title(groups: Sequence[Group]) -> str:
    """What the table is about, in one line."""
    questions = _questions(groups)
    spread = "mean ± standard deviation over seeds" if any(len(group.seeds) > 1 for group in groups) else "one seed"
    return f"{question_title(questions[0]) if len(questions) == 1 else HEADING}; {spread}"


def to_text(bench: Bench, width: int = 160) -> str:
    """The table for a terminal, and what there is to say of it."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    for index, heading in enumerate(headings(bench.groups)):
        table.add_column(heading, justify="right" if index else "left")
    for line in lines(bench.groups):
        table.add_row(*map(Text, line))
    text = "\n".join(line.rstrip() for line in as_text(table, width).splitlines())
    return "\n".join([title(bench.groups), "", text, *(["", *bench.notes] if bench.notes else []), ""])


def to_latex(bench: Bench) -> str:
    """The table as a plain ``tabular``, which needs no package."""
    columns = headings(bench.groups)
    body = "".join(" & ".join(map(latex, line)) + r" \\" + "\n" for line in lines(bench.groups))
    said = "".join(f"% {line}\n" for line in (title(bench.groups), *bench.notes))
    head = " & ".join(map(latex, columns)) + r" \\"
    begin = rf"\begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}"
    return f"{said}{begin}\n\\hline\n{head}\n\\hline\n{body}\\hline\n\\end{{tabular}}\n"


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
    r"""Text as LaTeX, D_f and D_Test as mathematics.

    >>> latex("erm_ktp, 5 % of D_f: 97.1 ± 0.2")
    'erm\\_ktp, 5 \\% of $D_{f}$: 97.1 $\\pm$ 0.2'
    """
    parts = re.split(r"\bD_(f|r|Test)\b", text)
    for i, part in enumerate(parts):
        name = part if len(part) == 1 else rf"\mathrm{{{part}}}"
        parts[i] = f"$D_{{{name}}}$" if i % 2 else "".join(_LATEX.get(each, each) for each in part)
    return "".join(parts)


def to_html(bench: Bench) -> str:
    """The table as a page of its own."""
    head = Markup("").join(Markup("<th>{}</th>").format(sets(each)) for each in headings(bench.groups))
    body = Markup("").join(
        Markup("<tr><th>{}</th>{}</tr>\n").format(
            line[0], Markup("").join(Markup("<td>{}</td>").format(each) for each in line[1:])
        )
        for line in lines(bench.groups)
    )
    notes = Markup("").join(Markup("<p>{}</p>\n").format(sets(note)) for note in bench.notes)
    name = title(bench.groups)
    return _PAGE.format(title=name, caption=sets(name), head=head, body=body, notes=notes)


_PAGE = Markup("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }}
div {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
caption {{ text-align: left; padding-bottom: .5rem; }}
th, td {{ padding: .3rem .8rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #8886; }}
th:first-child {{ text-align: left; }}
</style>
</head>
<body>
<div><table>
<caption>{caption}</caption>
<thead><tr>{head}</tr></thead>
<tbody>
{body}</tbody>
</table></div>
{notes}</body>
</html>
""")


def sets(text: str) -> Markup:
    """Text in which D_f and D_Test have their subscripts, and a deviation stays with its number."""
    bound = str(escape(text)).replace(" ± ", "\u00a0±\u00a0")
    return Markup(re.sub(r"\bD_(f|r|Test)\b", r"D<sub>\1</sub>", bound))


def read_bench(path: Path) -> Any:
    """What a file of a bench holds."""
    try:
        return read_json(path)
    except FileNotFoundError as error:
        raise InputError(f"{path.parent} holds no bench: there is no {path.name}") from error
