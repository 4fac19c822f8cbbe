"""Methods, tasks, metrics, models and readers of other packages, each one file, used from a recipe."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
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
    assert " of 1 example, retain " in ended.stdout


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


# -- a method, a task, a metric and a model, each one file, in one recipe -------------------------------------------

METHOD = '''
"""Ascent on the task's loss of D_f, with a weight."""

from typing import ClassVar

from multidelete.methods.base import LossMethod


class Louder(LossMethod):
    name: ClassVar[str] = "louder"
    title: ClassVar[str] = "Louder"
    color: ClassVar[str] = "#123456"
    requires: ClassVar[frozenset[str]] = frozenset({"labels"})

    weight: float = 2.0

    def losses(self, student, original, forget, retain):
        return {"forget": -self.weight * student.losses(forget).mean()}
'''
TASK = '''
"""Is a caption about a bright picture?"""

from typing import ClassVar

from multidelete.tasks.classification import Classification


class Brightness(Classification):
    name: ClassVar[str] = "brightness"
    classes: ClassVar[frozenset[str]] = frozenset({"bright", "dark"})
    affirms: ClassVar[str] = "bright"
'''
METRIC = """
from multidelete.metrics.registry import metric


@metric("Highest score of D_f", "low")
def highest(predictions, original):
    return predictions["forget"]["score"].max()
"""
MODEL = '''
"""A bag of words and a shrunken picture, joined by one layer."""

from dataclasses import replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from multidelete.models.base import Model
from multidelete.models.config import ModelConfig
from multidelete.models.encoders import word_tokenizer
from multidelete.models.inputs import Encoding, Tokens
from multidelete.utils.randomness import seeded


class BagConfig(ModelConfig):
    width: int = 8


class Bag(Model):
    name = "bag"
    config_class = BagConfig
    provides = frozenset({"vision", "text", "labels"})
    contrastive = False
    parts: ClassVar = {"vision": ("vision",), "text": ("text",), "fusion": ("fusion", "classes")}

    def __init__(self, config, tokenizer):
        super().__init__()
        self.config, self.tokenizer = config, tokenizer
        self.vision, self.text = nn.Linear(3 * 16, config.width), nn.Embedding(len(tokenizer), config.width)
        self.fusion, self.classes = nn.Linear(2 * config.width, config.width), nn.Linear(config.width, 2)

    @classmethod
    def build(cls, config, texts, seed, tokenizer=None):
        with seeded(seed, "initial weights"):
            return cls(config, tokenizer or word_tokenizer(texts)).eval()

    def embed(self, modality, inputs):
        if isinstance(inputs, Tokens):
            tokens, mask = self.text(inputs.ids), inputs.mask
        else:
            tokens = self.vision(F.adaptive_avg_pool2d(inputs.float() / 255, 4).flatten(1))[:, None]
            mask = torch.ones(tokens.shape[:2], dtype=torch.long)
        pooled = (tokens * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return Encoding(tokens, mask, pooled, "embedded")

    def project(self, modality, embedded):
        return replace(embedded, stage="encoded")

    def fuse(self, encodings):
        return self.fusion(torch.cat([encodings["vision"].pooled, encodings["text"].pooled], -1)).relu()

    def head(self, fused):
        return self.classes(fused)
'''
READER = '''
import numpy as np

from multidelete.data.dataset import Dataset
from multidelete.data.examples import Example


def shades(count: int = 30) -> Dataset:
    """Pictures of one shade, half of them bright."""
    splits = ["train"] * (count - 10) + ["validation"] * 5 + ["test"] * 5
    names = ["bright" if number % 2 else "dark" for number in range(count)]
    examples = [
        Example(f"{split}-{number}", split, (f"shade {number}", "a picture"), labels=(name, name))
        for number, (split, name) in enumerate(zip(splits, names, strict=True))
    ]
    values = np.array([200 + number % 50 if number % 2 else number for number in range(count)], dtype=np.uint8)
    return Dataset("shades", examples, pixels=np.tile(values[:, None, None, None], (1, 8, 8, 3)))
'''
PACKAGES = {
    ("methods", "louder"): (METHOD, "Louder"),
    ("tasks", "brightness"): (TASK, "Brightness"),
    ("metrics", "highest_forget_score"): (METRIC, "highest"),
    ("models", "bag"): (MODEL, "Bag"),
    ("readers", "shades"): (READER, "shades"),
}
EVERYTHING = """
task = "brightness"
data = "shades"
precision = "fp32"
forget = {count = 4}
method = {name = "louder", weight = 3.0, evaluations = 2, min_steps = 4}
train = {epochs = 2, batch_size = 8}

[model]
name = "bag"
image_size = 8
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a recipe in which method, task, metric, model and data come from packages of one file each."""
    folder = tmp_path_factory.mktemp("extensions")
    for (group, name), (source, attribute) in PACKAGES.items():
        extension.install(folder, f"multidelete.{group}", name, source, attribute)
    (folder / "recipe.toml").write_text(EVERYTHING)
    ended = extension.run(folder, "-m", "multidelete", "unlearn", "recipe.toml", "--out", "run")
    assert ended.returncode == 0, ended.stderr
    return folder


def test_a_recipe_runs_with_everything_from_other_packages(finished: Path) -> None:
    rows = json.loads((finished / "run" / "results.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["original", "retrain", "louder"]
    assert {(row["task"], row["data"], row["model"]) for row in rows} == {("brightness", "shades", "bag")}
    assert (rows[2]["title"], rows[2]["color"], rows[2]["settings"]["weight"]) == ("Louder", "#123456", 3.0)
    for index, name in enumerate(("00-original-all", "01-retrain-all", "02-louder-all")):
        with np.load(finished / "run" / "predictions" / name / "forget.npz") as stored:
            assert rows[index]["metrics"]["highest_forget_score"] == pytest.approx(float(stored["score"].max()))


def test_pages_and_tables_show_the_metric_and_the_record_holds(finished: Path) -> None:
    assert "Highest score of" in (finished / "run" / "report.html").read_text()
    shown = extension.run(finished, "-m", "multidelete", "report", "run", "--format", "markdown").stdout
    assert "Highest score of D_f ↓" in shown
    verified = extension.run(finished, "-m", "multidelete", "verify", "run")
    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_what_does_not_fit_together_is_refused_by_capability(finished: Path) -> None:
    for words, sentence in (
        (["task=retrieval", "data=scenes"], "method 'louder' does not apply to the task 'retrieval': it needs labels"),
        (["task=reasoning", "data=statements"], "does not support the task 'reasoning', which needs several_images"),
    ):
        ended = extension.run(finished, "-m", "multidelete", "check", "recipe.toml", *words)
        if ended.returncode == 0:
            ended = extension.run(finished, "-m", "multidelete", "unlearn", "recipe.toml", *words, "--out", "refused")
        assert ended.returncode == 2, ended.stdout
        assert sentence in ended.stderr
