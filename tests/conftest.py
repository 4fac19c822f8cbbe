"""What several tests need: a cache of their own, the real data where there are any, small image files."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def pytest_configure() -> None:
    """Ctrl-C is tested too where whatever started the tests ignores it, as a shell does for background work."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MULTIDELETE_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and weights; a test that asks for it is skipped where there is none."""
    given = os.environ.get("MULTIDELETE_SHARED")
    folder = Path(given) if given else Path(__file__).parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"no real data: set MULTIDELETE_SHARED to their folder ({folder} is not there)")
    return folder


@pytest.fixture
def picture() -> Callable[..., None]:
    """Writes a small image file; another ``shade`` makes another picture."""

    def write(path: Path, shade: int = 100, size: tuple[int, int] = (12, 8)) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((size[1], size[0], 3), shade, dtype=np.uint8)
        pixels[:, : size[0] // 2, 0] = 255 - shade
        Image.fromarray(pixels).save(path)

    return write


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """Folder of a model that was trained for a moment on ``photos``; copy it to change it."""
    import tiny

    folder = tmp_path_factory.mktemp("saved") / "model"
    tiny.original("albef").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """Folder of a small dataset: 40 examples to train on, 12 validation, 12 test; copy it to change it."""
    import tiny

    folder = tmp_path_factory.mktemp("saved") / "photos"
    tiny.dataset().save(folder)
    return folder


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        return [line.removeprefix("error: ") for line in self.err.splitlines() if line.startswith("error: ")]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[str], Ended]:
    """Runs a command line in this process, through the same ``main`` as the program."""
    from multidelete.cli.app import main

    def run(command: str) -> Ended:
        capsys.readouterr()
        monkeypatch.setattr("sys.argv", ["multidelete", *shlex.split(command)])
        with pytest.raises(SystemExit) as end:
            main()
        printed = capsys.readouterr()
        code = end.value.code
        assert isinstance(code, int)
        return Ended(code, printed.out, printed.err)

    return run


@pytest.fixture
def without_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """No page is written: that of a tiny run takes longer than the run."""
    import multidelete.report.pages.run

    monkeypatch.setattr(multidelete.report.pages.run, "write_report", lambda *_: None)


@pytest.fixture
def cache_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("MULTIDELETE_CACHE", str(tmp_path))
    return tmp_path
