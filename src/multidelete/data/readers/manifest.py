"""The package's own layout: ``manifest.jsonl`` and the images it names."""

from __future__ import annotations

from pathlib import Path

from multidelete.data.dataset import Dataset
from multidelete.data.layouts import reader
from multidelete.data.manifest import MANIFEST, read_manifest
from multidelete.data.unusable import Unusable
from multidelete.models.graph import NODES, Graph
from multidelete.utils.errors import InputError


def _holds_manifest(root: Path) -> bool:
    return (root / MANIFEST).is_file()


@reader(layout=MANIFEST, detects=_holds_manifest, files=(MANIFEST,))
def manifest(root: str | Path, unusable: str = "error") -> Dataset:
    """The package's own layout: ``manifest.jsonl`` and the images it names.

    A line has ``id``, ``split``, ``texts``, and ``image`` or ``images`` (a list). Labels are in ``labels``, one per
    text. In a folder with ``nodes.tsv`` and ``edges.tsv`` it has ``nodes`` instead of images.

    Args:
        root: The folder that holds both; image paths start from here.
        unusable: "error" or "drop": treatment of lines that cannot be used, such as those whose image is missing.
    """
    root = Path(root)
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise InputError(f"{root} {what}; expected a folder with {MANIFEST} and images")
    if not (root / MANIFEST).is_file():
        raise InputError(f"{root} has no {MANIFEST}; expected that file, with one line of JSON per example")
    graph = Graph.load(root) if (root / NODES).is_file() else None
    lines = Unusable(unusable)
    examples = read_manifest(root, graph, lines)
    name = root.resolve().name
    if graph is not None:
        return Dataset(name, examples, graph=graph, notes=lines.notes)
    return Dataset(name, examples, root=root, notes=lines.notes)
