"""The readers: each brings one layout of data into a corpus, and is called by its name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import get_args, get_type_hints

from multidelete.data.corpus import MANIFEST, Corpus
from multidelete.data.readers.karpathy import find_split_files, karpathy
from multidelete.data.scenes import scenes
from multidelete.errors import InputError, did_you_mean
from multidelete.registry import choose, with_entry_points

Reader = Callable[..., Corpus]


def corpus(root: str | Path) -> Corpus:
    """The package's own layout: ``manifest.jsonl`` and the images it names.

    Args:
        root: The folder that holds both.
    """
    return Corpus.load(root)


READERS: dict[str, Reader] = with_entry_points(
    "multidelete.readers",
    {
        "corpus": corpus,
        "karpathy": karpathy,
        "scenes": scenes,
    },
)


def read(reader: str, **options: object) -> Corpus:
    """Read a corpus.

    Args:
        reader: Name of the reader.
        options: Its options; each is checked by name and type before the reader starts.
    """
    for mistake in mistakes(reader, options):
        raise InputError(mistake)
    return READERS[reader](**options)


def mistakes(reader: str, options: Mapping[str, object]) -> Iterator[str]:
    """What is wrong with the options of a reader, a sentence each; nothing is read.

    Raises:
        InputError: There is no such reader.
    """
    function = choose(READERS, reader, "reader")
    parameters = inspect.signature(function).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    hints = _hints(function)
    for name, value in options.items():
        if name not in parameters and not takes_any:
            hint = did_you_mean(name, parameters) or f"; it has {', '.join(parameters)}"
            yield f"reader {reader!r} has no option {name!r}{hint}"
        elif not _fits(value, hints.get(name)):
            kinds = " or ".join(kind.__name__ for kind in _kinds(hints[name]))
            yield f"reader {reader!r} expects {kinds} for {name!r}, got {value!r}"
    required = [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
    ]
    for name in required:
        if name not in options:
            yield f"reader {reader!r} needs the option {name!r}, which was not given"


def detect(root: str | Path) -> str:
    """Name of the reader for the layout that a folder has.

    Args:
        root: A folder with data.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root} {'is a file' if root.exists() else 'does not exist'}; expected a folder with data")
    if (root / MANIFEST).is_file():
        return "corpus"
    if find_split_files(root):
        return "karpathy"
    raise InputError(
        f"{root} holds no data in a known layout; expected {MANIFEST} (reader 'corpus') "
        "or a Karpathy split file dataset_*.json (reader 'karpathy')"
    )


def _hints(function: Reader) -> dict[str, object]:
    try:
        return get_type_hints(function)
    except NameError:  # types that another package imports for its type checker only: it checks its options itself
        return {}


def _kinds(hint: object) -> tuple[type, ...]:
    """The plain types that an annotation allows; none where it is more than plain types."""
    kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    return kinds if all(isinstance(kind, type) for kind in kinds) else ()


def _fits(value: object, hint: object) -> bool:
    kinds = _kinds(hint)
    if not kinds:
        return True
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, kinds) or (isinstance(value, int) and float in kinds)
