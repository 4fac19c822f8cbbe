"""Readers by name: each turns one layout of data into a dataset."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_type_hints

from multidelete.data.combine import joined, without
from multidelete.data.dataset import Dataset
from multidelete.data.layouts import Layout, layout_of
from multidelete.data.readers.karpathy import karpathy
from multidelete.data.readers.manifest import manifest
from multidelete.data.readers.nlvr import nlvr
from multidelete.data.readers.nlvr2 import nlvr2
from multidelete.data.readers.pgr import pgr
from multidelete.data.readers.snli_ve import snli_ve
from multidelete.data.readers.table import READ, holds_table, table
from multidelete.data.readers.tars import PICTURES
from multidelete.data.synthetic.genes import genes
from multidelete.data.synthetic.premises import premises
from multidelete.data.synthetic.scenes import scenes
from multidelete.data.synthetic.statements import statements
from multidelete.models.folder import is_hub_id
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
        "table": table,
        "scenes": scenes,
        "premises": premises,
        "statements": statements,
        "genes": genes,
    },
)

TABLE = "table"  # the reader of last resort
COMMON = ("validation", "test", "unseen", "without")  # options of every reader, see read()


def read(reader: str, **options: Any) -> Dataset:
    """Read a dataset.

    Every reader has these options, each the path of other data in any layout that :func:`located` knows, unless it has
    an own option of that name (generated data: numbers of examples):

    - ``validation`` and ``test``: all of its examples are added to this split.
    - ``unseen``: examples that the model was not trained on; one half becomes validation, the other test.
    - ``without``: examples whose image is in its validation or test split are left out, so that a model can start from
      one dataset and be tested on the other.

    Args:
        reader: Name of the reader.
        options: Its options, checked by name and type before anything is read.
    """
    result = _read(reader, options)
    result.check_train()
    return result


def _read(reader: str, options: dict[str, Any]) -> Dataset:
    """Like :func:`read`; the training split may be empty."""
    for mistake in mistakes(reader, options):
        raise InputError(mistake)
    own = inspect.signature(READERS[reader]).parameters
    others = {name: options.pop(name) for name in COMMON if name in options and name not in own}
    result = READERS[reader](**options)
    for name in ("validation", "test", "unseen"):
        if name in others:
            result = joined(result, _other(reader, options, others[name]), name)
    return without(result, _other(reader, options, others["without"])) if "without" in others else result


def _other(reader: str, options: Mapping[str, Any], root: str | Path) -> Dataset:
    """Other data; of a table, with the same columns."""
    found = located(root)
    if found["reader"] == reader == TABLE:
        found = {**options, **found}
    return _read(found.pop("reader"), found)


def mistakes(reader: str, options: Mapping[str, object]) -> Iterator[str]:
    """Problems with the options of a reader, one sentence each; no data are read.

    Raises:
        InputError: There is no such reader.
    """
    function = choose(READERS, reader, "reader")
    parameters = inspect.signature(function).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    hints = {**dict.fromkeys(COMMON, str | Path), **_hints(function)}
    for name, value in options.items():
        if name not in parameters and name not in COMMON and not takes_any:
            hint = did_you_mean(name, [*parameters, *COMMON]) or f"; it has {', '.join(parameters)}"
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
    """Name of the reader of data, see :func:`located`.

    Args:
        root: A folder or file with data, or the id of a data set on the hub.
    """
    return str(located(root)["reader"])


def located(root: str | Path) -> dict[str, Any]:
    """Name and options of the reader of data.

    Args:
        root: A folder in a known layout, a file of one, or the id of a data set on the Hugging Face hub.

    Raises:
        InputError: There is no such thing, or its layout is not known; says what was found.
    """
    path = Path(root)
    layouts = {name: layout for name, reader in READERS.items() if name != TABLE and (layout := layout_of(reader))}
    if path.is_dir():
        name = next((name for name, layout in layouts.items() if layout.detects(path)), None)
        if name is None and not holds_table(path):
            raise InputError(_unknown(path, {**layouts, TABLE: layout_of(table)}))
        return {"reader": name or TABLE, "root": str(root)}
    if path.is_file():
        for name, layout in layouts.items():
            if any(fnmatch(path.name, each) for each in layout.files) and layout.detects(path.parent):
                own = {"file": path.name} if "file" in inspect.signature(READERS[name]).parameters else {}
                return {"reader": name, "root": str(path.parent), **own}
        if path.suffix.lower() not in READ:
            raise InputError(f"{root} is no table; expected a file with the ending {', '.join(READ)}, or a folder")
        return {"reader": TABLE, "root": str(root)}
    if not is_hub_id(root):
        raise InputError(f"{root} does not exist; expected a folder or file with data, or a data set of the hub")
    return {"reader": TABLE, "root": str(root)}


def _unknown(root: Path, layouts: Mapping[str, Layout | None]) -> str:
    """The message about a folder in no known layout: what is in it, what was expected, and what helps."""
    endings = Counter(path.suffix.lower() or path.name for path in islice(root.rglob("*"), 10_000) if path.is_file())
    found = ", ".join(f"{count:,} {ending}" for ending, count in endings.most_common(4)) or "no file"
    *others, last = [f"{layout.description} (reader {name!r})" for name, layout in layouts.items() if layout]
    pictures = sum(count for ending, count in endings.items() if ending.lstrip(".") in PICTURES)
    hint = (
        f"; to use its {pictures:,} pictures, write {root / 'pairs.csv'} with the columns image,text,split "
        f"and run multidelete check --data {root / 'pairs.csv'}"
        if pictures
        else ""
    )
    return f"{root} holds no data in a known layout (it has {found}); expected {', '.join(others)} or {last}{hint}"


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
