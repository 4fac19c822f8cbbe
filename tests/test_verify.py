"""``multidelete verify``: an untouched run passes, and whatever is changed in one is found and named."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

import multidelete.judgement.verify
import multidelete.pipeline
import multidelete.report.pages.run
import tiny
from conftest import Ended
from multidelete.judgement.recompute import recomputed
from multidelete.judgement.verify import Check, verify
from multidelete.report.pages.deletion import DELETION_PAGE, PAGE_CHECKS, write_deletion
from multidelete.runs import record
from multidelete.runs.reader import Run
from multidelete.runs.record import RESULTS_FILE, RunFolder, finished_command
from multidelete.runs.seal import DELETION_FILE, SUMS_FILE, digest_of, read_seal, sums, write_seal
from multidelete.utils.errors import InputError
from test_bad_input import RECIPE, contents

Terminal = Callable[[str], Ended]

WITH_RETRAIN = RECIPE.replace("retrain = false\n", "").replace("rerank = 4", "rerank = 5")  # trained by no other test
MAIN_ROW = "02-multidelete-fusion"


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory, photos: Path, cache: Path) -> Path:
    """A working folder with one finished run, ``out``, of a recipe that reads its ids and its data from files."""
    folder = tmp_path_factory.mktemp("verify")
    (folder / "recipe.toml").write_text(WITH_RETRAIN)
    (folder / "ids.txt").write_text("# by mail\ntrain-00003\ntrain-00001\n")
    shutil.copytree(photos, folder / "photos")
    from multidelete.cli.app import main

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(
            "sys.argv", shlex.split("multidelete unlearn recipe.toml --data photos --forget ids.txt --out out")
        )
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 0
    return folder


@pytest.fixture
def here(ground: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, to be changed."""
    shutil.copytree(ground, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def without_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page with figures takes longer than these runs do, and is no part of their record."""
    monkeypatch.setattr(multidelete.report.pages.run, "write_report", lambda runs, out: out / "report.html")


def failing(folder: Path, digest: str | None = None) -> dict[str, str]:
    """What fails, by what was looked at."""
    result: dict[str, str] = {}
    for check in verify(folder, digest, PAGE_CHECKS):
        if check.holds is False:
            result[check.what] = result.get(check.what, "") + check.words + "\n"
    return result


def unsure(checks: Iterator[Check]) -> list[str]:
    return [f"{check.what}: {check.words}" for check in checks if check.holds is None]


# -- what passes ----------------------------------------------------------------------------------------------------


def test_an_untouched_run_passes(here: Path, terminal: Terminal) -> None:
    before = contents(here)
    digest = hashlib.sha256((here / "out" / SUMS_FILE).read_bytes()).hexdigest()
    ended = terminal(f"verify out --digest {digest.upper()}")  # as somebody may write it down
    assert ended.code == 0, ended.out
    lines = ended.out.splitlines()
    assert lines[-1] == f"{len(lines) - 2} hold, 0 fail, 1 could not be checked"
    assert sum(line.startswith("✓ ") for line in lines) == len(lines) - 2
    (comparison_key,) = [
        line for line in lines if line.startswith("? ")
    ]  # it was trained by the recipe, and is not here
    assert comparison_key.startswith("? original: was trained by this recipe")
    for part in ("digest", "files", "results", "history", f"metrics of {MAIN_ROW}", "request", "data", "model"):
        assert any(line.startswith(f"✓ {part}: ") for line in lines), part
    assert contents(here) == before, "it only reads"


def test_without_a_digest_it_says_what_it_cannot_check(here: Path, terminal: Terminal) -> None:
    ended = terminal("verify out")
    assert ended.code == 0
    assert f"? digest: {digest_of(here / 'out')}; --digest with" in ended.out


def test_anybody_can_check_it_with_sha256sum(here: Path) -> None:
    done = subprocess.run(["sha256sum", "-c", SUMS_FILE], cwd=here / "out", capture_output=True, text=True, check=True)
    names = {line.removesuffix(": OK") for line in done.stdout.splitlines()}
    assert names == set(read_seal(here / "out"))
    every = {str(path.relative_to(here / "out")) for path in (here / "out").rglob("*") if path.is_file()}
    assert {name for name in every - names if not name.startswith("work/")} == {SUMS_FILE, "report.html", DELETION_PAGE}
    done = subprocess.run(["sha256sum", SUMS_FILE], cwd=here / "out", capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == digest_of(here / "out")


def test_the_run_prints_the_digest(here: Path, terminal: Terminal) -> None:
    ended = terminal("unlearn recipe.toml --data photos --forget ids.txt --out out --resume")
    assert ended.code == 0, ended.err
    assert f"digest:  {digest_of(here / 'out')}" in ended.out
    assert "record:  out/deletion.html" in ended.out
    assert digest_of(here / "out") in (here / "out" / DELETION_PAGE).read_text()


def test_a_finished_run_that_is_resumed_stays_as_it_was(here: Path, terminal: Terminal) -> None:
    before = contents(here)
    assert terminal("unlearn recipe.toml --data photos --forget ids.txt --out out --resume").code == 0
    assert contents(here) == before
    assert failing(here / "out", digest_of(here / "out")) == {}
    # What was changed is not made good in silence, nor sealed anew.
    (here / "out/history.jsonl").write_text("")
    assert terminal("unlearn recipe.toml --data photos --forget ids.txt --out out --resume").code == 0
    assert "history.jsonl was changed" in failing(here / "out")["files"]
    assert digest_of(here / "out") == hashlib.sha256((here / "out" / SUMS_FILE).read_bytes()).hexdigest()


def test_a_run_that_was_stopped_and_resumed_passes(
    here: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = "unlearn recipe.toml --data photos --forget ids.txt --out again"

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(multidelete.pipeline, "save_model", stopped)
        assert terminal(command).code == 130
    assert not (here / "again" / SUMS_FILE).exists()
    with pytest.raises(InputError, match=r"has no results.json: a run writes it when it is done"):
        verify(here / "again", None, PAGE_CHECKS)
    began = (here / "again/work/began").read_text()
    assert terminal(f"{command} --resume").code == 0
    assert failing(here / "again") == {}
    raised = json.loads((here / "again" / DELETION_FILE).read_text())
    assert (raised["began"], raised["ended"]) == (began, Run.load(here / "again").provenance["created"])
    assert raised["began"] <= raised["ended"]


def test_killed_between_seal_and_results_it_is_not_finished(here: Path, terminal: Terminal) -> None:
    (here / "out" / RESULTS_FILE).unlink()
    assert "results.json is missing" in failing(here / "out")["files"]
    assert terminal("unlearn recipe.toml --data photos --forget ids.txt --out out --resume").code == 0
    assert failing(here / "out", digest_of(here / "out")) == {}


def test_a_run_of_a_version_without_seals_gets_one_when_it_is_resumed(here: Path, terminal: Terminal) -> None:
    for name in (SUMS_FILE, DELETION_FILE, DELETION_PAGE):
        (here / "out" / name).unlink()
    assert "SHA256SUMS is missing" in failing(here / "out")["digest"]
    assert terminal("verify out").code == 1
    assert terminal("unlearn recipe.toml --data photos --forget ids.txt --out out --resume").code == 0
    assert failing(here / "out") == {}


def test_a_run_without_its_work_passes(here: Path) -> None:
    shutil.rmtree(here / "out/work")
    assert failing(here / "out") == {}


def test_moved_elsewhere_it_says_what_is_not_there(
    here: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    position = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(here / "out", position / "received")
    monkeypatch.chdir(position)
    assert failing(Path("received")) == {}
    assert any(
        line.startswith("data: cannot be read any more: photos does not exist")
        for line in unsure(verify(position / "received", None, PAGE_CHECKS))
    )
    monkeypatch.chdir(position / "received")
    assert failing(Path()) == {}


def test_data_that_were_cleaned_afterwards_prove_nothing(here: Path) -> None:
    """The deleted pictures leave the data too, as they should: the record still holds."""
    manifest = here / "photos/manifest.jsonl"
    lines = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join(line for line in lines if "train-00001" not in line and "train-00003" not in line))
    assert failing(here / "out") == {}
    assert any(
        line.startswith("data: have another hash now") for line in unsure(verify(here / "out", None, PAGE_CHECKS))
    )
    shutil.copytree(here / "out/model", here / "photos", dirs_exist_ok=True)
    manifest.unlink()
    assert failing(here / "out") == {}
    assert any(
        line.startswith("data: cannot be read any more") for line in unsure(verify(here / "out", None, PAGE_CHECKS))
    )


def test_a_request_that_follows_another_passes(here: Path, terminal: Terminal) -> None:
    """Earlier requests are evaluated with D_f and listed separately in the record."""
    (here / "more.txt").write_text("train-00007\n")
    command = "unlearn recipe.toml --model out/model --data photos --forget more.txt forget.earlier=ids.txt --out next"
    assert terminal(f"{command} --no-retrain").code == 0
    assert failing(here / "next", digest_of(here / "next")) == {}
    deleted = json.loads((here / "next" / DELETION_FILE).read_text())["deleted"]
    assert (deleted["ids"], deleted["earlier"]) == (["train-00007"], ["train-00003", "train-00001"])
    change_json(DELETION_FILE, "deleted", "earlier", 0, to="train-00009")(here / "next")
    assert "the hash of the 3 ids in deletion.json" in failing(here / "next")["request"]


def test_a_bench(here: Path, terminal: Terminal) -> None:
    command = "bench recipe.toml --methods neggrad --scopes fusion --seeds 0 --out bench --workers 1"
    assert terminal(f"{command} bench.settings.neggrad.epochs=1").code == 0
    ended = terminal("verify bench")
    assert ended.code == 0, ended.out
    cells = ("retrain-all-3-seed0", "neggrad-fusion-3-seed0")
    for cell in cells:
        assert f"✓ {cell}: files: " in ended.out
        assert f"✓ {cell}: model: " in ended.out
    assert " 0 fail, " in ended.out

    weights = here / "bench/cells/neggrad-fusion-3-seed0/model/model.safetensors"
    change_weight(weights)
    ended = terminal("verify bench")
    assert ended.code == 1
    wrong = [line for line in ended.out.splitlines() if line.startswith("✗")]
    assert len(wrong) == 2
    assert all(line.startswith("✗ neggrad-fusion-3-seed0: ") for line in wrong)
    shutil.rmtree(weights.parents[1])
    ended = terminal("verify bench")
    assert ended.code == 0
    assert "? neggrad-fusion-3-seed0: has not run" in ended.out
    assert "'bench' is a bench" in terminal(f"verify bench --digest {'0' * 64}").errors[0]


def test_a_control_has_no_record_and_passes(here: Path, terminal: Terminal) -> None:
    recipe = (here / "recipe.toml").read_text().split("[method]")[0]
    recipe = recipe.replace('{name = "retrieval", rerank = 5, sample = 10}', '"entailment"').replace(
        "scenes", "premises"
    )
    (here / "control.toml").write_text(f'{recipe}[method]\nname = "unimodal"\n')
    ended = terminal("unlearn control.toml --no-retrain --out control")
    assert ended.code == 0, ended.err
    assert "record:" not in ended.out
    assert not (here / "control" / DELETION_FILE).exists()
    ended = terminal("verify control")
    assert ended.code == 0, ended.out
    assert "✓ deletion record: does not exist: the method of the run is a control, which deletes nothing" in ended.out
    assert "✓ request: 3 ids" in ended.out


# -- what fails -----------------------------------------------------------------------------------------------------


def change_json(name: str, *path: Any, to: Any = None) -> Callable[[Path], None]:
    """Changes one value; numbers in one digit."""

    def change(out: Path) -> None:
        content = json.loads((out / name).read_text())
        inner = content
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = changed_digit(inner[path[-1]]) if to is None else to
        (out / name).write_text(json.dumps(content, indent=2) + "\n")

    return change


def changed_digit(value: Any) -> Any:
    """The same value but for one digit, letter or sign."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value + 0.1
    if value is None:
        return 1
    return f"{value[:-1]}{'0' if value[-1:] != '0' else '1'}"


def change_weight(path: Path) -> None:
    weights = load_file(path)
    name = next(name for name, values in weights.items() if values.dtype == np.float32 and values.ndim == 2)
    weights[name][0, 0] = np.nextafter(weights[name][0, 0], np.float32(1))
    save_file(weights, path, metadata={"format": "pt"})


def change_prediction(out: Path) -> None:
    path = out / f"predictions/{MAIN_ROW}/forget.npz"
    arrays = dict(np.load(path))
    arrays["score"][0] -= 40
    np.savez_compressed(path, **arrays)


def change_history(out: Path) -> None:
    lines = (out / "history.jsonl").read_text().splitlines(keepends=True)
    lines[2] = lines[2].replace('"step": 3', '"step": 4', 1)
    (out / "history.jsonl").write_text("".join(lines))


def other_ids(out: Path) -> None:
    change_json(DELETION_FILE, "deleted", "ids", 0, to="train-00002")(out)


def drop_row(out: Path) -> None:
    content = json.loads((out / RESULTS_FILE).read_text())
    del content["rows"][1]
    (out / RESULTS_FILE).write_text(json.dumps(content))


def swap_predictions(out: Path) -> None:
    one, other = (out / "predictions" / key for key in ("01-retrain-all", MAIN_ROW))
    for path in (one / "forget.npz", one / "test.npz"):
        shutil.copy(path, other / path.name)


@dataclass(frozen=True)
class Tampering:
    """One change.

    Args:
        change: What is done to the run's folder.
        named: What must be said of it: the file in "files", and the key or place in other checks.
        resealed: Whether it is found even where all hashes were made anew, and without the digest.
    """

    change: Callable[[Path], None]
    named: dict[str, str]
    resealed: bool = True


def results(*path: Any, **more: Any) -> Callable[[Path], None]:
    return change_json(RESULTS_FILE, *path, **more)


RESULTS = {"files": "results.json was changed: sha256 recorded"}
FORGET = f"predictions/{MAIN_ROW}/forget.npz"
TAMPERINGS = {
    "a metric": Tampering(
        results("rows", 2, "metrics", "forget_auc"),
        {**RESULTS, f"metrics of {MAIN_ROW}": "forget_auc recorded ", "deletion record": "numbers.after.forget_auc"},
    ),
    "a metric of the original": Tampering(
        results("rows", 0, "metrics", "i2t_r1"),
        {**RESULTS, "metrics of 00-original-all": "i2t_r1 recorded ", "results": "rows.0.metrics.i2t_r1 is "},
    ),
    "the gap to Retrain": Tampering(
        results("rows", 2, "metrics", "gap_to_retrain"), {f"metrics of {MAIN_ROW}": "gap_to_retrain recorded "}
    ),
    "a score of Retrain": Tampering(
        results("rows", 1, "metrics", "retain_score"),
        {"metrics of 01-retrain-all": "retain_score recorded ", f"metrics of {MAIN_ROW}": "gap_to_retrain recorded "},
    ),
    "a metric that is no number": Tampering(
        results("rows", 2, "metrics", "test_score", to="99"),
        {f"metrics of {MAIN_ROW}": "test_score recorded 99, found "},
    ),
    "a metric more": Tampering(
        results("rows", 2, "metrics", "mi_ratio", to=1.5),
        {f"metrics of {MAIN_ROW}": "mi_ratio recorded 1.5, found None"},
    ),
    "a cost": Tampering(
        results("rows", 2, "cost", "update_seconds"),
        {**RESULTS, "results": "rows.2.cost.update_seconds is ", "deletion record": "result.answer is "},
    ),
    "a seed": Tampering(
        results("rows", 2, "seed"), {**RESULTS, "results": "rows.2.seed is 1 in results.json, but 0 in its recipe"}
    ),
    "a seed of its own": Tampering(
        results("rows", 2, "seeds", "method"),
        {**RESULTS, "results": "rows.2.seeds.method is 1 in results.json, but 0 in"},
    ),
    "a setting": Tampering(
        results("rows", 2, "settings", "alpha"), {**RESULTS, "results": "rows.2.settings.alpha is 1.1"}
    ),
    "the number of examples": Tampering(
        results("rows", 1, "forget_examples"),
        {**RESULTS, "request": "row 1: forget_examples recorded 3, but there are 2 ids"},
    ),
    "another method": Tampering(results("rows", 2, "method", to="neggrad"), {"results": 'rows.2.method is "neggrad"'}),
    "a row that is gone": Tampering(drop_row, {**RESULTS, "results": "has 2 rows, but its recipe makes 3"}),
    "the hash of the data": Tampering(
        results("provenance", "data_hash"), {**RESULTS, "results": "data_hash is ", "deletion record": "data.sha256"}
    ),
    "the hash of the request": Tampering(
        results("provenance", "forget_hash"), {**RESULTS, "request": "the hash of the 2 ids in deletion.json"}
    ),
    "the hash of the model": Tampering(
        results("provenance", "model_hash"), {**RESULTS, "model": "the weights in model/ have another hash"}
    ),
    "the hash of the original": Tampering(
        results("provenance", "original_hash"), {**RESULTS, "results": "original_hash is "}
    ),
    "the commit": Tampering(results("provenance", "commit"), {**RESULTS, "deletion record": "made_by.commit is "}),
    "a date": Tampering(results("provenance", "began"), {**RESULTS, "deletion record": "began is "}),
    "the command": Tampering(results("provenance", "command"), {**RESULTS, "deletion record": "ordered_by.command"}),
    "the recipe": Tampering(
        results("provenance", "recipe", "method", "epochs"),
        {**RESULTS, "results": "recipe.method.epochs is 1.1 in results.json, but 1.0 in run.json"},
    ),
    "results that are cut off": Tampering(
        lambda out: (out / RESULTS_FILE).write_text((out / RESULTS_FILE).read_text()[:900]),
        {**RESULTS, "results": "is not JSON"},
    ),
    "results without provenance": Tampering(results("provenance", to=[]), {**RESULTS, "results": "cannot be read: "}),
    "run.json": Tampering(
        change_json("run.json", "data_hash"), {"files": "run.json was changed", "results": "data_hash is "}
    ),
    "run.json that says nothing": Tampering(
        lambda out: (out / "run.json").write_text("{}"), {"results": "run.json does not say which run this is"}
    ),
    "a weight": Tampering(
        lambda out: change_weight(out / "model/model.safetensors"),
        {"files": "model/model.safetensors was changed", "model": "another hash: recorded "},
    ),
    "weights that are cut off": Tampering(
        lambda out: (out / "model/model.safetensors").write_bytes(b"\0" * 99), {"model": "cannot be read"}
    ),
    "the configuration of the model": Tampering(
        change_json("model/config.json", "embedding_width"),
        {"files": "model/config.json was", "model": "cannot be read"},
    ),
    "the list of ids": Tampering(
        other_ids,
        {"files": "deletion.json was changed", "request": "the hash of the 2 ids in deletion.json: recorded "},
    ),
    "the list of ids, in all hashes": Tampering(
        lambda out: (
            [
                change(out)
                for change in (
                    other_ids,
                    *(
                        change_json(*position, to=hashlib.sha256(b"train-00001\ntrain-00002\n").hexdigest())
                        for position in (
                            (RESULTS_FILE, "provenance", "forget_hash"),
                            ("run.json", "forget_hash"),
                            (DELETION_FILE, "deleted", "sha256"),
                        )
                    ),
                )
            ]
            and None
        ),
        {
            "request": f"predictions of {MAIN_ROW} are of another D_f: 1 missing, e.g. 'train-00002' and 1 added",
            "data": "names other ids now: 1 missing, e.g. 'train-00002' and 1 added, e.g. 'train-00003'",
        },
    ),
    "the file with the ids": Tampering(
        lambda out: (out / "../ids.txt").write_text("train-00001\n") and None,
        {"data": """the request ({"ids": "ids.txt"}) names other ids now: 1 missing, e.g. 'train-00003'"""},
    ),
    "a prediction": Tampering(
        change_prediction, {"files": f"{FORGET} was changed", f"metrics of {MAIN_ROW}": "forget_auc recorded "}
    ),
    "predictions of another row": Tampering(swap_predictions, {f"metrics of {MAIN_ROW}": "test_score recorded "}),
    "predictions that are cut off": Tampering(
        lambda out: (out / FORGET).write_bytes(b"PK"), {f"metrics of {MAIN_ROW}": "cannot be read"}
    ),
    "a missing file": Tampering(
        lambda out: (out / FORGET).unlink(),
        {"files": f"{FORGET} is missing", f"metrics of {MAIN_ROW}": "cannot be read"},
    ),
    "a missing picture": Tampering(
        lambda out: (out / "gallery/000.png").unlink(), {"files": "gallery/000.png is missing"}, resealed=False
    ),
    "an added file": Tampering(
        lambda out: (out / "model/notes.txt").write_text("mine") and None,
        {"files": "model/notes.txt was added"},
        resealed=False,
    ),
    "a line of the history": Tampering(
        change_history, {"files": "history.jsonl was changed", "history": "history.jsonl, line 3 is "}, resealed=False
    ),
    "a line of the history that is gone": Tampering(
        lambda out: (
            (out / "history.jsonl").write_text("".join((out / "history.jsonl").open().readlines()[:-1])) and None
        ),
        {"history": "is null, but"},
        resealed=False,
    ),
    "the words of the record": Tampering(
        change_json(DELETION_FILE, "findings", "forgetting", "answer", to="Forgotten"),
        {"files": "deletion.json was changed", "deletion record": 'findings.forgetting.answer is "Forgotten"'},
    ),
    "when it was": Tampering(change_json(DELETION_FILE, "ended"), {"deletion record": "ended is "}),
    "the list of hashes": Tampering(
        lambda out: (out / SUMS_FILE).write_text("nonsense\n") and None,
        {"files": "SHA256SUMS, line 1: expected a hash and the name of one file, got 'nonsense'"},
        resealed=False,
    ),
}


def test_the_table_is_not_empty() -> None:
    assert len(TAMPERINGS) >= 30


@pytest.mark.parametrize("name", TAMPERINGS)
def test_what_was_changed_is_found_and_named(name: str, here: Path) -> None:
    out, tampering = here / "out", TAMPERINGS[name]
    digest = digest_of(out)
    tampering.change(out)
    result = failing(out, digest)
    for what, words in tampering.named.items():
        assert words in result.get(what, ""), result

    # Somebody who makes hashes and page anew, and removes what --resume needs, cannot make the digest the same.
    write_seal(out, {})
    with contextlib.suppress(InputError):
        write_deletion(out)
    shutil.rmtree(out / "work")
    elsewhere = name in ("the file with the ids", "the list of hashes")
    assert ("digest" in failing(out, digest)) is not elsewhere
    assert bool(set(failing(out)) - {"digest"}) is tampering.resealed


def leaves(content: Any, *path: Any) -> Iterator[tuple[Any, ...]]:
    entries = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    inner = [leaf for key, value in entries for leaf in leaves(value, *path, key)]
    yield from inner if isinstance(content, dict | list) else [path]


def test_every_value_of_the_results_is_sealed(here: Path) -> None:
    out = here / "out"
    before = (out / RESULTS_FILE).read_text()
    every = list(leaves(json.loads(before)))
    assert len(every) > 150
    sealed = read_seal(out)
    for path in every:
        results(*path)(out)
        assert {name for name, result in sums(out).items() if sealed[name] != result} == {RESULTS_FILE}, path
        (out / RESULTS_FILE).write_text(before)
    assert sums(out) == sealed


def test_the_terminal_lists_what_differs_and_exits_with_1(here: Path, terminal: Terminal) -> None:
    results("rows", 2, "metrics", "test_score")(here / "out")
    ended = terminal("verify out")
    assert ended.code == 1
    assert re.search(rf"^✗ metrics of {MAIN_ROW}: test_score recorded [\d.]+, found [\d.]+$", ended.out, re.MULTILINE)
    assert ended.out.splitlines()[-1] == "the record does not match the run"
    assert "Traceback" not in ended.out + ended.err


def test_a_digest_that_is_another(here: Path, terminal: Terminal) -> None:
    digest = digest_of(here / "out")
    assert digest is not None
    ended = terminal(f"verify out --digest {digest[:-1]}{changed_digit(digest)[-1]}")
    assert ended.code == 1
    assert f"found {digest}: this is another record" in ended.out


def test_the_page_of_the_record_is_compared_and_rendered_again(
    here: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = here / "out" / DELETION_PAGE
    before = page.read_text()
    page.write_text(before.replace("pictures", "photographs"))
    assert failing(here / "out") == {
        "deletion record": "deletion.html was changed; 'multidelete report' writes it again\n"
    }
    with monkeypatch.context() as patch:  # another version may have made another page of the same record
        patch.setattr(multidelete.judgement.verify, "own_version", lambda: "99.0")
        assert failing(here / "out") == {}
        assert any(
            "was made by another version, or changed" in line
            for line in unsure(verify(here / "out", None, PAGE_CHECKS))
        )
    ended = terminal("report out")
    assert (ended.code, ended.err) == (0, "report: out/report.html\nrecord: out/deletion.html\n")
    assert page.read_text() == before
    page.unlink()
    assert failing(here / "out") == {}
    assert any("deletion.html is missing" in line for line in unsure(verify(here / "out", None, PAGE_CHECKS)))


def test_the_original_where_it_was_brought(here: Path, terminal: Terminal) -> None:
    shutil.copytree(here / "out/model", here / "mine")
    command = "unlearn recipe.toml --model mine --data photos --forget ids.txt --no-retrain --out brought"
    assert terminal(command).code == 0
    checks = list(verify(here / "brought", None, PAGE_CHECKS))
    (check,) = [check for check in checks if check.what == "original"]
    assert check.holds
    assert check.words.startswith("'mine' has the hash ")
    change_weight(here / "mine/model.safetensors")  # the unlearned model may have taken its place since
    assert failing(here / "brought") == {}
    assert any("'mine' holds another model now" in line for line in unsure(verify(here / "brought", None, PAGE_CHECKS)))


# -- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "fragment"),
    [
        ("verify ouut", "ouut is not a folder of a run; did you mean 'out'?"),
        ("verify photos", "photos has no results.json: a run writes it when it is done"),
        ("verify ids.txt", "ids.txt is not a folder of a run"),
        (
            "verify out --digest 12ab",
            "--digest is the line of 64 digits and letters a-f that the run printed, not '12ab'",
        ),
        (f"verify out --digest {'x' * 64}", "--digest is the line of 64 digits"),
    ],
)
def test_what_is_no_run(command: str, fragment: str, here: Path, terminal: Terminal) -> None:
    before = contents(here)
    ended = terminal(command)
    assert ended.code == 2
    assert fragment in ended.errors[0]
    assert len(ended.errors) == 1
    assert contents(here) == before


# -- the parts ------------------------------------------------------------------------------------------------------


def test_metrics_are_recomputed_from_predictions_alone(here: Path) -> None:
    run = Run.load(here / "out")
    for index, row in enumerate(run.rows):
        assert recomputed(run, index) == row["metrics"]


def test_the_seal_by_hand(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b/two.txt").write_text("2")
    (tmp_path / "one.txt").write_text("1")
    for name in ("report.html", "deletion.html", "work/x"):  # no part of it
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    of = {name: hashlib.sha256(text).hexdigest() for name, text in (("b/two.txt", b"2"), ("one.txt", b"1"))}
    assert sums(tmp_path) == of
    write_seal(tmp_path, {"coming.json": "{}"})
    of["coming.json"] = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    assert read_seal(tmp_path) == of
    assert (tmp_path / SUMS_FILE).read_text().splitlines()[0] == f"{of['b/two.txt']}  b/two.txt"
    assert digest_of(tmp_path) == hashlib.sha256((tmp_path / SUMS_FILE).read_bytes()).hexdigest()
    assert digest_of(tmp_path / "b") is None
    (tmp_path / SUMS_FILE).write_text(f"{of['one.txt']}  one.txt\n" * 2)
    with pytest.raises(InputError, match=r"SHA256SUMS, line 2: expected a hash and the name of one file"):
        read_seal(tmp_path)


def test_a_demo_is_replaced_with_its_record(here: Path) -> None:
    results("provenance", "command", to="multidelete demo")(here / "out")
    assert finished_command(here / "out") == "multidelete demo"


def test_what_is_added_to_a_finished_run_unseals_it(here: Path) -> None:
    out = here / "out"
    folder = RunFolder(out, json.loads((out / "run.json").read_text()), resume=True)
    assert folder.sealed
    row = folder.finished(MAIN_ROW)
    assert row is not None
    folder.add(MAIN_ROW, row, folder.predictions.read(MAIN_ROW), [])
    assert not folder.sealed


def test_commands_with_spaces_are_printed_so_that_they_can_be_copied(here: Path, terminal: Terminal) -> None:
    shutil.copytree(here / "out", here / "out of here")
    ended = terminal("unlearn recipe.toml --data photos --forget ids.txt --out 'out of here' --resume")
    words = shlex.split(re.search(r"multidelete verify .+?(?= --digest)", ended.out)[0])  # type: ignore[index]
    assert words == ["multidelete", "verify", "out of here"]


def test_a_source_tree_that_is_not_installed_makes_records(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(record, "version", missing)
    known = record.provenance(tiny.request_of(), torch.device("cpu"), "multidelete unlearn")
    assert (known["version"], known["packages"]) == ("not installed", {})
