"""Checkpoints and history of methods with their own loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from multidelete.training.checkpoint import Checkpoint
from multidelete.training.engine import Engine
from multidelete.training.loop import TrainingHistory
from multidelete.utils.signals import deferred_signals


class Steps:
    """Changed parameters, number of finished steps, and history.

    All other state of a step must follow from the seed and the step number.

    Args:
        what: Name of the loop for callbacks.
        parameters: Parameters that the method changes.
        settings: String with everything that determines the steps; a checkpoint with other settings is refused.
        folder: Folder of checkpoints; without it an interrupted run starts again.
        engine: Provides callbacks and whether to resume.
    """

    def __init__(
        self, what: str, parameters: Mapping[str, nn.Parameter], settings: str, folder: Path | None, engine: Engine
    ) -> None:
        self.what, self.parameters, self.engine = what, parameters, engine
        self.checkpoint = Checkpoint(folder, settings, resume=engine.resume)
        self.done = 0
        self.history = TrainingHistory()
        if stored := self.checkpoint.read(parameters):
            self.done, self.history = stored[1]["done"], TrainingHistory(**stored[1]["history"])

    def remaining(self, count: int) -> Iterator[int]:
        """Numbers of the steps still to do, of ``count``; a signal that ends the program waits for the current one."""
        with deferred_signals() as pending:
            while self.done < count:
                yield self.done
                if pending.arrived:
                    self.save()
                    pending.deliver()

    def finished(self, line: dict[str, Any]) -> None:
        """Record one step, and write a checkpoint if one is due."""
        self.done += 1
        self.history.lines.append(line)
        if self.checkpoint.due:
            self.save()
        for callback in self.engine.callbacks:
            callback.on_step(self.what, line)

    def save(self) -> None:
        """Write a checkpoint."""
        self.checkpoint.write(self.parameters, {"done": self.done, "history": asdict(self.history)})
