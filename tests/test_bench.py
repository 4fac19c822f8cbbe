"""``multidelete bench``: the grid, what its cells share, kills and failures on the way, the table in four formats."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import pytest

import tiny
from conftest import Ended
from messages import logged
from multidelete.bench.grid import Grid, grid
from multidelete.bench.work import _Worker
from multidelete.methods import METHODS, Method, NegGrad
from multidelete.models import Model
from multidelete.recipe import as_values, load
from multidelete.report.pages.bench import Bench, headings, latex, lines, to_latex, to_text, write_bench
from multidelete.runs.groups import label
from multidelete.runs.record import RESULTS_FILE
from multidelete.store.models import stored
from multidelete.training.engine import Engine
from multidelete.training.loop import TrainingHistory
from multidelete.utils.errors import InputError
from rows import display, seed_values
from test_bad_input import RECIPE, contents

Terminal = Callable[[str], Ended]

MAIN = [sys.executable, "-m", "multidelete"]
COMPARE = """
[[compare]]
name = "neggrad"
scope = "all"
learning_rate = 1e-5

[[compare]]
name = "multidelete"
scope = "fusion"
alpha = 0.0

[bench]
seeds = [0]
"""
NEGGRAD = "bench recipe.toml --methods neggrad --scopes fusion --out out --workers 1 bench.settings.neggrad.epochs=1"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "recipe.toml").write_text(RECIPE.replace("retrain = false\n", ""))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def cells_of(path: str = "recipe.toml", *overrides: str, out: str = "out", **options: Any) -> Grid:
    return grid(Path(path), overrides, {"bench": options}, Path(out))


def names(result: Grid) -> list[str]:
    return [cell.name for cell in result.cells]


# -- the grid -------------------------------------------------------------------------------------------------------


def test_the_grid_is_methods_by_scopes_by_sizes_by_seeds(here: Path) -> None:
    result = cells_of(methods=["multidelete", "neggrad"], counts=[3, 5], seeds=[0, 1])
    expected = {
        f"{name}-{size}-seed{seed}"
        for name in ("retrain-all", "multidelete-all", "multidelete-fusion", "neggrad-all", "neggrad-fusion")
        for size in (3, 5)
        for seed in (0, 1)
    }
    assert set(names(result)) == expected
    assert len(names(result)) == 20
    assert result.notes == ()
    assert not (here / "out").exists()


def test_one_cell_trains_what_others_wait_for(here: Path) -> None:
    after = {
        cell.name: cell.after
        for cell in cells_of(methods=["neggrad"], counts=[3, 5], seeds=[0, 1], scopes=["all"]).cells
    }
    assert list(after)[:4] == [f"retrain-all-{size}-seed{seed}" for size in (3, 5) for seed in (0, 1)]
    assert after == {
        "retrain-all-3-seed0": None,
        "retrain-all-3-seed1": None,
        "retrain-all-5-seed0": "retrain-all-3-seed0",
        "retrain-all-5-seed1": "retrain-all-3-seed1",
        **{f"neggrad-all-{size}-seed{seed}": f"retrain-all-{size}-seed{seed}" for size in (3, 5) for seed in (0, 1)},
    }


def test_a_method_that_is_compared_more_than_once_is_noted(here: Path) -> None:
    again = '[[compare]]\nname = "neggrad"\nscope = "all"\nlearning_rate = 1e-4\n\n[bench]'
    (here / "recipe.toml").write_text(RECIPE + COMPARE.replace("[bench]", again))
    result = cells_of("recipe.toml", methods=["neggrad"], scopes=["all"])
    assert result.notes == ("neggrad, scope 'all': the recipe names it 2 times, the first is taken",)
    assert [cell.row["settings"]["learning_rate"] for cell in result.cells] == [1e-5]


def test_every_command_is_the_cell_it_says(here: Path) -> None:
    (here / "recipe.toml").write_text(RECIPE + COMPARE + "counts = [3, 4]\n")
    overrides = ("bench.settings.multidelete.beta=0.5", "forget.count=9", "train.epochs=2")
    result = cells_of("recipe.toml", *overrides, methods=["multidelete", "neggrad"])
    assert len(result.cells) == 8
    for cell in result.cells:
        words = shlex.split(cell.command)
        assert words[:3] == ["multidelete", "unlearn", "recipe.toml"]
        assert words[-3:] == ["--out", f"out/cells/{cell.name}", "--resume"]
        recipe = load(Path(words[2]), words[3:-3])
        assert cell.name == f"{recipe.method.name}-{recipe.method.scope}-{recipe.forget.count}-seed{recipe.seed}"
        assert recipe.compare == ()
        assert recipe.train is not None
        assert recipe.train.epochs == 2
        assert cell.row["settings"] == recipe.method.model_dump(mode="json", exclude={"scope"})
        assert as_values(recipe) == as_values(cell.recipe)
    of = {cell.name: cell.row["settings"] for cell in result.cells}
    plain = {name: METHODS[name]().model_dump(exclude={"scope"}) for name in ("multidelete", "neggrad")}
    # [method] names it at this scope; bench.settings lies over it; another scope runs at the defaults.
    assert of["multidelete-fusion-3-seed0"] == plain["multidelete"] | {
        "epochs": 1,
        "evaluations": 1,
        "stop": "lowest",
        "beta": 0.5,
    }
    assert of["multidelete-all-3-seed0"] == plain["multidelete"] | {"beta": 0.5}
    assert of["neggrad-all-4-seed0"] == plain["neggrad"] | {"learning_rate": 1e-5}
    assert of["neggrad-fusion-4-seed0"] == plain["neggrad"]
    assert result.notes == ()  # that it is the recipe's own method which is taken needs no word
    assert not any(name.startswith("retrain") for name in of)  # the recipe says retrain = false


def test_the_default_is_every_method_that_unlearns_and_does_the_task(here: Path) -> None:
    result = cells_of(seeds=[0])
    doing = {name for name, kind in METHODS.items() if "labels" not in kind.requires and name != "unimodal"}
    left_out = {note.split(",")[0] for note in result.notes}  # for what they need of the original
    assert {cell.row["method"] for cell in result.cells} == doing - left_out
    assert {"retrain", "multidelete", "finetune", "neggrad"} <= doing - left_out
    assert {cell.row["seed"] for cell in cells_of(methods=["neggrad"]).cells} == {0, 1, 2}
    assert {cell.row["forget_examples"] for cell in result.cells} == {3}  # the recipe's own request
    assert names(cells_of(methods=["neggrad"], scopes=["all"], fractions=[0.1, 0.25], seeds=[0]))[2:] == [
        "neggrad-all-0.1-seed0",
        "neggrad-all-0.25-seed0",
    ]


class OnlyVision(NegGrad):
    name: ClassVar[str] = "only_vision"
    title: ClassVar[str] = "Only vision"
    scopes: ClassVar[tuple[str, ...]] = ("vision", "graph")


OnlyVision.model_rebuild()


def test_impossible_cells_are_left_out_with_one_note(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "only_vision", OnlyVision)
    assert names(cells_of(methods=["neggrad"], seeds=[0]))[1:] == ["neggrad-all-3-seed0", "neggrad-fusion-3-seed0"]
    result = cells_of(methods=["only_vision"], seeds=[0, 1])
    assert names(result)[2:] == ["only_vision-vision-3-seed0", "only_vision-vision-3-seed1"]
    result = cells_of(methods=["unimodal", "only_vision", "neggrad"], scopes=["fusion", "graph"], seeds=[0, 1])
    assert names(result)[2:] == ["neggrad-fusion-3-seed0", "neggrad-fusion-3-seed1"]
    assert result.notes == (
        "unimodal: left out, it needs labels, which 'retrieval' does not provide",
        "only_vision, scope 'fusion': left out, its scopes here are vision",
        "only_vision, scope 'graph': left out, its scopes here are vision",
        "neggrad, scope 'graph': left out, its scopes here are all and fusion and vision and text",
    )
    with pytest.raises(InputError, match="nothing is left to run"):
        cells_of(methods=["unimodal"])


def test_a_mask_of_the_bench_is_for_those_that_need_one(here: Path) -> None:
    result = cells_of(methods=["erm_ktp", "neggrad"], scopes=["vision"], seeds=[0])
    assert names(result)[1:] == ["neggrad-vision-3-seed0"]
    assert any(
        note.startswith("erm_ktp, scope 'vision': left out") and "[train.extra]" in note for note in result.notes
    )
    result = cells_of(
        methods=["erm_ktp", "neggrad"],
        scopes=["vision"],
        seeds=[0],
        extra={"name": "channel_mask", "classes": 3, "every": 1},
    )
    assert result.notes == ()
    masked = {}
    for cell in result.cells:
        recipe = cell.recipe
        assert recipe.train is not None
        masked[cell.row["method"]] = recipe.train.extra and recipe.train.extra.classes, recipe.retrain
    assert masked == {"retrain": (None, False), "neggrad": (None, True), "erm_ktp": (3, False)}
    own = 'train.extra={name = "channel_mask", classes = 5, every = 1}'
    result = cells_of(
        "recipe.toml", own, methods=["erm_ktp"], seeds=[0], extra={"name": "channel_mask", "classes": 3, "every": 1}
    )
    assert [cell.recipe.train.extra.classes for cell in result.cells] == [5, 5]  # type: ignore[union-attr]


def test_the_demo_can_be_benched_by_its_task(here: Path, terminal: Terminal) -> None:
    ended = terminal("bench entailment --methods neggrad --scopes fusion --seeds 0 --dry-run")
    assert ended.code == 0
    assert all(
        re.match(r"multidelete unlearn \S+/demos/entailment\.toml seed=0 ", line) for line in ended.out.splitlines()
    )
    assert "demos/retrieval.toml" in terminal("bench --methods neggrad --seeds 0 --dry-run").out
    assert terminal("bench entailmnt --dry-run").errors == ["recipe 'entailmnt' does not exist"]


BAD = {
    "unknown-key": ("bench.sedes=[1]", ["'bench' has no setting 'sedes'; did you mean 'seeds'?"]),
    "unknown-method": ("--methods neggrad,negrad", ["'negrad' is not a method", "did you mean 'neggrad'?"]),
    "unknown-scope": ("--scopes fussion", ["'fussion' is not a scope", "did you mean 'fusion'?"]),
    "empty-methods": ("bench.methods=[]", ["'bench.methods': the list is empty; remove it for the default"]),
    "empty-seeds": ("--seeds ,", ["'bench.seeds': the list is empty"]),
    "no-seed": ("--seeds 0,x", ["'bench.seeds'", "should be a valid integer", "got 'x'"]),
    "negative-seed": ("bench.seeds=[-1]", ["'bench.seeds'", "greater than or equal to 0"]),
    "seed-twice": ("--seeds 1,1", ["'bench.seeds': 1 is given twice"]),
    "no-count": ("--counts 0", ["'bench.counts'", "greater than or equal to 1"]),
    "two-sizes": ("--counts 3 --fractions 0.1", ["by one of counts and fractions, not by both"]),
    "larger-than-the-data": ("--counts 3,99", ["count = 99 is too large; the training split has 40 examples"]),
    "nothing-retained": ("--counts 40", ["nothing would be left to retain"]),
    "unknown-setting": (
        "bench.settings.neggrad.larning_rate=1",
        ["method 'neggrad' has no setting 'larning_rate'; did you mean 'learning_rate'?"],
    ),
    "settings-of-nothing": ("bench.settings.negrad.epochs=1", ["'negrad' is not a method", "mean 'neggrad'?"]),
    "scope-in-settings": ("bench.settings.neggrad.scope=all", ["has a scope; expected it in bench.scopes"]),
    "launcher": ("--launcher slurm", ["--launcher must be processes or submitit, not 'slurm'"]),
    "out-with-something": ("--out full", ["--out 'full' is not empty and holds no bench"]),
    "out-is-a-file": ("--out recipe.toml", ["--out 'recipe.toml' is a file"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_reported_before_anything_starts(name: str, here: Path, terminal: Terminal) -> None:
    options, fragments = BAD[name]
    (here / "full").mkdir()
    (here / "full/notes.txt").write_text("mine")
    before = contents(here)
    ended = terminal(f"bench recipe.toml {options}")
    assert ended.code == 2
    assert len(ended.errors) == 1, ended.err
    assert all(fragment in ended.errors[0] for fragment in fragments), ended.errors
    assert contents(here) == before


def test_all_mistakes_of_a_bench_are_reported_at_once(here: Path, terminal: Terminal) -> None:
    ended = terminal("bench recipe.toml --methods negrad --scopes fussion bench.settings.x.y=1 sead=1")
    assert ended.code == 2
    assert len(ended.errors) == 4


def test_dry_run_prints_commands_and_writes_nothing(here: Path, terminal: Terminal) -> None:
    before = contents(here)
    ended = terminal(f"{NEGGRAD} --seeds 0,1 --dry-run")
    assert ended.code == 0
    assert ended.out.splitlines() == [cell.command for cell in cells_of(
        "recipe.toml", "bench.settings.neggrad.epochs=1", methods=["neggrad"], scopes=["fusion"], seeds=[0, 1]
    ).cells]  # fmt: skip
    assert contents(here) == before


# -- running it -----------------------------------------------------------------------------------------------------


class Table(HTMLParser):
    """Rows of the table in a page."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.inside = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.inside = True

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.rows[-1][-1] += data


