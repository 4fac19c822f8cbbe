"""Messages about errors that pydantic finds in a recipe: the setting, the expected and the received value."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from multidelete.utils.errors import did_you_mean


def sentences(error: ValidationError, kind: type[BaseModel], location: str, owner: str | None = None) -> Iterator[str]:
    """One message for each wrong setting of a table.

    Args:
        error: Error from validating the table.
        kind: Settings class of the table.
        location: Dotted name of the table.
        owner: Owner of the settings in messages; by default the table.
    """
    return sentences_of([(tuple(map(str, each["loc"])), each) for each in error.errors()], kind, location, owner)


def sentences_of(
    mistakes: Sequence[tuple[tuple[str, ...], Mapping[str, Any]]],
    kind: type[BaseModel],
    location: str,
    owner: str | None = None,
) -> Iterator[str]:
    """Like :func:`sentences`, for errors of pydantic with their paths inside the table."""
    messages: dict[str, list[str]] = {}
    received: dict[str, str] = {}
    for path, mistake in mistakes:
        if mistake["type"] == "mistakes":
            yield from mistake["ctx"]["text"].splitlines()
            continue
        if mistake["type"] in ("settings", "unlocated"):
            yield from entry_sentences(mistake, ".".join([location, *path]))
            continue
        if mistake["type"] == "extra_forbidden":
            options = _fields_at(kind, path[:-1])
            hint = did_you_mean(path[-1], options) or f"; it has {', '.join(options)}"
            inner = ".".join([location, *path[:-1]])
            yield f"{owner if owner and len(path) == 1 else repr(inner)} has no setting '{path[-1]}'{hint}"
            continue
        # If a setting has several types, pydantic adds the type to the path: merge these errors.
        depth = next((i for i in range(len(path)) if path[i] not in _fields_at(kind, path[:i])), len(path))
        where = ".".join(filter(None, [location, *path[:depth]]))
        if mistake["type"] in ("model_type", "dict_type", "model_attributes_type"):
            messages.setdefault(where, []).append(" must be a table")
            received[where] = f", not {mistake['input']!r}"
            continue
        message = mistake["msg"].removeprefix("Input ")
        if mistake["type"] == "value_error":  # one of our messages
            message = f": {mistake['ctx']['error']}"
        elif mistake["type"] == "missing" and depth < len(path):
            message = " has too few values"
        else:
            message = f" {message[0].lower()}{message[1:]}"
        messages.setdefault(where, []).append(message)
        if mistake["type"] == "missing" or isinstance(mistake["input"], dict):
            received[where] = ""
        elif mistake["type"] == "literal_error" and isinstance(mistake["input"], str):
            named = re.findall(r"'(.+?)'", str(mistake.get("ctx", {}).get("expected", "")))
            received[where] = f", got {mistake['input']!r}{did_you_mean(mistake['input'], named)}"
        else:
            received[where] = f", got {mistake['input']!r}"
    for where, texts in messages.items():
        first, *others = dict.fromkeys(texts)
        expected = " or".join([first, *(other.removeprefix(" should be") for other in others)])
        yield f"'{where}'{expected}{received[where]}"


def entry_sentences(mistake: Mapping[str, Any], location: str) -> Iterator[str]:
    """Messages for errors of :class:`Entry`."""
    if mistake["type"] == "unlocated":
        yield f"'{location}' {mistake['msg']}"
    else:
        context = mistake["ctx"]
        yield from sentences(context["error"], context["kind"], location, context["owner"])


def _fields_at(kind: type[BaseModel], path: Sequence[str]) -> list[str]:
    """Names of the settings of a nested table."""
    for part in path:
        annotation = kind.model_fields[part].annotation if part in kind.model_fields else None
        options = get_args(annotation) if get_origin(annotation) is UnionType else (annotation,)
        inner = [each for each in options if isinstance(each, type) and issubclass(each, BaseModel)]
        if not inner:
            return []
        kind = inner[0]
    return list(kind.model_fields)
