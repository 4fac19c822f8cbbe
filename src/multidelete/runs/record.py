"""Writer of a run folder: ``results.json``, predictions, history, gallery and provenance."""

from __future__ import annotations

import getpass
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from multidelete.data.dataset import Dataset, Rows
from multidelete.data.examples import Example
from multidelete.data.requests import Request
from multidelete.runs.row import SCHEMA, Row
from multidelete.runs.seal import DELETION_FILE, PAGES, SUMS_FILE, WORK, write_seal
from multidelete.store.predictions import PredictionFolder
from multidelete.tasks.base import Predictions
from multidelete.training.loop import TrainingHistory
from multidelete.utils.errors import InputError
from multidelete.utils.files import is_empty, remove_parts, write_atomically, write_file

RESULTS_FILE = "results.json"
IDENTITY_FILE = "run.json"
HISTORY_FILE = "history.jsonl"
IDENTITY = {
    "recipe": "recipe",
    "data_hash": "data",
    "forget_hash": "deletion request",
    "original_hash": "original model",
}
CONTENT = {
    RESULTS_FILE,
    IDENTITY_FILE,
    HISTORY_FILE,
    "gallery.json",
    DELETION_FILE,
    SUMS_FILE,
    *PAGES,
    "gallery",
    "model",
    "predictions",
    WORK,
}
BEGAN_FILE = "began"
PACKAGES = (
    "torch",
    "transformers",
    "accelerate",
    "safetensors",
    "numpy",
    "scipy",
    "scikit-learn",
    "pillow",
    "pydantic",
)


class RunFolder:
    """Folder of a run. Rows are added one by one and survive a kill; ``finish`` writes ``results.json``.

    Args:
        path: The folder.
        identity: Recipe and hashes of data and model; they must match those of a run that is resumed.
        resume: Continue the run in the folder.

    Raises:
        InputError: The path is a file, or the folder contains other files or another run.
    """

    def __init__(self, path: Path, identity: dict[str, Any], *, resume: bool) -> None:
        self.path = path
        self.predictions = PredictionFolder(path / "predictions")
        check_out(path, resume=resume)
        check_same(path, identity)
        remove_parts(path)
        if not (path / IDENTITY_FILE).exists():
            write_file(path / IDENTITY_FILE, json.dumps(identity, indent=2) + "\n")
        if not (path / WORK / BEGAN_FILE).exists():
            written = datetime.fromtimestamp((path / IDENTITY_FILE).stat().st_mtime, UTC)
            write_file(path / WORK / BEGAN_FILE, written.isoformat(timespec="seconds"))

    @property
    def began(self) -> str:
        """Time when the run was first started, in UTC."""
        return (self.path / WORK / BEGAN_FILE).read_text()

    @property
    def sealed(self) -> bool:
        """Whether the run is finished; its files are then not changed any more."""
        return all((self.path / name).is_file() for name in (SUMS_FILE, RESULTS_FILE))

    def work(self, key: str) -> Path:
        """Folder of the checkpoints of a row, until it is finished."""
        return self.path / WORK / key

    def finished(self, key: str) -> Row | None:
        """Row of this key if an earlier start of this run finished it, else None."""
        path = self.path / WORK / f"{key}.json"
        return json.loads(path.read_text()) if path.exists() else None

    def add(self, key: str, row: Row, predictions: Predictions, history: Iterable[dict[str, Any]]) -> None:
        """Write a finished row; its own file is written last, so that it implies predictions and history."""
        (self.path / RESULTS_FILE).unlink(missing_ok=True)  # with a new row, the run is not finished
        self.predictions.write(key, predictions)
        lines = "".join(json.dumps({"row": key, **line}) + "\n" for line in history)
        write_file(self.path / WORK / f"{key}.history.jsonl", lines)
        write_file(self.path / WORK / f"{key}.json", json.dumps(row))
        shutil.rmtree(self.work(key), ignore_errors=True)

    def history(self, key: str) -> TrainingHistory:
        """Loss terms of each step of a finished row, and validation metrics of each checkpoint."""
        lines = (self.path / WORK / f"{key}.history.jsonl").read_text(encoding="utf-8").splitlines()
        return TrainingHistory([json.loads(line) for line in lines])

    def finish(
        self,
        keys: list[str],
        rows: list[Row],
        provenance: dict[str, Any],
        deletion: dict[str, Any] | None = None,
    ) -> None:
        """Write history, deletion record, seal and finally the results, which mark the run as finished.

        The files of single rows stay, so that a finished run can be resumed.
        """
        (self.path / RESULTS_FILE).unlink(missing_ok=True)
        history = "".join((self.path / WORK / f"{key}.history.jsonl").read_text() for key in keys)
        write_file(self.path / HISTORY_FILE, history)
        if deletion is not None:
            write_file(self.path / DELETION_FILE, json.dumps(deletion, indent=2, ensure_ascii=False) + "\n")
        results = {"schema": SCHEMA, "rows": rows, "provenance": provenance}
        text = json.dumps(results, indent=2, allow_nan=False) + "\n"
        write_seal(self.path, {RESULTS_FILE: text})
        write_file(self.path / RESULTS_FILE, text)


