"""SALMUBench's layout: parts of a published request, holdouts that a deletion must not use, and a Clean model."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import tiny
import zoo
from multidelete import InputError
from multidelete.cli.app import app
from multidelete.data.dataset import Dataset
from multidelete.data.readers import located, read
from multidelete.data.requests import resolve
from multidelete.methods import Retrain, Retrained

PARTS = {"forget": 6, "retain_synth": 12, "holdout_association": 6, "holdout_identity": 6}


def portrait(number: int) -> dict[str, Any]:
    content = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((32, 32)).save(content, "PNG")
    return {"bytes": content.getvalue(), "path": f"{number:04d}.png"}


def columns(part: str, count: int) -> dict[str, list[Any]]:
    """Rows as in the published data: a portrait, a sentence with a fact, the person, and the name of the file.

    The association holdout has other facts of the persons in the forget set, the identity holdout those of others.
    """
    first = {"forget": 0, "holdout_association": 0, "retain_synth": 20, "holdout_identity": 40}[part]
    facts = {"forget": "phone", "holdout_association": "city"}
    numbers = range(first, first + count)
    return {
        "image": [portrait(number) for number in numbers],
        "text": [f"person {n} has {facts.get(part, 'mail')} {n * 7}" for n in numbers],
        "identity_id": list(numbers),
        "file_name": [f"{number:04d}.png" for number in numbers],
    }


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import pyarrow
    import pyarrow.parquet

    root = tmp_path_factory.mktemp("salmubench")
    (root / "data").mkdir()
    for part, count in PARTS.items():
        pyarrow.parquet.write_table(pyarrow.table(columns(part, count)), root / f"data/{part}-00000-of-00001.parquet")
    return root


@pytest.fixture(scope="module")
def dataset(bench: Path) -> Dataset:
    return read(**located(bench))


def test_parts_are_metadata_and_holdouts_are_not_training_data(dataset: Dataset) -> None:
    assert repr(dataset).endswith(
        "train=18, validation=0, test=0, holdout_association=6, holdout_identity=6, texts=30)"
    )
    request = resolve(dataset, group="part=forget")
    assert len(request.forget_pairs) == 6
    assert len(request.retain_pairs) == 12
    assert {name: len(rows) for name, rows in request.splits().items()} == {
        "forget": 6,
        "retain": 12,
        "holdout_association": 6,
        "holdout_identity": 6,
    }
    assert len(dataset.learned) == 30  # an original is trained on all of them
    example = dataset.examples[request.forget[0]]
    assert (example.metadata["identity_id"], example.metadata["part"]) == (0, "forget")
    assert example.id == "train/0000.png"  # the association holdout has a portrait of this name too


def test_what_datasets_saves_has_the_same_parts(bench: Path, dataset: Dataset, tmp_path: Path) -> None:
    import datasets

    files = {part: str(bench / f"data/{part}-00000-of-00001.parquet") for part in PARTS}
    tables = {
        part: datasets.Dataset.from_parquet(path, cache_dir=str(tmp_path / "cache")).cast_column(
            "image", datasets.Image()
        )
        for part, path in files.items()
    }
    datasets.DatasetDict(tables).save_to_disk(str(tmp_path / "saved"))
    saved = read(**located(tmp_path / "saved"))
    assert saved.pairs_hash == dataset.pairs_hash
    assert [len(saved.rows(name)) for name in ("train", "holdout_association", "holdout_identity")] == [18, 6, 6]


def test_its_table_with_one_command(bench: Path, tmp_path: Path) -> None:
    compromised, clean = (zoo.write("clip", tmp_path / name) for name in ("compromised", "clean"))
    command = ["unlearn", "--model", str(compromised), "--retrained", str(clean), "--data", str(bench)]
    words = ["method.scope=fusion", "method.epochs=1", "method.min_steps=2", "--out", str(tmp_path / "run")]
    ended = CliRunner().invoke(app, [*command, "--forget-group", "part=forget", *words])
    assert ended.exit_code == 0, ended.output
    rows = json.loads((tmp_path / "run/results.json").read_text())["rows"]
    assert [row["title"] for row in rows] == ["Original", "Retrain", "MultiDelete"]
    expected = {
        "forget_cosine",
        "holdout_association_cosine",
        "holdout_identity_cosine",
        "forget_recall_1",
        "forget_mrr",
    }
    for row in rows:
        assert expected <= row["metrics"].keys()
    assert "kept pairs held out" in ended.output
    assert " %" not in ended.output.split("held out")[0]  # Retrain's time is unknown
    predicted = np.load(tmp_path / "run/predictions/00-original-all/holdout_identity.npz")["cosine"]
    assert rows[0]["metrics"]["holdout_identity_cosine"] == pytest.approx(100 * predicted.mean())


def test_retrain_learns_the_holdouts(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.build(tiny.dual_encoder())
    seen: list[int] = []
    monkeypatch.setattr("multidelete.methods.retrain.train", lambda *given, **_: seen.extend(given[2].tolist()))
    request = resolve(dataset, group="part=forget")
    data = tiny.data_for(model, request)
    Retrain().unlearn(model, model, data, tiny.engine())
    assert sorted(seen) == sorted(set(range(30)) - set(request.forget_pairs.tolist()))


def test_a_brought_retrain(tmp_path: Path) -> None:
    model = tiny.original("albef")
    other = tiny.build(tiny.albef(), seed=5)
    other.save_pretrained(tmp_path / "clean")
    result = Retrained(model=str(tmp_path / "clean"))(model, tiny.data_for(model), tiny.engine())
    assert tiny.changed(tiny.weights(other), result.model.state_dict()) == set()
    with pytest.raises(InputError, match="gone"):
        Retrained(model=str(tmp_path / "gone"))(model, tiny.data_for(model), tiny.engine())


def test_bringing_and_refusing_retrain() -> None:
    words = ["unlearn", "recipe.toml", "--retrained", "clean", "--no-retrain"]
    assert "--retrained brings Retrain" in str(CliRunner().invoke(app, words).exception)
