"""Values of metadata, as tables and manifests have them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from multidelete.data.examples import Value


def fact(value: Any) -> Value | tuple[Value, ...]:
    """A value of metadata: plain, or a tuple of plain values; anything else as JSON."""
    plain: Value | tuple[Value, ...] | Any = value.item() if isinstance(value, np.generic) else value
    if isinstance(plain, float) and math.isnan(plain):
        return None
    if isinstance(plain, str) and plain.startswith("[") and plain.endswith("]"):
        try:
            plain = json.loads(plain)
        except ValueError:
            return str(value)
    if isinstance(plain, list | tuple | np.ndarray) and all(isinstance(each, str | int | float) for each in plain):
        return tuple(plain)
    if isinstance(plain, Mapping | list | tuple):
        return json.dumps(plain, default=str)
    if plain is None or isinstance(plain, str | int | float | bool):
        return plain
    return None if isinstance(plain, bytes | bytearray) else str(plain)
