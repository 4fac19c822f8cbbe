"""Large collections: what no step and no metric reads is not decoded, encoded or asked of the teacher."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tiny
from multidelete.data.batches import Encodings, PairInputs
from multidelete.data.dataset import Dataset
from multidelete.data.images import Decoded
from multidelete.data.requests import resolve
from multidelete.data.samplers import ForgetRetainStream
from multidelete.methods.base import UnlearningData
from multidelete.methods.multidelete import MultiDelete
from multidelete.models.base import Model
from multidelete.tasks.retrieval import Retrieval
from multidelete.training.features import EncodedRows, encode_once
from multidelete.utils.cache import cache_dir

LARGE = (
    "multidelete.data.batches",
    "multidelete.data.samplers",
    "multidelete.training.features",
    "multidelete.methods.base",
)


@pytest.fixture
def albef() -> Model:
    return copy.deepcopy(tiny.original("albef"))


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every collection counts as large."""
    for module in LARGE:
        monkeypatch.setattr(f"{module}.TOGETHER", 0)


@pytest.fixture
def photos(tmp_path: Path) -> Dataset:
    """Twelve files of one colour each."""
    lines = []
    for number in range(12):
        Image.new("RGB", (8, 8), (20 * number, 0, 0)).save(tmp_path / f"{number}.png")
        record = {"id": f"{number}", "split": "train", "image": f"{number}.png", "texts": [f"shade {number}"]}
        lines.append(json.dumps(record))
    (tmp_path / "manifest.jsonl").write_text("\n".join(lines))
    return Dataset.load(tmp_path)


def decoded(dataset: Dataset, size: int = 8) -> list[int]:
    pictures = dataset.pictures(size)
    assert isinstance(pictures, Decoded)
    return np.flatnonzero(pictures._known).tolist()


@pytest.mark.usefixtures("cache_of_its_own")
def test_only_the_pictures_that_are_indexed_are_decoded(photos: Dataset, tmp_path: Path) -> None:
    pictures = photos.pictures(8)
    assert pictures.shape == (12, 8, 8, 3)
    assert decoded(photos) == []
    assert pictures[np.array([[7, 2], [2, 4]])][..., 0, 0, 0].tolist() == [[140, 40], [40, 80]]
    assert decoded(photos) == [2, 4, 7]
    assert pictures[-1][0, 0, 0] == 220
    assert pictures[3:5][:, 0, 0, 0].tolist() == [60, 80]
    # Another process goes on with the same file.
    seen: list[tuple[int, int]] = []
    images = Dataset.load(tmp_path).images(8, progress=lambda done, total: seen.append((done, total)))
    assert images[:, 0, 0, 0].tolist() == [20 * number for number in range(12)]
    assert seen == [(done, 7) for done in range(1, 8)]
    assert pictures[6][0, 0, 0] == 120


@pytest.mark.usefixtures("cache_of_its_own", "large")
@pytest.mark.parametrize("modality", ["vision", "text"])
@pytest.mark.parametrize("embedded", [False, True])
def test_encodings_on_demand_are_those_of_all_rows(
    albef: Model, modality: str, embedded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, engine = PairInputs.of(tiny.dataset(), albef), tiny.engine()
    every = encode_once(engine, albef, inputs, modality, embedded=embedded)
    assert isinstance(every, Encodings)
    monkeypatch.setenv("MULTIDELETE_CACHE", str(cache_dir() / "second"))
    some = encode_once(engine, albef, inputs, modality, embedded=embedded, on_demand=True)
    assert isinstance(some, EncodedRows)
    for rows in (np.array([5, 1, 5]), np.array([3]), np.array([9, 3, 0, 1, 8])):
        given, expected = some.take(rows), every.take(rows)
        np.testing.assert_array_equal(given.mask, expected.mask)
        np.testing.assert_allclose(given.tokens, expected.tokens, atol=1e-5)
        np.testing.assert_allclose(given.pooled, expected.pooled, atol=1e-5)
        assert given.stage == expected.stage
    again = encode_once(engine, albef, inputs, modality, embedded=embedded, on_demand=True)
    assert isinstance(again, EncodedRows)
    monkeypatch.setattr("multidelete.training.features.encode_all", lambda *_, **__: pytest.fail("encoded again"))
    np.testing.assert_array_equal(again.select(np.array([0, 9])).pooled, some.select(np.array([0, 9])).pooled)


@pytest.mark.usefixtures("cache_of_its_own", "large")
@pytest.mark.parametrize("scope", ["fusion", "all"])
def test_a_run_on_demand_gives_the_same_model(scope: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only rounding differs: rows are encoded beside others than where all are encoded in one go."""

    def unlearned() -> dict[str, torch.Tensor]:
        original, dataset = copy.deepcopy(tiny.original("albef")), tiny.dataset()
        inputs = PairInputs.of(dataset, original)
        data = UnlearningData(resolve(dataset, count=2), inputs, Retrieval(), tiny.TRAINING, 0)
        method = MultiDelete(scope=scope, stop="lowest", target="drawn", batch_size=4, min_steps=4, evaluations=2)
        return method.unlearn(copy.deepcopy(original), original, data, tiny.engine()).model.state_dict()

    on_demand = unlearned()
    monkeypatch.setenv("MULTIDELETE_CACHE", str(cache_dir() / "second"))
    for module in LARGE:
        monkeypatch.setattr(f"{module}.TOGETHER", 10_000)
    for name, tensor in unlearned().items():
        torch.testing.assert_close(on_demand[name], tensor, atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures("large")
def test_mismatched_pairs_of_a_large_d_r_need_no_other_pictures(albef: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multidelete.data.samplers.PARTNERS", 12)
    inputs = PairInputs.of(tiny.dataset(), albef)
    request = resolve(tiny.dataset(), count=2)
    stream = ForgetRetainStream(inputs, request.forget_pairs, request.retain_pairs, 4, 3, 0.0, seed=0)
    wrong = stream.mismatched_rows(500, 0, "mean")
    assert len(np.unique(wrong["text"])) == 12
    for modality, rows in stream.drawn(1).items():
        assert np.isin(wrong[modality], rows).all()
    assert not (inputs.dataset.text_examples[wrong["text"]] == wrong["vision"]).any()


def test_d_r_is_evaluated_on_a_sample_of_complete_examples() -> None:
    dataset = tiny.dataset()
    request = resolve(dataset, count=2)
    all_pairs = Retrieval().splits(request)["retain"]
    np.testing.assert_array_equal(all_pairs, request.retain_pairs)
    sample = Retrieval(sample_retain=10).splits(request)["retain"]
    assert 2 <= len(sample) <= 10
    assert np.isin(sample, all_pairs).all()
    np.testing.assert_array_equal(dataset.text_rows(dataset.example_rows(sample)), sample)
    np.testing.assert_array_equal(sample, Retrieval(sample_retain=10).splits(request)["retain"])
