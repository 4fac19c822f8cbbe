"""Ctrl-C, and SIGTERM of schedulers: both end a program, but not in the middle of a step."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

STOPPED, TERMINATED = 130, 143  # exit codes after Ctrl-C and after SIGTERM, as shells have them
NUMBERS = (signal.SIGINT, signal.SIGTERM)


def exit_on_terminate() -> None:
    """Let SIGTERM end the program like Ctrl-C: by an exception, so that temporary files are removed."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))


class Deferred:
    """A signal that has arrived and is not yet delivered; the next one is delivered at once."""

    def __init__(self) -> None:
        self.arrived: int | None = None
        self._before: dict[int, Any] = {}

    def defer(self) -> None:
        """Take the place of the handlers."""
        self._before = {number: signal.signal(number, self._arrive) for number in NUMBERS}

    def restore(self) -> None:
        """Restore the handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def deliver(self) -> None:
        """Hand the signal to the handler from before; if that returns, the next signal is delayed again."""
        assert self.arrived is not None
        number, self.arrived = self.arrived, None
        self.restore()
        signal.raise_signal(number)
        self.defer()

    def _arrive(self, number: int, _: FrameType | None) -> None:
        again, self.arrived = self.arrived is not None, number
        if again:
            self.deliver()


@contextmanager
def deferred_signals() -> Iterator[Deferred]:
    """Delay Ctrl-C and SIGTERM until :meth:`Deferred.deliver`, so that a checkpoint can be written before."""
    pending = Deferred()
    if threading.current_thread() is not threading.main_thread():  # only the main thread is interrupted
        yield pending
        return
    pending.defer()
    try:
        yield pending
    finally:
        pending.restore()
