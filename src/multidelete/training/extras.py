"""Extra modules that an original learns beside its task: the hook for methods that need such an original."""

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
    """Settings of an extra module: the recipe table ``[train.extra]``, by the entry point ``multidelete.extras``.

    The module becomes ``model.extra``. It is called with a modality and its encoding and returns the encoding. Its
    tensors are buffers, so that it is in no scope and no method changes it unasked.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: ClassVar[str]
    requires: ClassVar[frozenset[str]] = frozenset()  # what the model must provide
    scopes: ClassVar[tuple[str, ...]] = ("all",)  # training in another scope leaves the module as it is
    uses_request: ClassVar[bool] = False  # whether it depends on what is to be deleted

    def check(self, epochs: float) -> None:
        """Refuse settings of the training that leave the module untrained.

        Raises:
            ValueError: The training is too short.
        """

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """The settings that :meth:`build` needs; the model's configuration records them."""

    @classmethod
    @abstractmethod
    def build(cls, model: Model, facts: Mapping[str, Any]) -> nn.Module:
        """The module for a model, as it is before training."""

    @abstractmethod
    def training(self, model: Model, dataset: Dataset, forget: Rows | None) -> ExtraTraining:
        """The training of the module together with its model.

        Args:
            model: Has the module.
            dataset: The training data.
            forget: Rows of the examples of D_f; None where none of them is trained on.
        """


class ExtraTraining(ABC):
    """The part of a training step that concerns an extra module.

    Args:
        parameters: What the optimiser updates besides the model's parameters, by name in the model.
        learning_rate: Its peak learning rate.
    """

    parameters: dict[str, Tensor]
    learning_rate: float

    @abstractmethod
    def losses(self, model: Model, batch: Batch, step: int, epoch: int) -> dict[str, Tensor]:
        """All loss terms of a step, that of the task included."""

    def finish(self) -> None:  # noqa: B027 - most have nothing to finish
        """Called after the last step."""


def check_extra(model: Model, extra: Extra | None) -> None:
    """Refuse settings that ask for another extra module than the model has.

    Raises:
        InputError: The model has none, or one with other settings.
    """
    if extra is None:
        return
    if model.config.extra is None:
        raise InputError(
            f"train.extra: this {model.name} model was made without '{extra.name}'; leave the table out, "
            "or let the recipe train an original with it"
        )
    for key, value in {"name": extra.name, **extra.facts()}.items():
        if model.config.extra.get(key) != value:
            has = model.config.extra.get(key)
            raise InputError(f"train.extra.{key} = {value}, but this {model.name} model has {has}; set it to {has}")
