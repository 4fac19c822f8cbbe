"""Figures of one model as SVG: score histograms and loss curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from multidelete.report.figures.drawing import INK, SUBSCRIPTED, legend, style, to_svg
from multidelete.runs.reader import RowHistory

TERM_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")


# --- score histograms -----------------------------------------------------------------------------

WIDEST = 14.0  # log-odds beyond this (a probability of about one in a million) are in the outermost bins
# Candidates for ticks by priority; a tick is left out if it would overlap an earlier one.
PROBABILITIES = (0.5, 0.01, 0.99, 1e-4, 1 - 1e-4, 0.1, 0.9, 1e-6, 1 - 1e-6, 0.3, 0.7)


def common_bins(scores: Sequence[NDArray[np.float64]], count: int = 36) -> NDArray[np.float64]:
    """Bin edges for all ``scores``; values beyond ``WIDEST`` fall into the outermost bins."""
    every = np.clip(np.concatenate(scores), -WIDEST, WIDEST)
    low, high = float(every.min()), float(every.max())
    if high - low < 1:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, count + 1)


def histogram(
    scores: Mapping[str, NDArray[np.float64]],
    bins: NDArray[np.float64],
    color: str,
    *,
    ids: str,
    title: str,
    of: str = "a match",
) -> str:
    """Normalised histograms of one model's scores for D_f, D_r and the test split.

    Args:
        scores: Log-odds by split (``forget``, ``retain``, ``test``).
        bins: Common edges, see ``common_bins``.
        color: Color of D_f.
        ids: Prefix of every id in the SVG, unique within the page.
        title: Alternative text of the figure.
        of: Event of the log-odds, for the axis label.
    """
    with style():
        figure = Figure(figsize=(3.5, 2.15), layout="constrained")
        axes = figure.add_subplot()
        centres = (bins[:-1] + bins[1:]) / 2
        width = float(bins[1] - bins[0])
        medians, handles = [], dict[str, Artist]()
        for split, word in (("retain", "kept"), ("forget", "deleted"), ("test", "unseen")):
            if split not in scores or not len(scores[split]):
                continue
            counts = np.histogram(np.clip(scores[split], bins[0], bins[-1]), bins)[0]
            share = 100 * counts / counts.sum()
            name = f"{SUBSCRIPTED[split]} {word}"
            if split == "retain":
                handle: Artist = axes.bar(centres, share, width, color="#c6cad0")[0]
            elif split == "forget":
                handle = axes.bar(centres, share, width, color=color, alpha=0.62)[0]
            else:
                axes.stairs(share, bins, color="white", linewidth=2.4, alpha=0.8)
                handle = axes.stairs(share, bins, color=INK, linewidth=1.1, linestyle=(0, (2.5, 1.2)))
            handles[name] = handle
            medians.append(f"{word}: median {_probability(_sigmoid(float(np.median(scores[split]))))}")
        axes.set_xlim(float(bins[0]), float(bins[-1]))
        _probability_ticks(axes)
        axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        axes.yaxis.set_major_formatter("{x:.0f} %")
        axes.set_xlabel(f"probability of {of}")
        legend(figure, handles)
    return to_svg(figure, ids, f"{title}. {'; '.join(medians)}.")


def _sigmoid(logit: float) -> float:
    return 0.5 * (1 + math.tanh(logit / 2))


def _probability(probability: float) -> str:
    rarer = min(probability, 1 - probability)
    digits = math.ceil(-math.log10(100 * rarer) - 1e-9) if rarer > 0 else 0
    return f"{100 * probability:.{min(max(digits, 0), 4)}f} %"


def _probability_ticks(axes: Axes) -> None:
    low, high = axes.get_xlim()
    ticks: list[tuple[float, str]] = []
    for probability in PROBABILITIES:
        logit = math.log(probability / (1 - probability))
        if low <= logit <= high and all(abs(logit - other) > (high - low) / 5.5 for other, _ in ticks):
            ticks.append((logit, _probability(probability)))
    ticks.sort()
    axes.set_xticks([logit for logit, _ in ticks], [text for _, text in ticks])


# --- loss curves ----------------------------------------------------------------------------------

MOST_POINTS = 400


def loss_curves(history: RowHistory, *, ids: str, title: str) -> str:
    """Loss terms of one row over the steps, and validation metrics of the checkpoints.

    The axis is logarithmic if all terms are positive. Triangles mark evaluated checkpoints; the filled one is the
    selected checkpoint.
    """
    steps_checked = sorted(history.validation)
    validated = any({"utility", "forget_auc"} & history.validation[step].keys() for step in steps_checked)
    # A term that is always zero (UKR in scope fusion) cannot be shown on a logarithmic axis.
    silent = [term for term, curve in history.losses.items() if not any(curve.values())]
    terms = [term for term in history.losses if term not in (*silent, "total")]
    if "total" in history.losses and len(terms) != 1:
        terms.append("total")
    with style():
        figure = Figure(figsize=(3.5, 3.1 if validated else 2.3), layout="constrained")
        axes = figure.add_subplot(*((3, 1, (1, 2)) if validated else ()))
        handles: dict[str, Artist] = {}
        curves = {term: _thinned(history.losses[term]) for term in terms}
        positive = all(np.all((values >= 0) | np.isnan(values)) for _, values in curves.values())
        if positive and curves:
            axes.set_yscale("log", nonpositive="mask")
        for index, (term, (steps, values)) in enumerate(curves.items()):
            name = term.upper() if term in ("md", "mkr", "ukr") else term.replace("_", " ")
            ink = INK if term == "total" else TERM_COLOURS[index % len(TERM_COLOURS)]
            smooth = _smoothed(values)
            if smooth is not values:
                axes.plot(steps, values, color=ink, linewidth=0.6, alpha=0.3)
            dashes = (0, (3, 1.5)) if term == "total" else "-"
            handles[name] = axes.plot(steps, smooth, color=ink, linewidth=1.3, linestyle=dashes)[0]
        if positive and curves:
            low, high = axes.get_ylim()
            few = math.log10(high / low) < 2.2
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,), numticks=8))
            axes.yaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_formatter("{x:g}")
        axes.grid(True, axis="y")
        axes.set_ylabel("loss")
        for step in steps_checked:
            axes.plot(
                step,
                0.0,
                "^",
                transform=axes.get_xaxis_transform(),
                markersize=5,
                markerfacecolor=INK if step == history.selected else "white",
                markeredgecolor=INK,
                clip_on=False,
                zorder=6 if step == history.selected else 5,
            )
        lowest = _validation(figure, axes, history) if validated else axes
        if history.selected is not None:
            for panel in figure.axes:
                panel.axvline(history.selected, color=INK, linewidth=0.8, linestyle=(0, (1, 1.5)))
        lowest.set_xlabel("step")
        lowest.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if handles:
            legend(figure, handles)
    zero = f" {', '.join(silent)}: zero throughout." if silent else ""
    kept = f" The checkpoint of step {history.selected} was kept." if history.selected is not None else ""
    return to_svg(figure, ids, f"{title}.{zero}{kept}")


def _validation(figure: Figure, above: Axes, history: RowHistory) -> Axes:
    """Draw validation metrics below the losses, with the same x axis."""
    axes = figure.add_subplot(3, 1, 3, sharex=above)
    above.tick_params(labelbottom=False)
    for term, name, ink, marker in (
        ("utility", "utility", INK, "o"),
        ("forget_auc", f"{SUBSCRIPTED['forget']} AUC", "#AA3377", "s"),
    ):
        steps = [step for step in sorted(history.validation) if term in history.validation[step]]
        values = [history.validation[step][term] for step in steps]
        if steps:
            axes.plot(steps, values, color=ink, marker=marker, markersize=3, linewidth=1, label=name)
    axes.grid(True, axis="y")
    axes.set_ylabel("validation")
    axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.margins(y=0.15)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 0.94), ncols=2, handlelength=1.2, borderpad=0)
    return axes


def _thinned(curve: Mapping[int, float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Steps and values of a curve; a long curve is averaged over equal intervals, to keep the page small."""
    steps = np.array(sorted(curve), dtype=np.float64)
    values = np.array([curve[int(step)] for step in steps], dtype=np.float64)
    if len(steps) <= MOST_POINTS:
        return steps, values
    parts = zip(np.array_split(steps, MOST_POINTS), np.array_split(values, MOST_POINTS), strict=True)
    means = np.array([(s.mean(), v.mean()) for s, v in parts])
    return means[:, 0], means[:, 1]


def _smoothed(values: NDArray[np.float64], least: int = 60) -> NDArray[np.float64]:
    """Running mean of a long curve; a short curve is returned unchanged."""
    if len(values) < least:
        return values
    window = np.ones(max(3, len(values) // 25))
    known = np.isfinite(values)
    weight = np.convolve(known, window, mode="same")
    total = np.convolve(np.where(known, values, 0), window, mode="same")
    return np.asarray(np.where(weight > 0, total / np.maximum(weight, 1), np.nan))
