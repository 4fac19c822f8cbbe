"""Figures of the studies, with Original and Retrain as references."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from multidelete.report.figures.drawing import GUIDE, INK, MUTED, SUBSCRIPTED, legend, style, to_svg
from multidelete.report.studies.results import AUC, GAP, ORIGINAL, SCORE, TEST_AUC, Line, StudyResult, fitted
from multidelete.runs.groups import SYMBOLS, TERMS, Spread
from multidelete.utils.format import duration

INKS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
MARKS = ("o", "s", "^", "D", "v")
DASHES = {"Retrain": (0, (4, 3)), "Original": (0, (1, 1.6))}
TITLES = {
    SCORE: "test score",
    AUC: f"{SUBSCRIPTED['forget']} AUC (← more forgotten)",
    TEST_AUC: f"{SUBSCRIPTED['forget']} vs test AUC",
    GAP: "gap to Retrain (← closer)",
}


def dots(keys: Sequence[str], result: StudyResult, ids: str, width: float) -> str:
    """Dot plot of the variants, one panel for each metric."""
    with style():
        figure, every = _panels(len(keys), width, 0.9 + 0.42 * len(result.done))
        handles: dict[str, Artist] = {}
        for index, (axes, key) in enumerate(zip(every, keys, strict=True)):
            if key != GAP:
                handles |= _references(axes, result, key, upright=True)
            for index, line in enumerate(result.done):
                spread = line.spread(key)
                if spread is not None:
                    _point(axes, spread.mean, index, x_reach=spread.sd, ink=INKS[index % len(INKS)])
                    axes.annotate(
                        str(spread),
                        (spread.mean, index),
                        (0, 5),
                        textcoords="offset points",
                        ha="center",
                        va="bottom",
                        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},  # on top of the reference lines
                    ).set_in_layout(False)
            named = index == 0 or width < 5
            axes.set_yticks(range(len(result.done)), [line.label if named else "" for line in result.done])
            axes.tick_params(axis="y", length=0, labelcolor=INK)
            axes.set_ylim(len(result.done) - 0.6, -0.75)
            axes.margins(x=0.28)
            low, high = axes.get_xlim()
            ticks = MaxNLocator(4).tick_values(low, high)
            axes.set_xticks([tick for tick in ticks if max(low, 0) <= tick <= min(high, 100)])  # points are 0-100
            axes.grid(True, axis="x")
            axes.set_xlabel(TITLES[key])
        legend(figure, handles, columns=2 if width < 5 else 5)
    return to_svg(figure, ids, _read_out(result, keys))


def courses(result: StudyResult, ids: str, width: float) -> str:
    """Validation metrics of the checkpoints of each variant: mean over seeds, band of one standard deviation."""
    with style():
        figure, every = _panels(2, width, 2.7)
        handles: dict[str, Artist] = {}
        for axes, key, title, of_retrain in (
            (every[0], "utility", "score on validation", "valid_score"),
            (every[1], "forget_auc", f"{SUBSCRIPTED['forget']} AUC against validation", TEST_AUC),
        ):
            handles |= _references(axes, result, of_retrain)
            for index, line in enumerate(result.done):
                steps, values = course(line, key)
                if not len(steps):
                    continue
                ink, mean = INKS[index % len(INKS)], values.mean(0)
                handles[line.label] = axes.plot(
                    steps, mean, color=ink, marker=MARKS[index % len(MARKS)], markersize=4, linewidth=1.3
                )[0]
                if len(values) > 1:
                    reach = values.std(0, ddof=1)
                    axes.fill_between(steps, mean - reach, mean + reach, color=ink, alpha=0.15, linewidth=0)
            axes.set_xlabel("step")
            axes.set_ylabel(title)
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axes.grid(True, axis="y")
        legend(figure, handles, columns=2 if width < 5 else 5)
    return to_svg(figure, ids, _read_out(result, (SCORE, AUC)))


def course(line: Line, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps of evaluated checkpoints, ``(K,)``, and the metric at each, by seed, ``(n, K)``.

    If a stopping rule ended some seeds earlier, all are cut to the shortest.
    """
    result = [run.history().get(run.key(len(run.rows) - 1)) for run in line.runs]
    validated = [
        {step: at[key] for step, at in sorted(each.validation.items()) if key in at} for each in result if each
    ]
    validated = [each for each in validated if each]
    if not validated:
        return np.empty(0), np.empty((0, 0))
    shortest = min(map(len, validated))
    values = [list(each.values())[:shortest] for each in validated]
    return np.array(list(validated[0])[:shortest]), np.array(values, dtype=np.float64)


