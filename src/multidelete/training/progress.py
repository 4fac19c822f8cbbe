"""Progress on a terminal: a bar with the time left for long work, plain lines where there is no terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

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

from multidelete.training.engine import ProgressReporter


class Bars(ProgressReporter):
    """One bar at a time, on standard error."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self._open: list[tuple[RichProgress, TaskID]] = []

    def start(self, what: str, total: int) -> Callable[[int], None]:
        """See :meth:`ProgressReporter.start`; inside another piece of work the bar stands below it."""
        if not sys.stderr.isatty():
            self.say(what)
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
                disable=not sys.stderr.isatty(),
            )
            bars.start()
        task = bars.add_task(what, total=total)
        self._open.append((bars, task))
        return lambda done: bars.advance(task, done)

    def say(self, sentence: str) -> None:
        """See :meth:`ProgressReporter.say`."""
        # A path may hold brackets, and a line that is copied must not be broken.
        self.console.print(sentence, markup=False, highlight=False, soft_wrap=True)

    def finish(self) -> None:
        """See :meth:`ProgressReporter.finish`."""
        bars, task = self._open.pop()
        if self._open:
            bars.remove_task(task)
        else:
            bars.stop()

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Work that may break off: what it leaves open is closed, what was open before stays."""
        depth = len(self._open)
        try:
            yield
        finally:
            while len(self._open) > depth:
                self.finish()

    def close(self) -> None:
        """Leave the terminal as it was, whatever was still open."""
        while self._open:
            self._open.pop()[0].stop()
