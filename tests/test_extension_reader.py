"""A reader of another package: one function, used by name, from a recipe and by the layout that it recognises."""

from __future__ import annotations

from pathlib import Path

import pytest

import extension

SOURCE = '''
"""One picture a line: id, split and caption, separated by semicolons."""

from pathlib import Path

import numpy as np

from multidelete.data.dataset import Dataset
from multidelete.data.examples import Example
from multidelete.data.layouts import reader


@reader(layout="captions.csv", detects=lambda root: (root / "captions.csv").is_file())
def semicolons(root: str | Path, size: int = 8) -> Dataset:
    """Captions in a file captions.csv; each picture has a shade of its own."""
    lines = [line.split(";") for line in (Path(root) / "captions.csv").read_text().splitlines()]
    examples = [Example(name, split, (text,)) for name, split, text in lines]
    shades = np.arange(len(examples), dtype=np.uint8)
    return Dataset("semicolons", examples, pixels=np.tile(shades[:, None, None, None], (1, size, size, 3)))
'''
RECIPE = """
task = "retrieval"
method = "neggrad"
data = {{reader = "semicolons", root = "captions"{options}}}
forget = {{ids = ["train-3"]}}

[model]
name = "albef"
vision.config.model_type = "vit"
text.config.model_type = "bert"
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("extension")
    extension.install(folder, "multidelete.readers", "semicolons", SOURCE)
    # A name of the library's own cannot be taken over.
    extension.install(folder, "multidelete.readers", "manifest", "raise RuntimeError")
    lines = [
        f"{split}-{number};{split};a cat, {split} {number}"
        for split in ("train", "validation", "test")
        for number in range(6)
    ]
    (folder / "captions").mkdir()
    (folder / "captions" / "captions.csv").write_text("\n".join(lines))
    return folder


def test_a_recipe_uses_it(installed: Path) -> None:
    (installed / "recipe.toml").write_text(RECIPE.format(options=", size = 16"))
    ended = extension.run(installed, "-m", "multidelete", "check", "recipe.toml")
    assert ended.returncode == 0, ended.stderr
    assert "forget 1 examples, retain 5" in ended.stdout


def test_its_options_are_checked_like_those_of_any_reader(installed: Path) -> None:
    (installed / "wrong.toml").write_text(RECIPE.format(options=", sise = 16"))
    ended = extension.run(installed, "-m", "multidelete", "check", "wrong.toml")
    assert ended.returncode == 2
    assert "did you mean 'size'?" in ended.stderr


def test_its_layout_is_detected_and_listed(installed: Path) -> None:
    ended = extension.run(installed, "-m", "multidelete", "check", "--data", "captions", "--forget", "2")
    assert ended.returncode == 0, ended.stderr
    (installed / "empty").mkdir()
    ended = extension.run(installed, "-m", "multidelete", "check", "--data", "empty")
    assert ended.returncode == 2
    assert "captions.csv (reader 'semicolons')" in ended.stderr
    assert "Captions in a file captions.csv" in extension.run(installed, "-m", "multidelete", "list", "readers").stdout


@pytest.mark.parametrize("first", ["", "from multidelete.data.readers import READERS\n"])
def test_its_module_can_be_imported_before_the_readers(installed: Path, first: str) -> None:
    code = f"{first}import extension_readers_semicolons as module\n"
    code += "from multidelete.data.readers import READERS, detect\n"
    code += "assert READERS['semicolons'] is READERS.get('semicolons') is dict(READERS.items())['semicolons']\n"
    code += "assert READERS['semicolons'] is module.semicolons and detect('captions') == 'semicolons'"
    assert extension.run(installed, "-c", code).stderr == ""


def test_a_module_that_imports_its_base_class_can_be_imported_first(tmp_path: Path) -> None:
    source = "from multidelete.methods.base import LossMethod\nclass Mine(LossMethod):\n    name = 'mine'\n"
    module = extension.install(tmp_path, "multidelete.methods", "mine", source, "Mine")
    code = f"from {module} import Mine\nfrom multidelete.methods import METHODS\nassert METHODS['mine'] is Mine"
    assert extension.run(tmp_path, "-c", code).stderr == ""
