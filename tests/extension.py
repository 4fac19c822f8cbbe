"""Tiny packages that extend multidelete through entry points, as an installed package does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def install(folder: Path, group: str, name: str, source: str, attribute: str = "") -> str:
    """Write a package of one module and its ``dist-info`` with one entry point.

    Args:
        folder: Folder to write to; the package is installed where it is on ``sys.path``, see :func:`run`.
        group: Group of the entry point, as ``multidelete.readers``.
        name: Name of the entry point.
        source: Source of the module.
        attribute: What in the module the entry point names; by default ``name``.

    Returns:
        Name of the module.
    """
    module = f"extension_{group.rpartition('.')[2]}_{name}"
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / f"{module}.py").write_text(source)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module.replace('_', '-')}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {module}:{attribute or name}\n")
    return module


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a new process, in which the packages in ``folder`` are installed."""
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
