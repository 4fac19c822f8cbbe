"""Figures that compare models: utility against forgetting, ROC curves of D_f against test, sizes, cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from multidelete.metrics.forgetting import forget_auc
from multidelete.report.figures.drawing import (
    GUIDE,
    INK,
    MUTED,
    SUBSCRIPTED,
    Mark,
    legend,
    position_labels,
    style,
    to_svg,
)
from multidelete.report.tables.groups import share_of_retrain
from multidelete.runs.groups import BASELINES, Group, labels, reference
from multidelete.utils.format import NONE, duration, percent

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")  # variants of one method
MOST_NAMED = 12  # maximum number of points labelled by name; more points get numbers


def scatter(groups: Sequence[Group], *, ids: str, width: float = 6.6, height: float = 4.3) -> str:
    """Utility against forgetting: one point per group, with error bars if there are several seeds.

    Args:
        groups: Groups to show; those without a test score or a D_f AUC are left out.
        ids: Prefix of every id in the SVG, unique within the page.
        width: Width in inches of 72 points; the font size does not change.
        height: Height in inches.
    """
    shown = [
        (name, group)
        for name, group in zip(labels(groups), groups, strict=True)
        if {"forget_auc", "test_score"} <= group.metrics.keys()
    ]
    numbered = len(shown) > MOST_NAMED
    with style():
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot()
        axes.grid(True)
        retrain = reference((group for _, group in shown), "retrain")
        if retrain:
            for line, key in ((axes.axvline, "forget_auc"), (axes.axhline, "test_score")):
                line(retrain.metrics[key].mean, color=INK, linewidth=0.8, linestyle=(0, (4, 3)), zorder=GUIDE)
        seen: dict[str, int] = {}
        numbers: dict[str, Artist] = {}  # the legend, in the order of the numbers
        marks = []
        for name, group in shown:
            x, y = group.metrics["forget_auc"], group.metrics["test_score"]
            variant = seen[group.method] = seen.get(group.method, -1) + 1
            # Original is a ring, so that a method at the same position is visible inside it.
            ring = group.method == "original"
            axes.errorbar(
                x.mean,
                y.mean,
                xerr=x.sd,
                yerr=y.sd,
                color=group.color,
                marker=MARKERS[variant % len(MARKERS)],
                markersize=(12 if ring else 8) - 2 * numbered,
                markerfacecolor="none" if ring else group.color,
                markeredgecolor=group.color if ring else "white",
                markeredgewidth=1.8 if ring else 0.9,
                elinewidth=1.1,
                capsize=2,
                zorder=3,
            )
            bold = group.method in BASELINES
            text = name if bold or not numbered else str(len(numbers) + 1)
            if text != name:
                numbers[name] = Line2D(
                    [],
                    [],
                    color=group.color,
                    marker=MARKERS[variant % len(MARKERS)],
                    linestyle="none",
                    markersize=6,
                    markeredgecolor="white",
                )
            marks.append(Mark(text, group.color, bold, x.mean, y.mean, x.sd or 0.0, y.sd or 0.0))
        axes.margins(0.14)
        axes.autoscale_view()
        axes.autoscale(False)
        axes.set_xlabel(f"{SUBSCRIPTED['forget']} AUC, deleted against kept pairs  (← more forgotten)")
        axes.set_ylabel("Test score   (more useful →)")
        columns = 2 if width < 5 else 4
        if numbers:
            figure.set_figheight(height + 0.17 * -(-len(numbers) // columns) + 0.1)
            named = {f"{number} {name}": handle for number, (name, handle) in enumerate(numbers.items(), start=1)}
            legend(figure, named, columns=columns, below=True)
        position_labels(figure, axes, marks)
    points = "; ".join(
        f"{name}: test score {group.metrics['test_score']}, D_f AUC {group.metrics['forget_auc']}"
        for name, group in shown
    )
    return to_svg(figure, ids, f"Test score against D_f AUC. {points}.")


# --- ROC curves -----------------------------------------------------------------------------------


Curve = tuple[NDArray[np.float64], NDArray[np.float64]]  # false and true positive rates


@dataclass(frozen=True)
class Scored:
    """Scores of one model for deleted and test pairs.

    Args:
        label: Label of the model.
        method: Name of the method.
        color: Color of the method.
        forget: s(x) of D_f, ``(F,)``.
        test: s(x) of D_Test, ``(N,)``.
    """

    label: str
    method: str
    color: str
    forget: NDArray[np.float64]
    test: NDArray[np.float64]


NAMED = (*BASELINES, "multidelete")  # methods that keep their colours in figures with many methods
OTHERS = "#c6cad0"  # colour of all other methods there
VARIANTS = ("-", (0, (6, 1)), (0, (5, 1, 1, 1)))  # line styles of variants of one method
FEWEST = 1e-3  # smallest false-positive rate on logarithmic axes
POINTS = 100  # maximum number of points of a curve
AT = 0.01  # false-positive rate of the reported true-positive rate


def roc(models: Sequence[Scored], *, ids: str, width: float = 6.6) -> str:
    """ROC curves of the score for deleted against test pairs; above the diagonal, deleted pairs are remembered.

    The axes are linear on the left and logarithmic on the right, to show whether a few pairs are detected with near
    certainty. Original, Retrain and MultiDelete are named, and others too if there are few.

    Args:
        models: Scores of the models.
        ids: Prefix of every id in the SVG, unique within the page.
        width: Width in inches of 72 points.
    """
    few = len(models) <= MOST_NAMED // 2
    dashes = {"original": (0, (1, 1.2)), "retrain": (0, (4, 2))}
    narrow = width < 5
    curves = [rates(model) for model in models]
    with style():
        figure = Figure(figsize=(width, 7.0 if narrow else 3.7), layout="constrained")
        panels: list[Axes] = list(figure.subplots(*((2, 1) if narrow else (1, 2))))
        handles: dict[str, Artist] = {}
        for axes, logarithmic in zip(panels, (False, True), strict=True):
            ends = [FEWEST, 1.0] if logarithmic else [0.0, 1.0]
            axes.plot(ends, ends, color=MUTED, linewidth=0.7, linestyle=(0, (1, 2)), zorder=GUIDE)
            seen: dict[str, int] = {}
            for model, curve in zip(models, curves, strict=True):
                false, true = _thinned(curve, logarithmic=logarithmic)
                variant = seen[model.method] = seen.get(model.method, -1) + 1
                named = few or model.method in NAMED
                (line,) = axes.plot(
                    *(np.maximum((false, true), FEWEST) if logarithmic else (false, true)),
                    color=model.color if named else OTHERS,
                    linewidth=1.5 if named else 0.8,
                    linestyle=dashes.get(model.method) or VARIANTS[variant % len(VARIANTS)],
                    drawstyle="steps-post",
                    zorder=3 if named else 2,
                )
                handles.setdefault(model.label if named else "other methods", line)
            if logarithmic:
                axes.set_xscale("log")
                axes.set_yscale("log")
            axes.set_xlim(*ends)
            axes.set_ylim(*ends)
            axes.set_aspect("equal")
            axes.grid(True)
            axes.set_xlabel(f"share of {SUBSCRIPTED['test']} above the threshold")
            axes.set_ylabel(f"share of {SUBSCRIPTED['forget']} above it")
        legend(figure, handles, columns=2 if narrow else 4)
    return to_svg(figure, ids, f"ROC curves of D_f against D_Test. {'; '.join(map(roc_note, models))}.")


def rates(model: Scored) -> Curve:
    """False and true positive rates for detecting deleted pairs by a high score."""
    true = np.concatenate([np.ones(len(model.forget)), np.zeros(len(model.test))])
    false_rate, true_rate, _ = roc_curve(true, np.concatenate([model.forget, model.test]))
    return false_rate, true_rate


def _thinned(curve: Curve, *, logarithmic: bool) -> Curve:
    """Points of a curve that are distinguishable on these axes; all points would make a figure of megabytes."""
    false, true = curve
    seen = np.geomspace(FEWEST, 1, POINTS) if logarithmic else np.linspace(0, 1, POINTS)
    kept = np.unique(np.append(np.searchsorted(false, seen, side="right") - 1, len(false) - 1))
    return false[kept], true[kept]


def roc_note(model: Scored) -> str:
    """AUC of a model's curve, and its true-positive rate at the false-positive rate ``AT``."""
    false, true = rates(model)
    height = float(true[np.searchsorted(false, AT, side="right") - 1])
    area = forget_auc(model.forget, model.test)
    return f"{model.label}: AUC {area:.1f}, {percent(height)} of D_f at {percent(AT)} of test"


