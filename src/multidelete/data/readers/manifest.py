"""The package's own layout: ``manifest.jsonl`` and the images it names."""

from __future__ import annotations

from pathlib import Path

from multidelete.data.dataset import Dataset
from multidelete.data.layouts import reader
from multidelete.data.manifest import MANIFEST


def _holds_manifest(root: Path) -> bool:
    return (root / MANIFEST).is_file()


@reader(layout=MANIFEST, detects=_holds_manifest, files=(MANIFEST,))
def manifest(root: str | Path) -> Dataset:
    """The package's own layout: ``manifest.jsonl`` and the images it names.

    Args:
        root: The folder that holds both.
    """
    return Dataset.load(root)
