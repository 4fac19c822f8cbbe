"""Output of a study: findings, figure and table as a page, and numbers as CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from markupsafe import Markup
from rich import box
from rich.table import Table
from rich.text import Text

from multidelete.report.pages.template import fill
from multidelete.report.studies.findings import VIEWS
from multidelete.report.studies.results import Line, StudyResult
from multidelete.report.tables.groups import as_text, columns
from multidelete.runs.groups import Group
from multidelete.utils.files import write_file

WIDE, NARROW = 7.4, 4.0  # inches of 72 points

# Additional columns, if the rows have these metrics.
MORE = {"Loss attack AUC (≈ Retrain)": "attack_loss_auc"}


def write_study(result: StudyResult, out: Path) -> list[Path]:
    """Write the page, the figure, and the numbers as CSV and JSON."""
    out.mkdir(parents=True, exist_ok=True)
    texts = {
        "study.json": to_json(result),
        "study.csv": to_csv(result),
        "study.html": to_html(result),
        "figure.svg": VIEWS[result.name].figure(result, "figure", WIDE) + "\n",
    }
    for name, text in texts.items():
        write_file(out / name, text)
    return [out / name for name in texts]


# -- the table ------------------------------------------------------------------------------------------------------


def headings(result: StudyResult) -> list[str]:
    """Headings of :func:`table`."""
    return [
        "Variant",
        "Deleted",
        "n",
        *_columns(result),
        *(title for title, key in MORE.items() if _measured(result, key)),
    ]


def table(result: StudyResult) -> list[list[str]]:
    """One line for each reference and variant: label, number of deleted examples, number of seeds, metrics."""
    lines = []
    for line in _shown(result):
        retrain = result.retrain(line.examples)
        group = retrain.group if retrain else None
        cells = [column(line.group, group) for column in _columns(result).values()]
        cells += [line.text(key) for key in MORE.values() if _measured(result, key)]
        lines.append([line.label, f"{line.examples:,}", str(len(line.group.seeds)), *cells])
    return lines


def _columns(result: StudyResult) -> dict[str, Callable[[Group, Group | None], str]]:
    return columns([line.group for line in _shown(result)])


def _shown(result: StudyResult) -> list[Line]:
    """References and variants."""
    return [*result.references, *result.lines]


def _measured(result: StudyResult, key: str) -> bool:
    return any(line.spread(key) for line in result.done)


def to_text(result: StudyResult, width: int = 160) -> str:
    """Study as text: question, table and findings."""
    drawn = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    for index, heading in enumerate(headings(result)):
        drawn.add_column(heading, justify="right" if index else "left", no_wrap=not index)
    for line in table(result):
        drawn.add_row(*map(Text, line))
    text = "\n".join(line.rstrip() for line in as_text(drawn, width).splitlines())
    view = VIEWS[result.name]
    return "\n".join([view.title, view.question, "", text, "", *view.sentences(result), *result.notes, ""])


def to_csv(result: StudyResult) -> str:
    """Study as CSV: every metric and cost as ``_mean``, ``_sd`` (empty for one seed) and ``_n``."""
    lines = _shown(result)
    keys = list(dict.fromkeys(key for line in lines for key in (*line.group.metrics, *line.group.cost)))
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    numbered = [f"{key}_{part}" for key in keys for part in ("mean", "sd", "n")]
    writer.writerow(["variant", "label", "forget_examples", "settings", "seeds", *numbered])
    for line in lines:
        settings = json.dumps(line.group.first["settings"], sort_keys=True)
        values: list[Any] = [line.variant, line.label, line.examples, settings, " ".join(map(str, line.group.seeds))]
        for spread in map(line.spread, keys):
            values += ["", "", 0] if spread is None else [spread.mean, "" if spread.sd is None else spread.sd, spread.n]
        writer.writerow(values)
    return file.getvalue()


def to_json(result: StudyResult) -> str:
    """Study as JSON: rows, findings and facts."""
    view = VIEWS[result.name]
    content = {
        "schema": 1,
        "study": result.name,
        "question": view.question,
        "findings": list(view.sentences(result)),
        "facts": view.facts(result),
        "variants": [
            {"variant": line.variant, "label": line.label, "rows": [row for row in line.group.rows if row["metrics"]]}
            for line in _shown(result)
        ],
        "notes": result.notes,
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def to_html(result: StudyResult) -> str:
    """Study as a self-contained HTML page, without scripts or network access."""
    view = VIEWS[result.name]
    return fill(
        "study.html.j2",
        view=view,
        row=result.done[0].group.first,
        seeds=sorted({seed for line in result.lines for seed in line.group.seeds}),
        findings=list(view.sentences(result)),
        wide=Markup(view.figure(result, "wide", WIDE)),
        narrow=Markup(view.figure(result, "narrow", NARROW)),
        headings=headings(result),
        lines=table(result),
        notes=result.notes,
    )