def test_a_bench_shares_originals_writes_four_formats_and_is_not_run_twice(
    here: Path, terminal: Terminal, without_pages: None
) -> None:
    command = f"{NEGGRAD} --seeds 0,1 --counts 3,4 train.epochs=1.25"  # so that no other test has trained these
    ended = terminal(command)
    assert ended.code == 0, ended.err
    assert ended.err.count("training the original (retrieval)") == 2  # one for each seed
    assert len(re.findall(r"^Retrain \(all\)$", ended.err, re.MULTILINE)) == 4  # for each seed and size
    assert len(re.findall(r"^evaluating test$", ended.err, re.MULTILINE)) == 4 + 4 + 4  # each model of each size once
    assert re.search(r"neggrad-fusion-\d-seed\d: done \(8 of 8\)", ended.err)
    assert re.search(r": done \(1 of 8, about .+ left\)", ended.err)

    result = json.loads((here / "out/cells/neggrad-fusion-3-seed1/results.json").read_text())
    assert [row["method"] for row in result["rows"]] == ["original", "retrain", "neggrad"]
    assert all("gap_to_retrain" in row["metrics"] for row in result["rows"])
    assert result["provenance"]["command"].startswith("multidelete unlearn recipe.toml ")

    # the same numbers in every format
    rows = list(csv.DictReader((here / "out/bench.csv").open()))
    assert [(row["method"], row["forget_examples"]) for row in rows] == [
        (method, size) for size in "34" for method in ("original", "retrain", "neggrad")
    ]
    values = [
        json.loads((here / f"out/cells/neggrad-fusion-3-seed{seed}/results.json").read_text())["rows"][2]["metrics"]
        for seed in (0, 1)
    ]
    assert float(rows[2]["test_score_mean"]) == pytest.approx(sum(each["test_score"] for each in values) / 2)
    for key in ("test_score", "forget_auc", "forget_test_auc", "gap_to_retrain", "update_seconds"):
        assert all(
            row[f"{key}_n"] == "2" and float(row[f"{key}_sd"]) >= 0 for row in rows if row["method"] != "original"
        )
    text = (here / "out/bench.txt").read_text()
    assert text in ended.out
    printed = [re.split(r"\s{2,}", line.strip()) for line in text.split("─\n")[1].splitlines()]
    page = Table()
    page.feed((here / "out/bench.html").read_text())
    assert page.rows[0] == ["Method", "3 deleted", "4 deleted", "Seeds"]
    assert page.rows[1:] == printed
    assert [line[0] for line in printed] == ["Original", "Retrain", "NegGrad-F"]
    tabular = (here / "out/bench.tex").read_text()
    typeset = [line.removesuffix(r" \\").split(" & ") for line in tabular.splitlines() if line.endswith(r"\\")]
    assert [[cell.replace(r"$\pm$", "±").replace("$-$", "−") for cell in line] for line in typeset[1:]] == printed
    assert float(printed[2][1].split(" ±")[0]) == pytest.approx(float(rows[2]["test_score_mean"]), abs=0.05)
    assert {path.name for path in (here / "out").glob("*.html")} == {
        *("bench.html", "report-retrieval-scenes-albef-3.html", "report-retrieval-scenes-albef-4.html")
    }

    before = {path: path.stat().st_mtime_ns for path in (here / "out/cells").rglob("*")}
    again = terminal(command)
    assert again.code == 0
    assert "done (" not in again.err
    assert again.out == ended.out
    assert {path: path.stat().st_mtime_ns for path in (here / "out/cells").rglob("*")} == before
    assert terminal("report out").out == ended.out
    dry = terminal(f"{command} --dry-run")
    assert all(line.endswith("# finished") for line in dry.out.splitlines())

    # another setting is another cell: it is not taken for the one that is there
    ended = terminal(command.replace("neggrad.epochs=1", "neggrad.epochs=2"))
    assert ended.code == 2
    assert "out/cells/neggrad-fusion-3-seed0' holds a run with another 'method.epochs'" in ended.errors[0]
    # what has not run is said, and is no number
    shutil.rmtree(here / "out/cells/neggrad-fusion-4-seed1")
    ended = terminal("report out --out elsewhere")
    assert "1 of 8 cells in out have not run" in ended.out
    assert "(n = 1)" in next(line for line in ended.out.splitlines() if "NegGrad-F" in line)


