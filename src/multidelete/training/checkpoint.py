"""Checkpoints to resume interrupted runs."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from multidelete.utils.errors import InputError
from multidelete.utils.files import new_file

CHECKPOINT_FILE = "checkpoint.safetensors"
CHECKPOINT_SECONDS = 20.0


class Checkpoint:
    """File with tensors and JSON facts of a run in progress.

    Args:
        folder: Folder of the file; without it nothing is written, and an interrupted run starts again.
        settings: JSON values that determine the steps; a checkpoint with other settings is refused.
        resume: Whether to read an existing file.
    """

    def __init__(self, folder: Path | None, settings: Any, *, resume: bool) -> None:
        self.path = folder / CHECKPOINT_FILE if folder else None
        self.settings = json.loads(json.dumps(settings))
        self.resume = resume
        self._saved = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether the last write is more than ``CHECKPOINT_SECONDS`` ago."""
        return self.path is not None and time.monotonic() - self._saved > CHECKPOINT_SECONDS

    def write(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Write tensors and JSON facts atomically; does nothing without a folder."""
        if self.path is None:
            return
        # Streamed from the tensors themselves: copies of them and of the file would triple the memory of a large model.
        stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        with new_file(self.path) as part:
            save_file(stored, part, {"facts": json.dumps({"settings": self.settings, **facts})})
        self._saved = time.monotonic()

    @torch.no_grad()
    def read(self, current: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Copy the stored tensors into the current ones, by name.

        Args:
            current: Tensors to fill; the file must have each with the same shape.

        Returns:
            The remaining tensors and the facts, or None if there is no checkpoint to resume.

        Raises:
            InputError: The file is damaged, or belongs to a run with other settings.
        """
        if self.path is None or not self.resume or not self.path.exists():
            return None
        try:
            with safe_open(self.path, "pt") as file:
                facts = json.loads((file.metadata() or {})["facts"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        except (ValueError, KeyError, SafetensorError) as error:
            raise InputError(f"{self.path} is damaged ({error}); remove it to start this part again") from error
        fits = all(name in tensors and tensors[name].shape == tensor.shape for name, tensor in current.items())
        if facts.get("settings") != self.settings or not fits:
            raise InputError(
                f"{self.path} is the checkpoint of a run with other settings; remove it or start elsewhere"
            )
        for name, tensor in current.items():
            tensor.copy_(tensors.pop(name))
        return tensors, facts
