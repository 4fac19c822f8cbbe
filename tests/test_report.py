"""The report: labels, tables, verdicts in words and the page, on made-up run folders."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image, ImageDraw
from rich.console import Console

import browser
from multidelete.judgement import verdict
from multidelete.report.pages.public import write_public
from multidelete.report.pages.run import write_report
from multidelete.report.tables import groups as tables
from multidelete.report.tables.sections import attacks
from multidelete.runs.groups import Group, Spread, label, summary
from multidelete.runs.reader import Run
from multidelete.utils.errors import InputError
from rows import display, seed_values, with_contrasts

TUNED = {
    "alpha": 0.2,
    "beta": 1.0,
    "gamma": 1.0,
    "retain_mismatched": 0.5,
    "learning_rate": 3e-4,
    "epochs": 2,
}
PAPER = {**TUNED, "alpha": 1.0, "retain_mismatched": 0.0}

Three = tuple[float, float, float]

# method, scope, settings, (test score, D_f AUC, D_f vs test AUC), seconds, log-odds of (D_f, D_r, test)
ROWS: list[tuple[str, str, dict[str, Any], Three, float, Three]] = [
    ("original", "all", {}, (72.4, 50.3, 79.6), 412.0, (5.2, 5.2, 1.8)),
    ("retrain", "all", {}, (71.9, 20.8, 50.1), 398.0, (1.8, 5.2, 1.8)),
    ("finetune", "all", {"learning_rate": 1e-3}, (72.8, 44.6, 76.2), 61.0, (4.8, 5.5, 1.9)),
    ("neggrad", "all", {"learning_rate": 3e-5}, (31.2, 48.1, 52.3), 12.4, (-2.0, -1.9, -2.0)),
    ("multidelete", "fusion", TUNED, (71.3, 19.4, 48.9), 24.1, (1.6, 5.1, 1.8)),
    ("multidelete", "fusion", PAPER, (66.2, 8.7, 21.5), 24.9, (-3.5, 4.2, 0.9)),
    ("multidelete", "fusion", {**TUNED, "alpha": 0.0}, (72.3, 50.2, 79.4), 24.0, (5.2, 5.2, 1.8)),
    ("multidelete", "vision", TUNED, (70.8, 33.0, 62.0), 96.0, (3.2, 5.0, 1.8)),
]


def make_run(folder: Path, *, seed: int = 0, shift: float = 0.0, rows: Any = None, parts: str = "phg") -> Path:
    """A run folder; ``shift`` is added to its metrics, ``parts``: has it predictions, history, gallery."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    texts = [
        "a red square above a blue disc",
        "a word without end: " + "w" * 90,
        "two shapes on <b>white</b> & grey",
    ]
    examples = {
        "forget": [f"train-{i:05d}" for i in range(40)],
        "retain": [f"train-{i:05d}" for i in range(40, 160)],
    }
    examples |= {"validation": [f"validation-{i:05d}" for i in range(30)], "test": [f"test-{i:05d}" for i in range(60)]}
    content, history = [], []
    for index, (method, scope, settings, (score, auc, test_auc), seconds, means) in enumerate(rows or ROWS):
        metrics = {
            "test_score": score + shift,
            "forget_auc": auc + shift,
            "forget_test_auc": test_auc + shift,
        }
        metrics |= {"retain_score": 96.5 + shift, "forget_score": 41.5 + shift, "i2t_r1": 50.0}
        if any(row[0] == "retrain" for row in rows or ROWS):
            metrics["gap_to_retrain"] = 3.3
        cost = {"update_seconds": seconds, "evaluate_seconds": 9.0, "peak_memory_mb": 812.0}
        content.append(
            {
                "task": "retrieval",
                "data": "scenes",
                "model": "albef",
                "method": method,
                **display(method),
                "scope": scope,
                "forget_examples": 400,
                **seed_values(seed),
                "settings": settings,
                "metrics": metrics,
                "cost": cost | {"prepare_seconds": 3.5 if method == "multidelete" else 0.0},
            }
        )
        key = f"{index:02d}-{method}-{scope}"
        if "p" in parts:
            (folder / "predictions" / key).mkdir(parents=True)
            for split, mean in {
                "forget": means[0],
                "retain": means[1],
                "test": means[2],
                "validation": means[2],
            }.items():
                example = np.repeat(examples[split], len(texts))
                np.savez(
                    folder / "predictions" / key / f"{split}.npz",
                    example=example,
                    text=np.tile(np.arange(len(texts)), len(examples[split])),
                    score=rng.normal(mean, 1.9, len(example)).astype(np.float32),
                    cosine=rng.uniform(-1, 1, len(example)).astype(np.float32),
                )
        for step in range(0, 240, 2):
            fall = float(np.exp(-step / 60) + 0.05 + 0.03 * rng.random())
            losses = {"md": 0.5 * fall, "mkr": 0.02 + 0.08 * (1 - fall / 1.1) ** 2, "ukr": 0.0}
            if method in ("original", "retrain", "finetune"):
                losses = {"task": 2 * fall}
            if method == "neggrad":
                losses = {"forget": -step / 100 - fall}
            losses["total"] = sum(losses.values())
            history.append({"row": key, "step": step, "losses": losses, "learning_rate": 3e-4})
        if method == "multidelete":
            for step in (40, 80, 120, 160, 200):
                validation = {"utility": 70 - step / 50, "forget_auc": 50 - step / 8, "criterion": 1.0}
                history.append(
                    {"row": key, "step": step, "validation": validation} | ({"selected": True} if step == 160 else {})
                )
    provenance = {
        "version": "0.1.0",
        "commit": "0123abc",
        "dirty": True,
        "device": "cpu",
        "data_hash": "d1" * 16,
        "forget_hash": "f2" * 16,
        "packages": {"torch": "2.13.0", "numpy": "2.4.6"},
        "created": "2025-05-04T12:00:00+00:00",
        "command": "multidelete demo --seed 0",
        "warnings": ["the guarantee holds for <convex> losses only"],
    }
    (folder / "results.json").write_text(
        json.dumps({"schema": 1, "rows": with_contrasts(content), "provenance": provenance})
    )
    if "h" in parts:
        (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in history))
    if "g" in parts:
        (folder / "gallery").mkdir()
        gallery = []
        for number in range(16):
            split = "forget" if number < 8 else "retain"
            path = f"gallery/{number:03d}.png"
            image = Image.new("RGB", (320, 240) if number % 2 else (96, 96), "#f4f1ea")
            draw = ImageDraw.Draw(image)
            for _ in range(4):
                x, y, size = rng.integers(0, 60, 3)
                draw.ellipse((x, y, x + size + 12, y + size + 12), fill=tuple(map(int, rng.integers(30, 230, 3))))
            image.save(folder / path)
            gallery.append({"split": split, "example": examples[split][number % 8], "image": path, "texts": texts})
        (folder / "gallery.json").write_text(json.dumps(gallery))
    return folder