def test_a_cell_that_fails_does_not_stop_the_others(here: Path, terminal: Terminal, without_pages: None) -> None:
    command = "bench recipe.toml --methods neggrad,finetune --scopes fusion --seeds 0 --out out --workers 1"
    ended = terminal(f"{command} bench.settings.neggrad.learning_rate=1e30 bench.settings.finetune.epochs=1")
    assert ended.code == 1, ended.err
    assert "Traceback" not in ended.err
    assert not (here / "out/cells/neggrad-fusion-3-seed0" / RESULTS_FILE).exists()
    assert (here / "out/cells/finetune-fusion-3-seed0" / RESULTS_FILE).exists()
    reason = json.loads((here / "out/failed.json").read_text())["neggrad-fusion-3-seed0"]
    assert "a smaller learning rate or fewer epochs usually helps" in reason
    assert f"failed: neggrad-fusion-3-seed0: {reason}" in ended.out.splitlines()
    by_name = {line[0]: line for line in lines(Bench.load([here / "out"]).groups)}
    assert list(by_name) == ["Original", "Retrain", "FineTune-F", "NegGrad-F"]
    assert by_name["NegGrad-F"] == ["NegGrad-F", "failed", "0"]
    row = next(row for row in csv.DictReader((here / "out/bench.csv").open()) if row["method"] == "neggrad")
    assert (row["test_score_mean"], row["test_score_n"], row["seeds"]) == ("", "0", "")
    # asked again, only the failed cell is tried again
    ended = terminal(f"{command} bench.settings.neggrad.learning_rate=1e30 bench.settings.finetune.epochs=1")
    assert ended.code == 1
    assert ended.err.count(" (1 of 1)") == 1
    # put right, it takes the place of what failed
    ended = terminal(f"{command} bench.settings.neggrad.epochs=1 bench.settings.finetune.epochs=1")
    assert ended.code == 0
    assert "failed" not in ended.out


