"""Extra modules that are trained together with an original, for methods that require them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from multidelete.utils.errors import InputError

if TYPE_CHECKING:
    from multidelete.data.batches import Rows
    from multidelete.data.dataset import Dataset
    from multidelete.models.base import Model
    from multidelete.models.inputs import Batch


class Extra(BaseModel, ABC):
    """Settings of an extra module: recipe table ``[train.extra]``, entry point ``multidelete.extras``.

    The module becomes ``model.extra``. It maps a modality and its encoding to a new encoding. Its tensors are buffers,
    so that it is in no scope and methods do not change it by accident.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: ClassVar[str]
    requires: ClassVar[frozenset[str]] = frozenset()  # capabilities that the model must have
    scopes: ClassVar[tuple[str, ...]] = ("all",)  # training in other scopes does not train the module
    uses_request: ClassVar[bool] = False  # whether it depends on the deletion request

    def check(self, epochs: float) -> None:
        """Check that the training settings suit the module.

        Raises:
            ValueError: The training is too short for the module.
        """

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Arguments of :meth:`build`, recorded in the model's configuration."""

    @classmethod
    @abstractmethod
    def build(cls, model: Model, facts: Mapping[str, Any]) -> nn.Module:
        """Build the module for a model, before training."""

    @abstractmethod
    def training(self, model: Model, dataset: Dataset, forget: Rows | None) -> ExtraTraining:
        """Set up joint training of the module and its model.

        Args:
            model: Model with the module.
            dataset: Training data.
            forget: Rows of the examples of D_f; None if training uses none of them.
        """


class ExtraTraining(ABC):
    """Training of an extra module together with its model.

    The optimiser moves the model alone; the module moves its own tensors, once each has its gradient.
    """

    @abstractmethod
    def losses(self, model: Model, batch: Batch, step: int, epoch: int) -> dict[str, Tensor]:
        """All loss terms of a step, including that of the task."""

    def finish(self) -> None:  # noqa: B027 - optional hook
        """Called after the last step."""


def check_extra(model: Model, extra: Extra | None) -> None:
    """Check that a model has the extra module of the settings.

    Raises:
        InputError: The model has no extra module, or one with other settings.
    """
    if extra is None:
        return
    if model.config.extra is None:
        raise InputError(
            f"train.extra: this {model.name} model was trained without '{extra.name}'; remove the table, "
            "or let the recipe train an original with it"
        )
    for key, value in {"name": extra.name, **extra.facts()}.items():
        if model.config.extra.get(key) != value:
            has = model.config.extra.get(key)
            raise InputError(f"train.extra.{key} = {value}, but this {model.name} model has {has}; set it to {has}")
