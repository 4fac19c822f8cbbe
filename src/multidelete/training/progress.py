"""Progress bars with the remaining time, and log messages above them."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

LOGGER = logging.getLogger("multidelete")


class ProgressReporter:
    """Base class of progress displays; shows nothing."""

    def start(self, what: str, total: int) -> Callable[[int], None]:
        """Start a task of ``total`` steps; the returned function advances it."""
        return lambda done: None

    def finish(self) -> None:
        """Finish the task that was started last."""


class Bars(ProgressReporter):
    """Progress bars on standard error or in a notebook; as a context manager also shows this package's log messages.

    Without a terminal, each task is shown as one line.
    """

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.shown = self.console.is_jupyter or sys.stderr.isatty()
        self._open: list[tuple[RichProgress, TaskID]] = []
        self._handler = _ConsoleHandler(self.console)

    def __enter__(self) -> Self:
        """Show log messages of this package."""
        self._level = LOGGER.level
        LOGGER.addHandler(self._handler)
        LOGGER.setLevel(logging.INFO)
        return self

    def __exit__(self, *_: object) -> None:
        """Close all bars and stop showing log messages."""
        while self._open:
            self._open.pop()[0].stop()
        LOGGER.removeHandler(self._handler)
        LOGGER.setLevel(self._level)

    def start(self, what: str, total: int) -> Callable[[int], None]:
        """See :meth:`ProgressReporter.start`; nested tasks have their bars below."""
        if not self.shown:
            LOGGER.info("%s", what)
        if self._open:
            bars = self._open[-1][0]
        else:
            bars = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self.console,
                disable=not self.shown,
            )
            bars.start()
        task = bars.add_task(what, total=total)
        self._open.append((bars, task))
        return lambda done: bars.advance(task, done)

    def finish(self) -> None:
        """See :meth:`ProgressReporter.finish`."""
        bars, task = self._open.pop()
        if self._open:
            bars.remove_task(task)
        else:
            bars.stop()

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Context that closes bars left open inside it."""
        depth = len(self._open)
        try:
            yield
        finally:
            while len(self._open) > depth:
                self.finish()


class _ConsoleHandler(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        # Paths may contain brackets (markup), and lines to copy must not be wrapped.
        self.console.print(self.format(record), markup=False, highlight=False, soft_wrap=True)


def default_progress() -> ProgressReporter:
    """Bars in a notebook; otherwise no output."""
    return Bars() if Console().is_jupyter else ProgressReporter()
