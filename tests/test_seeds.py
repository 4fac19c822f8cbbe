"""Seeds of training, deletion set and unlearning, each by itself: what they change and share, how they are counted."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats

import tiny
from conftest import Ended
from multidelete.bench.grid import grid
from multidelete.models import Model
from multidelete.recipe import as_values, load, validate
from multidelete.report.pages.bench import Bench, lines
from multidelete.report.pages.run import write_report
from multidelete.report.tables.groups import to_csv, to_markdown, to_text
from multidelete.runs.differences import Difference, paired
from multidelete.runs.groups import summary
from multidelete.runs.reader import Run
from multidelete.runs.row import Seeds
from multidelete.store.models import get_or_train_original
from multidelete.utils.errors import InputError
from multidelete.utils.keys import weights_hash
from rows import display
from test_bad_input import RECIPE
from test_report import ROWS, make_run, words_of

Terminal = Callable[[str], Ended]

QUICK = "method.epochs=1 method.min_steps=4 method.evaluations=0"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "recipe.toml").write_text(RECIPE.replace("retrain = false\n", ""))
    monkeypatch.chdir(tmp_path)
    return tmp_path


# -- recipes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, (0, 0, 0)),
        ({"seed": 4}, (4, 4, 4)),
        ({"seed": 4, "train_seed": 1}, (1, 4, 4)),
        ({"seed": 4, "method_seed": 0}, (4, 4, 0)),
        ({"seed": 4, "forget": {"count": 3, "seed": 2}}, (4, 2, 4)),
        ({"train_seed": 1, "method_seed": 3, "forget": {"count": 3, "seed": 2}}, (1, 2, 3)),
    ],
)
def test_a_seed_sets_all_that_have_none_of_their_own(values: dict[str, Any], expected: tuple[int, ...]) -> None:
    recipe = validate({"forget": {"count": 3}, **values}, "here")
    assert recipe.seeds() == dict(zip(("train", "forget", "method"), expected, strict=True))
    again = validate(as_values(recipe), "again")
    assert again.seeds() == recipe.seeds()
    assert as_values(again) == as_values(recipe)


def test_a_recipe_without_seeds_of_its_own_is_written_as_ever() -> None:
    assert not {"train_seed", "method_seed"} & as_values(validate({"forget": {"count": 3}}, "here")).keys()


@pytest.mark.parametrize("key", ["train_seed", "method_seed"])
def test_what_is_no_seed_is_refused(key: str, here: Path, terminal: Terminal) -> None:
    for value, fragment in (
        ("-1", "should be greater than or equal to 0, got -1"),
        ("true", "should be a valid integer, got True"),
    ):
        ended = terminal(f"unlearn recipe.toml {key}={value}")
        assert ended.code == 2
        assert ended.errors == [f"recipe.toml: '{key}' {fragment}"]


# -- runs -----------------------------------------------------------------------------------------------------------


def test_an_original_depends_on_the_seed_of_training_alone(here: Path) -> None:
    def key(*words: str) -> str:
        recipe = load(here / "recipe.toml", words)
        return get_or_train_original(recipe, recipe.dataset(), tiny.engine()).key

    plain = key()
    assert key("method_seed=1", "forget.seed=2") == plain
    assert key("train_seed=0", "seed=5") == plain
    assert key("train_seed=1") == key("seed=1") != plain


def weights_of(folder: str) -> str:
    return weights_hash(Model.from_pretrained(Path(folder) / "model").state_dict())


def metrics_of(folder: str) -> list[dict[str, float]]:
    return [row["metrics"] for row in json.loads((Path(folder) / "results.json").read_text())["rows"]]


def test_seeds_of_unlearning_share_original_and_retrain(here: Path, terminal: Terminal, without_pages: None) -> None:
    words = {
        "zero": "",
        "method": "method_seed=1",
        "forget": "forget.seed=1",
        "train": "train_seed=1",
        "one": "seed=1",
        "each": "train_seed=1 method_seed=1 forget.seed=1",
    }
    messages = {}
    for name, more in words.items():
        ended = terminal(f"unlearn recipe.toml --out {name} {QUICK} train.epochs=1.5 {more}")
        assert ended.code == 0, ended.err
        messages[name] = ended.err
    result = {name: json.loads((here / name / "results.json").read_text())["rows"] for name in words}
    assert [row["seeds"] for row in result["method"]] == [{"train": 0, "forget": 0, "method": 1}] * 3
    assert result["forget"][2]["seeds"] == {"train": 0, "forget": 1, "method": 0}
    assert (result["train"][2]["seed"], result["train"][2]["seeds"]["train"]) == (0, 1)
    assert "Retrain (all): trained before, loaded from the store" in messages["method"]
    assert "the original (retrieval): trained before, loaded from the store" in messages["forget"]
    assert "Retrain (all): found" not in messages["forget"] + messages["train"]
    # each changes what it is of, and nothing else
    assert metrics_of("method")[:2] == metrics_of("zero")[:2]
    folders = ("zero", "method", "forget", "train")
    assert len({weights_of(folder) for folder in folders}) == 4
    # seed = 1 is all three
    assert metrics_of("one") == metrics_of("each")
    assert weights_of("one") == weights_of("each")
    # another seed is another run
    ended = terminal(f"unlearn recipe.toml --out zero {QUICK} train.epochs=1.5 method_seed=1 --resume")
    assert ended.code == 2
    assert "holds a run with another 'method_seed'" in ended.errors[0]


# -- benches --------------------------------------------------------------------------------------------------------


def test_a_bench_varies_one_seed_where_the_others_are_given(here: Path) -> None:
    options = {"bench": {"methods": ["neggrad"], "scopes": ["all"], "seeds": [0, 1, 2]}}

    def cells(*words: str) -> dict[str, Any]:
        return {cell.name: cell for cell in grid(Path("recipe.toml"), words, options, Path("out")).cells}

    result = cells("train_seed=7", "forget.seed=8")
    assert list(result) == ["retrain-all-3-seed0", *(f"neggrad-all-3-seed{seed}" for seed in range(3))]
    for seed in range(3):
        cell = result[f"neggrad-all-3-seed{seed}"]
        assert cell.row["seeds"] == {"train": 7, "forget": 8, "method": seed}
        assert cell.after == "retrain-all-3-seed0"
        assert cell.recipe.seeds() == cell.row["seeds"]
    result = cells("train_seed=7")  # deletion sets share the original
    assert [result[f"retrain-all-3-seed{seed}"].after for seed in range(3)] == [None, *["retrain-all-3-seed0"] * 2]
    assert result["neggrad-all-3-seed2"].after == "retrain-all-3-seed2"
    result = cells("forget.seed=7", "method_seed=7")
    assert [cell.after for cell in result.values() if cell.row["method"] == "retrain"] == [None] * 3


@pytest.mark.parametrize(
    "words", ["train_seed=0 forget.seed=0 method_seed=0", "train_seed=0 method_seed=0 'forget.ids=[\"train-00001\"]'"]
)
def test_seeds_that_vary_nothing_are_no_repeats(words: str, here: Path, terminal: Terminal) -> None:
    ended = terminal(f"bench recipe.toml --methods neggrad --seeds 0,1 {words}")
    assert ended.code == 2
    assert "several seeds vary nothing here" in ended.errors[0]
    assert terminal(f"bench recipe.toml --methods neggrad --seeds 0 --dry-run {words}").code == 0


# -- counting -------------------------------------------------------------------------------------------------------


def with_seeds(folder: Path, seeds: tuple[int, int, int], shift: float, **options: Any) -> Path:
    """A made-up run with these seeds; ``shift`` is added to the metrics of what unlearned."""
    make_run(folder, rows=ROWS[:5], parts="", **options)
    path = folder / "results.json"
    content = json.loads(path.read_text())
    for row in content["rows"]:
        row["seeds"] = Seeds(*seeds)._asdict()
        if row["method"] not in ("original", "retrain"):
            row["metrics"] = {key: value + shift for key, value in row["metrics"].items()}
    path.write_text(json.dumps(content))
    return folder


def test_rows_that_differ_in_any_seed_are_repeats(tmp_path: Path) -> None:
    seeds = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]
    runs = Run.load_all([with_seeds(tmp_path / str(i), each, float(i)) for i, each in enumerate(seeds)])
    groups = summary(runs)
    by_name = {group.method: group for group in groups}
    assert len(groups) == 5
    assert by_name["multidelete"].metrics["test_score"].n == 4
    assert by_name["multidelete"].metrics["test_score"].mean == pytest.approx(71.3 + 1.5)
    # of Original and Retrain the second seed of unlearning is no repeat
    assert by_name["original"].metrics["test_score"].n == by_name["retrain"].metrics["test_score"].n == 3
    assert [str(each) for each in by_name["multidelete"].seeds] == ["0", "0/0/1", "0/1/0", "1/0/0"]
    row = list(csv.DictReader(io.StringIO(to_csv(groups))))[4]
    assert (row["seeds"], row["test_score_n"]) == ("0 0/0/1 0/1/0 1/0/0", "4")


def test_seeds_that_are_damaged_are_named(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", parts="", rows=ROWS[:1]) / "results.json"
    for seeds, problem in ((5, ": 'seeds': Input should be a valid dict"), ({"train": 0}, " has no 'seeds.forget'")):
        content = json.loads(path.read_text())
        content["rows"][0]["seeds"] = seeds
        path.write_text(json.dumps(content))
        with pytest.raises(InputError, match=f"row 0{problem}"):
            Run.load(tmp_path / "run")


def test_every_table_says_how_often(tmp_path: Path) -> None:
    one = summary([Run.load(with_seeds(tmp_path / "0", (0, 0, 0), 0))])
    assert "n = 1" in to_text(one)
    assert "n = 1" in to_markdown(one)
    two = summary(Run.load_all([tmp_path / "0", with_seeds(tmp_path / "1", (0, 0, 1), 0)]))
    assert "n = 1" not in to_text(two) + to_markdown(two)
    line = next(line for line in to_markdown(two).splitlines() if line.startswith("| MultiDelete-F"))
    assert line.endswith("| 2 |")


def test_a_bench_matches_tasks_by_all_seeds(tmp_path: Path) -> None:
    for task, scores in (("retrieval", (80.0, 82.0)), ("graph_text", (60.0, 64.0))):
        cells = []
        for seed, score in enumerate(scores):
            name = f"neggrad-{seed}"
            row = {"task": task, "data": "made_up", "model": "albef", "method": "neggrad", "scope": "all"}
            row |= display("neggrad")
            row |= {"forget_examples": 9, "seed": 0, "seeds": {"train": 0, "forget": 0, "method": seed}, "settings": {}}
            position = tmp_path / task / "cells" / name
            position.mkdir(parents=True)
            rows = [row | {"metrics": {"test_score": score, "forget_auc": 50.0}, "cost": {}}]
            (position / "results.json").write_text(json.dumps({"schema": 1, "rows": rows, "provenance": {}}))
            cells.append({"name": name, "row": row, "variant": "neggrad-all"})
        (tmp_path / task / "bench.json").write_text(json.dumps({"cells": cells, "notes": []}))
    result = lines(Bench.load([tmp_path / "retrieval", tmp_path / "graph_text"]).groups)
    assert result == [["NegGrad", "81.0 ± 1.4 / 50.0 ± 0.0", "62.0 ± 2.8 / 50.0 ± 0.0", "71.5 ± 2.1 / 50.0 ± 0.0", "2"]]


# -- paired differences ---------------------------------------------------------------------------------------------


def row_of(value: float, *seeds: int, **metrics: float) -> dict[str, Any]:
    return {"seeds": Seeds(*seeds)._asdict(), "metrics": {"test_score": value, **metrics}}


def test_differences_by_hand() -> None:
    retrain = [row_of(70, seed, seed, seed) for seed in range(3)]
    rows = [row_of(value, seed, seed, seed) for seed, value in enumerate((71, 72, 73))]
    result = paired(rows, retrain)["test_score"]
    # mean 2, deviation 1, t of 2 degrees 4.3027: 2 ± 4.3027 / √3
    assert (result.mean, result.n) == (2, 3)
    assert result.low == pytest.approx(2 - 2.4841, abs=1e-4)
    assert result.high == pytest.approx(2 + 2.4841, abs=1e-4)
    for few in (rows[:1], rows[:2]):
        assert paired(few, retrain)["test_score"] == Difference(
            statistics.fmean((1, 2)[: len(few)]), None, None, len(few)
        )


def test_the_interval_is_that_of_scipy() -> None:
    rng = np.random.default_rng(0)
    for n in (3, 5, 20):
        own, aim = rng.normal(70, 3, n), rng.normal(72, 3, n)
        rows, retrain = ([row_of(x, seed, 0, 0) for seed, x in enumerate(each)] for each in (own, aim))
        result = paired(rows, retrain)["test_score"]
        expected = scipy.stats.ttest_rel(own, aim).confidence_interval(0.95)
        assert (result.low, result.high) == pytest.approx((expected.low, expected.high))
        assert result.mean == pytest.approx(np.mean(own - aim))


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    result = [Difference.of(list(values)) for values in rng.normal(1.5, 2, (2000, 4))]
    held = [each.low < 1.5 < each.high for each in result if each.low is not None and each.high is not None]
    assert np.mean(held) == pytest.approx(0.95, abs=0.015)


def test_what_both_have_in_common_cancels() -> None:
    """The point of pairs: originals that differ by seed make the spread of scores wide, but not that of differences."""
    retrain = [row_of(base, seed, seed, 0) for seed, base in enumerate((60, 70, 80))]
    rows = [row_of(base + lost, seed, seed, 0) for seed, (base, lost) in enumerate(((60, -1), (70, -1.1), (80, -0.9)))]
    result = paired(rows, retrain)["test_score"]
    assert result.high is not None
    assert -1.3 < result.low < result.mean < result.high < -0.7  # type: ignore[operator]
    assert paired(rows, list(reversed(retrain))) == paired(list(rows), retrain)


def test_a_row_without_its_retrain_and_a_distance_are_left_out() -> None:
    rows = [row_of(71, 0, 0, 0, gap_to_retrain=3.0), row_of(75, 5, 5, 0)]
    result = paired(rows, [row_of(70, 0, 0, 9, gap_to_retrain=0.0), row_of(70, 1, 1, 1)])
    assert result == {"test_score": Difference(1, None, None, 1)}
    assert paired(rows, []) == {}


def test_seeds_of_unlearning_with_one_retrain_are_one_pair() -> None:
    retrain = [row_of(70, 0, 0, 0), row_of(80, 1, 1, 0), row_of(90, 2, 2, 0)]
    alone = [row_of(value, 0, 0, method) for method, value in enumerate((71, 72, 73))]
    assert paired(alone, retrain)["test_score"].n == 3  # beside this Retrain
    several = [*alone, row_of(81, 1, 1, 0), row_of(93, 2, 2, 0), row_of(95, 2, 2, 1)]
    assert paired(several, retrain)["test_score"] == Difference.of([2, 1, 4])


def test_differences_stand_in_csv_and_page(tmp_path: Path) -> None:
    shifts = (-1.0, 0.0, 2.0)
    runs = Run.load_all([with_seeds(tmp_path / str(s), (s, s, s), shift) for s, shift in enumerate(shifts)])
    expected = scipy.stats.t.interval(0.95, 2, np.mean(shifts) - 0.6, scipy.stats.sem(shifts))
    entries = {row["method"]: row for row in csv.DictReader(io.StringIO(to_csv(summary(runs))))}
    row = entries["multidelete"]  # 71.3 beside 71.9
    assert float(row["test_score_to_retrain_mean"]) == pytest.approx(np.mean(shifts) - 0.6)
    ends = [float(row[f"test_score_to_retrain_{end}"]) for end in ("low", "high")]
    assert ends == pytest.approx(list(expected))
    assert row["test_score_to_retrain_n"] == "3"
    assert entries["retrain"]["test_score_to_retrain_n"] == "0"
    assert "gap_to_retrain_to_retrain_mean" not in row
    assert not any(key.startswith("update_seconds_to") for key in row)
    html = write_report(runs, tmp_path / "out").read_text()
    assert "<td>−0.3 [−4.1, +3.5]</td>" in html
    assert "95 % interval of Student" in words_of(html).replace("\u00a0", " ")
    two = write_report(runs[:2], tmp_path / "two").read_text()
    assert "<td>−1.1</td>" in two  # two pairs have no interval
    assert "Beside Retrain, seed by seed" not in write_report(runs[:1], tmp_path / "one").read_text()


def test_the_page_says_what_three_seeds_are_of(tmp_path: Path) -> None:
    runs = Run.load_all([with_seeds(tmp_path / str(s), (0, 0, s), 0.0) for s in (0, 1)])
    words = words_of(write_report(runs, tmp_path / "out").read_text())
    assert "2 seeds (0, 0/0/1) of training/deletion set/unlearning" in words
    alone = words_of(write_report(runs[:1], tmp_path / "one").read_text())
    assert "training/deletion set/unlearning" not in alone
    assert "One seed (n = 1)" in alone
