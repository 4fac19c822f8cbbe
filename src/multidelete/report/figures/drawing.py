"""Common parts of all figures: style, legends, labels without overlap, and SVG for embedding in a page."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import matplotlib.colors
import matplotlib.style
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Box = tuple[float, float, float, float]  # left, bottom, right, top, in points

INK, MUTED, PALE = "#1c1c1c", "#5f6368", "#eceef0"

SUBSCRIPTED = {
    "forget": r"$\mathregular{D_f}$",
    "retain": r"$\mathregular{D_r}$",
    "test": r"$\mathregular{D_{Test}}$",
}
GUIDE = 1  # zorder of lines that labels must not overlap

STYLE = {
    "figure.dpi": 72,  # one pixel is one point, the unit of the SVG
    "svg.fonttype": "none",
    "svg.hashsalt": "multidelete",
    "font.family": "DejaVu Sans",  # wider than the system fonts that replace it in the page, so text always fits
    "font.size": 8.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 8.5,
    "axes.edgecolor": "#9aa0a6",
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": PALE,
    "grid.linewidth": 0.7,
    "xtick.color": "#9aa0a6",
    "ytick.color": "#9aa0a6",
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "hatch.linewidth": 0.6,
}
FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def style() -> AbstractContextManager[None]:
    """Style context of all figures, independent of the user's matplotlibrc."""
    return matplotlib.style.context(["default", STYLE])


def to_svg(figure: Figure, ids: str, title: str) -> str:
    """Figure as an SVG element without a fixed size; ids get the prefix ``ids``, ``title`` is the aria-label."""
    file = io.StringIO()
    with style():
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|xlink:href="#|url\(#)', rf"\g<1>{ids}-", text)
    text = re.sub(r"'DejaVu Sans'(, [^;\"]*)?", FONTS, text)
    head = re.match(r"<svg[^>]*>", text)
    assert head is not None
    size = re.search(r'viewBox="([^"]*)"', head[0])
    assert size is not None
    plain = title.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {names} viewBox="{size[1]}" role="img" aria-label="{plain}">{text[head.end() :].strip()}'


def legend(figure: Figure, handles: Mapping[str, Artist], *, columns: int = 4, below: bool = False) -> None:
    """Add a legend above or below the axes."""
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside lower left" if below else "outside upper left",
        ncols=columns,
        handlelength=1.2,
        handletextpad=0.4,
        columnspacing=1.0,
        borderpad=0,
    )


@dataclass(frozen=True)
class Mark:
    """Labelled point with the half-lengths of its error bars, in data coordinates."""

    text: str
    ink: str
    bold: bool
    x: float
    y: float
    x_reach: float
    y_reach: float


def position_labels(figure: Figure, axes: Axes, marks: Sequence[Mark]) -> None:
    """Put each label at the nearest free position, with a thin line to its point if that is far."""
    figure.draw_without_rendering()
    frame = axes.get_window_extent()
    taken: list[Box] = []
    for line in axes.lines:
        if line.get_zorder() == GUIDE:
            extent = line.get_window_extent()
            taken.append((extent.x0 - 1.5, extent.y0 - 1.5, extent.x1 + 1.5, extent.y1 + 1.5))
    for mark in marks:
        low = axes.transData.transform((mark.x - mark.x_reach, mark.y - mark.y_reach))
        high = axes.transData.transform((mark.x + mark.x_reach, mark.y + mark.y_reach))
        x, y = (low + high) / 2
        taken += [
            (x - 5, y - 5, x + 5, y + 5),
            (low[0], y - 2, high[0], y + 2),
            (x - 2, low[1], x + 2, high[1]),
        ]
    for mark in marks:
        text = axes.annotate(
            _wrapped(mark.text),
            (mark.x, mark.y),
            xytext=(0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            color=_darker(mark.ink),
            fontweight="bold" if mark.bold else "normal",
            parse_math=False,
            zorder=4,
        )
        text.set_in_layout(False)
        extent = text.get_window_extent()
        width, height = extent.width, extent.height
        x, y = axes.transData.transform((mark.x, mark.y))
        best = (math.inf, 0.0, 0.0, 0.0)
        for distance in (8.0, 13.0, 20.0, 30.0, 42.0, 56.0, 72.0):
            for angle in np.arange(0, 2 * np.pi, np.pi / 8):
                dx = math.cos(angle) * (distance + width / 2)
                dy = math.sin(angle) * (distance + height / 2)
                box = _box(x + dx, y + dy, width, height)
                beyond = (frame.x0 - box[0], frame.y0 - box[1], box[2] - frame.x1, box[3] - frame.y1)
                outside = sum(max(0.0, excess) for excess in beyond)
                price = distance + 20 * outside + 2 * sum(_overlap(box, other) for other in taken)
                best = min(best, (price, dx, dy, distance))
        _, dx, dy, distance = best
        text.set_position((dx, dy))
        taken.append(_box(x + dx, y + dy, width + 4, height + 2))
        if distance > 13:
            near = (x + dx - math.copysign(min(abs(dx), width / 2), dx), y + dy)
            if abs(dx) < width / 2:
                near = (x, y + dy - math.copysign(height / 2, dy))
            ends = axes.transData.inverted().transform([(x, y), near])
            axes.plot(*ends.T, color=mark.ink, linewidth=0.6, zorder=2)


def _darker(ink: str) -> str:
    """Darker colour for text on white."""
    red, green, blue = matplotlib.colors.to_rgb(ink)
    return matplotlib.colors.to_hex((0.68 * red, 0.68 * green, 0.68 * blue))


def _wrapped(name: str, length: int = 22) -> str:
    """Long label on two lines, broken before its parenthesis or after its first comma."""
    if len(name) <= length:
        return name
    return re.sub(r" (?=\()|(?<=,) ", "\n", name, count=1)


def _box(x: float, y: float, width: float, height: float) -> Box:
    return (x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def _overlap(a: Box, b: Box) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return width * height if width > 0 and height > 0 else 0.0
