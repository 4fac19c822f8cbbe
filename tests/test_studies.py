"""``multidelete study``: what each study varies, the chain of requests, and the page with its figure and sentences."""

from __future__ import annotations

import csv
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import multidelete.bench.studies as studies_module
import multidelete.pipeline
import multidelete.report.pages.run
from conftest import Ended
from multidelete.bench.grid import Cell, Grid, grid
from multidelete.bench.studies import STUDIES
from multidelete.data.requests import Request
from multidelete.methods import MultiDelete
from multidelete.recipe import load
from multidelete.report.pages.study import table, to_text, write_study
from multidelete.report.studies.findings import VIEWS
from multidelete.report.studies.results import StudyResult, fitted, read_study
from multidelete.utils.errors import InputError
from rows import display, seed_values
from test_bad_input import RECIPE, contents

Terminal = Callable[[str], Ended]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    recipe = RECIPE.replace("retrain = false\n", "").replace("count = 3", "count = 10")
    (tmp_path / "recipe.toml").write_text(recipe)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def cells_of(name: str, *overrides: str, out: str = "out", **options: Any) -> Grid:
    return grid(Path("recipe.toml"), overrides, {"bench": {"seeds": [0], **options}}, Path(out), STUDIES[name])


def methods_of(result: Grid) -> dict[str, MultiDelete]:
    """The method of each variant, read from the command of its cell."""
    methods = {}
    for cell in result.cells:
        words = shlex.split(cell.command)
        assert words[:3] == ["multidelete", "unlearn", "recipe.toml"]
        methods[cell.variant] = load(Path("recipe.toml"), words[3:-3]).method
    assert isinstance(methods.pop("retrain-all"), object)
    return methods  # type: ignore[return-value]


# -- what is varied -------------------------------------------------------------------------------------------------


def test_every_study_is_shown() -> None:
    assert list(STUDIES) == list(VIEWS)


def test_ablation_leaves_out_one_term_each(here: Path) -> None:
    base = load(Path("recipe.toml"), ["method.scope=all"]).method
    result = methods_of(cells_of("ablation", "method.scope=all"))
    assert result == {
        "full": base,
        "without-md": base.model_copy(update={"alpha": 0.0}),
        "without-ukr": base.model_copy(update={"gamma": 0.0}),
        "without-mkr": base.model_copy(update={"beta": 0.0}),
    }
    assert list(methods_of(cells_of("ablation"))) == ["full", "without-md", "without-mkr"]  # scope fusion has no UKR


def test_scopes_take_what_the_recipe_has_for_each(here: Path) -> None:
    (here / "recipe.toml").write_text(
        (here / "recipe.toml").read_text()
        + '\n[[compare]]\nname = "multidelete"\nscope = "all"\nlearning_rate = 1e-5\nevaluations = 50\n'
    )
    result = methods_of(cells_of("scopes"))
    assert [(m.scope, m.learning_rate, m.evaluations) for m in result.values()] == [
        ("all", 1e-5, 50),
        ("fusion", 3e-4, 20),
    ]


def test_sizes_are_those_of_the_study_the_recipe_or_the_command(here: Path) -> None:
    def sizes(*overrides: str, **options: Any) -> list[int]:
        return sorted({cell.row["forget_examples"] for cell in cells_of("sizes", *overrides, **options).cells})

    with pytest.raises(InputError, match=r"fraction = 0.01 of 40 examples rounds to none"):
        sizes()
    assert sizes(fractions=[0.05, 0.15]) == [2, 6]
    assert sizes("bench.counts=[3, 7]") == [3, 7]
    assert {cell.row["forget_examples"] for cell in cells_of("stop", "bench.counts=[3, 7]").cells} == {10}


def test_sensitivity_moves_one_weight_at_a_time(here: Path) -> None:
    result = methods_of(cells_of("sensitivity", "method.alpha=0.2", "method.scope=all"))
    assert len(result) == 13
    weights = {name: (m.alpha, m.beta, m.gamma) for name, m in result.items()}
    assert weights.pop("as-it-is") == (0.2, 1, 1)
    assert weights["alpha-0.05"] == (pytest.approx(0.05), 1, 1)
    assert weights["gamma-4"] == (0.2, 1, 4)
    assert all(sum(a != b for a, b in zip(each, (0.2, 1, 1), strict=True)) == 1 for each in weights.values())


