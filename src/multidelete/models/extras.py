"""Extra modules of models, which originals learn beside their task for methods that need one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from torch import nn

from multidelete.utils.registry import choose, with_entry_points

EXTRA = "extra"  # the submodule of a model


class ExtraModules(Protocol):
    """A kind of extra module; see :class:`multidelete.training.extras.Extra`."""

    uses_request: ClassVar[bool]

    @classmethod
    def build(cls, model: Any, facts: Mapping[str, Any]) -> nn.Module:
        """The module for a model, as it is before training."""


# Entry points alone, those of this package too: models know no extra module, and nothing imports one unasked.
EXTRAS: dict[str, type[ExtraModules]] = with_entry_points("multidelete.extras", {})


def add_extra(model: Any, facts: dict[str, Any] | None) -> None:
    """Add an extra module to a model and record it in its configuration.

    Args:
        model: Changed in place.
        facts: Name of the module and what it is built from; nothing happens without.
    """
    if facts is None:
        return
    kind = choose(EXTRAS, facts["name"], "extra module")
    model.add_module(EXTRA, kind.build(model, facts))
    model.config = model.config.model_copy(update={"extra": facts})