def test_a_defect_of_one_method_is_a_failed_cell(
    here: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch, without_pages: None
) -> None:
    class Broken(Method):
        name: ClassVar[str] = "broken"
        title: ClassVar[str] = "Broken"

        def unlearn(self, *_: Any) -> Any:
            raise IndexError("index 3 is out of bounds")

    monkeypatch.setitem(METHODS, "broken", Broken)
    ended = terminal("bench recipe.toml --methods broken,neggrad --scopes fusion --seeds 0 --out out --workers 1")
    assert ended.code == 1
    assert "failed: broken-fusion-3-seed0: IndexError: index 3 is out of bounds" in ended.out
    assert "NegGrad-F" in ended.out


def test_two_at_once_train_a_model_once(cache: Path) -> None:
    outcome = []
    engine = Engine(precision="fp32")

    def make() -> tuple[Model, TrainingHistory]:
        wait_for(lambda: any("another process trains it, waiting" in each for each in messages), 20)
        outcome.append(1)
        return tiny.build(tiny.albef()), TrainingHistory(update_seconds=3.0)

    result: list[TrainingHistory] = []
    key = f"test-{time.time_ns()}"
    ask = [threading.Thread(target=lambda: result.append(stored(key, "it", make, engine)[1])) for _ in range(2)]
    with logged() as messages:
        for each in ask:
            each.start()
        for each in ask:
            each.join(60)
    assert outcome == [1]
    assert result == [TrainingHistory(update_seconds=3.0)] * 2
    assert any("trained before, loaded from the store" in each for each in messages)