def test_stop_differs_in_the_rule_alone(here: Path) -> None:
    result = methods_of(cells_of("stop"))
    assert result["unseen"] == result["lowest"].model_copy(update={"stop": "unseen"})
    assert result["lowest"].evaluations == 20


def test_requests_one_after_another_are_a_chain(here: Path) -> None:
    result = cells_of("sequential", seeds=[0, 1])
    dataset = load(Path("recipe.toml")).dataset()
    for seed in (0, 1):
        cells = {cell.variant: cell for cell in result.cells if cell.row["seed"] == seed}
        full = _request(cells["at-once"], dataset)
        gone: list[int] = []
        for step in range(1, 6):
            cell, request = cells[f"step{step}"], _request(cells[f"step{step}"], dataset)
            assert request.earlier.tolist() == gone
            gone += request.forget.tolist()
            assert request.with_earlier().forget.tolist() == gone
            assert request.retain.tolist() == np.setdiff1d(dataset.rows("train"), gone).tolist()
            assert cell.row["forget_examples"] == 2 * step
            assert cell.after == (f"step{step - 1}-10-seed{seed}" if step > 1 else f"retrain-all-10-seed{seed}")
            original = f"out/cells/step{step - 1}-10-seed{seed}/model"
            assert (cell.recipe.original == original) is (step > 1)
        assert gone == full.forget.tolist()
        assert _request(cells["step5"], dataset).hash == full.hash


def _request(cell: Cell, dataset: Any) -> Request:
    return cell.recipe.request(dataset)


