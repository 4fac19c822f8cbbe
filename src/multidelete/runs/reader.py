"""Reader of a run folder: rows, scores, history and gallery, validated as they are read."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from multidelete.runs.row import Row, checked_rows
from multidelete.utils.errors import InputError, did_you_mean


@dataclass(frozen=True)
class Scores:
    """Scores of one model for the pairs of one split.

    Args:
        example: Id of the deletion example of each pair, ``(P,)``.
        text: Index of the text within its example, ``(P,)``.
        score: s(x) as log-odds: of a match, or of the true label, ``(P,)``.
    """

    example: NDArray[np.str_]
    text: NDArray[np.int64]
    score: NDArray[np.float64]


@dataclass
class RowHistory:
    """Training history of one row: ``losses[term][step]`` and ``validation[step]``."""

    losses: dict[str, dict[int, float]] = field(default_factory=dict)
    validation: dict[int, dict[str, float]] = field(default_factory=dict)
    selected: int | None = None


@dataclass(frozen=True)
class Run:
    """One run folder: the rows of ``results.json``; larger files are read lazily."""

    folder: Path
    rows: tuple[Row, ...]
    provenance: Mapping[str, Any]

    @classmethod
    def load(cls, folder: Path) -> Run:
        """Load the run in ``folder``; raises ``InputError`` if it is incomplete or malformed."""
        if not folder.is_dir():
            names = [p.name for p in folder.parent.iterdir()] if folder.parent.is_dir() else []
            raise InputError(f"{folder} is not a folder of a run{did_you_mean(folder.name, names)}")
        path = folder / "results.json"
        if not path.is_file():
            raise InputError(f"{folder} has no results.json: a run writes it when it is done")
        content = read_json(path)
        return cls(folder, checked_rows(content, path), content.get("provenance") or {})

    @classmethod
    def load_all(cls, folders: Iterable[Path]) -> list[Run]:
        """Load the runs in several folders for comparison.

        Copies of an image, or mentions of a relation, are deleted together and can make D_f slightly larger for some
        seeds: runs that requested the same size all get the smallest resulting size.
        """
        runs = [cls.load(folder) for folder in folders]
        asked = [_size_asked(run) for run in runs]
        sizes: dict[object, int] = {}
        for run, size in zip(runs, asked, strict=True):
            examples = int(run.rows[0]["forget_examples"])
            sizes[size] = min(examples, sizes.get(size, examples))
        return [
            run
            if size is None
            else replace(run, rows=tuple(cast(Row, {**row, "forget_examples": sizes[size]}) for row in run.rows))
            for run, size in zip(runs, asked, strict=True)
        ]

    def key(self, index: int) -> str:
        """Name under which predictions and history of the row at ``index`` are stored."""
        row = self.rows[index]
        return f"{index:02d}-{row['method']}-{row['scope']}"

    def scores(self, index: int, split: str) -> Scores | None:
        """Stored scores of one row on one split, or None."""
        path = self.folder / "predictions" / self.key(index) / f"{split}.npz"
        if not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"{path} cannot be read as an npz file: {error}") from error
        missing = [name for name in ("example", "text", "score") if name not in arrays]
        if missing:
            present = ", ".join(sorted(arrays)) or "none"
            raise InputError(f"{path} has no array {missing[0]!r}; it has {present}")
        return Scores(
            arrays["example"].astype(np.str_),
            arrays["text"].astype(np.int64),
            arrays["score"].astype(np.float64),
        )

    def history(self) -> dict[str, RowHistory]:
        """Training history of each row, by key; empty if the run has none."""
        path = self.folder / "history.jsonl"
        result: dict[str, RowHistory] = {}
        if not path.is_file():
            return result
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                one = result.setdefault(entry["row"], RowHistory())
                step = int(entry["step"])
            except (ValueError, KeyError, TypeError) as error:
                if number == len(lines) and not line.endswith("\n"):
                    break  # A run that was killed while writing leaves an incomplete last line.
                received = repr(line[:60])
                raise InputError(f"{path}, line {number}: expected a logged step, got {received}") from error
            # A resumed run repeats the steps since its checkpoint; the later line is used.
            for term, value in (entry.get("losses") or {}).items():
                one.losses.setdefault(term, {})[step] = math.nan if value is None else float(value)
            if "validation" in entry:
                one.validation[step] = numbers(entry["validation"])
                if entry.get("selected"):
                    one.selected = step
        return result

    def gallery(self) -> list[Mapping[str, Any]]:
        """Entries of the gallery; empty if the run has none."""
        path = self.folder / "gallery.json"
        if not path.is_file():
            return []
        entries = read_json(path)
        if not isinstance(entries, list) or not all(isinstance(e, dict) and "example" in e for e in entries):
            raise InputError(f'{path}: expected a list of entries with a "example" each')
        return entries


def _size_asked(run: Run) -> object:
    """Key of the requested size of D_f; None if the request names ids."""
    forget = (run.provenance.get("recipe") or {}).get("forget") or {}
    asked = [(key, forget[key]) for key in ("count", "fraction") if forget.get(key) is not None]
    part = str(forget.get("part"))
    return (run.rows[0]["task"], run.rows[0]["data"], asked[0], part) if asked else None


def read_json(path: Path) -> Any:
    """Read a JSON file; raises ``InputError`` if it is not valid JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from error


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Finite numbers among ``values``; other values are omitted."""
    return {
        key: float(value)
        for key, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