def page_of(*runs: Path) -> str:
    return write_report(Run.load_all(runs), runs[0] / "out").read_text(encoding="utf-8")


def words_of(html: str) -> str:
    """The text of a page, without tags and with single spaces."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", re.sub(r"<(style|svg).*?</\1>", "", html, flags=re.DOTALL)))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("report") / "run")


@pytest.fixture(scope="module")
def html(run: Path) -> str:
    return page_of(run)


# --- labels ---------------------------------------------------------------------------------------


def rows_of(*entries: tuple[str, str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"method": method, **display(method), "scope": scope, "settings": settings}
        for method, scope, settings in entries
    ]


def labels_of(*entries: tuple[str, str, dict[str, Any]]) -> list[str]:
    rows = rows_of(*entries)
    return [label(row, rows) for row in rows]


def test_labels_of_a_comparison(run: Path) -> None:
    rows = Run.load(run).rows
    assert [label(row, rows) for row in rows] == [
        "Original",
        "Retrain",
        "FineTune",
        "NegGrad",
        "MultiDelete-F",
        "MultiDelete-F (paper, α = β = γ = 1)",
        "MultiDelete-F − MD",
        "MultiDelete (vision)",
    ]


@pytest.mark.parametrize(("weight", "term"), [("alpha", "MD"), ("beta", "MKR"), ("gamma", "UKR")])
def test_an_ablation_is_named_by_the_term_it_lacks(weight: str, term: str) -> None:
    assert labels_of(("multidelete", "all", {**TUNED, weight: 0.0})) == [f"MultiDelete − {term}"]


def test_the_paper_setting_is_named_only_with_a_tuned_one() -> None:
    alone = labels_of(("multidelete", "fusion", PAPER), ("multidelete", "fusion", {**PAPER, "alpha": 0.0}))
    assert alone == ["MultiDelete-F", "MultiDelete-F − MD"]


def test_settings_are_appended_only_where_rows_would_share_a_name() -> None:
    one, other = {**TUNED, "alpha": 1.0, "retain_mismatched": 0.3}, {**TUNED, "retain_mismatched": 0.6}
    assert labels_of(("multidelete", "fusion", one), ("multidelete", "fusion", other)) == [
        "MultiDelete-F, α = 1, mismatched = 0.3",
        "MultiDelete-F, α = 0.2, mismatched = 0.6",
    ]
    assert labels_of(("my_method", "text", {"epochs": 1})) == ["My Method (text)"]
    assert labels_of(("neggrad", "all", {"seed": 1}), ("neggrad", "all", {"seed": 2})) == [
        "NegGrad",
        "NegGrad",
    ]


# --- tables ---------------------------------------------------------------------------------------


def test_spread_by_hand() -> None:
    spread = Spread.of([1.0, 2.0, 4.0])  # deviations −4/3, −1/3, 5/3: squares sum to 42/9, over n − 1 = 2
    assert spread.mean == pytest.approx(7 / 3)
    assert spread.sd == pytest.approx((21 / 9) ** 0.5)
    assert str(Spread.of([4.0])) == "4.0"


def test_the_terminal_table_holds_the_numbers_of_each_row(run: Path) -> None:
    console = Console(file=io.StringIO(), width=80)
    console.print(tables.rows_table(Run.load(run)))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    line = next(line for line in text.splitlines() if "MultiDelete-F  " in line)
    assert re.findall(r"[\d.]+", line) == [
        "71.3",
        "96.5",
        "41.5",
        "19.4",
        "48.9",
        "3.3",
        "24",
        "3.5",
        "6.9",
    ]  # (24.1 + 3.5) / 398
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "…" not in text


def test_attacks_have_columns_where_there_were_any(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / str(seed), seed=seed, parts="") for seed in (0, 1)]
    headings = {"MI ratio D_f ↑ / D_r", "Attack AUC"}
    assert not headings & set(tables.headings(summary([Run.load(folders[0])])))
    for seed, folder in enumerate(folders):
        results = json.loads((folder / "results.json").read_text())
        for row, low in ((results["rows"][4], 20.0), (results["rows"][1], 48.0)):
            row["metrics"] |= {"attack_loss_auc": low, "attack_svc_auc": 53.0, "attack_svc_auc_low": 1.0}
        results["rows"][4]["metrics"] |= {"mi_ratio": 1.27 + 0.02 * seed, "mi_ratio_retain": 1.0}
        (folder / "results.json").write_text(json.dumps(results))
    alone = Run.load(folders[0])
    groups = summary([alone])
    lines = [dict(zip(tables.headings(groups), line, strict=True)) for line in tables.cells(groups)]
    assert [line["MI ratio D_f ↑ / D_r"] for line in lines[:5]] == ["–", "–", "–", "–", "1.27 / 1.00"]
    assert [line["Attack AUC"] for line in lines[:5]] == ["–", "53.0", "–", "–", "20.0"]  # farthest from chance
    console = Console(file=io.StringIO(), width=80)
    console.print(tables.rows_table(alone))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "membership attacks" in text
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "…" not in text
    both = summary(Run.load_all(folders))
    assert "| 1.28 ± 0.01 / 1.00 ± 0.00 | 20.0 ± 0.0 |" in tables.to_markdown(both)
    words = words_of(page_of(*folders))
    assert "MI ratio Df ↑ / Dr" in words
    assert "and the AUC of the membership attack farthest from chance should be where Retrain is" in words


def test_several_seeds_become_mean_and_deviation(tmp_path: Path) -> None:
    runs = [Run.load(make_run(tmp_path / str(s), seed=s, shift=2.0 * (s - 1), parts="")) for s in (0, 1, 2)]
    groups = summary(runs)
    assert len(groups) == len(ROWS)
    line = dict(zip(tables.headings(groups), tables.cells(groups)[4], strict=True))
    assert line["Method"] == "MultiDelete-F"
    assert line["Test score ↑"] == "71.3 ± 2.0"  # 69.3, 71.3, 73.3
    assert line["D_f AUC ↓"] == "19.4 ± 2.0"
    assert line["Seeds"] == "3"

    assert "| MultiDelete-F | 71.3 ± 2.0 |" in tables.to_markdown(groups)
    assert "71.3 ± 2.0" in tables.to_text(groups)
    entries = list(csv.DictReader(io.StringIO(tables.to_csv(groups))))
    assert float(entries[4]["test_score_mean"]) == pytest.approx(71.3)
    assert float(entries[4]["test_score_sd"]) == pytest.approx(2.0)
    assert (entries[4]["test_score_n"], entries[4]["seeds"]) == ("3", "0 1 2")

    alone = summary(runs[:1])
    assert "±" not in tables.to_text(alone) + tables.to_markdown(alone)
    assert next(csv.DictReader(io.StringIO(tables.to_csv(alone))))["test_score_sd"] == ""


def test_a_metric_that_is_absent_is_a_dash_and_not_a_zero(tmp_path: Path) -> None:
    run = Run.load(make_run(tmp_path / "run", rows=ROWS[:1], parts=""))
    line = dict(zip(tables.headings(summary([run])), tables.cells(summary([run]))[0], strict=True))
    assert line["Gap to Retrain ↓"] == "–"


# --- bad input ------------------------------------------------------------------------------------


def test_a_folder_that_is_not_there(run: Path) -> None:
    with pytest.raises(InputError, match=r"is not a folder of a run; did you mean 'run'\?"):
        Run.load(run.parent / "rum")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "has no results.json"),
        ("{", "is not JSON"),
        ("[]", "expected results"),
        ('{"schema": 2, "rows": []}', 'expected results with "schema": 1, got 2'),
        ('{"schema": 1}', 'expected a list "rows" with at least one row'),
        ('{"schema": 1, "rows": [{"task": "retrieval"}]}', "row 0 has no 'data'"),
    ],
)
def test_results_that_cannot_be_read(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(InputError, match=message):
        Run.load(tmp_path)


def test_a_damaged_history_names_its_line_and_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    run = Run.load(make_run(tmp_path / "run", rows=ROWS[:1], parts=""))
    good = '{"row": "00-original-all", "step": 1, "losses": {"task": 2.0}}\n'
    (run.folder / "history.jsonl").write_text(good + '{"row": "00-ori')
    assert run.history()["00-original-all"].losses == {"task": {1: 2.0}}
    (run.folder / "history.jsonl").write_text(good + "nonsense\n" + good)
    with pytest.raises(InputError, match=r"history.jsonl, line 2: expected a logged step, got 'nonsense"):
        run.history()


def test_damaged_scores_and_pictures_are_named(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", rows=ROWS[:5])
    path = folder / "predictions" / "00-original-all" / "forget.npz"
    kept = path.read_bytes()
    np.savez(path, example=np.array(["a"]), text=np.array([0]))
    with pytest.raises(InputError, match=r"has no array 'score'; it has example, text"):
        page_of(folder)
    path.write_bytes(kept[:100])
    with pytest.raises(InputError, match=r"forget.npz cannot be read as an npz file"):
        page_of(folder)
    path.write_bytes(kept)
    (folder / "gallery" / "000.png").write_bytes(b"not a picture")
    with pytest.raises(InputError, match=r"000.png cannot be read as a picture"):
        page_of(folder)


def test_a_gallery_brings_no_other_file_into_the_page(tmp_path: Path) -> None:
    """A record that someone else wrote may name any path of the machine that reads it."""
    folder = make_run(tmp_path / "run")
    Image.new("RGB", (8, 8), "red").save(tmp_path / "private.png")
    gallery = json.loads((folder / "gallery.json").read_text())
    for path in ("../private.png", str(tmp_path / "private.png")):
        gallery[0]["image"] = path
        (folder / "gallery.json").write_text(json.dumps(gallery))
        assert page_of(folder).count('src="data:image/') == 15
    Image.new("RGB", (8, 8)).save(folder / "gallery" / "000.png", format="EPS")
    gallery[0]["image"] = "gallery/000.png"
    (folder / "gallery.json").write_text(json.dumps(gallery))
    with pytest.raises(InputError, match=r"000.png cannot be read as a picture"):
        page_of(folder)


def test_copies_make_no_other_size(tmp_path: Path) -> None:
    """Seeds whose D_f is larger by some, because copies go together, answer the same question."""
    folders = [make_run(tmp_path / str(seed), seed=seed, parts="") for seed in (0, 1)]
    for folder, examples, forget in zip(folders, (200, 203), ({"count": 200}, {"count": 200}), strict=True):
        set_size(folder, examples, forget)
    runs = Run.load_all(folders)
    assert {row["forget_examples"] for run in runs for row in run.rows} == {200}
    assert all(group.seeds == [(0, 0, 0), (1, 1, 1)] for group in summary(runs))
    for forget in ({"count": 203}, {"fraction": 0.05}, {"ids": "list.txt"}):
        set_size(folders[1], 203, forget)
        with pytest.raises(InputError, match="size of D_f"):
            write_report(Run.load_all(folders), tmp_path)


def set_size(folder: Path, examples: int, forget: dict[str, Any]) -> None:
    path = folder / "results.json"
    content = json.loads(path.read_text())
    for row in content["rows"]:
        row["forget_examples"] = examples
    content["provenance"]["recipe"] = {"forget": forget}
    path.write_text(json.dumps(content))


def test_runs_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    one, other = make_run(tmp_path / "one", parts=""), make_run(tmp_path / "other", seed=1, parts="")
    with pytest.raises(InputError, match="is given twice"):
        write_report(Run.load_all([one, one]), tmp_path)
    results = other / "results.json"
    results.write_text(results.read_text().replace('"albef"', '"clip"'))
    with pytest.raises(InputError, match=r"one task, data, model and size of D_f.*clip"):
        write_report(Run.load_all([one, other]), tmp_path)
    with pytest.raises(InputError, match="at least one run folder"):
        write_report([], tmp_path)


# --- verdicts -------------------------------------------------------------------------------------


def verdict_on(**changes: Any) -> verdict.Verdict:
    """The verdict on MultiDelete-F with other scores (test, AUC, test AUC) or seconds, or without Retrain."""
    scores = changes.get("scores", (71.3, 19.4, 48.9))
    rows = [*ROWS[:2], ("multidelete", "fusion", TUNED, scores, changes.get("seconds", 24.1), None)]
    made = [
        {
            "task": "retrieval",
            "data": "scenes",
            "model": "albef",
            "forget_examples": 400,
            **seed_values(0),
            "method": method,
            **display(method),
            "scope": scope,
            "settings": settings,
            "metrics": dict(zip(("test_score", "forget_auc", "forget_test_auc"), metrics, strict=True)),
            "cost": {"update_seconds": seconds},
            **({"unchanged": True, "note": changes["note"]} if "note" in changes and method == "multidelete" else {}),
        }
        for method, scope, settings, metrics, seconds, _ in rows
        if method not in changes.get("without", ())
    ]
    groups = [Group.of([row]) for row in with_contrasts(made, changes.get("error", 1.0), changes.get("clusters", 400))]
    return verdict.verdicts(groups)[0]


def test_a_method_that_forgot_well() -> None:
    result = verdict_on()
    assert (result.forgetting.code, result.utility.code, result.cost.code) == (
        "forgot",
        "utility_kept",
        "cheap",
    )
    assert result.forgetting.details.startswith("D_f AUC 19.4 (Original 50.3, Retrain 20.8); D_f vs test AUC 48.9")
    assert result.utility.details == "test score 71.3; Original 72.4 (−1.1 ± 2.3), Retrain 71.9 (−0.6 ± 2.3)."
    assert result.cost.details == "24 s; 6.1 % of Retrain's 6.6 min."  # 24.1 / 398


@pytest.mark.parametrize(
    ("scores", "code"),
    [
        ((71.3, 48.0, 78.0), "not_forgotten"),
        ((71.3, 21.0, 78.0), "not_forgotten"),  # one AUC alone does not make it forgotten
        ((71.3, 33.0, 63.0), "partly_forgot"),  # 12.9 of 29.5 left
        ((71.3, 33.0, 57.0), "forgot"),  # 6.9 ± 2.3 is within 10
        ((71.3, 33.0, 59.0), "partly_forgot"),  # 8.9 ± 2.3 is not, and above
        ((71.3, 15.9, 43.0), "forgot"),
        ((71.3, 8.0, 20.0), "forgot_beyond_retrain"),
    ],
)
def test_the_verdict_on_forgetting(scores: tuple[float, float, float], code: str) -> None:
    assert verdict_on(scores=scores).forgetting.code == code


@pytest.mark.parametrize(
    ("score", "code"),
    [
        (75.0, "utility_kept"),
        (71.5, "utility_kept"),
        (70.0, "utility_too_few"),  # -1.9 ± 2.3 may be more than 3
        (68.0, "utility_reduced"),
        (31.2, "utility_destroyed"),
    ],
)
def test_the_verdict_on_utility(score: float, code: str) -> None:
    assert verdict_on(scores=(score, 19.4, 48.9)).utility.code == code


@pytest.mark.parametrize(("seconds", "code"), [(24.0, "cheap"), (300.0, "not_much_cheaper"), (500.0, "more_expensive")])
def test_the_verdict_on_cost(seconds: float, code: str) -> None:
    assert verdict_on(seconds=seconds).cost.code == code


def test_without_retrain_nothing_is_claimed() -> None:
    result = verdict_on(without=("retrain",))
    assert result.forgetting.code == "forgetting_unknown"
    assert "no Retrain" in result.forgetting.details
    assert "changed by −30.7 ± 2.3 against Original" in result.forgetting.details
    assert result.utility.details.startswith("test score 71.3; Original 72.4")


def test_few_deleted_pairs_decide_nothing_and_it_says_how_many_would() -> None:
    result = verdict_on(error=6.0, clusters=5).forgetting
    assert result.code == "forgetting_too_few"
    assert re.search(r"With 5 deleted this cannot be decided; about \d+ would be needed", result.details)
    assert verdict_on(error=6.0, clusters=5, scores=(71.3, 48.0, 79.0)).forgetting.code == "not_forgotten"


def test_of_a_model_that_was_left_as_it_was_nothing_is_claimed() -> None:
    result = verdict_on(note="Nothing was done.", scores=ROWS[0][3])
    assert (result.forgetting.code, result.utility.code) == ("left_as_it_was", "utility_as_before")
    assert result.forgetting.details.endswith("Nothing was done.")


def test_the_report_does_without_torch() -> None:
    command = (
        "import sys, multidelete.report.pages.run, multidelete.report.pages.deletion; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", command], check=False).returncode == 0


# --- the page -------------------------------------------------------------------------------------


def test_the_page_says_it_in_words_and_numbers(html: str) -> None:
    words = words_of(html).replace("\u00a0", " ")
    assert (
        "MultiDelete-F forgot the 400 deleted examples and kept its utility, in 6.9 % of Retrain" in words
    )  # 27.6 / 398
    assert "Did not forget: Df AUC 44.6 (Original 50.3, Retrain 20.8)" in words
    assert "Original 72.4 (−41.2 ± 2.3), Retrain 71.9 (−40.7 ± 2.3)." in words
    assert "The value to aim at is Retrain&#39;s 20.8, not 50" in words
    for number in (f"{score}" for row in ROWS for score in row[3]):
        assert f"<td>{number}</td>" in html
    assert "This is one seed" in words
    assert "0123abc with uncommitted changes" in words
    assert "torch 2.13.0" in words
    assert "retain_mismatched = 0.5" in words


def test_the_page_loads_nothing(html: str) -> None:
    assert "<script" not in html
    links = re.findall(r"""(?:src|href|action|poster)\s*=\s*["']([^"']*)""", html)
    links += re.findall(r"""url\(["']?([^)"']*)""", html)
    assert len(links) > 16
    assert all(link.startswith(("data:", "#")) for link in links)
    assert "@import" not in html
    assert "http" not in re.sub(r'xmlns(:xlink)?="[^"]*"', "", html)
    assert len(html) < 3_000_000


def test_what_is_for_print_stays_off_the_screen(html: str) -> None:
    style = browser.screen_style(html)
    assert re.search(r"\.switch label\s+border: 1px", style)
    assert not re.search(r"\.switch label\s+display: none", style)
    assert "10.5pt" not in style


def test_ids_are_unique_and_references_lead_somewhere(html: str) -> None:
    ids = re.findall(r'\sid="([^"]*)"', html)
    assert len(ids) == len(set(ids))
    referenced = re.findall(r'(?:xlink:href="#|url\(#|for="|aria-labelledby=")([^")]*)', html)
    assert referenced
    assert set(referenced) <= set(ids)


def test_the_gallery_shows_each_text_before_and_after(html: str, run: Path) -> None:
    assert html.count('<article class="card">') == 16
    assert html.count('src="data:image/') == 16
    assert "two shapes on &lt;b&gt;white&lt;/b&gt; &amp; grey" in html
    assert "<b>white</b>" not in html
    assert "<convex>" not in html
    scores = Run.load(run).scores(4, "forget")
    assert scores is not None
    logit = scores.score[(scores.example == "train-00000") & (scores.text == 0)][0]
    card = html[html.index("train-00000") :]
    after = re.search(r'class="after after-4">.*?width:([\d.]+)%', card, re.DOTALL)
    assert after is not None
    assert float(after[1]) == pytest.approx(100 / (1 + np.exp(-logit)), abs=0.06)


def test_headings_are_in_order(html: str) -> None:
    levels = [int(level) for level in re.findall(r"<h([1-6])", html)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_missing_parts_are_reported_in_a_sentence(tmp_path: Path) -> None:
    words = words_of(page_of(make_run(tmp_path / "run", rows=ROWS[:2], parts="")))
    assert "No unlearned model in this run yet" in words
    for part in ("no gallery", "no scores of single pairs", "no history"):
        assert f"This run kept {part}" in words


def test_a_gallery_without_scores_still_shows_the_pictures(tmp_path: Path) -> None:
    html = page_of(make_run(tmp_path / "run", rows=ROWS[:5], parts="g"))
    assert html.count('src="data:image/') == 16
    assert "The run kept no scores of an unlearned model" in words_of(html)


def test_the_page_of_several_seeds(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / str(s), seed=s, shift=2.0 * (s - 1), rows=ROWS[:5], parts="") for s in (0, 1, 2)]
    html = page_of(*runs).replace("\u00a0", " ")
    assert "<td>71.3 ± 2.0</td>" in html
    assert "3 seeds (0, 1, 2)" in html
    assert "These are 3 seeds" in html


def test_the_page_replaces_an_older_one_and_leaves_no_other_file(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", rows=ROWS[:2], parts="")
    (tmp_path / "page.html").write_text("old")
    assert write_report(Run.load_all([run]), tmp_path / "page.html") == tmp_path / "page.html"
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "run"]


def test_what_is_published_holds_the_numbers_and_no_data(run: Path, tmp_path: Path) -> None:
    written = write_public([Run.load(run)], tmp_path / "out", ["one was <left> out"])
    assert sorted(path.name for path in written) == ["README.md", "cost.svg", "roc.svg", "scatter.svg", "table.csv"]
    assert sorted(written) == sorted((tmp_path / "out").iterdir())
    texts = {path.name: path.read_text(encoding="utf-8") for path in written}
    page = texts["README.md"]
    assert page.startswith("# retrieval · scenes · albef · 400 examples deleted\n")
    assert "| Retrain | 71.9 |" in page
    assert "- one was <left> out" in page
    assert "- **FineTune.** Did not forget: D_f AUC 44.6 (Original 50.3, Retrain 20.8)" in page
    assert "```\nmultidelete demo --seed 0\n```" in page
    assert "multidelete 0.1.0; commit 0123abc; data d1d1d1d1d1d1." in page
    for name in re.findall(r"\]\(([^)]*)\)", page):
        assert ElementTree.fromstring(texts[name]).tag == "{http://www.w3.org/2000/svg}svg", name
    for text in texts.values():
        assert not re.search(r"base64|a word without end|train-00|test-00", text)


def test_a_table_of_attacks(tmp_path: Path) -> None:
    assert attacks(summary([Run.load(make_run(tmp_path / "none"))]))[1] == []
    for seed, auc in ((0, 60.0), (1, 62.0)):
        folder = make_run(tmp_path / f"run-{seed}", seed=seed)
        results = json.loads((folder / "results.json").read_text())
        for row in results["rows"]:
            row["metrics"] |= {"attack_loss_auc": auc, "attack_loss_tpr1": 3.0, "attack_svc_auc": 50.0}
        results["rows"][0]["metrics"] |= {"attack_u_lira_auc": 70.0}
        (folder / "results.json").write_text(json.dumps(results))
    headings, lines = attacks(summary(Run.load_all([tmp_path / "run-0", tmp_path / "run-1"])))
    assert headings == ["Method", "loss AUC", "SVC AUC", "U-LiRA AUC", "loss TPR at 1 % FPR", "n"]
    assert lines[0][1] == ["Original", "61.0 ± 1.4", "50.0 ± 0.0", "70.0 ± 0.0", "3.0 ± 0.0", "2"]
    assert lines[1][1] == ["Retrain", "61.0 ± 1.4", "50.0 ± 0.0", "–", "3.0 ± 0.0", "2"]
    page = words_of(page_of(tmp_path / "run-0", tmp_path / "run-1"))
    assert "Which attacks distinguish deleted pairs from unseen ones?" in page
    assert "U-LiRA with models that learned and unlearned it" in page


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_fits_its_window(html: str, tmp_path: Path, width: int) -> None:
    page, window = browser.widths(html, tmp_path, width)
    assert page <= window == width
