"""Predictions on disk: a folder for each model, a file for each split."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from multidelete.tasks import Predictions
from multidelete.utils.files import write_atomically


def read_predictions(folder: Path) -> Predictions:
    """Predictions of one model by split; empty where the folder has none."""
    return {path.stem: dict(np.load(path, allow_pickle=False)) for path in sorted(folder.glob("*.npz"))}


class PredictionFolder:
    """Predictions of several models, by name.

    Args:
        path: The folder; a model's predictions are in the folder of its name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, name: str) -> Predictions:
        """Predictions of a model; empty where there are none."""
        return read_predictions(self.path / name)

    def write(self, name: str, predictions: Predictions) -> None:
        """Write the predictions of a model, all or nothing."""
        with write_atomically(self.path / name) as part:
            for split, arrays in predictions.items():
                np.savez_compressed(part / f"{split}.npz", **arrays)  # type: ignore[arg-type]
