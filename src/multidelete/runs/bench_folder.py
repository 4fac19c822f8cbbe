"""Reads the folder of a bench or a study: its cells, what was left out, and what failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multidelete.runs.reader import Run, read_json
from multidelete.utils.errors import InputError

GRID_FILE = "bench.json"


FAILED_FILE = "failed.json"


CELLS = "cells"


@dataclass(frozen=True)
class CellResult:
    """One cell of a bench or a study.

    Args:
        variant: Its method and scope, or what a study varies.
        run: What it left; of one that has not finished, a row without metrics.
        finished: Whether it has.
    """

    variant: str
    run: Run
    finished: bool


def read_cells(folder: Path) -> tuple[list[CellResult], list[str]]:
    """The cells of a bench or a study, and what was left out, what failed and why, and what has not run."""
    content = read_bench(folder / GRID_FILE)
    failed = read_bench(folder / FAILED_FILE) if (folder / FAILED_FILE).is_file() else {}
    cells: list[CellResult] = []
    for cell in content["cells"]:
        place, asked = folder / CELLS / cell["name"], cell["row"]
        finished = (place / "results.json").is_file()
        run = Run.load(place) if finished else Run(place, ({**asked, "metrics": {}, "cost": {}},), {})
        # Of another seed D_f may be larger by a copy; the size that was asked for is the same.
        rows = tuple({**row, "forget_examples": asked["forget_examples"]} for row in run.rows)
        rows = rows if finished else tuple({**row, "failed": cell["name"] in failed} for row in rows)
        cells.append(CellResult(str(cell["variant"]), Run(place, rows, run.provenance), finished))
    notes = [*content["notes"], *(f"failed: {name}: {reason}" for name, reason in failed.items())]
    waiting = sum(not cell.finished and not cell.run.rows[0]["failed"] for cell in cells)
    if waiting:
        notes.append(f"{waiting} of {len(cells)} cells in {folder} have not run")
    return cells, notes


def check_finished(cells: Sequence[CellResult], notes: Sequence[str]) -> None:
    """Refuse to show cells of which none has finished.

    Raises:
        InputError: That is so; with what is known of why.
    """
    if not any(cell.finished for cell in cells):
        raise InputError("\n".join([*notes, "no cell has finished: there is nothing to show"]))


def command_of(folder: Path) -> list[str]:
    """The command by which a bench or a study was last asked for, where it is known."""
    content = read_bench(folder / GRID_FILE)
    return [content["command"]] if "command" in content else []


def is_bench(folder: Path) -> bool:
    """Whether a folder holds a bench."""
    return (folder / GRID_FILE).is_file()


def study_of(folder: Path) -> str | None:
    """Name of the study that a bench is, if it is one."""
    name: str | None = read_bench(folder / GRID_FILE).get("study") if is_bench(folder) else None
    return name


def cell_folders(folder: Path) -> list[Path]:
    """The folders of the cells of a bench, finished or not."""
    return [folder / CELLS / cell["name"] for cell in read_bench(folder / GRID_FILE)["cells"]]


def read_bench(path: Path) -> Any:
    """What a file of a bench holds."""
    try:
        return read_json(path)
    except FileNotFoundError as error:
        raise InputError(f"{path.parent} holds no bench: there is no {path.name}") from error
