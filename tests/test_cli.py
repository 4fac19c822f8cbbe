"""The command line, as a user types it: help, every command once, and Ctrl-C."""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.main

import tiny
from conftest import Ended
from multidelete.cli.app import app
from multidelete.data.readers import READERS
from multidelete.methods import METHODS
from multidelete.models import MODELS, Model
from multidelete.recipe import load
from multidelete.runs.record import IDENTITY, finished_command
from multidelete.tasks import TASKS
from multidelete.utils.errors import InputError
from test_bad_input import RECIPE, contents

Terminal = Callable[[str], Ended]

ROOT = Path(__file__).parents[1]
RECIPES = [*sorted((ROOT / "recipes").glob("*.toml")), *sorted((ROOT / "src/multidelete/demos").glob("*.toml"))]
COMMANDS = (
    "demo",
    "train",
    "unlearn",
    "evaluate",
    "report",
    "verify",
    "cache",
    "list",
    "check",
    "convert",
    "push",
    "bench",
    "study",
)
MAIN = [sys.executable, "-m", "multidelete"]
QUICK = "method.epochs=1 method.min_steps=4 method.evaluations=2"
LOWEST = "method.stop=lowest"  # nothing is memorised


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, photos: Path) -> Iterator[Path]:
    """A working folder with a model, its data, ids to delete, and one finished run in ``out``."""
    folder = tmp_path_factory.mktemp("ground")
    shutil.copytree(tiny_model, folder / "model")
    shutil.copytree(photos, folder / "photos")
    (folder / "ids.txt").write_text("# by mail\ntrain-00001\ntrain-00003\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def finished(ground: Path) -> Path:
    """What ``unlearn`` left behind; the command is run in a process of its own, as a user would."""
    command = (
        "unlearn --model model --data photos --forget ids.txt --method multidelete --scope fusion --out out "
        f"--precision fp32 train.epochs=1 {QUICK} {LOWEST}"
    )
    before = contents(ground)
    ended = subprocess.run([*MAIN, *shlex.split(command)], capture_output=True, text=True, cwd=ground, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "results: out/results.json" in ended.stdout
    assert "MultiDelete-F" in ended.stdout
    after = contents(ground)
    assert {name: value for name, value in after.items() if name.split("/")[0] != "out"} == before
    return ground / "out"


# -- help -----------------------------------------------------------------------------------------------------------


def test_help_is_immediate() -> None:
    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([*MAIN, "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < 0.5


@pytest.mark.parametrize("words", [["--help"], ["unlearn", "--help"], ["--version"]])
def test_help_imports_nothing_slow(words: list[str]) -> None:
    code = (
        "import sys\nfrom multidelete.cli.app import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "print('slow:', {'torch', 'transformers', 'numpy', 'PIL'} & set(sys.modules))"
    )
    ended = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "slow: set()"


def test_the_commands_are_these(terminal: Terminal) -> None:
    assert set(getattr(typer.main.get_command(app), "commands")) == set(COMMANDS)  # noqa: B009
    help_text = terminal("--help")
    assert help_text.code == 0
    assert all(command in help_text.out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str, terminal: Terminal) -> None:
    ended = terminal(f"{command} --help")
    assert ended.code == 0
    assert f"multidelete {command}" in ended.out.split("Example")[1]


def test_examples_parse_and_name_recipes_that_exist() -> None:
    examples = [
        shlex.split(example)
        for command in getattr(typer.main.get_command(app), "commands").values()  # noqa: B009
        for example in re.findall(r"`(multidelete .+?)`", command.epilog)
    ]
    assert len(examples) >= len(COMMANDS)
    for words in examples:
        parse(words)
        for word in words:
            assert not word.endswith(".toml") or (ROOT / word).is_file(), f"{shlex.join(words)}: no {word}"


def parse(words: list[str]) -> dict[str, Any]:
    """What a command line asks for, without doing it; a word that does not fit raises."""
    assert words[0] == "multidelete"
    group = typer.main.get_command(app)
    context = group.make_context("multidelete", words[1:])
    _, command, rest = group.resolve_command(context, words[1:])  # type: ignore[attr-defined]
    return dict(command.make_context(words[1], rest, parent=context).params)


def test_version(terminal: Terminal) -> None:
    assert re.fullmatch(r"multidelete \d+\.\d+\.\d+\S*\n", terminal("--version").out)


# -- list, check ----------------------------------------------------------------------------------------------------


def test_list_names_every_entry_with_its_settings(terminal: Terminal) -> None:
    tables: dict[str, dict[str, Any]] = {"methods": METHODS, "models": MODELS, "tasks": TASKS, "readers": READERS}
    everything = terminal("list").out
    for title, table in tables.items():
        alone = terminal(f"list {title}").out
        assert table
        for name in table:
            assert re.search(rf"^  {name} +\S", alone, re.MULTILINE), name
            assert re.search(rf"^  {name} +\S", everything, re.MULTILINE), name
    assert "learning_rate" in everything
    assert "rerank" in everything


def test_check(ground: Path, terminal: Terminal) -> None:
    (ground / "recipe.toml").write_text(RECIPE)
    before = contents(ground)
    recipe = terminal("check recipe.toml forget.count=4")
    assert (recipe.code, recipe.err) == (0, "")
    assert "recipe.toml: retrieval, multidelete" in recipe.out
    assert "Dataset('scenes', train=40, validation=12, test=12, texts=192)" in recipe.out
    assert " of 4 examples, retain " in recipe.out
    data = terminal("check --data photos --forget ids.txt")
    assert data.code == 0
    assert "Dataset('photos', train=40" in data.out
    assert " of 2 examples, retain " in data.out
    both = terminal("check recipe.toml --data photos --forget 0.1")
    assert "Dataset('photos', train=40" in both.out
    assert " of 4 examples, retain " in both.out
    assert contents(ground) == before
    (ground / "recipe.toml").unlink()


# -- unlearn, evaluate, report --------------------------------------------------------------------------------------


def test_results_have_the_keys_of_the_design(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    assert list(results) == ["schema", "rows", "provenance"]
    assert results["schema"] == 1
    assert [row["method"] for row in results["rows"]] == ["original", "retrain", "multidelete"]
    for row in results["rows"]:
        assert set(row) == {
            *("task", "data", "model", "method", "scope", "title", "color", "forget_examples", "seed", "seeds"),
            *("settings", "metrics", "cost", "contrasts"),
        }
        assert {
            *("test_score", "i2t_mean_recall", "t2i_mean_recall", "valid_score", "retain_score", "forget_score"),
            *("forget_auc", "forget_test_auc", "gap_to_retrain", "probe_vision", "probe_text"),
            *("mi_ratio", "mi_ratio_retain", "attack_loss_auc", "attack_svc_auc"),
        } <= set(row["metrics"])
        assert set(row["cost"]) == {"prepare_seconds", "update_seconds", "evaluate_seconds", "peak_memory_mb"}
        assert all(np.isfinite(value) for value in [*row["metrics"].values(), *row["cost"].values()])
        assert (row["task"], row["data"], row["model"], row["forget_examples"]) == ("retrieval", "photos", "albef", 2)
        assert row["seeds"] == {"train": 0, "forget": 0, "method": 0}
    last = results["rows"][-1]
    assert last["scope"] == "fusion"
    assert (last["settings"]["epochs"], last["settings"]["evaluations"]) == (1.0, 2)
    assert last["metrics"] != results["rows"][0]["metrics"]
    provenance = results["provenance"]
    assert {
        *("version", "commit", "dirty", "device", "data_hash", "forget_hash", "packages", "python", "began", "created"),
        *("cpu", "threads"),
        *("command", "account", "recipe", "original", "original_hash", "model_hash", "image_changes"),
    } == set(provenance)
    assert provenance["forget_hash"] == hashlib.sha256(b"train-00001\ntrain-00003\n").hexdigest()
    assert "--forget ids.txt" in provenance["command"]
    assert "torch" in provenance["packages"]


def test_other_files_of_a_run(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]+"', "", page) or "src=" not in page
    keys = ["00-original-all", "01-retrain-all", "02-multidelete-fusion"]
    assert sorted(path.name for path in (finished / "predictions").iterdir()) == [*keys, "shadow"]
    for key in keys:
        splits = {path.stem: dict(np.load(path)) for path in (finished / "predictions" / key).glob("*.npz")}
        assert set(splits) == {"forget", "retain", "validation", "test"}
        assert set(splits["forget"]["example"]) == {"train-00001", "train-00003"}
    lines = [json.loads(line) for line in (finished / "history.jsonl").read_text().splitlines()]
    assert {line["row"] for line in lines} == set(keys[1:])
    model = Model.from_pretrained(finished / "model")
    assert model.name == "albef"
    moved = tiny.changed(tiny.weights(Model.from_pretrained(finished.parent / "model")), tiny.weights(model))
    assert moved
    assert moved <= set(model.parameters_of("fusion"))


def test_evaluate_prints_and_only_reads(ground: Path, finished: Path, terminal: Terminal) -> None:
    before = contents(ground)
    rows = json.loads((finished / "results.json").read_text())["rows"]
    for folder, row in (("model", rows[0]), ("out/model", rows[2])):
        ended = terminal(f"evaluate {folder} --data photos --forget ids.txt --precision fp32")
        assert ended.code == 0
        printed = dict(re.findall(r"(\w+) +│ +(-?[\d.]+) ", ended.out))
        siblings = ("gap_to_retrain", "probe_", "attack_", "mi_")  # which need other models too
        expected = {name: value for name, value in row["metrics"].items() if not name.startswith(siblings)}
        assert printed == {name: f"{value:.2f}" for name, value in expected.items()}
    without = terminal("evaluate model --data photos --set rerank=4 --precision fp32").out
    assert "test_score" in without
    assert "forget" not in without
    assert contents(ground) == before


def test_a_finished_run_is_continued_without_work(ground: Path, finished: Path, terminal: Terminal) -> None:
    before = contents(ground)
    ended = terminal(
        "unlearn --model model --data photos --forget ids.txt --method multidelete --scope fusion --out out "
        f"--precision fp32 train.epochs=1 {QUICK} {LOWEST} --resume"
    )
    assert ended.code == 0
    assert ended.err.count("already finished, skipped") == 3
    assert contents(ground) == before


def test_report_of_several_seeds(here: Path, terminal: Terminal) -> None:
    for seed in (0, 1):
        ended = terminal(f"unlearn recipe.toml --seed {seed} --out run-{seed} {QUICK}")
        assert ended.code == 0, ended.err
    before = contents(here)
    for form, mark in (("text", "Seeds"), ("markdown", "| Seeds |"), ("csv", "test_score_mean")):
        ended = terminal(f"report run-0 run-1 --out both --format {form}")
        assert ended.code == 0
        assert mark in ended.out
        assert "report: both/report.html" in ended.err
    assert (here / "both/report.html").is_file()
    assert terminal("report run-0 --out one/page.html").code == 0
    assert (here / "one/page.html").is_file()
    assert terminal("report run-0 run-1 --public --out public").code == 0
    assert "unlearn recipe.toml --seed 1" in (here / "public/README.md").read_text()
    after = contents(here)
    assert {name: after[name] for name in before} == before
    assert terminal("report run-0").code == 0
    for bad, fragment in [
        ("report run-0 run-0", "is given twice"),
        ("report run-0 --out recipe.toml", "--out 'recipe.toml' is a file"),
        ("report run-0 --out recipe.toml/page.html", "is a file"),
        ("report run-0 --public", "--public writes a separate folder: choose it with --out"),
        ("report run-0 --public --out page.html", "--public writes a separate folder"),
    ]:
        ended = terminal(bad)
        assert ended.code == 2
        assert fragment in ended.errors[0]


def test_train_writes_a_model_that_unlearn_takes(here: Path, photos: Path, terminal: Terminal) -> None:
    ended = terminal("train recipe.toml train.epochs=2 --out new/model")
    assert ended.code == 0, ended.err
    assert "model written to new/model" in ended.out
    before = contents(here)
    assert Model.from_pretrained(here / "new/model").name == "albef"
    assert terminal("train recipe.toml --out new/model").code == 2
    assert contents(here) == before
    assert terminal(f"unlearn recipe.toml --model new/model --forget 0.1 --method neggrad --out out {QUICK}").code == 0
    (original, unlearned) = json.loads((here / "out/results.json").read_text())["rows"]
    assert (unlearned["method"], unlearned["forget_examples"]) == ("neggrad", 4)
    assert original["method"] == "original"
    assert {name: value for name, value in contents(here).items() if name in before} == before


def test_retrain_repeats_the_training_in_the_model_folder(here: Path, photos: Path, terminal: Terminal) -> None:
    assert terminal("train recipe.toml train.epochs=2 --seed 3 --out new/model").code == 0
    raised = json.loads((here / "new/model/training.json").read_text())
    assert (raised["settings"]["epochs"], raised["seed"]) == (2, 3)
    plain = f"unlearn --model new/model --data {photos} --forget 4 --precision fp32 {QUICK} --retrain"
    assert terminal(f"{plain} --out out").code == 0
    rows = json.loads((here / "out/results.json").read_text())["rows"]
    assert rows[0]["settings"]["epochs"] == 2
    assert json.loads((here / "out/model/training.json").read_text()) == raised

    (here / "new/model/training.json").unlink()
    ended = terminal(f"{plain} --out other")
    assert ended.code == 2
    assert ended.errors == [
        "the training settings of 'new/model' are unknown, and retrain needs them; add [train] (or train.epochs=...), "
        "or skip Retrain with --no-retrain"
    ]
    assert not (here / "other").exists()
    (here / "new/model/training.json").write_text("{")
    assert "training.json is damaged" in terminal(f"{plain} --out other").errors[0]


# -- recipes --------------------------------------------------------------------------------------------------------


def test_there_are_recipes() -> None:
    assert len(RECIPES) >= 2


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_every_recipe_loads_and_says_how_it_is_run(path: Path) -> None:
    loaded = load(path)
    header = path.read_text().split("\n\n")[0]
    result = re.search(r"Run: (multidelete .+)", header)
    assert result, f"{path.name} has no 'Run:' in its header"
    words = shlex.split(result[1])
    asked = parse(words)
    if words[1] == "demo":
        assert path.parent == Path(str(files("multidelete"))) / "demos"
        assert asked["task"] == loaded.task.name == path.stem
    else:
        assert ROOT / asked["recipe"] == path
        assert load(path, asked["overrides"] or []).task == loaded.task


# -- the demo makes room for itself only ----------------------------------------------------------------------------


DEMO = (
    "demo data.train=40 data.validation=12 data.test=12 forget.count=3 train.epochs=0.2 method.epochs=1 "
    "method.min_steps=2 method.evaluations=0 retrain=false membership.shadow=false compare=[] --out out"
)


def test_the_demo_replaces_a_finished_demo_and_nothing_else(here: Path, terminal: Terminal) -> None:
    assert terminal(DEMO).code == 0
    assert (finished_command(here / "out") or "").startswith("multidelete demo")
    first = contents(here)
    # What cannot run must not cost the last demo.
    for wrong in ("method.larning_rate=1", "forget.count=99", "--precision fp64", "data.test=1"):
        assert terminal(f"{DEMO} {wrong}").code == 2
        assert contents(here) == first
    (here / "out/notes.txt").write_text("mine")
    assert "already holds a run" in terminal(DEMO).errors[0]
    (here / "out/notes.txt").unlink()
    assert contents(here) == first
    ended = terminal(f"{DEMO} --seed 1")
    assert ended.code == 0, ended.err
    assert "replacing the finished demo in out" in ended.out
    assert json.loads((here / "out/results.json").read_text())["rows"][0]["seed"] == 1
    # Asked to continue, it continues.
    assert terminal(f"{DEMO} --seed 1 --resume").code == 0


def test_only_a_folder_that_is_a_finished_run_counts_as_one(here: Path) -> None:
    out = here / "out"
    identity = dict.fromkeys(IDENTITY, "")
    results = {"schema": 1, "rows": [], "provenance": {"command": "multidelete demo"}}

    def result(identity: Any = identity, results: Any = results, *more: str) -> str | None:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        (out / "run.json").write_text(json.dumps(identity))
        (out / "results.json").write_text(json.dumps(results))
        for name in more:
            (out / name).write_text("mine")
        return finished_command(out)

    assert result() == "multidelete demo"
    assert (
        result(identity, results, "report.html", "deletion.html", "deletion.json", "SHA256SUMS") == "multidelete demo"
    )
    assert result(identity, results, "thesis.tex") is None
    assert result({"mine": 1}) is None
    assert result([]) is None
    assert result(identity, {"schema": 1}) is None
    assert result(identity, {**results, "schema": 2}) is None
    assert result(identity, []) is None
    result()
    (out / "results.json").unlink()
    assert finished_command(out) is None
    result()
    (here / "link").symlink_to(out)
    assert finished_command(here / "link") is None
    assert finished_command(here / "nothing") is None


def test_a_run_of_another_command_is_never_replaced(here: Path, terminal: Terminal) -> None:
    assert terminal(f"unlearn recipe.toml --out out {QUICK}").code == 0
    before = contents(here)
    ended = terminal(DEMO)
    assert ended.code == 2
    assert "'out' already holds a run" in ended.errors[0]
    assert contents(here) == before


# -- Ctrl-C ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "number", "expected"),
    [("training the original (retrieval)", signal.SIGINT, 130), ("MultiDelete (fusion)", signal.SIGTERM, 143)],
)
def test_a_signal_stops_with_a_sentence_and_resume_finishes(
    stage: str, number: signal.Signals, expected: int, here: Path
) -> None:
    long = "train.epochs=60" if stage.startswith("training") else "method.epochs=1 method.min_steps=500"
    words = [*MAIN, *shlex.split(f"unlearn recipe.toml --out out {long}")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    killer = threading.Timer(120, process.kill)
    killer.start()
    messages = ""
    for line in process.stderr:
        messages += line
        if line.strip() == stage:
            threading.Timer(0.5, process.send_signal, [number]).start()
    code = process.wait()
    killer.cancel()
    assert code == expected, messages
    assert messages.splitlines()[-1] == "stopped; progress is saved: the same command with --resume continues"
    assert "Traceback" not in messages
    assert not (here / "out/results.json").exists()

    again = subprocess.run([*words, "--resume"], capture_output=True, text=True, env=environment, check=False)
    assert again.returncode == 0, again.stderr
    assert f"{stage}: continues at step" in again.stderr
    assert (here / "out/results.json").is_file()
    lines = [json.loads(line) for line in (here / "out/history.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if line["row"].startswith("01") and "losses" in line]
    assert steps == list(range(1, len(steps) + 1)), "each step once"


def test_ctrl_c_of_a_command_that_keeps_nothing(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("multidelete.utils.registry.choose", interrupted)
    ended = terminal("list methods")
    assert (ended.code, ended.err) == (130, "stopped\n")


def test_a_path_with_an_equals_sign_is_a_recipe(here: Path, terminal: Terminal) -> None:
    shutil.copy(here / "recipe.toml", here / "seed=1.toml")
    ended = terminal("unlearn seed=1.toml --out out forget.count=99")
    assert "count = 99 is too large" in ended.errors[0]


def test_input_error_is_a_value_error() -> None:
    assert issubclass(InputError, ValueError)
