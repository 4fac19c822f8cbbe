"""Callbacks of the training loop, and experiment trackers as one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from multidelete.utils.errors import InputError
from multidelete.utils.registry import choose

if TYPE_CHECKING:
    from pathlib import Path

    from multidelete.training.loop import TrainingHistory


class Callback:
    """Base class of callbacks, called by every training loop.

    ``what`` is the name of the loop (``"MultiDelete (fusion)"``), ``line`` the new line of the history.
    """

    def on_step(self, what: str, line: Mapping[str, Any]) -> None:
        """Called after an optimiser step: ``step``, ``losses`` by name with their ``total``, ``learning_rate``."""

    def on_validation(self, what: str, line: Mapping[str, Any]) -> None:
        """Called after validation of a checkpoint: ``step`` and ``validation`` by metric."""

    def on_end(self, what: str, history: TrainingHistory) -> None:
        """Called after the last step."""


class Tracker(Callback):
    """Logs losses and validation metrics to an experiment tracker through ``accelerate``.

    Args:
        name: ``tensorboard``, ``wandb``, ``mlflow``, ``trackio``, or another tracker that accelerate knows.
        folder: Output folder of trackers that write files.
        config: Settings of the run.

    Raises:
        InputError: accelerate does not know the tracker, or its package is not installed.
    """

    def __init__(self, name: str, folder: Path, config: Mapping[str, Any]) -> None:
        choose(LOGGER_TYPE_TO_CLASS, name, "tracker")
        if name not in {getattr(tracker, "value", tracker) for tracker in get_available_trackers()}:
            raise InputError(f"the tracker '{name}' needs a package that is not installed: pip install {name}")
        self._accelerator = Accelerator(log_with=name, project_dir=folder)
        self._accelerator.init_trackers("multidelete", config=flat(config))
        self._logged = 0

    def on_step(self, what: str, line: Mapping[str, Any]) -> None:
        """See :meth:`Callback.on_step`."""
        values = {f"loss/{name}": value for name, value in line["losses"].items()}
        if "learning_rate" in line:
            values["learning_rate"] = line["learning_rate"]
        self._log(what, values)

    def on_validation(self, what: str, line: Mapping[str, Any]) -> None:
        """See :meth:`Callback.on_validation`."""
        self._log(what, {f"validation/{name}": value for name, value in line["validation"].items()})

    def close(self) -> None:
        """Flush all logged values."""
        self._accelerator.end_training()

    def _log(self, what: str, values: Mapping[str, float]) -> None:
        self._accelerator.log({f"{what}/{name}": value for name, value in values.items()}, step=self._logged)
        self._logged += 1  # across all loops of a run, because some trackers drop steps that do not increase


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings to ``{"method.alpha": 1.0}``, since some trackers accept nothing else."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = value if isinstance(value, int | float | bool) else str(value)
    return result