def row_key(index: int, method: str, scope: str) -> str:
    """Name under which predictions and history of a row are stored."""
    return f"{index:02d}-{method}-{scope}"


def check_out(path: Path, *, resume: bool) -> None:
    """Check that the output folder is empty, or contains a run to resume.

    Raises:
        InputError: The path is a file, or the folder contains other files or a run and ``resume`` is False.
    """
    check_writable(path)
    if is_empty(path):
        return
    if read_identity(path) is None:
        raise InputError(f"--out '{path}' is not empty and holds no run; expected a folder that is new or empty")
    if not resume:
        raise InputError(f"'{path}' already holds a run; continue it with --resume, or choose another --out")


def check_writable(path: Path) -> None:
    """Check that a folder can be created and written at this path.

    Raises:
        InputError: The path is a file or below one, or below a folder without write permission.
    """
    if path.exists() and not path.is_dir():
        raise InputError(f"--out '{path}' is a file; expected a folder that is new or empty")
    above = next(each for each in (path, *path.absolute().parents) if each.exists())
    if not above.is_dir():
        raise InputError(f"--out '{path}' cannot be made: '{above}' is a file; expected a folder")
    if not os.access(above, os.W_OK):
        raise InputError(f"--out '{path}' cannot be written to: there is no permission to write in '{above}'")


def check_same(path: Path, identity: dict[str, Any]) -> None:
    """Check that a folder contains no run with another recipe, data, request or original model.

    Args:
        path: Folder of the run; may not exist yet.
        identity: Known entries of the identity.

    Raises:
        InputError: The folder contains another run.
    """
    before = read_identity(path)
    if before is None:
        return
    changed = [name for key, name in IDENTITY.items() if key in identity and before[key] != identity[key]]
    if "recipe" in changed:
        changed[:1] = [f"'{key}'" for key in differences(before["recipe"], identity["recipe"])]
    if changed:
        listed = ", ".join(changed[:-1]) + " and " * (len(changed) > 1) + changed[-1]
        raise InputError(f"'{path}' holds a run with another {listed}; resume it unchanged or choose another --out")


