"""Readers by name: each turns one layout of data into a dataset."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import get_args, get_type_hints

from multidelete.data.dataset import Dataset
from multidelete.data.layouts import layout_of
from multidelete.data.readers.karpathy import karpathy
from multidelete.data.readers.manifest import manifest
from multidelete.data.readers.nlvr import nlvr
from multidelete.data.readers.nlvr2 import nlvr2
from multidelete.data.readers.pgr import pgr
from multidelete.data.readers.snli_ve import snli_ve
from multidelete.data.synthetic.genes import genes
from multidelete.data.synthetic.premises import premises
from multidelete.data.synthetic.scenes import scenes
from multidelete.data.synthetic.statements import statements
from multidelete.utils.errors import InputError, did_you_mean
from multidelete.utils.registry import choose, with_entry_points

Reader = Callable[..., Dataset]


READERS: dict[str, Reader] = with_entry_points(
    "multidelete.readers",
    {
        "manifest": manifest,
        "karpathy": karpathy,
        "snli_ve": snli_ve,
        "nlvr2": nlvr2,
        "nlvr": nlvr,
        "pgr": pgr,
        "scenes": scenes,
        "premises": premises,
        "statements": statements,
        "genes": genes,
    },
)

WITHOUT = "without"  # an option of every reader, see read()


def read(reader: str, **options: object) -> Dataset:
    """Read a dataset.

    Args:
        reader: Name of the reader.
        options: Its options, checked by name and type before anything is read. Every reader has the option ``without``:
            a folder of other data, in any layout that :func:`detect` knows. Examples whose image is in its validation
            or test split are left out, so that a model can start from one dataset and be tested on the other.
    """
    for mistake in mistakes(reader, options):
        raise InputError(mistake)
    other = options.pop(WITHOUT, None)
    result = READERS[reader](**options)
    if other is None:
        return result
    assert isinstance(other, str | Path)
    return result.without(read(detect(other), root=other))


def mistakes(reader: str, options: Mapping[str, object]) -> Iterator[str]:
    """Problems with the options of a reader, one sentence each; no data are read.

    Raises:
        InputError: There is no such reader.
    """
    function = choose(READERS, reader, "reader")
    parameters = inspect.signature(function).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    hints = {**_hints(function), WITHOUT: str | Path}
    for name, value in options.items():
        if name not in parameters and name != WITHOUT and not takes_any:
            hint = did_you_mean(name, [*parameters, WITHOUT]) or f"; it has {', '.join(parameters)}"
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
    """Name of the reader whose layout a folder has.

    Args:
        root: A folder with data.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root} {'is a file' if root.exists() else 'does not exist'}; expected a folder with data")
    layouts = {name: layout for name, reader in READERS.items() if (layout := layout_of(reader))}
    for name, layout in layouts.items():
        if layout.detects(root):
            return name
    *others, last = [f"{layout.description} (reader {name!r})" for name, layout in layouts.items()]
    raise InputError(f"{root} holds no data in a known layout; expected {', '.join(others)} or {last}")


def _hints(function: Reader) -> dict[str, object]:
    try:
        return get_type_hints(function)
    except NameError:  # another package may import types for its type checker only: its options are not checked by type
        return {}


def _kinds(hint: object) -> tuple[type, ...]:
    """The types that an annotation allows; empty for anything but plain types and their unions."""
    kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    return kinds if all(isinstance(kind, type) for kind in kinds) else ()


def _fits(value: object, hint: object) -> bool:
    kinds = _kinds(hint)
    if not kinds:
        return True
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, kinds) or (isinstance(value, int) and float in kinds)
