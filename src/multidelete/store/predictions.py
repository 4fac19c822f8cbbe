"""Predictions on disk: a folder for each model, a file for each split."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from multidelete.tasks import Predictions
from multidelete.utils.files import write_atomically


def read_predictions(folder: Path) -> Predictions:
    """Read the predictions of one model by split; empty if the folder has none."""
    return {path.stem: dict(np.load(path, allow_pickle=False)) for path in sorted(folder.glob("*.npz"))}


class PredictionFolder:
    """Folder with the predictions of several models.

    Args:
        path: Folder; each model has a subfolder of its name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, name: str) -> Predictions:
        """Read the predictions of a model; empty if there are none."""
        return read_predictions(self.path / name)

    def write(self, name: str, predictions: Predictions) -> None:
        """Write the predictions of a model atomically."""
        with write_atomically(self.path / name) as part:
            for split, arrays in predictions.items():
                np.savez_compressed(part / f"{split}.npz", **arrays)  # type: ignore[arg-type]