def by_size(result: StudyResult, ids: str, width: float) -> str:
    """Update time with its linear fit, test score and D_f AUC against the number of deleted examples."""
    lines = result.done
    with style():
        figure, every = _panels(3, width, 2.6)
        handles: dict[str, Artist] = {}
        for axes, key in zip(every, ("update_seconds", SCORE, TEST_AUC), strict=True):
            if key != "update_seconds":
                of_retrain = [line for line in (result.retrain(each.examples) for each in lines) if line is not None]
                handles |= _curve(axes, of_retrain, key, INK, "x", "Retrain", "--")
            handles |= _curve(axes, lines, key, INKS[0], "o", "unlearned", "" if key == "update_seconds" else "-")
            axes.set_ylabel(TITLES.get(key, "update time, s"))
            axes.set_xlabel("examples deleted")
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(5))
            axes.grid(True, axis="y")
        fit = fitted(result)
        if fit is not None:
            ends = np.array([0, max(line.examples for line in lines)])
            fit_line = every[0].plot(ends, fit.intercept + fit.slope * ends, color=INKS[1], linewidth=1.1, zorder=2)[0]
            handles[f"fit: {1000 * fit.slope:.3g} ms an example, R² = {fit.r_squared:.3f}"] = fit_line
        every[0].set_ylim(bottom=0)
        retrain = [line.mean("update_seconds") for line in result.references if line.variant != ORIGINAL]
        times = [seconds for seconds in retrain if seconds]
        if times:
            span = " to ".join(dict.fromkeys(map(duration, (min(times), max(times)))))
            every[0].set_title(f"Retrain takes {span}", fontsize=8.5, color=MUTED, loc="left")
        legend(figure, handles, columns=2 if width < 5 else 5)
    return to_svg(figure, ids, _read_out(result, ("update_seconds", SCORE, TEST_AUC)))


def by_weight(result: StudyResult, ids: str, width: float) -> str:
    """Test score and D_f AUC against the weight of each term, as a multiple of the recipe's weight."""
    base = result.line("as-it-is")
    with style():
        figure, every = _panels(2, width, 2.7)
        handles: dict[str, Artist] = {}
        for axes, key in zip(every, (SCORE, AUC), strict=True):
            handles |= _references(axes, result, key)
            for index, weight in enumerate(TERMS):
                points = weighted(result, weight)
                if len(points) < 2:
                    continue
                name = f"{SYMBOLS[weight]} (recipe: {own_weight(base or points[0][1], weight):g})"
                multiples = [multiple for multiple, _ in points]
                moved = [multiple * 2 ** (0.06 * (index - 1)) for multiple in multiples]  # separates error bars
                handles |= _curve(
                    axes, [line for _, line in points], key, INKS[index], MARKS[index], name, "-", positions=moved
                )
            axes.set_xscale("log", base=2)
            axes.set_xticks([0.25, 0.5, 1, 2, 4], ["¼", "½", "1", "2", "4"])
            axes.set_xlabel("weight, as a multiple of the recipe's")
            axes.set_ylabel(TITLES[key])
            axes.grid(True, axis="y")
        legend(figure, handles, columns=2 if width < 5 else 5)
    return to_svg(figure, ids, _read_out(result, (SCORE, AUC)))


def own_weight(line: Line, weight: str) -> float:
    """Weight of a term in a variant."""
    return float(line.group.first["settings"][weight])


def weighted(result: StudyResult, weight: str) -> list[tuple[float, Line]]:
    """Variants of one weight, including the recipe's, sorted by their multiple of the recipe's weight."""
    base = result.line("as-it-is")
    if base is None:
        return []
    own = own_weight(base, weight) or 1.0
    lines = [base, *(line for line in result.done if line.variant.startswith(f"{weight}-"))]
    return sorted(((own_weight(line, weight) / own, line) for line in lines), key=lambda each: each[0])


