"""Command lines that run single cells of a bench."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from multidelete.methods import Method
from multidelete.recipe import Recipe, as_values
from multidelete.runs.record import differences


def command_of(recipe: Recipe, base: Recipe, path: Path, overrides: Sequence[str], out: Path) -> str:
    """``multidelete unlearn`` command for a recipe.

    Args:
        recipe: Recipe that the command runs.
        base: Recipe loaded from ``path`` with ``overrides``.
        path: Recipe file.
        overrides: ``key=value`` words that precede those of ``recipe``.
        out: Folder of the run.
    """
    words = [*overrides, *overrides_of(recipe, base)]
    return shlex.join(["multidelete", "unlearn", str(path), *words, "--out", str(out), "--resume"])


def overrides_of(recipe: Recipe, base: Recipe) -> Iterator[str]:
    """``key=value`` words that turn ``base`` into ``recipe``; the seed is always included."""
    yield f"seed={recipe.seed}"
    if recipe.method != base.method:
        yield from _method_overrides(recipe.method, base.method)
    wanted, given = as_values(recipe), as_values(base)
    for key in sorted(wanted.keys() - {"method", "compare", "seed"}):
        for name, (_, value) in sorted(differences(given.get(key), wanted[key], key).items()):
            if value is not None:  # TOML has no null; an omitted kind of request is replaced by another one
                yield f"{name}={_word(value)}"
    if recipe.compare != base.compare:
        tables = [{"name": each.name, **_explicit(each)} for each in recipe.compare]
        yield f"compare={toml(tables)}"


def _method_overrides(method: Method, base: Method) -> Iterator[str]:
    if method.name == base.name:
        yield "method.name=retrain"  # another name resets the table, so that no setting of the base remains
    yield f"method.name={method.name}"
    for key, value in _explicit(method).items():
        yield f"method.{key}={_word(value)}"


def _explicit(method: Method) -> dict[str, Any]:
    """Scope and settings that differ from their defaults."""
    return {"scope": method.scope, **method.model_dump(mode="json", exclude_defaults=True)}


def _word(value: Any) -> str:
    """Value in TOML, or a bare word for a simple string."""
    plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z_][\w./-]*", value) and value not in ("true", "false")
    return str(value) if plain and value not in ("inf", "nan") else toml(value)


def toml(value: Any) -> str:
    """Value in TOML, on one line.

    >>> toml({"rate": 0.5, "names": ["a", True]})
    '{rate = 0.5, names = ["a", true]}'
    """
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(each)}" for key, each in value.items() if each is not None) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
