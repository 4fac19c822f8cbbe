"""The documents run: README and CONTRIBUTING blocks, doctests, and the commands that they name."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest
import torch

import multidelete
import tiny
from multidelete import Model
from multidelete.models import MODELS
from multidelete.models.supported import page

ROOT = Path(__file__).parents[1]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.S)


def test_readme_python_block_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (block,) = blocks("README.md", "python")
    names: dict[str, object] = {}
    exec(compile(block, "README.md", "exec"), names)
    assert (tmp_path / "unlearned" / "model.safetensors").is_file()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines[0].split()) == 3
    assert lines[1] == names["outcome"].sentence  # type: ignore[attr-defined]
    assert names["outcome"].request.ids == ("train-00003", "train-00017")  # type: ignore[attr-defined]


def test_contributing_block_is_a_method_that_unlearns():
    block, metric = blocks("CONTRIBUTING.md", "python")
    names: dict[str, object] = {}
    exec(compile(block, "CONTRIBUTING.md", "exec"), names)
    method = names["NegGradPlus"](epochs=1, min_steps=2, evaluations=0)  # type: ignore[operator]
    outcome = multidelete.unlearn(tiny.build(tiny.albef()), tiny.dataset(), 4, method)
    losses = [line["losses"] for line in outcome.history.lines]
    assert losses[0].keys() == {"retain", "forget", "total"}
    assert losses[0]["forget"] < 0 < losses[0]["retain"]
    exec(compile(metric, "CONTRIBUTING.md", "exec"), names)
    assert names["highest"].compute(outcome.predictions, None) == outcome.predictions["forget"]["score"].max()  # type: ignore[attr-defined]


def test_records_in_memory(capsys):
    (block,) = blocks("docs/data.md", "python")
    exec(compile(block, "docs/data.md", "exec"), {})
    assert capsys.readouterr().out == "('a picture of grey 3',) {'licence': 'BY'}\n"


def test_the_adapter_of_an_own_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, adapter, _ = code = blocks("docs/own-model.md", "python")
    assert len(adapter.strip().splitlines()) < 50
    names = {"__name__": "example"}
    torch.manual_seed(0)
    with monkeypatch.context() as patch:
        patch.setitem(MODELS, "two_towers", None)  # removed at the end
        exec(compile("\n".join(code), "own-model.md", "exec"), names)
        outcome, towers, model = names["outcome"], names["towers"], names["model"]
        again = Model.from_pretrained(tmp_path / "run" / "model")
    assert [row["method"] for row in outcome.rows] == ["original", "retrain", "multidelete"]
    assert type(names["unlearned"]) is type(towers)
    moved = tiny.changed(towers.state_dict(), names["unlearned"].state_dict())
    assert set(moved) >= {"image_tower.0.weight", "text_tower.weight"}
    assert not tiny.changed(towers.state_dict(), model.model.state_dict())
    assert not tiny.changed(tiny.weights(outcome.model), tiny.weights(again))


def test_the_page_of_supported_models_is_what_its_command_prints():
    assert (ROOT / "docs" / "supported-models.md").read_text(encoding="utf-8") == page()


def test_readme_has_its_two_commands_and_ci_runs_the_checks():
    makefile = (ROOT / "Makefile").read_text()
    commands = [line.split("#")[0].strip() for line in blocks("README.md", "")[0].splitlines()]
    assert commands == ["make demo", "make test"]
    for command in commands:
        assert re.search(rf"^{command.split()[1]}:", makefile, flags=re.M)
    assert "make check" in (ROOT / ".ci" / "run").read_text()
    assert re.search(r"^check:.*\btest\b", makefile, flags=re.M)


def module_path(name: str) -> Path:
    path = ROOT / "src" / Path(*name.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def with_doctests() -> list[str]:
    result = [module.name for module in pkgutil.walk_packages(multidelete.__path__, "multidelete.")]
    return [name for name in result if ">>>" in module_path(name).read_text(encoding="utf-8")]


@pytest.mark.parametrize("name", with_doctests())
def test_doctests(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0


def test_doctests_are_found():
    assert {"multidelete.utils.errors", "multidelete.metrics.ranking"} <= set(with_doctests())


def test_public_names_exist():
    for name in multidelete.__all__:
        assert getattr(multidelete, name).__doc__


def test_every_module_says_what_it_is_for():
    for path in (ROOT / "src").rglob("*.py"):
        assert path.read_text(encoding="utf-8").startswith(('"""', 'r"""')), path
