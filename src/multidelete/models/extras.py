"""Extra modules of models, which originals train together with their task for methods that need them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from torch import nn

from multidelete.utils.registry import choose, with_entry_points

EXTRA = "extra"  # name of the submodule


class ExtraModules(Protocol):
    """Kind of extra module; see :class:`multidelete.training.extras.Extra`."""

    uses_request: ClassVar[bool]

    @classmethod
    def build(cls, model: Any, facts: Mapping[str, Any]) -> nn.Module:
        """Build the module for a model, before training."""


# Entry points only, also for this package: models import no extra module unless it is used.
EXTRAS: dict[str, type[ExtraModules]] = with_entry_points("multidelete.extras", {})


def add_extra(model: Any, facts: dict[str, Any] | None) -> None:
    """Add an extra module to a model and record it in the model's configuration.

    Args:
        model: Model, changed in place.
        facts: Name of the module and arguments to build it; None adds nothing.
    """
    if facts is None:
        return
    kind = choose(EXTRAS, facts["name"], "extra module")
    model.add_module(EXTRA, kind.build(model, facts))
    model.config = model.config.model_copy(update={"extra": facts})