def test_a_worker_that_is_killed_has_failed_its_cell(here: Path) -> None:
    cell = cells_of(methods=["neggrad"], scopes=["fusion"], seeds=[0]).cells[0]
    worker = _Worker(here / "log", 1)
    answers: list[str | None] = []
    thread = threading.Thread(target=lambda: answers.append(worker(cell)))
    thread.start()
    while worker.process is None:
        time.sleep(0.01)
    worker.process.kill()
    thread.join(60)
    assert answers == ["its process was ended by SIGKILL; too little memory is the usual reason"]
    worker.close()


# -- real processes -------------------------------------------------------------------------------------------------


def environment(cache: Path) -> dict[str, str]:
    return {**os.environ, "MULTIDELETE_CACHE": str(cache)}


def alive(text: str) -> list[int]:
    """Processes of workers whose environment names this."""
    result = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            mine = text.encode() in (process / "environ").read_bytes()
        except OSError:
            continue
        if mine and b"multidelete.bench.work" in words:
            result.append(int(process.name))
    return result


@pytest.fixture
def begun(here: Path) -> Iterator[Callable[[str, Path], subprocess.Popen[str]]]:
    """Starts a bench in a process of its own; what is left of it at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def begin(command: str, cache: Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*MAIN, *shlex.split(command)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(cache),
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def wait_for(condition: Callable[[], bool], seconds: float = 240) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def without_times(path: Path) -> list[dict[str, str]]:
    rows = csv.DictReader((path / "bench.csv").open())
    return [{key: value for key, value in row.items() if "seconds" not in key and "memory" not in key} for row in rows]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="workers are looked for in /proc")
def test_killed_twice_and_continued_it_is_the_same_table(
    here: Path, begun: Callable[[str, Path], subprocess.Popen[str]]
) -> None:
    command = "bench recipe.toml --methods multidelete,neggrad --scopes fusion --seeds 0,1 --workers 2 train.epochs=3"
    cells = ("retrain-all-3", "multidelete-fusion-3", "neggrad-fusion-3")
    for kill_after in (1, 3):
        process = begun(f"{command} --out out", here / "cache")
        wait_for(lambda: len(list((here / "out/cells").glob("*/results.json"))) >= kill_after)  # noqa: B023
        process.send_signal(signal.SIGKILL)
        process.wait()
        wait_for(lambda: not alive(str(here / "cache")), 30)  # workers end with whom they work for
    done = {path.parent.name for path in (here / "out/cells").glob("*/results.json")}
    assert 3 <= len(done) < 6
    process = begun(f"{command} --out out", here / "cache")
    messages = process.communicate(timeout=400)[1]
    assert process.returncode == 0, messages
    assert f"({6 - len(done)} of {6 - len(done)})" in messages
    process = begun(f"{command} --out whole", here / "other")
    assert process.communicate(timeout=400) is not None
    assert (here / "out/bench.txt").read_text() == (here / "whole/bench.txt").read_text()
    assert without_times(here / "out") == without_times(here / "whole")
    assert {path.name for path in (here / "out/cells").iterdir() if path.is_dir()} == {
        f"{cell}-seed{seed}" for cell in cells for seed in (0, 1)
    }
    # two processes at once, and each original was trained once
    assert (here / "whole/bench.log").read_text().count("training the original (retrieval)") == 2


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="workers are looked for in /proc")
def test_ctrl_c_stops_the_workers_and_says_how_to_go_on(
    here: Path, begun: Callable[[str, Path], subprocess.Popen[str]]
) -> None:
    command = "bench recipe.toml --methods neggrad --scopes fusion --seeds 0,1 --workers 2 --out out train.epochs=500"
    process = begun(command, here / "cache")
    log = here / "out/bench.log"
    wait_for(lambda: log.is_file() and log.read_text().count("training the original") == 2)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    messages = process.communicate(timeout=120)[1]
    assert process.returncode == 130
    assert messages.splitlines()[-1] == "stopped; progress is saved: the same command continues"
    assert "failed" not in messages
    assert not alive(str(here / "cache"))
    assert len(list((here / "cache/work").glob("*/checkpoint.safetensors"))) == 2  # where they go on


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("submitit") is None, reason="submitit is not installed: pip install 'multidelete[cluster]'"
)
def test_cells_are_jobs_of_submitit(here: Path, terminal: Terminal) -> None:
    command = "bench recipe.toml --methods neggrad --scopes fusion --seeds 0 --launcher submitit --out out"
    ended = terminal(f"{command} bench.cluster.cluster=local bench.cluster.timeout_min=5")
    assert ended.code == 0, ended.err
    assert "NegGrad-F" in ended.out
    assert len(list((here / "out/jobs").glob("*_submitted.pkl"))) == 2
    ended = terminal(f"{command.replace('--out out', '--out new')} bench.cluster.cluster=local bench.cluster.gpu=1")
    assert ended.code == 2
    assert "'bench.cluster' is refused by submitit" in ended.errors[0]


def test_without_submitit_the_message_says_how_to_install_it(
    here: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    ended = terminal("bench recipe.toml --methods neggrad --seeds 0 --launcher submitit")
    assert ended.code == 2
    assert ended.errors == ["--launcher submitit needs submitit: pip install 'multidelete[cluster]'"]
    assert (
        "submitit"
        in tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"][
            "optional-dependencies"
        ]["cluster"][0]
    )


# -- the table, on made-up cells ------------------------------------------------------------------------------------


def make_bench(folder: Path, task: str, scores: dict[tuple[str, str, int], tuple[float, float] | str | None]) -> Path:
    """A bench whose cells are ``(method, scope, seed)`` with test score and D_f AUC, why it failed, or None."""
    cells, failed = [], {}
    for (method, scope, seed), given in scores.items():
        name = f"{method}-{scope}-9-seed{seed}"
        row = {"task": task, "data": "made_up", "model": "albef", "method": method, **display(method), "scope": scope}
        row |= {"forget_examples": 9, **seed_values(seed), "settings": {}}
        out = str(folder / "cells" / name)
        cells.append({"name": name, "command": "", "out": out, "after": None, "row": row, "variant": ""})
        if isinstance(given, str):
            failed[name] = given
        elif given is not None:
            metrics = {"test_score": given[0], "forget_auc": given[1]}
            original = {
                **row,
                "method": "original",
                **display("original"),
                "scope": "all",
                "metrics": {"test_score": 90.0, "forget_auc": 50.0},
            }
            rows = [original | {"cost": {}}, {**row, "metrics": metrics, "cost": {}, "forget_examples": 9 + seed}]
            Path(out).mkdir(parents=True)
            (Path(out) / "results.json").write_text(json.dumps({"schema": 1, "rows": rows, "provenance": {}}))
    (folder / "bench.json").write_text(json.dumps({"cells": cells, "notes": ["x: left out"]}))
    (folder / "failed.json").write_text(json.dumps(failed))
    return folder


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    a = make_bench(
        tmp_path / "a",
        "retrieval",
        {
            ("neggrad", "all", 0): (80.0, 40.0),
            ("neggrad", "all", 1): (82.0, 44.0),
            ("neggrad", "fusion", 0): (70.0, 30.0),
            ("neggrad", "fusion", 1): "the loss became nan at step 41; 100 % of it",
            ("erm_ktp", "vision", 0): (60.0, 49.0),
        },
    )
    b = make_bench(
        tmp_path / "b",
        "graph_text",
        {
            ("neggrad", "all", 0): (60.0, 20.0),
            ("neggrad", "all", 1): (64.0, 22.0),
            ("neggrad", "fusion", 0): "out of memory",
            ("neggrad", "fusion", 1): None,
        },
    )
    return a, b


def test_benches_of_two_tasks_stand_side_by_side_with_their_average(two: tuple[Path, Path]) -> None:
    result = Bench.load(two)
    assert headings(result.groups) == ["Method", "retrieval", "graph_text", "Average", "Seeds"]
    assert lines(result.groups) == [
        ["Original", *["90.0 ± 0.0 / 50.0 ± 0.0"] * 3, "2"],
        # over seeds: (80, 40), (82, 44) and (60, 20), (64, 22); of the means of each seed: (70, 30), (73, 33)
        ["NegGrad", "81.0 ± 1.4 / 42.0 ± 2.8", "62.0 ± 2.8 / 21.0 ± 1.4", "71.5 ± 2.1 / 31.5 ± 2.1", "2"],
        ["NegGrad-F", "70.0 / 30.0", "failed", "70.0 / 30.0", "1"],
        ["ERM-KTP (vision)", "60.0 / 49.0", "N/A", "60.0 / 49.0", "1"],
    ]
    assert result.notes == (
        "x: left out",
        "failed: neggrad-fusion-9-seed1: the loss became nan at step 41; 100 % of it",
        "x: left out",
        "failed: neggrad-fusion-9-seed0: out of memory",
        f"1 of 4 cells in {two[1]} have not run",
    )
    assert all(note in to_text(result) for note in result.notes)


def test_one_bench_is_titled_by_its_comparison_key(two: tuple[Path, Path], tmp_path: Path) -> None:
    result = Bench.load(two[:1])
    assert headings(result.groups) == ["Method", "D_Test ↑ / D_f ↓", "Seeds"]
    assert to_text(result).splitlines()[0] == (
        "retrieval · made_up · albef · 9 examples deleted; mean ± standard deviation over seeds"
    )
    written = write_bench(result, tmp_path / "new")
    assert [path.name for path in written] == ["bench.txt", "bench.csv", "bench.tex", "bench.html", "report.html"]
    assert all(path.is_file() for path in written)


def test_latex_is_escaped(two: tuple[Path, Path]) -> None:
    assert latex(r"a_b & 5 % of {x} #1 $ ~ ^ \ − ±") == (
        r"a\_b \& 5 \% of \{x\} \#1 \$ \textasciitilde{} \textasciicircum{} \textbackslash{} $-$ $\pm$"
    )
    assert latex("D_Test ↑ / D_f ↓") == r"$D_{\mathrm{Test}}$ $\uparrow$ / $D_{f}$ $\downarrow$"
    text = to_latex(Bench.load(two))
    assert r"\begin{tabular}{lrrrr}" in text
    assert r"graph\_text" in text
    assert "rule" not in text  # no booktabs
    assert all(line.startswith("%") for line in text.splitlines() if "failed:" in line)


def test_report_joins_benches(two: tuple[Path, Path], tmp_path: Path, terminal: Terminal) -> None:
    before = contents(tmp_path)
    a, b = two
    ended = terminal(f"report {a} {b} --out {tmp_path / 'joint'}")
    assert ended.code == 0, ended.err
    assert "Average" in ended.out
    assert {"bench.txt", "bench.csv", "bench.tex", "bench.html"} <= {p.name for p in (tmp_path / "joint").iterdir()}
    assert {name: value for name, value in contents(tmp_path).items() if name in before} == before
    assert "| Method |" in terminal(f"report {a} {b} --out {tmp_path / 'joint'} --format markdown").out
    assert terminal(f"report {a} --public --out {tmp_path / 'public'}").code == 0
    assert (tmp_path / "public/README.md").read_text().startswith("# ")
    for bad, fragment in [
        (f"report {a} {b}", "choose its folder with --out"),
        (f"report {a} {a} --out {tmp_path / 'joint'}", "is given twice"),
        (f"report {a} {tmp_path} --out {tmp_path / 'joint'}", "holds no bench: there is no bench.json"),
    ]:
        ended = terminal(bad)
        assert ended.code == 2
        assert fragment in ended.errors[0]


def test_nothing_finished_is_no_table(tmp_path: Path) -> None:
    make_bench(tmp_path, "retrieval", {("neggrad", "all", 0): "out of memory"})
    with pytest.raises(InputError, match=r"failed: neggrad-all-9-seed0: out of memory\nno cell has finished"):
        Bench.load([tmp_path])


def test_an_original_with_an_extra_module_is_named_by_it() -> None:
    rows: Any = [
        {"method": "original", "title": "Original", "scope": "all", "settings": {"epochs": 3, "extra": extra}}
        for extra in (None, {"name": "channel_mask", "classes": 3})
    ]
    assert [label(row, rows) for row in rows] == ["Original", "Original (with channel mask)"]
