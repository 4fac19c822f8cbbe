"""Layouts of data on disk: how a reader declares which folders it can read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

R = TypeVar("R", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Layout:
    """How a folder is recognised.

    Args:
        description: The files that identify it, for messages.
        detects: Whether a folder has this layout.
        files: Names of the files that can be given instead of their folder, with ``*`` for any part.
    """

    description: str
    detects: Callable[[Path], bool]
    files: tuple[str, ...] = ()


def reader(layout: str, detects: Callable[[Path], bool], files: Sequence[str] = ()) -> Callable[[R], R]:
    """Decorator that attaches a layout to a reader, so that its folders are detected.

    A reader without it (generated data, a database) works as well, but has to be named.

    Args:
        layout: The files that identify the layout, for messages.
        detects: Whether a folder has this layout; the reader is then called with ``root=folder``.
        files: Names of the files that can be given instead of their folder, with ``*`` for any part; the reader is
            then called with ``root=folder``, and with ``file=name`` if it has this option.
    """

    def attach(function: R) -> R:
        vars(function)["layout"] = Layout(layout, detects, tuple(files))
        return function

    return attach


def layout_of(function: Callable[..., Any]) -> Layout | None:
    """The layout that :func:`reader` attached, if any."""
    layout = getattr(function, "layout", None)
    return layout if isinstance(layout, Layout) else None
