"""Values of a recipe: read from TOML and ``key=value`` words, and merged, before validation."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from multidelete.data.requests import KINDS
from multidelete.recipe.settings import SIZES
from multidelete.utils.errors import InputError, did_you_mean

_NAMED = {"task": "name", "model": "name", "method": "name", "data": "reader"}


def read_values(
    path: Path | None, overrides: Sequence[str] = (), options: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Read the values of a recipe before validation; see :func:`multidelete.recipe.load` for the arguments."""
    values = {} if path is None else _read_toml(path)
    start = values.get("start")
    if path is not None and isinstance(start, str) and (path.parent / start).is_file():
        values["start"] = str(path.parent / start)  # another recipe, relative to this one
    parsed = [_parse_override(word) for word in overrides]
    # Requests, sizes and originals of a later source replace those of earlier ones.
    return overridden(overridden(values, *([options] if options else [])), *parsed)


def overridden(values: Mapping[str, Any], *over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge values into a recipe; a new original or request replaces the old one."""
    result = dict(values)
    if any(each.get("original") is not None for each in over):
        for key in ("model", "start"):  # a user-provided model replaces the recipe's
            result.pop(key, None)
    if any(key in _table(each.get("forget")) for each in over for key in KINDS):
        result["forget"] = {k: v for k, v in _table(result.get("forget")).items() if k not in KINDS}
    if any(key in _table(each.get("bench")) for each in over for key in SIZES):
        result["bench"] = {k: v for k, v in _table(result.get("bench")).items() if k not in SIZES}
    for each in over:
        result = merged(result, each)
    return result


def merged(values: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge values table by table; a new name in a table resets that table.

    >>> merged({"method": {"name": "neggrad", "epochs": 2}}, {"method": {"epochs": 3}})
    {'method': {'name': 'neggrad', 'epochs': 3}}
    >>> merged({"method": {"name": "neggrad", "epochs": 2}}, {"method": "finetune"})
    {'method': {'name': 'finetune'}}
    """
    result = dict(values)
    for key, value in over.items():
        before = result.get(key)
        if key in _NAMED:  # ``method = "neggrad"`` is short for a table with that name
            before, value = ({_NAMED[key]: each} if isinstance(each, str) else each for each in (before, value))
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            renamed = any(name in value and value[name] != before.get(name) for name in ("name", "reader"))
            result[key] = dict(value) if renamed else merged(before, value)
        else:
            result[key] = value
    return result


def _read_toml(path: Path) -> dict[str, Any]:
    if not path.exists() or path.is_dir():
        siblings = [p.name for p in path.parent.glob("*.toml")] if path.parent.is_dir() else []
        kind = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"recipe '{path}' {kind}{did_you_mean(path.name, siblings)}")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not TOML: it is not a text file in UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not TOML: {error}") from error
    except OSError as error:
        raise InputError(f"recipe '{path}' cannot be read: {error.strerror or error}") from error


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _parse_override(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip() or not all(part.strip() for part in key.split(".")):
        raise InputError(f"'{text}' is not a setting; expected key=value, as in method.scope=fusion")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    for part in reversed(key.strip().split(".")):
        parsed = {part.strip(): parsed}
    return dict(parsed)
