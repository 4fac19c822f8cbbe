"""Report of one or several runs as one self-contained HTML page, without scripts or network access."""

from __future__ import annotations

import base64
import io
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from multidelete.judgement import findings, verdict
from multidelete.metrics.registry import METRICS
from multidelete.report.figures import comparison
from multidelete.report.figures import run as figures
from multidelete.report.pages.template import fill, sets
from multidelete.report.tables import groups as tables
from multidelete.report.tables.sections import attacks, differences_to_retrain, probes
from multidelete.runs.groups import BASELINES, Group, comparison_title, label, labels, reference, summary
from multidelete.runs.reader import Run, Scores, numbers
from multidelete.runs.row import Seeds
from multidelete.utils.errors import InputError
from multidelete.utils.format import NONE, signed

MOST_CARDS = 12  # maximum number of pictures per split, to keep the page small
MOST_PIXELS = 256  # longest side of an embedded picture
SPLITS = {"forget": "Deleted pairs", "retain": "Kept pairs"}


@dataclass(frozen=True)
class Panel:
    """Small figure of one model."""

    label: str
    svg: Markup
    note: str = ""


@dataclass(frozen=True)
class Caption:
    """Text of an example, and its s(x) as a probability, by row index."""

    text: str
    probability: Mapping[int, float]


@dataclass(frozen=True)
class Card:
    """Example in the gallery: its picture as a data URI (or "") and its captions."""

    example: str
    picture: str
    captions: Sequence[Caption]


def write_report(runs: Sequence[Run], out: Path) -> Path:
    """Write the report and return its path.

    Args:
        runs: One run, or several of one task, data, model and size of D_f.
        out: Page to write if it ends in ``.html``, else the folder of ``report.html``.
    """
    page = out if out.suffix == ".html" else out / "report.html"
    text = render(runs)
    page.parent.mkdir(parents=True, exist_ok=True)
    part = page.with_name(f".{page.name}.{os.getpid()}")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(page)
    finally:
        part.unlink(missing_ok=True)
    return page


def render(runs: Sequence[Run]) -> str:
    """Report of one or several runs as HTML."""
    groups = comparable(runs)
    retrain = reference(groups, "retrain")
    seeds = sorted({seed for group in groups for seed in group.seeds})
    return fill(
        "page.html.j2",
        {"lines": _lines, "label": _label, "percent": _chance},
        task=groups[0].first,
        seeds=seeds,
        headline=verdict.lead(groups),
        retrain_meaning=verdict.meaning_of_retrain(retrain),
        verdicts=verdict.verdicts(groups),
        thresholds=findings.THRESHOLDS,
        headings=tables.headings(groups),
        times=tables.TIMES,
        table=list(zip(groups, tables.cells(groups), strict=True)),
        several=any(len(group.rows) > 1 for group in groups),
        plotted=any("test_score" in group.metrics for group in groups),
        scatter_wide=Markup(comparison.scatter(groups, ids="scatter-wide")),
        scatter_narrow=Markup(comparison.scatter(groups, ids="scatter-narrow", width=4.0, height=4.2)),
        gallery=_gallery(runs),
        roc=_roc(runs, groups),
        ablation=tables.ablation(groups),
        ablation_headings=["Method", *(METRICS[key].heading for key in tables.ABLATED), "n"],
        histograms=_histograms(runs),
        curves=_curves(runs),
        cost_wide=Markup(comparison.cost_bars(groups, ids="cost-wide")),
        cost_narrow=Markup(comparison.cost_bars(groups, ids="cost-narrow", width=4.0)),
        memory=_memory(groups),
        differences=differences_to_retrain(groups),
        attacks=attacks(groups),
        probes=probes(groups),
        settings=list(zip(labels(groups), groups, strict=True)),
        provenance=[(run.folder.name, run.provenance, summary([run])[0].seeds) for run in runs],
        baselines=BASELINES,
    )


