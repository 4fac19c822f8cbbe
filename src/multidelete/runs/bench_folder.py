"""Reader of the folder of a bench or study: cells, notes and failures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from multidelete.runs.reader import Run, read_json
from multidelete.runs.row import Row
from multidelete.utils.errors import InputError

GRID_FILE = "bench.json"
FAILED_FILE = "failed.json"
CELLS = "cells"


@dataclass(frozen=True)
class CellResult:
    """One cell of a bench or a study.

    Args:
        variant: Method and scope, or the variant of a study.
        run: Run of the cell; if not finished, it has one row without metrics.
        finished: Whether the cell has finished.
    """

    variant: str
    run: Run
    finished: bool


def read_cells(folder: Path) -> tuple[list[CellResult], list[str]]:
    """Read the cells of a bench or study, and notes on what was left out, failed or has not run."""
    content = read_bench(folder / GRID_FILE)
    failed = read_bench(folder / FAILED_FILE) if (folder / FAILED_FILE).is_file() else {}
    cells: list[CellResult] = []
    for cell in content["cells"]:
        path, asked = folder / CELLS / cell["name"], cell["row"]
        finished = (path / "results.json").is_file()
        run = Run.load(path) if finished else Run(path, (cast(Row, {**asked, "metrics": {}, "cost": {}}),), {})
        # Copies can make D_f larger for some seeds; the requested size is the same.
        rows = tuple(cast(Row, {**row, "forget_examples": asked["forget_examples"]}) for row in run.rows)
        rows = rows if finished else tuple(cast(Row, {**row, "failed": cell["name"] in failed}) for row in rows)
        cells.append(CellResult(str(cell["variant"]), Run(path, rows, run.provenance), finished))
    notes = [*content["notes"], *(f"failed: {name}: {reason}" for name, reason in failed.items())]
    waiting = sum(not cell.finished and not cell.run.rows[0]["failed"] for cell in cells)
    if waiting:
        notes.append(f"{waiting} of {len(cells)} cells in {folder} have not run")
    return cells, notes


def check_finished(cells: Sequence[CellResult], notes: Sequence[str]) -> None:
    """Check that at least one cell has finished.

    Raises:
        InputError: No cell has finished; the message contains the notes.
    """
    if not any(cell.finished for cell in cells):
        raise InputError("\n".join([*notes, "no cell has finished: there is nothing to show"]))


def command_of(folder: Path) -> list[str]:
    """Command of the last call of a bench or study; empty if unknown."""
    content = read_bench(folder / GRID_FILE)
    return [content["command"]] if "command" in content else []


def is_bench(folder: Path) -> bool:
    """Whether a folder contains a bench."""
    return (folder / GRID_FILE).is_file()


def study_of(folder: Path) -> str | None:
    """Name of the study in a folder, or None."""
    name: str | None = read_bench(folder / GRID_FILE).get("study") if is_bench(folder) else None
    return name


def cell_folders(folder: Path) -> list[Path]:
    """Folders of the cells of a bench, finished or not."""
    return [folder / CELLS / cell["name"] for cell in read_bench(folder / GRID_FILE)["cells"]]


def read_bench(path: Path) -> Any:
    """Read a JSON file of a bench."""
    try:
        return read_json(path)
    except FileNotFoundError as error:
        raise InputError(f"{path.parent} holds no bench: there is no {path.name}") from error
