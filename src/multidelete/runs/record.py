"""What a run leaves behind: ``results.json``, predictions, history, gallery, and where each came from."""

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

from multidelete.data.dataset import Dataset
from multidelete.data.examples import Example
from multidelete.data.requests import Request
from multidelete.runs.seal import DELETION_FILE, PAGES, SUMS_FILE, WORK, write_seal
from multidelete.store.predictions import PredictionFolder
from multidelete.tasks.base import Predictions
from multidelete.training.loop import TrainingHistory
from multidelete.utils.errors import InputError
from multidelete.utils.files import write_atomically, write_file

SCHEMA = 1
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
    """The folder of a run. Rows are added one by one and survive a kill; ``finish`` writes ``results.json``.

    Args:
        path: The folder.
        identity: What the run is (recipe, data, model): a run is only continued by the same.
        resume: Continue what is there.

    Raises:
        InputError: The folder is a file, holds something else, or another run.
    """

    def __init__(self, path: Path, identity: dict[str, Any], *, resume: bool) -> None:
        self.path = path
        self.predictions = PredictionFolder(path / "predictions")
        check_out(path, resume=resume)
        check_same(path, identity)
        if not (path / IDENTITY_FILE).exists():
            write_file(path / IDENTITY_FILE, json.dumps(identity, indent=2) + "\n")
        if not (path / WORK / BEGAN_FILE).exists():
            written = datetime.fromtimestamp((path / IDENTITY_FILE).stat().st_mtime, UTC)
            write_file(path / WORK / BEGAN_FILE, written.isoformat(timespec="seconds"))

    @property
    def began(self) -> str:
        """When the run was started for the first time, in UTC."""
        return (self.path / WORK / BEGAN_FILE).read_text()

    @property
    def sealed(self) -> bool:
        """Whether the run is finished: what it left is not written to again."""
        return all((self.path / name).is_file() for name in (SUMS_FILE, RESULTS_FILE))

    def work(self, key: str) -> Path:
        """Where checkpoints of a row are kept until it is done."""
        return self.path / WORK / key

    def finished(self, key: str) -> dict[str, Any] | None:
        """The row of this key, where an earlier start of this run finished it."""
        path = self.path / WORK / f"{key}.json"
        return json.loads(path.read_text()) if path.exists() else None

    def add(self, key: str, row: dict[str, Any], predictions: Predictions, history: Iterable[dict[str, Any]]) -> None:
        """Keep a finished row; its own file comes last, so that a row is there with all that belongs to it."""
        (self.path / RESULTS_FILE).unlink(missing_ok=True)  # a run to which something is added is not finished
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
        rows: list[dict[str, Any]],
        provenance: dict[str, Any],
        deletion: dict[str, Any] | None = None,
    ) -> None:
        """Write history, the record of the deletion, the seal over all files, and results, by which a run is finished.

        The rows' own files stay, so that a finished run can be asked for again.
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
    """Name under which a row's predictions and history are stored."""
    return f"{index:02d}-{method}-{scope}"


def check_out(path: Path, *, resume: bool) -> None:
    """Refuse an output folder that would be mixed up with something else.

    Raises:
        InputError: It is a file, or a folder with something in it that no resumed run explains.
    """
    check_writable(path)
    if not path.exists() or not any(path.iterdir()):
        return
    if read_identity(path) is None:
        raise InputError(f"--out '{path}' is not empty and holds no run; expected a folder that is new or empty")
    if not resume:
        raise InputError(f"'{path}' already holds a run; continue it with --resume, or choose another --out")


def check_writable(path: Path) -> None:
    """Refuse a place where no folder can be written.

    Raises:
        InputError: It is a file, lies below one, or below a folder that must not be written to.
    """
    if path.exists() and not path.is_dir():
        raise InputError(f"--out '{path}' is a file; expected a folder that is new or empty")
    above = next(each for each in (path, *path.absolute().parents) if each.exists())
    if not above.is_dir():
        raise InputError(f"--out '{path}' cannot be made: '{above}' is a file; expected a folder")
    if not os.access(above, os.W_OK):
        raise InputError(f"--out '{path}' cannot be written to: there is no permission to write in '{above}'")


