"""What a run leaves behind: ``results.json``, predictions, history, gallery, and where each came from."""

from __future__ import annotations

import json
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
from PIL import Image

from multidelete.data.corpus import Corpus
from multidelete.data.files import write_atomically, write_file
from multidelete.data.requests import Request
from multidelete.errors import InputError
from multidelete.tasks.base import Predictions

SCHEMA = 1
RESULTS_FILE = "results.json"
IDENTITY_FILE = "run.json"
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
        check_out(path, resume=resume)
        identity = json.loads(json.dumps(identity))
        marker = path / IDENTITY_FILE
        if marker.exists():
            before = json.loads(marker.read_text())
            if before != identity:
                changed = sorted(k for k in before.keys() | identity.keys() if before.get(k) != identity.get(k))
                raise InputError(
                    f"'{path}' holds a run with another {' and '.join(changed)}; "
                    "resume it unchanged or choose another --out"
                )
        else:
            write_file(marker, json.dumps(identity, indent=2) + "\n")

    def work(self, key: str) -> Path:
        """Where checkpoints of a row are kept until it is done."""
        return self.path / "work" / key

    def finished(self, key: str) -> dict[str, Any] | None:
        """The row of this key, where an earlier start of this run finished it."""
        path = self.path / "work" / f"{key}.json"
        return json.loads(path.read_text()) if path.exists() else None

    def add(self, key: str, row: dict[str, Any], predictions: Predictions, history: Iterable[dict[str, Any]]) -> None:
        """Keep a finished row; its own file comes last, so that a row is there with all that belongs to it."""
        with write_atomically(self.path / "predictions" / key) as part:
            for split, arrays in predictions.items():
                np.savez_compressed(part / f"{split}.npz", **arrays)  # type: ignore[arg-type]
        lines = "".join(json.dumps({"row": key, **line}) + "\n" for line in history)
        write_file(self.path / "work" / f"{key}.history.jsonl", lines)
        write_file(self.path / "work" / f"{key}.json", json.dumps(row))
        shutil.rmtree(self.work(key), ignore_errors=True)

    def predictions(self, key: str) -> Predictions:
        """Stored predictions of a row."""
        folder = self.path / "predictions" / key
        return {path.stem: dict(np.load(path, allow_pickle=False)) for path in sorted(folder.glob("*.npz"))}

    def finish(self, keys: list[str], rows: list[dict[str, Any]], provenance: dict[str, Any]) -> None:
        """Write history and results, and drop what only a continuation would have needed."""
        history = "".join((self.path / "work" / f"{key}.history.jsonl").read_text() for key in keys)
        write_file(self.path / "history.jsonl", history)
        results = {"schema": SCHEMA, "rows": rows, "provenance": provenance}
        write_file(self.path / RESULTS_FILE, json.dumps(results, indent=2, allow_nan=False) + "\n")


def row_key(index: int, method: str, scope: str) -> str:
    """Name under which a row's predictions and history are stored."""
    return f"{index:02d}-{method}-{scope}"


def check_out(path: Path, *, resume: bool) -> None:
    """Refuse an output folder that would be mixed up with something else.

    Raises:
        InputError: It is a file, or a folder with something in it that no resumed run explains.
    """
    if path.is_file():
        raise InputError(f"--out '{path}' is a file; expected a folder that is new or empty")
    if not path.exists() or not any(path.iterdir()):
        return
    if not (path / IDENTITY_FILE).is_file():
        raise InputError(f"--out '{path}' is not empty and holds no run; expected a folder that is new or empty")
    if not resume:
        raise InputError(f"'{path}' already holds a run; continue it with --resume, or choose another --out")


def provenance(request: Request, device: torch.device, command: str, **more: Any) -> dict[str, Any]:
    """What a stranger needs to repeat a run."""
    commit, dirty = _commit()
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "version": version("multidelete"),
        "commit": commit,
        "dirty": dirty,
        "device": str(device) if device.type != "cuda" else torch.cuda.get_device_name(device),
        "data_hash": request.corpus.hash,
        "forget_hash": request.hash,
        "packages": packages,
        "python": platform.python_version(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        **more,
    }


def _commit() -> tuple[str | None, bool | None]:
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
    """Pictures and texts of the first deleted units and of some kept ones, for the report."""
    corpus: Corpus = request.corpus
    images = corpus.images(size)
    picked = np.random.default_rng(len(request.retain)).permutation(request.retain)[:count]
    entries = []
    with write_atomically(path / "gallery") as part:
        for split, rows in (("forget", request.forget[:count]), ("retain", picked)):
            for row in rows:
                name = f"{len(entries):03d}.png"
                Image.fromarray(images[row]).save(part / name)
                unit = corpus.units[row]
                entries.append({"split": split, "unit": unit.id, "image": f"gallery/{name}", "texts": list(unit.texts)})
    write_file(path / "gallery.json", json.dumps(entries, indent=2, ensure_ascii=False) + "\n")


def command_line() -> str:
    """The command that was typed."""
    return " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