def comparable(runs: Sequence[Run]) -> list[Group]:
    """Groups of the rows of runs with one comparison key.

    Raises:
        InputError: There is no run, one is given twice, or there are several comparison keys.
    """
    if not runs:
        raise InputError("a report needs at least one run folder; none was given")
    folders = [run.folder.resolve() for run in runs]
    for folder in folders:
        if folders.count(folder) > 1:
            raise InputError(f"{folder} is given twice: its rows would be counted as two seeds")
    groups = summary(runs)
    comparison_keys = list(dict.fromkeys(group.comparison_key for group in groups))
    if len(comparison_keys) > 1:
        titles = " | ".join(map(comparison_title, comparison_keys))
        raise InputError(f"a report compares rows of one task, data, model and size of D_f; these are of {titles}")
    return groups


# --- gallery --------------------------------------------------------------------------------------


def _gallery(runs: Sequence[Run]) -> dict[str, Any] | None:
    """Values of the gallery section, from the first run with a gallery; None without one."""
    run = next((run for run in runs if run.gallery()), None)
    if run is None:
        return None
    names = [label(row, run.rows) for row in run.rows]
    methods = [str(row["method"]) for row in run.rows]
    entries = run.gallery()
    parts: list[dict[str, Any]] = []
    stored = {s: {i: _lookup(run.scores(i, s)) for i in range(len(run.rows))} for s in SPLITS}
    for split, title in SPLITS.items():
        mine = [entry for entry in entries if entry.get("split") == split]
        if mine:
            cards = [_card(run, entry, stored[split]) for entry in mine[:MOST_CARDS]]
            parts.append({"title": title, "split": split, "cards": cards, "total": len(mine)})
    scored = {i for part in stored.values() for i, result in part.items() if result}
    switch = [i for i, method in enumerate(methods) if method not in BASELINES and i in scored]
    return {
        "parts": parts,
        "names": names,
        "colors": [row["color"] for row in run.rows],
        "pictures": any(card.picture for part in parts for card in part["cards"]),
        "original": next((i for i in scored if methods[i] == "original"), None),
        "retrain": next((i for i in scored if methods[i] == "retrain"), None),
        "switch": switch,
        "main": next((i for i in switch if methods[i] == "multidelete"), switch[0] if switch else None),
        "seed": Seeds.of(run.rows[0]),
    }


def _lookup(scores: Scores | None) -> dict[tuple[str, int], float]:
    if scores is None:
        return {}
    return {
        (str(example), int(text)): 0.5 * (1 + math.tanh(logit / 2))
        for example, text, logit in zip(scores.example, scores.text, scores.score, strict=True)
    }


def _card(run: Run, entry: Mapping[str, Any], stored: Mapping[int, Mapping[tuple[str, int], float]]) -> Card:
    example = str(entry["example"])
    captions = [
        Caption(str(text), {i: result[example, k] for i, result in stored.items() if (example, k) in result})
        for k, text in enumerate(entry.get("texts") or [])
    ]
    # A record may come from elsewhere: a path in it must not bring other files of this machine into a page.
    picture = (run.folder / str(entry.get("image") or "")).resolve()
    inside = picture.is_relative_to(run.folder.resolve())
    return Card(example, _embedded(picture) if inside and picture.is_file() else "", captions)


def _embedded(path: Path) -> str:
    """Scaled picture as a data URI, as PNG or JPEG, whichever is smaller."""
    try:
        with Image.open(path, formats=("PNG",)) as opened:
            rgba = opened.convert("RGBA")
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a picture: {error}") from error
    rgba.thumbnail((MOST_PIXELS, MOST_PIXELS))
    image = Image.new("RGB", rgba.size, "white")
    image.paste(rgba, mask=rgba.getchannel("A"))
    encoded = []
    for kind, options in (("PNG", {"optimize": True}), ("JPEG", {"quality": 82})):
        file = io.BytesIO()
        image.save(file, kind, **options)
        encoded.append((len(file.getvalue()), kind.lower(), file.getvalue()))
    _, kind, content = min(encoded)
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


# --- figures --------------------------------------------------------------------------------------


def _roc(runs: Sequence[Run], groups: Sequence[Group]) -> tuple[Markup, Markup, list[str]] | None:
    """Wide and narrow figures of ROC curves of :func:`scored`, and a note for each model."""
    models = scored(runs, groups)
    if not models:
        return None
    wide, narrow = (
        Markup(comparison.roc(models, ids=f"roc-{i}", width=width)) for i, width in (("wide", 6.6), ("narrow", 4.0))
    )
    return wide, narrow, [comparison.roc_note(model) for model in models]