def by_request(result: StudyResult, ids: str, width: float) -> str:
    """Test score and D_f AUC after each request, compared with all at once and Retrain."""
    steps = [line for line in result.done if line.variant.startswith("step")]
    with style():
        figure, every = _panels(2, width, 2.7)
        handles: dict[str, Artist] = {}
        for axes, key in zip(every, (SCORE, TEST_AUC), strict=True):
            before = [line for line in result.references if line.variant == ORIGINAL]
            numbers = [0] * len(before) + [int(line.variant.removeprefix("step")) for line in steps]
            handles |= _curve(axes, before + steps, key, INKS[0], "o", "sequential", "-", positions=numbers)
            last = max(numbers, default=0)
            ends = [(result.line("at-once"), "all at once", INKS[1], "s"), (result.retrain(), "Retrain", INK, "x")]
            for index, (line, name, ink, marker) in enumerate(ends):
                if line is not None:
                    handles |= _curve(axes, [line], key, ink, marker, name, "", positions=[last + 0.2 + 0.2 * index])
            axes.set_xticks(range(last + 1), ["before", *map(str, range(1, last + 1))])
            axes.set_xlabel("after request")
            axes.set_ylabel(TITLES[key])
            axes.grid(True, axis="y")
        legend(figure, handles, columns=2 if width < 5 else 5)
    return to_svg(figure, ids, _read_out(result, (SCORE, TEST_AUC)))


# -- parts of figures -----------------------------------------------------------------------------------------------


def _panels(count: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """Figure with panels in a row, or in a column if it is narrow."""
    narrow = width < 5
    figure = Figure(figsize=(width, height * count + 0.4 if narrow else height + 0.3), layout="constrained")
    shape = (count, 1) if narrow else (1, count)
    return figure, list(figure.subplots(*shape, squeeze=False).flat)


def _references(axes: Axes, result: StudyResult, key: str, *, upright: bool = False) -> Mapping[str, Artist]:
    """Draw reference lines at the values of Original and Retrain."""
    drawn: dict[str, Artist] = {}
    original = next((line for line in result.references if line.variant == ORIGINAL), None)
    for line, name in ((original, "Original"), (result.retrain(), "Retrain")):
        value = line.mean(key) if line else None
        if value is not None:
            across = axes.axvline if upright else axes.axhline
            drawn[name] = across(value, color=INK, linewidth=0.9, linestyle=DASHES[name], zorder=GUIDE)
    return drawn


def _curve(
    axes: Axes,
    lines: Sequence[Line],
    key: str,
    ink: str,
    marker: str,
    name: str,
    dashes: str,
    positions: Sequence[float] | None = None,
) -> Mapping[str, Artist]:
    """Draw means with error bars, joined by a line, at the sizes or at the given x positions."""
    at = [line.examples for line in lines] if positions is None else positions
    known = [(x, spread) for x, spread in zip(at, (line.spread(key) for line in lines), strict=True) if spread]
    if not known:
        return {}
    means = [spread.mean for _, spread in known]
    axes.plot([x for x, _ in known], means, color=ink, linestyle=dashes or "none", linewidth=1.2, zorder=2)
    drawn = [_point(axes, x, spread.mean, y_reach=spread.sd, ink=ink, marker=marker) for x, spread in known]
    return {name: drawn[0]}


def _point(
    axes: Axes,
    x: float,
    y: float,
    *,
    ink: str,
    marker: str = "o",
    x_reach: float | None = None,
    y_reach: float | None = None,
) -> Artist:
    drawn = axes.errorbar(
        x,
        y,
        xerr=x_reach,
        yerr=y_reach,
        color=ink,
        marker=marker,
        markersize=6,
        elinewidth=1.0,
        capsize=2,
        linestyle="none",
        markeredgecolor=ink if marker == "x" else "white",
        markeredgewidth=1.2 if marker == "x" else 0.7,
        zorder=3,
    )
    return drawn.lines[0]


def _read_out(result: StudyResult, keys: Iterable[str]) -> str:
    """Alternative text of a figure."""
    names = {SCORE: "test score", AUC: "D_f AUC", TEST_AUC: "D_f vs test AUC", GAP: "gap to Retrain"}
    keys = list(keys)
    parts: dict[str, Spread | None] = {}
    texts = []
    for line in (*result.done, *result.references):
        parts = {names.get(key, key.replace("_", " ")): line.spread(key) for key in keys}
        numbers = ", ".join(f"{name} {spread}" for name, spread in parts.items() if spread)
        texts.append(f"{line.label}, {line.examples:,} deleted: {numbers}")
    return "; ".join(texts) + "."