# --- sizes ----------------------------------------------------------------------------------------


def by_size(groups: Sequence[Group], *, ids: str, width: float = 9.0) -> str:
    """Test score, forgetting and time against the number of deleted examples, one line for each method.

    Original, Retrain and MultiDelete are named, and others too if there are few.

    Args:
        groups: Groups of one task, data and model, with several sizes of D_f.
        ids: Prefix of every id in the SVG, unique within the page.
        width: Width in inches of 72 points.
    """
    lines: dict[str, list[Group]] = {}
    for name, group in zip(labels(groups), groups, strict=True):
        lines.setdefault(name, []).append(group)
    few = len(lines) <= MOST_NAMED // 2
    narrow = width < 5
    titles = {
        "test_score": "test score",
        "forget_test_auc": f"{SUBSCRIPTED['forget']} vs test AUC",
        "update_seconds": "update time, s",
    }
    with style():
        figure = Figure(figsize=(width, 7.5 if narrow else 3.2), layout="constrained")
        panels: list[Axes] = list(figure.subplots(*((3, 1) if narrow else (1, 3))))
        handles: dict[str, Artist] = {}
        for axes, (key, title) in zip(panels, titles.items(), strict=True):
            seen: dict[str, int] = {}
            for name, every in lines.items():
                method = every[0].method
                variant = seen[method] = seen.get(method, -1) + 1
                result = [(group.first["forget_examples"], group.spread(key)) for group in every]
                points = sorted((examples, spread) for examples, spread in result if spread is not None)
                named = few or method in NAMED
                if not points or (method == "original" and key == "update_seconds"):
                    continue
                drawn = axes.errorbar(
                    [examples for examples, _ in points],
                    [spread.mean for _, spread in points],
                    yerr=[spread.sd or 0.0 for _, spread in points],
                    color=every[0].color if named else OTHERS,
                    linewidth=1.3 if named else 0.8,
                    linestyle=VARIANTS[variant % len(VARIANTS)],
                    marker=MARKERS[variant % len(MARKERS)],
                    markersize=5 if named else 3,
                    markeredgecolor="white",
                    markeredgewidth=0.7,
                    elinewidth=0.9,
                    capsize=2,
                    zorder=3 if named else 2,
                )
                handles.setdefault(name if named else "other methods", drawn.lines[0])
            axes.set_xlabel("examples deleted")
            axes.set_ylabel(title)
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axes.grid(True, axis="y")
        panels[-1].set_ylim(bottom=0)
        legend(figure, handles, columns=2 if narrow else 6)
    read = "; ".join(
        f"{name}, {group.first['forget_examples']:,} deleted: "
        + ", ".join(f"{key.replace('_', ' ')} {group.spread(key) or NONE}" for key in titles)
        for name, every in lines.items()
        for group in every
    )
    return to_svg(figure, ids, f"Scores, forgetting and time by number of deleted examples. {read}.")


