"""Batches: the order in which rows are drawn, re-pairing inside D_r, and sequences of different lengths."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tiny
from multidelete.data.batches import Encodings, PairInputs, Ragged, Texts
from multidelete.data.samplers import EpochSampler, ForgetRetainStream, TrainStream
from multidelete.models import Tokens

CPU = torch.device("cpu")


def stream(*, mismatched: float = 0.0, batch_size: int = 6, retain_ratio: int = 3, seed: int = 0) -> ForgetRetainStream:
    request, dataset = tiny.request_of(), tiny.dataset()
    inputs = PairInputs.of(dataset, tiny.original("albef"))
    forget, retain = dataset.text_rows(request.forget), dataset.text_rows(request.retain)
    return ForgetRetainStream(inputs, forget, retain, batch_size, retain_ratio, mismatched, seed)


# -- EpochSampler ------------------------------------------------------------------------------------------------


def test_sampler_covers_every_row_once_per_epoch() -> None:
    rows = np.array([3, 5, 8, 13, 21, 34, 55])
    taken = EpochSampler(rows, 0, "test").take(0, 35)
    epochs = taken.reshape(5, 7)
    assert (np.sort(epochs, axis=1) == rows).all()
    assert len({tuple(epoch) for epoch in epochs}) > 1  # each epoch has its own order


@pytest.mark.parametrize("count", [1, 3, 7, 20])
def test_sampler_has_random_access(count: int) -> None:
    rows = np.arange(100, 107)
    expected = EpochSampler(rows, 4, "test").take(0, 60)
    sampler = EpochSampler(rows, 4, "test")
    for start in (30, 0, 39, 7, 6):  # backwards too
        assert sampler.take(start, count).tolist() == expected[start : start + count].tolist()


def test_sampler_depends_on_seed_and_purpose() -> None:
    rows = np.arange(50)
    plain = EpochSampler(rows, 0, "forget").take(0, 50).tolist()
    assert EpochSampler(rows, 0, "forget").take(0, 50).tolist() == plain
    assert EpochSampler(rows, 1, "forget").take(0, 50).tolist() != plain
    assert EpochSampler(rows, 0, "retain").take(0, 50).tolist() != plain


# -- streams ------------------------------------------------------------------------------------------------------


def test_training_batches_are_true_pairs_and_cover_every_text() -> None:
    dataset = tiny.dataset()
    texts = dataset.text_rows(dataset.rows("train"))
    train = TrainStream(PairInputs.of(dataset, tiny.original("albef")), texts, 32, 0)
    assert train.steps(1) == round(len(texts) / 32)
    assert train.steps(0.001) == 1
    batches = [train.at(step, CPU) for step in range(15)]
    seen = torch.cat([batch.rows["text"] for batch in batches])
    assert sorted(seen[: len(texts)].tolist()) == texts.tolist()
    for batch in batches:
        assert len(batch) == 32
        assert torch.equal(batch.examples["vision"], batch.examples["text"])
        assert torch.equal(batch.rows["vision"], batch.examples["text"])


def test_step_decides_the_batch() -> None:
    first, again, other = (stream(mismatched=0.5, seed=seed) for seed in (0, 0, 1))
    for step in (5, 0, 3):
        for one, two in zip(first.at(step, CPU), again.at(step, CPU), strict=True):
            assert torch.equal(one.rows["vision"], two.rows["vision"])
            assert torch.equal(one.rows["text"], two.rows["text"])
            assert one.generator is not None
            assert two.generator is not None
            assert torch.equal(torch.rand(3, generator=one.generator), torch.rand(3, generator=two.generator))
    assert not torch.equal(first.at(0, CPU)[0].rows["text"], other.at(0, CPU)[0].rows["text"])


def test_forget_and_retain_batches_stay_on_their_sides() -> None:
    request = tiny.request_of()
    pairs = stream()
    forget, retain = zip(*(pairs.at(step, CPU) for step in range(8)), strict=True)
    assert {len(batch) for batch in forget} == {6}
    assert {len(batch) for batch in retain} == {18}
    for side, examples in ((forget, request.forget), (retain, request.retain)):
        for batch in side:
            assert set(batch.rows["vision"].tolist()) <= set(examples.tolist())
            assert torch.equal(batch.examples["vision"], batch.examples["text"])
    covered = torch.cat([batch.rows["text"] for batch in forget])[: len(pairs.forget)]
    assert sorted(covered.tolist()) == sorted(pairs.forget.tolist())
    assert pairs.steps(1) == len(pairs.forget) / 6


def test_small_forget_set_is_one_batch_and_retention_is_not_starved() -> None:
    dataset, request = tiny.dataset(), tiny.request_of(1)
    inputs = PairInputs.of(dataset, tiny.original("albef"))
    retain = dataset.text_rows(request.retain)
    pairs = ForgetRetainStream(inputs, dataset.text_rows(request.forget), retain, 16, 3, 0.0, 0)
    forget, kept = pairs.at(0, CPU)
    assert sorted(forget.rows["text"].tolist()) == sorted(pairs.forget.tolist())
    assert len(kept) == 48
    assert pairs.steps(5) == 5
    two_examples = ForgetRetainStream(inputs, pairs.forget, retain[:6], 16, 3, 0.5, 0)
    forget, kept = two_examples.at(0, CPU)
    assert len(kept) == 6
    assert (
        two_examples.mismatched_rows(40, 0, "x")["vision"]
        != dataset.text_examples[two_examples.mismatched_rows(40, 0, "x")["text"]]
    ).all()


def test_mismatched_pairs_are_of_two_examples_of_the_retain_set_and_fresh_at_each_step() -> None:
    request = tiny.request_of()
    pairs = stream()
    kept = set(request.retain.tolist())
    drawn = []
    for step in range(40):
        batch = pairs.at(step, CPU)[1].mismatched(25)
        assert len(batch) == 25
        assert not (batch.examples["vision"] == batch.examples["text"]).any()
        assert torch.equal(batch.rows["vision"], batch.examples["vision"])
        assert set(batch.examples["vision"].tolist()) <= kept
        assert set(batch.examples["text"].tolist()) <= kept
        drawn.append((tuple(batch.rows["vision"].tolist()), tuple(batch.rows["text"].tolist())))
    assert len(set(drawn)) == 40
    again = pairs.at(3, CPU)[1].mismatched(25)
    assert (tuple(again.rows["vision"].tolist()), tuple(again.rows["text"].tolist())) == drawn[3]
    images = {image for step in drawn for image in step[0]}
    assert images == kept  # every image of D_r is drawn at some time


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5])
def test_share_of_mismatched_pairs_in_the_retain_batch(share: float) -> None:
    kept = set(tiny.request_of().retain.tolist())
    for step in range(4):
        batch = stream(mismatched=share, batch_size=8, retain_ratio=2).at(step, CPU)[1]
        assert len(batch) == 16
        num_mismatched = batch.examples["vision"] != batch.examples["text"]
        assert int(num_mismatched.sum()) == round(16 * share)
        assert set(batch.examples["vision"].tolist()) | set(batch.examples["text"].tolist()) <= kept


def test_batch_holds_the_inputs_of_its_rows() -> None:
    dataset, model = tiny.dataset(), tiny.original("albef")
    inputs = PairInputs.of(dataset, model)
    batch = inputs.batch({"vision": np.array([4, 1]), "text": np.array([7, 20])}, CPU)
    pixels, text = batch.inputs["vision"], batch.inputs["text"]
    assert isinstance(pixels, torch.Tensor)
    assert pixels.shape == (2, 3, tiny.PIXELS, tiny.PIXELS)
    assert np.array_equal(pixels[0].permute(1, 2, 0).numpy(), dataset.images(tiny.PIXELS)[4])
    assert isinstance(text, Tokens)
    for row, expected in enumerate(model.tokenize([dataset.texts[7], dataset.texts[20]])):
        assert text.ids[row, text.mask[row].bool()].tolist() == expected
    assert batch.examples["text"].tolist() == dataset.text_examples[[7, 20]].tolist()


# -- sequences of different lengths -------------------------------------------------------------------------------


def test_ragged_takes_and_pads() -> None:
    ragged = Ragged.of([[1, 2, 3], [4], [5, 6]])
    values, mask = ragged.take(np.array([2, 0, 2]))
    assert values.tolist() == [[5, 6, 6], [1, 2, 3], [5, 6, 6]]
    assert mask.tolist() == [[True, True, False], [True, True, True], [True, True, False]]
    short, _ = ragged.take(np.array([1]))
    assert short.tolist() == [[4]]  # padded to the longest of these rows


def test_ragged_selects_rows_in_any_order() -> None:
    rng = np.random.default_rng(0)
    sequences = [rng.integers(0, 9, length).tolist() for length in (2, 5, 1, 3, 4)]
    ragged = Ragged.of(sequences)
    rows = np.array([3, 0, 0, 4])
    chosen = ragged.select(rows)
    assert np.diff(chosen.offsets).tolist() == [3, 2, 2, 4]
    for index, row in enumerate(rows):
        assert chosen.flat[chosen.offsets[index] : chosen.offsets[index + 1]].tolist() == sequences[row]


def test_texts_pad_with_the_tokenizers_padding() -> None:
    taken = Texts(Ragged.of([[7, 8, 9], [5]]), padding=99).take(np.array([1, 0]))
    assert taken.ids.tolist() == [[5, 99, 99], [7, 8, 9]]
    assert taken.mask.tolist() == [[1, 0, 0], [1, 1, 1]]


def test_encodings_of_rows_are_the_same_taken_or_selected() -> None:
    rng = np.random.default_rng(1)
    lengths = [3, 1, 4]
    flat = rng.normal(size=(8, 2)).astype(np.float32)
    kept = Encodings(Ragged(flat, np.cumsum([0, *lengths])), rng.normal(size=(3, 5)).astype(np.float32), "encoded")
    rows = np.array([2, 0])
    taken, selected = kept.take(rows), kept.select(rows).take(np.arange(2))
    assert taken.tokens.shape == (2, 4, 2)
    assert taken.mask.tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert torch.equal(taken.tokens[1, :3], torch.from_numpy(flat[:3]))
    for one, two in ((taken.tokens, selected.tokens), (taken.mask, selected.mask), (taken.pooled, selected.pooled)):
        assert torch.equal(one, two)
