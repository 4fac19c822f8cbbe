"""What a method with a loop of its own keeps on disk, so that a killed run goes on where it was."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from multidelete.training.engine import CHECKPOINT_FILE, CHECKPOINT_SECONDS, Engine, TrainingHistory
from multidelete.utils.errors import InputError
from multidelete.utils.files import write_file


class Steps:
    """The parameters that move, how many steps were taken, and the history of them.

    Everything else that a step depends on must follow from the seed and the number of the step.

    Args:
        parameters: What the method changes.
        settings: Text of all that the steps depend on: a state of other settings is refused.
        folder: Where the state is kept; without one a killed run starts again.
        engine: Whether to go on from a state that is found.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], settings: str, folder: Path | None, engine: Engine
    ) -> None:
        self.parameters, self.settings = parameters, settings
        self.path = folder / CHECKPOINT_FILE if folder else None
        self.done = 0
        self.history = TrainingHistory()
        self._saved = time.monotonic()
        if self.path and engine.resume and self.path.exists():
            self._restore(self.path)

    def finished(self) -> None:
        """One more step was taken: kept on disk now and then, atomically."""
        self.done += 1
        if self.path and time.monotonic() - self._saved > CHECKPOINT_SECONDS:
            self.save()

    def save(self) -> None:
        """Write all of it."""
        assert self.path is not None
        tensors = {name: parameter.detach().cpu().clone() for name, parameter in self.parameters.items()}
        facts = {"settings": self.settings, "done": self.done, "history": asdict(self.history)}
        write_file(self.path, save(tensors, {"facts": json.dumps(facts)}))
        self._saved = time.monotonic()

    @torch.no_grad()
    def _restore(self, path: Path) -> None:
        content = path.read_bytes()
        try:
            header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
            facts = json.loads(header["__metadata__"]["facts"])
            tensors: dict[str, Tensor] = load(content)
        except (ValueError, KeyError, SafetensorError) as error:
            raise InputError(f"{path} is damaged ({error}); remove it to start this part again") from error
        fits = {n: t.shape for n, t in tensors.items()} == {n: p.shape for n, p in self.parameters.items()}
        if facts.get("settings") != self.settings or not fits:
            raise InputError(f"{path} is the checkpoint of a run with other settings; remove it or start elsewhere")
        for name, parameter in self.parameters.items():
            parameter.copy_(tensors[name])
        self.done, self.history = facts["done"], TrainingHistory(**facts["history"])