def finished_command(path: Path) -> str | None:
    """Command of the finished run in a folder, or None if the folder is not exactly one finished run."""
    if path.is_symlink() or read_identity(path) is None or any(each.name not in CONTENT for each in path.iterdir()):
        return None
    try:
        results = json.loads((path / RESULTS_FILE).read_text(encoding="utf-8"))
        return str(results["provenance"]["command"]) if results["schema"] == SCHEMA else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_identity(path: Path) -> dict[str, Any] | None:
    """Identity of the run in a folder, or None if the folder contains no run."""
    try:
        content = json.loads((path / IDENTITY_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and content.keys() == IDENTITY.keys() else None


def differences(before: Any, now: Any, name: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted names of the values in which two tables differ, with both values.

    >>> differences({"method": {"alpha": 1.0, "beta": 1.0}}, {"method": {"alpha": 0.5, "beta": 1.0}})
    {'method.alpha': (1.0, 0.5)}
    """
    if not isinstance(before, dict) or not isinstance(now, dict):
        return {} if before == now else {name: (before, now)}
    result: dict[str, tuple[Any, Any]] = {}
    for key in dict.fromkeys([*before, *now]):
        result |= differences(before.get(key), now.get(key), f"{name}.{key}" if name else key)
    return result


def own_version() -> str:
    """Version of this package; "not installed" for a source tree on the path."""
    return _installed("multidelete") or "not installed"


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def provenance(request: Request, device: torch.device, command: str, **more: Any) -> dict[str, Any]:
    """Information needed to repeat a run."""
    at, dirty = commit()
    packages = {name: known for name in PACKAGES if (known := _installed(name)) is not None}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {
        "version": own_version(),
        "commit": at,
        "dirty": dirty,
        "device": str(device) if device.type != "cuda" else torch.cuda.get_device_name(device),
        "data_hash": request.dataset.hash,
        "image_changes": request.dataset.image_changes(),
        "forget_hash": request.hash,
        "packages": packages,
        "python": platform.python_version(),
        "cpu": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
        "created": max(now, more.get("began", now)),  # a clock that was set back does not end a run before it began
        "command": command,
        "account": _account(),
        **more,
    }


def _account() -> str | None:
    """Name of the current user, or None."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return None


def commit() -> tuple[str | None, bool | None]:
    """Commit and dirty flag of the source tree of this package; None if it is installed."""
    source = Path(__file__).resolve().parent
    try:
        top = _git(source, "rev-parse", "--show-toplevel")
        if not (Path(top) / "src" / "multidelete").is_dir():
            return None, None
        return _git(source, "rev-parse", "HEAD"), bool(_git(source, "status", "--porcelain"))
    except (OSError, subprocess.CalledProcessError):
        return None, None


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def write_gallery(path: Path, request: Request, size: int, *, count: int = 8) -> None:
    """Write pictures (or node names) and texts of the first deleted and some retained examples, for the report."""
    dataset: Dataset = request.dataset
    count_each = dataset.images_per_example
    images = dataset.pictures(size) if count_each else None
    picked = np.random.default_rng(len(request.retain)).permutation(request.retain)[:count]
    entries: list[dict[str, Any]] = []
    with write_atomically(path / "gallery") as part:
        for split, rows in (("forget", request.forget[:count]), ("retain", picked)):
            for row in rows:
                example = dataset.examples[row]
                own = request.forget_pairs if split == "forget" else request.retain_pairs
                texts = own[dataset.text_examples[own] == row] - dataset.text_starts[row]
                entry = {"split": split, "example": example.id, "texts": _shown_texts(dataset, example, texts)}
                if images is not None:
                    name = f"{len(entries):03d}.png"
                    pictures = images[row * count_each : (row + 1) * count_each]
                    Image.fromarray(_side_by_side(pictures)).save(part / name)
                    entry["image"] = f"gallery/{name}"
                entries.append(entry)
    write_file(path / "gallery.json", json.dumps(entries, indent=2, ensure_ascii=False) + "\n")


def _shown_texts(dataset: Dataset, example: Example, numbers: Rows) -> list[str]:
    """Texts of an example, those with these numbers, with their labels and the names of its nodes."""
    about = ""
    if dataset.graph is not None:
        names = [dataset.graph.names[dataset.graph.row(node)] for node in example.nodes]
        about = f"{' – '.join(names)}: "
    labels = [f"  [{label}]" for label in example.labels] or [""] * len(example.texts)
    every = [f"{about}{text}{label}" for text, label in zip(example.texts, labels, strict=True)]
    return [every[number] for number in numbers]


def _side_by_side(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Concatenate pictures ``(n, H, W, 3)`` horizontally, with gaps."""
    gap = np.full((pictures.shape[1], max(2, pictures.shape[2] // 24), 3), 255, dtype=np.uint8)
    parts = [part for picture in pictures for part in (gap, picture)][1:]
    return np.concatenate(parts, axis=1)


def command_line() -> str:
    """Command line of this process."""
    name = Path(sys.argv[0]).name
    return " ".join(["multidelete" if name == "__main__.py" else name, *sys.argv[1:]])
