"""What several tests need: a cache of their own, the real data where there are any, small image files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


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
