"""Data of which all was trained on: the deletion is done, and what cannot be measured is not claimed."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

import multidelete
import tiny
from multidelete import MultiDelete, NegGrad
from multidelete.data.dataset import Dataset
from multidelete.judgement.verify import verify
from multidelete.report.pages.deletion import write_deletion
from multidelete.report.pages.run import write_report
from multidelete.runs.reader import Run

QUICK = {"epochs": 1, "min_steps": 2}


def only(task: str, *splits: str) -> Dataset:
    full = tiny.dataset_for(task)
    rows = [row for row, example in enumerate(full.examples) if example.split in splits]
    pixels = None if full.pixels is None else full.pixels[rows]
    return Dataset(full.name, [full.examples[row] for row in rows], pixels=pixels, graph=full.graph)


@pytest.mark.parametrize("task", ["retrieval", "entailment", "graph_text"])
def test_all_of_the_data_were_trained_on(task: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = only(task, "train")
    original = tiny.original_for(task, "graph_text" if task == "graph_text" else "albef")
    with caplog.at_level(logging.WARNING):
        outcome = multidelete.unlearn(
            original, dataset, 2, MultiDelete(**QUICK), compare=[NegGrad(**QUICK)], out=tmp_path / "run"
        )
    assert "--unseen DATA brings such pairs" in caplog.text
    assert "keeps its last checkpoint: there is no validation split" in caplog.text
    assert tiny.changed(tiny.weights(original), outcome.model.state_dict())
    metrics = outcome.rows[-1]["metrics"]
    assert {"forget_auc", "forget_score", "retain_score"} <= metrics.keys()
    assert not [name for name in metrics if "test" in name or name.startswith(("attack", "probe"))]
    write_report([Run.load(tmp_path / "run")], tmp_path / "run")
    write_deletion(tmp_path / "run")
    record = json.loads((tmp_path / "run/deletion.json").read_text())
    assert record["findings"]["utility"]["code"] == "utility_unknown"
    assert [check.what for check in verify(tmp_path / "run") if check.holds is False] == []


def test_utility_is_measured_on_validation_without_a_test_split(tmp_path: Path) -> None:
    outcome = multidelete.unlearn(
        tiny.original("albef"),
        only("retrieval", "train", "validation"),
        2,
        MultiDelete(**QUICK, evaluations=1),
        out=tmp_path,
    )
    assert "valid_score" in outcome.rows[-1]["metrics"]
    record = json.loads((tmp_path / "deletion.json").read_text())
    assert record["findings"]["utility"]["code"] != "utility_unknown"
