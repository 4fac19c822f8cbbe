"""What compares many models on one page: numbered points, ROC curves, cost, the ablation, verdicts of more tests."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from multidelete.judgement import findings, verdict
from multidelete.metrics.forgetting import forget_auc
from multidelete.report.figures import comparison
from multidelete.report.figures.comparison import Scored, rates, roc, roc_note, scatter
from multidelete.report.pages.bench import Bench, to_html
from multidelete.report.pages.run import render
from multidelete.report.tables import groups as tables
from multidelete.runs.groups import Group, labels, summary
from multidelete.runs.reader import Run
from rows import display, seed_values, with_contrasts
from test_report import PAPER, ROWS, TUNED, make_run, verdict_on, words_of

METHODS = ("finetune", "neggrad", "descent_to_delete", "lcodec", "erm_ktp", "knowledge_unlearning", "scrub", "salun")
METHODS += ("ssd", "npo", "l1_sparse", "neggrad_plus", "bad_teacher", "random_label")


def many() -> list[Any]:
    """Original, Retrain, and MultiDelete and 14 others in two scopes, as rows of ``make_run``."""
    rng = np.random.default_rng(0)
    rows: list[Any] = [
        ("original", "all", {}, (72.4, 50.3, 79.6), 412.0, (5.2, 5.2, 1.8)),
        ("retrain", "all", {}, (71.9, 20.8, 50.1), 398.0, (1.8, 5.2, 1.8)),
    ]
    for number, method in enumerate(("multidelete", *METHODS)):
        for scope in ("all", "fusion"):
            scores = (70 - 50 * (number == 3) + rng.normal(0, 2), 30 + rng.normal(0, 10), 60 + rng.normal(0, 10))
            settings = TUNED if method == "multidelete" else {}
            rows.append((method, scope, settings, scores, 5.0 + 8 * number, (rng.normal(3, 2), 5.0, 1.8)))
    return rows


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """One run for each method, as in a bench: all have Original and Retrain."""
    rows, folder = many(), tmp_path_factory.mktemp("many")
    return [
        Run.load(make_run(folder / str(number), rows=[*rows[:2], row], parts="p"))
        for number, row in enumerate(rows[2:])
    ]


def texts_of(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]+)</text>", svg)


def test_many_points_are_numbered_and_named_below(runs: list[Run]) -> None:
    groups = summary(runs)
    assert len(groups) == 32
    written = texts_of(scatter(groups, ids="x"))
    names = [name for name in labels(groups) if name not in ("Original", "Retrain")]
    for number, name in enumerate(names, start=1):
        assert str(number) in written
        assert written.count(f"{number} {name}") == 1
    assert written.count("Original") == written.count("Retrain") == 1
    few = texts_of(scatter(groups[:6], ids="x"))
    assert all(few.count(name) == 1 for name in labels(groups[:6]))


def test_a_page_of_many_methods_holds_together(runs: list[Run]) -> None:
    html = render(runs)
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    notes = words_of(html)
    assert notes.count("of test") >= 32  # a ROC curve of every method, not of the first run alone
    assert "other methods" in html


# -- ROC ----------------------------------------------------------------------------------------------------------


def test_rates_by_hand() -> None:
    # thresholds 3, 2, 1, 0: D_f has 3 and 1, test has 2 and 0
    false, true = rates(Scored("a", "neggrad", "#0072B2", np.array([3.0, 1.0]), np.array([2.0, 0.0])))
    points = set(zip(false.tolist(), true.tolist(), strict=True))
    assert {(0.0, 0.0), (0.0, 0.5), (0.5, 0.5), (0.5, 1.0), (1.0, 1.0)} == points


def test_the_area_below_is_the_auc() -> None:
    rng = np.random.default_rng(1)
    model = Scored("a", "neggrad", "#0072B2", rng.integers(0, 9, 40) + 2.0, rng.integers(0, 9, 70) + 0.0)  # many ties
    false, true = rates(model)
    assert 100 * np.trapezoid(true, false) == pytest.approx(forget_auc(model.forget, model.test))
    assert (np.diff(false) >= 0).all()
    assert (np.diff(true) >= 0).all()


def test_what_is_noted_of_a_curve() -> None:
    test = np.arange(200) / 200.0
    model = Scored("SCRUB", "scrub", "#0072B2", np.array([5.0, 0.9925, 0.98, 0.1]), test)
    # one of 200 lies above 0.9925; at 1 % two may: 0.98 is below 0.995, 0.99 and 0.985
    assert roc_note(model) == f"SCRUB: AUC {forget_auc(model.forget, test):.1f}, 50 % of D_f at 1.0 % of test"


def test_only_the_few_that_matter_are_named_among_many() -> None:
    rng = np.random.default_rng(2)
    models = [
        Scored(name, name, "#0072B2", rng.normal(size=30), rng.normal(size=30)) for name in ("retrain", "multidelete")
    ]
    others = [Scored(name, name, "#0072B2", rng.normal(size=30), rng.normal(size=30)) for name in METHODS]
    written = texts_of(roc([*models, *others], ids="x"))
    assert {"retrain", "multidelete", "other methods"} <= set(written)
    assert "scrub" not in written
    assert "scrub" in texts_of(roc([*models, *others[6:8]], ids="x"))


# -- cost, ablation -----------------------------------------------------------------------------------------------


def test_cost_says_share_of_retrain_and_memory(runs: list[Run]) -> None:
    written = texts_of(comparison.cost_bars(summary(runs[:1]), ids="x"))
    assert "2.1 % of Retrain · 812 MB" in written  # 5 s of updates and 3.5 s of preparation, of 398 s
    assert "812 MB" in written  # Original


def test_the_ablation_is_a_table_of_its_own(tmp_path: Path) -> None:
    rows: list[Any] = [
        ("multidelete", "all", PAPER, (71.0, 20.0, 48.0), 24.0, (1.0, 5.0, 2.0)),
        ("multidelete", "all", {**PAPER, "alpha": 0.0}, (72.0, 50.0, 79.0), 24.0, (5.0, 5.0, 2.0)),
        ("multidelete", "all", {**PAPER, "gamma": 0.0, "epochs": 9}, (60.0, 20.0, 40.0), 24.0, (1.0, 5.0, 2.0)),
        ("multidelete", "fusion", {**PAPER, "beta": 0.0}, (60.0, 20.0, 40.0), 24.0, (1.0, 5.0, 2.0)),
    ]
    run = Run.load(make_run(tmp_path / "run", rows=rows, parts=""))
    assert tables.ablation(summary([run])) == [
        ["MultiDelete", "71.0", "20.0", "48.0", "1"],
        ["MultiDelete − MD", "72.0 (+1.0)", "50.0 (+30.0)", "79.0 (+31.0)", "1"],
    ]
    assert "What each term of the loss does" in words_of(render([run]))
    assert tables.ablation(summary([run])[1:2]) == []


# -- verdicts of more tests ---------------------------------------------------------------------------------------


def groups_with(error: float = 1.0, **metrics: tuple[float, float, float]) -> list[Group]:
    """Original, Retrain and MultiDelete with these metrics, in this order; differences have this standard error."""
    result = []
    for position, method in enumerate(("original", "retrain", "multidelete")):
        row = {
            "task": "entailment",
            "data": "d",
            "model": "albef",
            "method": method,
            **display(method),
            "scope": "all",
            **seed_values(0),
        }
        row |= {"forget_examples": 4, "settings": {}, "cost": {}}
        result.append({**row, "metrics": {key: values[position] for key, values in metrics.items()}})
    return [Group.of([row]) for row in with_contrasts(result, error)]


def test_what_was_not_measured_has_no_finding() -> None:
    result = verdict_on()
    assert (result.unimodal, result.membership) == (None, None)
    assert result.findings == [result.forgetting, result.utility, result.cost]


@pytest.mark.parametrize(
    ("vision", "text", "error", "code", "tone"),
    [
        (82.5, 90.0, 0.3, "halves_kept", "good"),
        (82.5, 90.0, 1.0, "halves_too_few", "open"),  # -1.1 ± 2.6
        (82.0, 90.0, 0.3, "halves_reduced", "fair"),  # -1.6 ± 0.8
        (84.0, 87.0, 0.3, "halves_reduced", "fair"),
        (77.9, 90.0, 0.3, "halves_lost", "bad"),
    ],
)
def test_the_verdict_on_unimodal_knowledge(vision: float, text: float, error: float, code: str, tone: str) -> None:
    groups = groups_with(error, probe_vision=(83.6, 83.0, vision), probe_text=(90.0, 90.0, text))
    result = verdict.verdicts(groups)[0].unimodal
    assert result is not None
    assert (result.code, result.tone) == (code, tone)
    assert f"vision probe {vision}, Original 83.6" in result.details


def test_what_a_new_probe_still_reads_has_moved() -> None:
    groups = groups_with(probe_vision=(83.6, 83.0, 60.0), probe_vision_refitted=(83.6, 83.0, 83.0))
    result = verdict.verdicts(groups)[0].unimodal
    assert result is not None
    assert (result.code, result.tone) == ("halves_moved", "fair")
    assert "vision probe refitted 83.0, Original 83.6 (−0.6 ± 2.6)" in result.details
    groups = groups_with(probe_vision=(83.6, 83.0, 60.0), probe_vision_refitted=(83.6, 83.0, 70.0))
    assert verdict.verdicts(groups)[0].unimodal.tone == "bad"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("attack", "kept", "code", "tone"),
    [
        (52.0, 1.02, "membership_hidden", "good"),
        (62.0, 1.02, "membership_shows", "bad"),
        (39.0, 1.02, "membership_shows_below", "bad"),
        (59.0, 1.02, "membership_shows", "bad"),
        (57.0, 1.02, "membership_hidden", "good"),
        (50.0, 1.5, "membership_hidden_of_all", "fair"),
    ],
)
def test_the_verdict_on_membership(attack: float, kept: float, code: str, tone: str) -> None:
    groups = groups_with(
        attack_loss_auc=(78.0, 50.5, attack), mi_ratio=(1.0, 1.1, 1.27), mi_ratio_retain=(1.0, 1.0, kept)
    )
    result = verdict.verdicts(groups)[0].membership
    assert result is not None
    assert (result.code, result.tone) == (code, tone)
    assert result.details.startswith(
        f"AUC of the attack by loss {attack} (Original 78.0, Retrain 50.5), against Retrain"
    )
    assert "; MI ratio 1.27" in result.details
    alone = verdict.verdicts([groups[0], groups[2]])[0].membership
    assert alone is not None
    assert alone.code == "membership_unknown"


def test_thresholds_of_all_verdicts_are_printed() -> None:
    for number in (findings.UNIMODAL_KEPT, findings.UNIMODAL_LOST, findings.EQUAL, findings.SPARED):
        assert f"{number:g}" in findings.THRESHOLDS


def test_every_page_says_what_it_does_not_show(runs: list[Run]) -> None:
    words = words_of(render(runs[:1]))
    for limit in ("No test and no attack here proves absence", "pretrained elsewhere", "another split"):
        assert limit in words
    assert json.dumps(findings.THRESHOLDS)[1:40] in words


# -- sizes --------------------------------------------------------------------------------------------------------


def test_sizes_are_curves_of_each_method(tmp_path: Path) -> None:
    sizes = {}
    for examples, score in ((40, 90.0), (80, 80.0)):
        rows = [
            (method, scope, settings, (score + index, 30.0, 50.0), 10.0, means)
            for index, (method, scope, settings, _, _, means) in enumerate(ROWS[:5])
        ]
        run = Run.load(make_run(tmp_path / str(examples), rows=rows, parts=""))
        sizes[examples] = replace(run, rows=tuple({**row, "forget_examples": examples} for row in run.rows))
    groups = summary(list(sizes.values()))
    drawn = comparison.by_size(groups, ids="x")
    assert {"Original", "Retrain", "FineTune", "NegGrad", "MultiDelete-F", "examples deleted"} <= set(texts_of(drawn))
    for examples, score in ((40, 92.0), (80, 82.0)):
        assert f"FineTune, {examples} deleted: test score {score}, forget test auc 50.0" in drawn
    page = to_html(Bench((), tuple(groups), ()))
    assert page.count("<svg") == 2  # wide and narrow
    assert "retrieval · scenes · albef" in page
    assert "<svg" not in to_html(Bench((), tuple(summary([sizes[40]])), ()))


def test_every_finding_has_a_tone_and_words_of_its_own() -> None:
    assert {tone for tone, _ in findings.ANSWERS.values()} == {"good", "fair", "bad", "open"}
    texts = [text for _, text in findings.ANSWERS.values()]
    assert len(set(texts)) == len(texts)
    assert findings.Finding.of("forgot", "numbers") == findings.Finding("forgot", "good", "Forgot", "numbers")