def check_same(path: Path, identity: dict[str, Any]) -> None:
    """Refuse to continue the run of another recipe, on other data or of another original model.

    Args:
        path: The folder of the run; nothing is refused where there is none.
        identity: What is known so far of what the run is.

    Raises:
        InputError: The run that the folder holds is another one.
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
    """The command that made the finished run in a folder, or None where the folder is not exactly one finished run."""
    if path.is_symlink() or read_identity(path) is None or any(each.name not in CONTENT for each in path.iterdir()):
        return None
    try:
        results = json.loads((path / RESULTS_FILE).read_text(encoding="utf-8"))
        return str(results["provenance"]["command"]) if results["schema"] == SCHEMA else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_identity(path: Path) -> dict[str, Any] | None:
    """What the run in a folder is, or None where the folder holds no run."""
    try:
        content = json.loads((path / IDENTITY_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and content.keys() == IDENTITY.keys() else None


def differences(before: Any, now: Any, place: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted names of the values in which two tables differ, with what stands in each.

    >>> differences({"method": {"alpha": 1.0, "beta": 1.0}}, {"method": {"alpha": 0.5, "beta": 1.0}})
    {'method.alpha': (1.0, 0.5)}
    """
    if not isinstance(before, dict) or not isinstance(now, dict):
        return {} if before == now else {place: (before, now)}
    result: dict[str, tuple[Any, Any]] = {}
    for key in dict.fromkeys([*before, *now]):
        result |= differences(before.get(key), now.get(key), f"{place}.{key}" if place else key)
    return result


def provenance(request: Request, device: torch.device, command: str, **more: Any) -> dict[str, Any]:
    """What a stranger needs to repeat a run."""
    at, dirty = commit()
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "version": version("multidelete"),
        "commit": at,
        "dirty": dirty,
        "device": str(device) if device.type != "cuda" else torch.cuda.get_device_name(device),
        "data_hash": request.dataset.hash,
        "forget_hash": request.hash,
        "packages": packages,
        "python": platform.python_version(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "account": _account(),
        **more,
    }


def _account() -> str | None:
    """Name under which the command runs; None where the system has none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return None


def commit() -> tuple[str | None, bool | None]:
    """Commit of the source tree that this package runs from, and whether it was changed; None where it is installed."""
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
    """Pictures (or node names) and texts of the first deleted examples and of some kept ones, for the report."""
    dataset: Dataset = request.dataset
    count_each = dataset.images_per_example
    images = dataset.images(size) if count_each else None
    picked = np.random.default_rng(len(request.retain)).permutation(request.retain)[:count]
    entries: list[dict[str, Any]] = []
    with write_atomically(path / "gallery") as part:
        for split, rows in (("forget", request.forget[:count]), ("retain", picked)):
            for row in rows:
                example = dataset.examples[row]
                entry = {"split": split, "example": example.id, "texts": _shown_texts(dataset, example)}
                if images is not None:
                    name = f"{len(entries):03d}.png"
                    pictures = images[row * count_each : (row + 1) * count_each]
                    Image.fromarray(_side_by_side(pictures)).save(part / name)
                    entry["image"] = f"gallery/{name}"
                entries.append(entry)
    write_file(path / "gallery.json", json.dumps(entries, indent=2, ensure_ascii=False) + "\n")


def _shown_texts(dataset: Dataset, example: Example) -> list[str]:
    """The texts of an example with their labels, and with the names of the nodes that they are about."""
    about = ""
    if dataset.graph is not None:
        names = [dataset.graph.names[dataset.graph.row(node)] for node in example.nodes]
        about = f"{' – '.join(names)}: "
    labels = [f"  [{label}]" for label in example.labels] or [""] * len(example.texts)
    return [f"{about}{text}{label}" for text, label in zip(example.texts, labels, strict=True)]


def _side_by_side(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pictures ``(n, H, W, 3)`` as one, with a gap between them."""
    gap = np.full((pictures.shape[1], max(2, pictures.shape[2] // 24), 3), 255, dtype=np.uint8)
    parts = [part for picture in pictures for part in (gap, picture)][1:]
    return np.concatenate(parts, axis=1)


def command_line() -> str:
    """The command that was typed."""
    name = Path(sys.argv[0]).name
    return " ".join(["multidelete" if name == "__main__.py" else name, *sys.argv[1:]])