def scored(runs: Sequence[Run], groups: Sequence[Group]) -> list[comparison.Scored]:
    """Scores of the first row of each group with stored scores."""
    models = []
    for name, group in zip(labels(groups), groups, strict=True):
        matches = ((run, i) for run in runs for i, row in enumerate(run.rows) if any(row is own for own in group.rows))
        for run, index in matches:
            forget, test = (run.scores(index, split) for split in ("forget", "test"))
            if forget is not None and test is not None and np.isfinite(np.r_[forget.score, test.score]).all():
                models.append(comparison.Scored(name, group.method, group.color, forget.score, test.score))
                break
    return models


def _histograms(runs: Sequence[Run]) -> list[Panel]:
    """Histogram for each row of the first run with stored scores."""
    for run in runs:
        result: dict[int, dict[str, NDArray[np.float64]]] = {}
        for index in range(len(run.rows)):
            logits: dict[str, NDArray[np.float64]] = {}
            for split in ("forget", "retain", "test"):
                scores = run.scores(index, split)
                if scores is not None:
                    logits[split] = scores.score[~np.isnan(scores.score)]
            if any(map(len, logits.values())):
                result[index] = logits
        if result:
            bins = figures.common_bins([one for logits in result.values() for one in logits.values()])
            return [_histogram(run, index, logits, bins) for index, logits in result.items()]
    return []


def _histogram(run: Run, index: int, logits: Mapping[str, NDArray[np.float64]], bins: NDArray[np.float64]) -> Panel:
    row = run.rows[index]
    name = label(row, run.rows)
    drawn = figures.histogram(
        logits,
        bins,
        row["color"],
        ids=f"scores-{index}",
        title=f"Scores under {name}, seed {Seeds.of(row)}",
        of="a match" if row["task"] == "retrieval" else "the true answer",
    )
    metrics = numbers(row["metrics"])
    aucs = (("D_f AUC", "forget_auc"), ("vs test", "forget_test_auc"))
    note = ", ".join(f"{title} {signed(metrics[key])}" for title, key in aucs if key in metrics)
    return Panel(name, Markup(drawn), note)


def _curves(runs: Sequence[Run]) -> list[Panel]:
    """Loss curves of the first run with a history."""
    for run in runs:
        history = run.history()
        panels = []
        for index, row in enumerate(run.rows):
            one = history.get(run.key(index))
            if one is None or not one.losses:
                continue
            name = label(row, run.rows)
            silent = [term.upper() for term, curve in one.losses.items() if not any(curve.values())]
            notes = [f"{', '.join(silent)} zero throughout"] if silent else []
            if one.selected is not None:
                notes.append(f"step {one.selected:,} kept")
            drawn = figures.loss_curves(one, ids=f"loss-{index}", title=f"Loss of {name}, seed {Seeds.of(row)}")
            panels.append(Panel(name, Markup(drawn), ", ".join(notes)))
        if panels:
            return panels
    return []


def _memory(groups: Sequence[Group]) -> str:
    peaks = [
        (group.cost["peak_memory_mb"].mean, name)
        for name, group in zip(labels(groups), groups, strict=True)
        if "peak_memory_mb" in group.cost
    ]
    if not peaks:
        return ""
    (least, leanest), (most, largest) = min(peaks), max(peaks)
    if most < 1.05 * least:
        return f"{most:,.0f} MB"
    return f"from {least:,.0f} MB ({leanest}) to {most:,.0f} MB ({largest})"


# --- text -----------------------------------------------------------------------------------------


def _label(text: str) -> Markup:
    """Label that wraps before its parenthesis or after a comma rather than at a hyphen."""
    pieces = re.split(r" (?=\()|(?<=,) ", text)
    return Markup(" ").join(Markup('<span class="piece">{}</span>').format(piece) for piece in pieces)


def _lines(text: str) -> Markup:
    """``sets`` with each part of an enumeration on its own line."""
    return sets(text).replace("; ", Markup("<br>"))


def _chance(probability: float | None) -> str:
    """Probability as short text."""
    if probability is None:
        return NONE
    if probability < 0.005:
        return "< 1 %"
    return "> 99 %" if probability > 0.995 else f"{100 * probability:.0f} %"
