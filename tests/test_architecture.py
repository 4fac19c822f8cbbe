"""Imports between subpackages: only upwards in the table, no cycles, and only the command line imports ``report``."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import multidelete

SOURCE = Path(multidelete.__file__).parent
ROOMS = (  # a room imports those before it
    "utils",
    "numerics",
    "metrics",
    "models",
    "data",
    "training",
    "tasks",
    "methods",
    "testing",
    "recipe",
    "store",
    "membership",
    "runs",
    "judgement",
    "outcome",
    "pipeline",
    "api",
    "bench",
    "report",
    "cli",
    "__init__",
    "__main__",
)
FILES = sorted(SOURCE.rglob("*.py"))
MODULES = {
    ".".join(("multidelete", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__"): str(path)
    for path in FILES
}


def room_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return parts[0]


def imported(path: Path) -> set[str]:
    """Subpackages that a file imports, at any position in the file."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        modules = []
        if isinstance(node, ast.ImportFrom) and node.module == "multidelete":
            modules = [f"multidelete.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        rooms |= {module.split(".")[1] for module in modules if module.startswith("multidelete.")}
    return rooms - {room_of(path)}


def test_no_file_is_longer_than_400_lines() -> None:
    assert {path.name: count for path in FILES if (count := len(path.read_text("utf-8").splitlines())) > 400} == {}


def test_every_file_has_a_room() -> None:
    assert len(FILES) > 100
    assert {room_of(path) for path in FILES} == set(ROOMS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_import_points_upwards(path: Path) -> None:
    rank = ROOMS.index(room_of(path))
    assert {room for room in imported(path) if ROOMS.index(room) >= rank} == set()


def loaded_with(path: Path) -> set[str]:
    """Modules of the package that are imported when this one is, by file."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {MODULES[name] for name in names if name in MODULES} - {str(path)}


def test_no_circle_of_imports() -> None:
    graph = {str(path): loaded_with(path) for path in FILES}
    assert sum(map(len, graph.values())) > 300
    assert len(list(TopologicalSorter(graph).static_order())) == len(FILES)  # raises CycleError for a circle


def test_pages_are_imported_by_the_command_line_alone() -> None:
    importers = {room_of(path) for path in FILES if "report" in imported(path)}
    assert importers == {"cli"}


def test_the_document_names_every_room() -> None:
    document = (Path(__file__).parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
    missing = [room for room in ROOMS if not room.startswith("__") and f"`{room}" not in document]
    assert missing == []