# --- costs ----------------------------------------------------------------------------------------


def cost_bars(groups: Sequence[Group], *, ids: str, width: float = 6.6) -> str:
    """Time of each group by part, with its share of Retrain's time and the peak memory."""
    parts = {"update_seconds": "update", "prepare_seconds": "preparation", "evaluate_seconds": "evaluation"}
    shown = [(n, g) for n, g in zip(labels(groups), groups, strict=True) if "update_seconds" in g.cost]
    retrain = reference(groups, "retrain")
    with style():
        figure = Figure(figsize=(width, 0.62 + 0.4 * len(shown)), layout="constrained")
        axes = figure.add_subplot()
        longest = 0.0
        for index, (name, group) in enumerate(shown):
            ink, left = group.color, 0.0
            for key in parts:
                seconds = group.cost[key].mean if key in group.cost else 0.0
                axes.barh(
                    index,
                    seconds,
                    0.36,
                    left=left,
                    facecolor={"update_seconds": ink, "prepare_seconds": "white"}.get(key, "#d0d4d9"),
                    edgecolor=ink if key == "prepare_seconds" and seconds else "none",
                    hatch="/////" if key == "prepare_seconds" else None,
                    linewidth=0.8,
                )
                left += seconds
            longest = max(longest, left)
            axes.annotate(
                name, (0, index), (0, 7), textcoords="offset points", va="bottom", color=INK, parse_math=False
            )
            axes.annotate(
                duration(left), (left, index), (4, 0), textcoords="offset points", va="center", color=MUTED, fontsize=8
            )
            share = NONE if group is retrain else share_of_retrain(group, retrain)
            more = [] if share == NONE else [f"{share} of Retrain"]
            more += [f"{group.cost['peak_memory_mb'].mean:,.0f} MB"] if "peak_memory_mb" in group.cost else []
            axes.annotate(
                " · ".join(more),
                (1, index),
                (0, 7),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                ha="right",
                va="bottom",
                color=MUTED,
                fontsize=8,
            )
        axes.set_ylim(len(shown) - 0.6, -0.85)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        size, example = next((s, u) for s, u in ((3600, "h"), (60, "min"), (1, "s")) if longest >= 3 * s or s == 1)
        ticks = list(MaxNLocator(5).tick_values(0, 1.16 * longest / size))
        axes.set_xticks([size * tick for tick in ticks], [f"{tick:g} {example}" for tick in ticks])
        axes.set_xlim(0, 1.16 * longest or 1.0)
        axes.grid(True, axis="x")
    times = "; ".join(
        f"{name}: "
        + ", ".join(f"{part} {duration(group.cost[key].mean)}" for key, part in parts.items() if key in group.cost)
        for name, group in shown
    )
    return to_svg(figure, ids, f"Time by method. {times}.")