BAD = {
    "unknown": ("study ablatoin recipe.toml", "; did you mean 'ablation'?"),
    "method": (
        "study ablation recipe.toml method.name=neggrad",
        "is about multidelete, but the recipe's method is neggrad",
    ),
    "scope": (
        "study scopes recipe.toml method.name=knowledge_unlearning method.scope=text",
        "compares all and fusion; knowledge_unlearning has the scopes text and fusion",
    ),
    "sizes": ("study stop recipe.toml --counts 3", "--counts and --fractions are for the study 'sizes'"),
    "part": ("study sequential recipe.toml forget.part=[1,2]", "leave out forget.part"),
    "few": ("study sequential recipe.toml forget.count=3", "3 examples cannot be deleted in 5 parts; use fewer"),
    "tolerance": ("study stop recipe.toml method.tolerance=60", "'method.tolerance' should be less than 50"),
    "nothing": (
        "study ablation recipe.toml method.beta=0",
        "multidelete with alpha = 0.0: 'multidelete': nothing to min",
    ),
    "launcher": ("study stop recipe.toml --launcher slurm", "--launcher must be processes or submitit"),
    "bench": ("study stop recipe.toml --out bench", "--out 'bench' holds a bench"),
    "other": ("study stop recipe.toml --out other", "--out 'other' holds the study 'sizes'"),
    "study": ("bench recipe.toml --out other", "--out 'other' holds the study 'sizes'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_reported_before_anything_starts(name: str, here: Path, terminal: Terminal) -> None:
    for folder, study in (("bench", None), ("other", "sizes")):
        (here / folder).mkdir()
        (here / folder / "bench.json").write_text(json.dumps({"cells": [], "notes": [], "study": study}))
    before = contents(here)
    command, fragment = BAD[name]
    ended = terminal(command)
    assert ended.code == 2
    assert len(ended.errors) == 1, ended.err
    assert fragment in ended.errors[0]
    assert contents(here) == before


# -- running it -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_requests_one_after_another(here: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multidelete.report.pages.run, "write_report", lambda runs, out: out / "report.html")
    monkeypatch.setattr(studies_module, "PARTS", 2)
    command = "study sequential recipe.toml --seeds 0 --workers 1 --out out forget.count=6 train.epochs=1.75"
    ended = terminal(command)
    assert ended.code == 0, ended.err
    assert ended.err.count("training the original (retrieval)") == 1
    rows = {}
    for variant in ("at-once", "step1", "step2"):
        position = here / f"out/cells/{variant}-6-seed0"
        results = json.loads((position / "results.json").read_text())
        rows[variant] = results["rows"]
        examples = np.unique(np.load(next((position / "predictions").glob("*multidelete*")) / "forget.npz")["example"])
        assert len(examples) == results["rows"][-1]["forget_examples"] == (3 if variant == "step1" else 6)
    assert [row["method"] for row in rows["step2"]] == ["original", "multidelete"]
    # what the second step starts from is what the first left, seen on what is deleted by then
    kept = ("test_score", "i2t_r1")
    assert {key: rows["step2"][0]["metrics"][key] for key in kept} == {
        key: rows["step1"][1]["metrics"][key] for key in kept
    }
    result = read_study(here / "out")
    assert [line.variant for line in result.done] == ["at-once", "step1", "step2"]
    assert result.done[-1].spread("gap_to_retrain") is not None
    assert result.done[0].spread("gap_to_retrain") is not None
    again = terminal(command)
    assert again.out == ended.out
    assert "done (" not in again.err
    assert terminal("report out").out == ended.out
    (here / "out/study.html").unlink()
    assert terminal("report out --out elsewhere").code == 0
    assert (here / "elsewhere/study.html").is_file()
    assert terminal("report out --public --out public").code == 0
    page = (here / "public/README.md").read_text()
    assert f"```\nmultidelete {command}\n```" in page
    assert "![" in page
    assert (here / "public/figure.svg").is_file()


# -- what was found, on made-up cells -------------------------------------------------------------------------------

Made = dict[str, tuple[float, float, float, float]]  # variant: test score, D_f AUC, D_f vs test AUC, seconds


def make_study(
    folder: Path, name: str, result: Made, *, seeds: int = 3, examples: dict[str, int] | None = None
) -> Path:
    """A study with these means; consecutive seeds differ by one point."""
    cells = []
    for variant, (score, auc, test_auc, seconds) in result.items():
        for seed in range(seeds):
            method = "retrain" if variant.startswith("retrain") else "multidelete"
            count = (examples or {}).get(variant, 400)
            label = variant.split("@")[0]
            weight, _, value = label.partition("-")
            settings = {"alpha": 1.0, "beta": 1.0, "gamma": 1.0}
            settings |= {weight: float(value)} if weight in settings else {}
            row = {"task": "retrieval", "data": "scenes", "model": "albef", "method": method, "scope": "all"}
            row |= display(method)
            row |= {"forget_examples": count, **seed_values(seed), "settings": settings}
            out = folder / "cells" / f"{variant}-seed{seed}"
            cells.append(
                {"name": out.name, "command": "", "out": str(out), "row": row, "variant": label, "after": None}
            )
            shift = float(seed - 1)
            metrics = {"test_score": score + shift, "forget_auc": auc - shift, "forget_test_auc": test_auc - shift}
            metrics |= {"forget_score": 50.0, "retain_score": 90.0, "valid_score": score}
            if method != "retrain" and not variant.startswith("step"):
                metrics["gap_to_retrain"] = 50 - test_auc if test_auc < 50 else test_auc - 50
            before = {**metrics, "test_score": 72.0, "forget_auc": 50.0, "forget_test_auc": 80.0, "valid_score": 71.0}
            original = {**row, **display("original"), "method": "original", "metrics": before, "cost": {}}
            cost = {"update_seconds": seconds + 0.02 * seed, "peak_memory_mb": 800.0}
            out.mkdir(parents=True)
            rows = [original, {**row, "metrics": metrics, "cost": cost}]
            (out / "results.json").write_text(json.dumps({"schema": 1, "rows": rows, "provenance": {}}))
            last = 60 if label == "unseen" else 240
            lines: list[dict[str, Any]] = [
                {"row": f"01-{method}-all", "step": step, "losses": {"md": 1.0}} for step in range(1, last + 1)
            ]
            lines += [
                {
                    "row": f"01-{method}-all",
                    "step": step,
                    "validation": {
                        "utility": score - 3 * np.exp(-step / 40) + shift,
                        "forget_auc": test_auc + (80 - test_auc) * np.exp(-step / 60) + shift,
                    },
                }
                for step in range(12, last + 1, 12)
            ]
            (out / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "bench.json").write_text(json.dumps({"cells": cells, "notes": [], "study": name}))
    return folder


RETRAIN = {"retrain-all": (71.5, 21.0, 50.2, 398.0)}
SIZES = {40: 2.1, 120: 6.0, 200: 10.2, 400: 19.9, 600: 30.1}
MADE: dict[str, Made] = {
    "ablation": RETRAIN
    | {
        "full": (71.0, 19.8, 48.9, 24.0),
        "without-md": (72.2, 50.1, 79.6, 20.0),
        "without-ukr": (69.0, 20.4, 49.0, 22.0),
        "without-mkr": (55.3, 22.9, 41.0, 15.0),
    },
    "scopes": RETRAIN | {"multidelete-all": (70.4, 18.0, 40.0, 60.0), "multidelete-fusion": (71.2, 20.5, 47.5, 12.0)},
    "sizes": {f"retrain-all@{size}": (71.5, 21.0, 50.2, 400 - size / 4) for size in SIZES}
    | {f"multidelete-all@{size}": (72 - size / 300, 20.0, 49 - size / 100, time) for size, time in SIZES.items()},
    "sensitivity": RETRAIN
    | {"as-it-is": (71.0, 19.8, 48.9, 24.0)}
    | {
        f"{weight}-{value:g}": (71.0 - drop * abs(np.log2(value)), 19.8 - fall * np.log2(value), 48.0, 24.0)
        for weight, drop, fall in (("alpha", 1.0, 6.0), ("beta", 3.0, -3.0), ("gamma", 0.2, 0.5))
        for value in (0.25, 0.5, 2.0, 4.0)
    },
    "sequential": RETRAIN
    | {"at-once": (71.0, 19.8, 48.9, 24.0)}
    | {f"step{i}": (72 - 0.4 * i, 24.0 - i, 52.0 - 2 * i, 5.2) for i in range(1, 6)},
    "stop": RETRAIN | {"lowest": (70.1, 6.2, 22.0, 24.0), "unseen": (71.3, 20.4, 50.9, 6.5)},
}
EXAMPLES = {
    "sizes": {f"{variant}@{size}": size for size in SIZES for variant in ("retrain-all", "multidelete-all")},
    "sequential": {f"step{i}": 80 * i for i in range(1, 6)},
}


def found_of(name: str, folder: Path, **options: Any) -> StudyResult:
    return read_study(make_study(folder / name, name, MADE[name], examples=EXAMPLES.get(name), **options))


MESSAGES = {
    "ablation": [
        "a test score of 71.0 ± 1.0 and a D_f AUC of 19.8 ± 1.0 (Retrain: 71.5 ± 1.0 and 21.0 ± 1.0).",
        "Without MD it reaches a test score of 72.2 ± 1.0 and a D_f AUC of 50.1 ± 1.0 (+1.2 ± 0.0 and +30.3 ± 0.0).",
    ],
    "scopes": [
        "Training only the fusion takes 20 % of the update time of all parameters (12 s of 60 s).",
        "With all parameters deleted pairs first score no higher than unseen ones at step 84 of 240.",
    ],
    "sizes": [
        "grows linearly with the number of deleted examples: 49.9 ms per example, R² = 1.000 over 15 cells.",
        "Deleting 600 examples takes 12 % of Retrain's time (30 s of 4.2 min).",
    ],
    "sensitivity": [
        "times the recipe's α the test score lies between 69.0 and 71.0, the D_f AUC between 7.8 and 31.8.",
        "The test score depends most on β (6.0 points), the D_f AUC on α (24.0).",
    ],
    "sequential": [
        "Compared with all at once (same seeds), this is −1.0 ± 0.0 in test score and −6.9 ± 0.0 in D_f vs test AUC.",
        "Together the requests take 26 s of updates, all at once 24 s.",
    ],
    "stop": [
        "and 50.9 ± 1.0 with 'until they look unseen' (Retrain: 50.2 ± 1.0).",
        "The gap to Retrain is 28.0 ± 0.0 and 0.9 ± 0.0: the second is smaller.",
        "It took 60 steps instead of 240.",
    ],
}


@pytest.mark.parametrize("name", MADE)
def test_findings_follow_from_the_numbers(name: str, tmp_path: Path) -> None:
    result = found_of(name, tmp_path)
    messages = "\n".join(VIEWS[name].sentences(result))
    for sentence in MESSAGES[name]:
        assert sentence in messages
    assert 2 <= len(VIEWS[name].sentences(result)) <= 4
    printed = to_text(result)
    assert messages in printed
    assert all(line.label in printed for line in result.lines)


@pytest.mark.parametrize("name", MADE)
def test_page_figure_and_numbers_are_written(name: str, tmp_path: Path) -> None:
    result = found_of(name, tmp_path)
    written = write_study(result, tmp_path / "new")
    assert [path.name for path in written] == ["study.json", "study.csv", "study.html", "figure.svg"]
    page = (tmp_path / "new/study.html").read_text()
    assert not re.search(r"<script|src=|href=\"(?!data:|#)|url\(http", page)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    figure = (tmp_path / "new/figure.svg").read_text()
    assert figure.startswith("<svg ")
    assert "nan" not in re.sub(r'aria-label="[^"]*"', "", figure)
    rows = list(csv.DictReader((tmp_path / "new/study.csv").open()))
    assert len(rows) == len(table(result))
    assert all(row["test_score_n"] == "3" for row in rows)
    content = json.loads((tmp_path / "new/study.json").read_text())
    assert content["study"] == name
    assert content["findings"] == VIEWS[name].sentences(result)


def test_time_by_size_is_fitted_by_least_squares(tmp_path: Path) -> None:
    result = found_of("sizes", tmp_path)
    fit = fitted(result)
    assert fit is not None
    examples = np.repeat(list(SIZES), 3)
    seconds = np.array([time + 0.02 * seed for time in SIZES.values() for seed in range(3)])
    slope, intercept = np.polyfit(examples, seconds, 1)
    assert (fit.slope, fit.intercept) == (pytest.approx(slope), pytest.approx(intercept))
    assert fit.r_squared == pytest.approx(np.corrcoef(examples, seconds)[0, 1] ** 2)
    content = json.loads((write_study(result, tmp_path / "new")[0]).read_text())
    assert content["facts"]["fit"] == {
        "seconds_per_example": fit.slope,
        "seconds": fit.intercept,
        "r_squared": fit.r_squared,
        "n": 15,
    }


@pytest.mark.parametrize("name", MADE)
def test_original_and_retrain_stand_in_every_table(name: str, tmp_path: Path) -> None:
    result = found_of(name, tmp_path)
    sizes = {line[1] for line in table(result)} if name == "sizes" else {table(result)[0][1]}
    for reference in ("Original", "Retrain"):
        assert {line[1] for line in table(result) if line[0] == reference} == sizes


def test_missing_cells_are_noted(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "stop", "stop", MADE["stop"], seeds=2)
    (folder / "cells/unseen-seed1/results.json").unlink()
    (folder / "failed.json").write_text(json.dumps({"unseen-seed1": "out of memory"}))
    result = read_study(folder)
    assert [line[2] for line in table(result)] == ["2", "2", "2", "1"]
    assert result.notes == ("failed: unseen-seed1: out of memory",)
    (folder / "failed.json").unlink()
    assert read_study(folder).notes == (f"1 of 6 cells in {folder} have not run",)
    for path in folder.glob("cells/unseen-*/results.json"):
        path.unlink()
    assert VIEWS["stop"].sentences(read_study(folder)) == ["Too few cells have finished for any finding."]
    write_study(read_study(folder), tmp_path / "new")
    for path in folder.glob("cells/*/results.json"):
        path.unlink()
    with pytest.raises(InputError, match="no cell has finished"):
        read_study(folder)


def test_a_study_is_shown_by_itself(tmp_path: Path, terminal: Terminal) -> None:
    folder = make_study(tmp_path / "stop", "stop", MADE["stop"], seeds=1)
    ended = terminal(f"report {folder} {folder} --out {tmp_path / 'new'}")
    assert (ended.code, "is a study, which has a separate page" in ended.errors[0]) == (2, True)
    assert terminal(f"report {folder}").out.startswith("Stopping rules: as low as possible, or until they look unseen")
