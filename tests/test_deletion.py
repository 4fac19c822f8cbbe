"""The record of a deletion: the right words for every verdict, and a page for people, on made-up results."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest

import browser
from multidelete.judgement import findings
from multidelete.judgement.deletion import (
    FORGETTING,
    ITEMS,
    LITTLE_TO_FORGET,
    MEMBERSHIP,
    NOTHING_TO_COMPARE,
    UTILITY,
    record,
)
from multidelete.report.pages.deletion import render, write_deletion
from multidelete.runs.reader import Run
from multidelete.runs.seal import DELETION_FILE, digest_of, write_seal
from multidelete.tasks import TASKS
from multidelete.utils.errors import InputError
from rows import display, with_contrasts
from test_report import TUNED, words_of

Scores = tuple[float, float, float]  # test score, D_f AUC, D_f vs test AUC

ORIGINAL, RETRAIN, FORGOT = (72.4, 50.3, 79.6), (71.9, 20.8, 50.1), (71.3, 19.4, 48.9)
IDS = ("train-00007", "train-00001", "train-00003")
LONG = "multidelete unlearn --model models/mine --data photos --forget requests/2025-05/ids.txt --method multidelete "
LONG += "--scope fusion --out runs/request-2025-05 method.alpha=0.2 method.epochs=2 --precision fp32"


def run_of(
    after: Scores = FORGOT,
    *,
    before: Scores = ORIGINAL,
    retrained: Scores | None = RETRAIN,
    method: tuple[str, str] = ("multidelete", "fusion"),
    task: str = "retrieval",
    count: int = 3,
    error: float = 0.8,
) -> Run:
    """A run about one method, with or without Retrain."""
    settings: dict[str, Any] = TUNED if method[0] == "multidelete" else {}
    rows = [
        ("original", "all", {}, before),
        *([("retrain", "all", {}, retrained)] if retrained else []),
        (*method, settings, after),
    ]
    raised = {
        "version": "0.1.0",
        "commit": "0123abc456def7890123abc456def7890123abcd",
        "dirty": False,
        "device": "cpu",
        "python": "3.12.3",
        "packages": {"torch": "2.13.0", "transformers": "5.0.0", "numpy": "2.4.6"},
        "began": "2025-05-04T11:58:03+00:00",
        "created": "2025-05-04T12:00:07+00:00",
        "account": "curator",
        "command": LONG,
        "recipe": {
            "retrain": retrained is not None,
            "forget": {"ids": "ids.txt"},
            "data": {"reader": "manifest", "root": "photos"},
        },
        "original": "brought: models/mine",
        **{f"{name}_hash": f"{number}" * 64 for number, name in enumerate(("data", "forget", "original", "model"))},
    }
    return Run(
        Path("run"),
        with_contrasts(
            [
                {
                    "task": task,
                    "data": "photos",
                    "model": "albef",
                    "forget_examples": count,
                    "seed": 0,
                    "seeds": {"train": 0, "forget": 0, "method": 0},
                    "method": name,
                    **display(name),
                    "scope": scope,
                    "settings": settings,
                    "cost": {"update_seconds": 3.0},
                    "metrics": dict(zip(("test_score", "forget_auc", "forget_test_auc"), scores, strict=True)),
                }
                for name, scope, settings, scores in rows
            ],
            error,
        ),
        raised,
    )


def made_record(ids: tuple[str, ...] = IDS, **changes: Any) -> dict[str, Any]:
    result = record(run_of(**changes), ids)
    assert result is not None
    return result


# -- the words ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "tone", "result", "details"),
    [
        ({}, "good", "MultiDelete-F forgot the 3 deleted examples and kept its utility", "less than 10 points of 100"),
        (
            {"after": (71.3, 8.0, 20.0)},
            "fair",
            "MultiDelete-F forgot the 3 deleted examples (further than retraining would) but kept its utility",
            "This can itself reveal what was deleted",
        ),
        (
            {"after": (71.3, 33.0, 63.0)},
            "fair",
            "MultiDelete-F only partly forgot the 3 deleted examples but kept its utility",
            "at least 40 % of the difference",
        ),
        (
            {"after": (71.3, 48.0, 78.0)},
            "bad",
            "MultiDelete-F did not forget the 3 deleted examples but kept its utility",
            "still treats the deleted data as data that it was trained on",
        ),
        (
            {"after": (31.2, 20.0, 50.0)},
            "bad",
            "MultiDelete-F forgot the 3 deleted examples but destroyed utility",
            "less than 10 points of 100",
        ),
        (
            {"after": (31.2, 48.1, 78.0)},
            "bad",
            "MultiDelete-F did not forget the 3 deleted examples and destroyed utility",
            "still treats the deleted data",
        ),
        (
            {"after": (68.0, 20.0, 50.0)},
            "fair",
            "MultiDelete-F forgot the 3 deleted examples but lost some utility",
            "less than 10 points of 100",
        ),
        (
            {"retrained": None},
            "open",
            "MultiDelete-F was asked to forget the 3 deleted examples, which cannot be evaluated here, but kept its",
            "No model was retrained without the deleted data",
        ),
        (
            {"retrained": None, "after": (31.2, 20.0, 50.0)},
            "bad",
            "which cannot be evaluated here, and destroyed utility",
            "No model was retrained without the deleted data",
        ),
        (
            {"before": (72.4, 23.0, 51.0)},
            "open",
            "MultiDelete-F had little to forget of the 3 deleted examples but kept its utility",
            "there was little to forget, and these tests cannot tell whether it is gone",
        ),
        (
            {"before": (72.4, 23.0, 51.0), "after": (71.3, 9.0, 30.0)},
            "fair",
            "ranks the 3 deleted examples below unseen ones, though there was little to forget but kept its utility",
            "can itself reveal what was deleted",
        ),
        (
            {"error": 8.0},
            "open",
            "was asked to forget the 3 deleted examples, too few to decide whether it did, and too few test pairs say",
            "chance alone could explain a difference of more than 10 points",
        ),
        (
            {"method": ("retrain", "all"), "after": RETRAIN, "retrained": None},
            "good",
            "Retrain was trained without the 3 deleted examples.",
            "It never read them in this training",
        ),
        (  # a part of it has seen D_f: it is judged as any other
            {"method": ("retrain", "fusion"), "after": (71.3, 48.0, 78.0)},
            "bad",
            "Retrain did not forget the 3 deleted examples but kept its utility",
            "still treats the deleted data",
        ),
    ],
)
def test_the_words_for_every_verdict(changes: dict[str, Any], tone: str, result: str, details: str) -> None:
    results = made_record(**changes)
    assert results["result"]["tone"] == tone
    assert result in results["result"]["answer"]
    assert details in results["findings"]["forgetting"]["details"]
    page = words_of(render(results, "d" * 64))
    assert result in page
    assert details in page
    assert "unlearned" not in page.lower()


def test_utility_is_compared_with_what_there_is() -> None:
    assert made_record()["findings"]["utility"]["details"] == "It does its task about as well as the retrained model."
    alone = made_record(retrained=None)["findings"]["utility"]["details"]
    assert alone == "It does its task about as well as the original model."
    destroyed = made_record(after=(31.2, 20.0, 50.0))["findings"]["utility"]["details"]
    assert "is not the deletion that was requested" in destroyed


def test_no_finding_of_the_verdict_is_without_plain_words() -> None:
    """A code that is added there needs its words here."""
    codes = {
        name: set(re.findall(r'"(\w+)"', " ".join(re.findall(r"Finding\.of\(([^,]*),", inspect.getsource(look)))))
        for name, look in (
            ("forgetting", findings.forgetting),
            ("utility", findings.utility),
            ("membership", findings.membership),
        )
    }
    assert len(codes["forgetting"]) >= 7
    assert codes["forgetting"] == {*FORGETTING, "forgetting_unknown", "little_to_forget"}
    assert codes["utility"] == UTILITY.keys()
    assert codes["membership"] == MEMBERSHIP.keys()
    assert NOTHING_TO_COMPARE[0] == LITTLE_TO_FORGET[0]


def test_no_measure_no_answer() -> None:
    run = run_of()
    rows = tuple({**row, "metrics": {}} for row in run.rows)
    result = record(Run(run.folder, rows, run.provenance), IDS)
    assert result is not None
    answer = "which cannot be evaluated here, and its utility cannot be evaluated here"
    assert result["result"]["tone"] == "open"
    assert answer in result["result"]["answer"]
    assert answer in words_of(render(result, None))


def test_a_control_deletes_nothing_and_has_no_record(tmp_path: Path) -> None:
    assert record(run_of(method=("unimodal", "all")), IDS) is None
    assert write_deletion(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def with_attacks(run: Run, *aucs: tuple[float, float], error: float = 0.8) -> Run:
    """The run with AUCs of two attacks, by loss and by entropy, on each row."""
    names = ("attack_loss_auc", "attack_entropy_auc")
    rows = zip(run.rows, aucs, strict=True)
    metrics = [{**row["metrics"], **dict(zip(names, values, strict=True))} for row, values in rows]
    made = [{**row, "metrics": each} for row, each in zip(run.rows, metrics, strict=True)]
    return Run(run.folder, with_contrasts(made, error), run.provenance)


@pytest.mark.parametrize(
    ("aucs", "tone", "answer", "details"),
    [
        (
            ((80.0, 60.0), (50.0, 50.0), (54.0, 51.0)),
            "good",
            "No better",
            "AUC of the attack by loss 54.0 (Original 80.0,",
        ),
        (((80.0, 60.0), (50.0, 50.0), (51.0, 61.0)), "bad", "Yes", "AUC of the attack by entropy 61.0 (Original 60.0,"),
        (
            ((80.0, 60.0), (50.0, 50.0), (30.0, 50.0)),
            "bad",
            "Yes",
            "AUC of the attack by loss 30.0",
        ),  # below betrays too
        (((80.0, 60.0), (46.0, 50.0), (52.0, 50.0)), "good", "No better", "Retrain 46.0"),
    ],
)
def test_the_words_for_membership(aucs: Any, tone: str, answer: str, details: str) -> None:
    result = record(with_attacks(run_of(), *aucs), IDS)
    assert result is not None
    one = result["findings"]["membership"]
    assert (one["tone"], one["answer"].startswith(answer)) == (tone, True)
    assert details in one["details"]
    assert result["result"]["tone"] == ("bad" if tone == "bad" else "good")
    assert result["result"]["answer"].endswith("An attack can tell which examples were deleted.") == (tone == "bad")


def test_of_few_deleted_examples_no_attack_says_anything() -> None:
    found = record(with_attacks(run_of(), (80.0, 60.0), (50.0, 50.0), (54.0, 51.0), error=6.0), IDS)
    assert found is not None
    assert found["findings"]["membership"]["code"] == "membership_too_few"
    assert found["findings"]["membership"]["answer"] == "Cannot be decided from so few data"


def test_membership_is_not_claimed_where_it_was_not_tested() -> None:
    assert made_record()["findings"]["membership"]["answer"] == "Not tested"
    alone = record(with_attacks(run_of(retrained=None), (80.0, 60.0), (50.0, 50.0)), IDS)
    assert alone is not None
    assert alone["findings"]["membership"]["answer"] == "Cannot be evaluated"
    retrained = made_record(method=("retrain", "all"), after=RETRAIN, retrained=None)
    assert retrained["findings"]["membership"]["answer"] == "There is nothing to detect"


@pytest.mark.parametrize("task", TASKS)
def test_items_are_named_for_every_task(task: str) -> None:
    one, many, halves = ITEMS[task]
    assert made_record(ids=IDS[:1], task=task)["deleted"]["what"] == one
    page = words_of(render(made_record(task=task), None))
    assert f"3 {many} to be forgotten" in page
    assert halves in page


# -- the record and its page ----------------------------------------------------------------------------------------


def test_the_record_says_what_when_from_which_by_what_and_on_whose_command() -> None:
    run, result = run_of(), made_record()
    assert result["deleted"]["ids"] == list(IDS)
    assert (result["deleted"]["count"], result["deleted"]["sha256"]) == (3, "1" * 64)
    assert (result["began"], result["ended"]) == ("2025-05-04T11:58:03+00:00", "2025-05-04T12:00:07+00:00")
    assert result["model"]["sha256_before"] != result["model"]["sha256_after"] == "3" * 64
    assert result["model"]["row"] == "02-multidelete-fusion"
    assert result["method"]["settings"] == TUNED
    assert result["ordered_by"] == {"account": "curator", "command": LONG}
    numbers = result["findings"]["numbers"]
    assert list(numbers) == ["before", "after", "retrained"]
    assert numbers["after"]["forget_test_auc"] == run.rows[2]["metrics"]["forget_test_auc"]
    assert json.loads(json.dumps(result)) == result

    html = render(result, "d" * 64)
    page = words_of(html).replace("\u00a0", " ")
    for raised in (
        "train-00007",
        "2025-05-04 11:58:03 UTC",
        "from the folder models/mine",
        "alpha = 0.2",
        "curator",
    ):
        assert raised in page
    for value in ("79.6", "48.9", "50.1", "72.4", "71.3", "71.9"):
        assert re.search(rf"<td[^>]*>{re.escape(value)}</td>", html), value
    assert f"multidelete verify . --digest {'d' * 64}" in page
    assert "Retrained" not in words_of(render(made_record(retrained=None), None))


def test_a_long_list_is_shown_by_its_ends_and_recorded_in_full() -> None:
    ids = tuple(f"photo-{number:04d}.jpg" for number in range(1200))
    result = made_record(ids=ids, count=1200)
    assert result["deleted"]["ids"] == list(ids)
    page = render(result, None)
    assert re.findall(r"photo-\d+", page) == [
        "photo-0000",
        "photo-0001",
        "photo-0002",
        *(f"photo-{n}" for n in (1197, 1198, 1199)),
    ]
    assert "1,200 pictures with their texts" in page
    assert "changes to this record cannot be detected" in words_of(page)


def test_earlier_deletions_are_listed_separately() -> None:
    result = record(run_of(), IDS[:1], IDS[1:])
    assert result is not None
    assert (result["deleted"]["count"], result["deleted"]["ids"]) == (1, ["train-00007"])
    assert result["deleted"]["earlier"] == ["train-00001", "train-00003"]
    page = words_of(render(result, None))
    assert "1 picture with its texts: train-00007; tested together with 2 that earlier requests had deleted" in page
    assert "sha256 of both lists" in page


def test_seeds_are_listed_one_by_one_if_they_differ() -> None:
    assert "; seed 0" in words_of(render(made_record(), None))
    assert "seeds" not in made_record()["method"]
    run = run_of()
    rows = tuple({**row, "seeds": {"train": 0, "forget": 0, "method": 7}} for row in run.rows)
    result = record(Run(run.folder, rows, run.provenance), IDS)
    assert result is not None
    assert "seeds: train = 0, forget = 0, method = 7" in words_of(render(result, None))


def test_the_page_loads_nothing_and_escapes_what_it_shows() -> None:
    page = render(made_record(ids=("<script>alert(1)</script>", "a&b")), "d" * 64)
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "http" not in page
    links = re.findall(r"""(?:src|href|action|poster)\s*=\s*["']([^"']*)""", page) + re.findall(r"url\(([^)]*)", page)
    assert links == ["data:,"]
    assert "@import" not in page


def test_the_page_is_next_to_its_record_with_the_digest(tmp_path: Path) -> None:
    (tmp_path / DELETION_FILE).write_text(json.dumps(made_record()))
    write_seal(tmp_path, {})
    assert write_deletion(tmp_path) == tmp_path / "deletion.html"
    page = (tmp_path / "deletion.html").read_text()
    assert f"--digest {digest_of(tmp_path)}" in page
    assert page == render(made_record(), digest_of(tmp_path))


@pytest.mark.parametrize("content", ["{", "[]", '{"schema": 2}'])
def test_a_damaged_record_is_reported(content: str, tmp_path: Path) -> None:
    (tmp_path / DELETION_FILE).write_text(content)
    with pytest.raises(InputError, match=r"deletion.json(: expected the record of a deletion| is not JSON)"):
        write_deletion(tmp_path)
    assert not (tmp_path / "deletion.html").exists()


@pytest.mark.slow
def test_the_page_fits_its_window_and_one_sheet(tmp_path: Path) -> None:
    ids = tuple(f"1000268201_{number:010x}.jpg" for number in range(300))
    html = render(made_record(ids=ids, count=300, after=(71.3, 48.0, 78.0)), "d" * 64)
    for width in (390, 1280):
        page, window = browser.widths(html, tmp_path, width)
        assert page <= window == width
    assert browser.sheets(html, tmp_path) == 1


def test_what_is_for_print_stays_off_the_screen() -> None:
    style = browser.screen_style(render(made_record(), "d" * 64))
    assert "8.4pt" not in style
    assert "max-width: 52rem" in style
