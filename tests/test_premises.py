"""Premises: an independent parser of the hypotheses is compared with scenes and pixels."""

from __future__ import annotations

import re
import time
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import chi2_contingency
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from multidelete.data.dataset import Dataset
from multidelete.data.examples import SPLITS
from multidelete.data.synthetic.premises import (
    LABELS,
    WITH_POSITION,
    Curtain,
    Hypothesis,
    Premise,
    draw_premises,
    paint_premises,
    premises,
)
from multidelete.data.synthetic.scenes import COLOURS, SHAPES, Scene, SceneObject
from multidelete.utils.errors import InputError
from test_scenes import SAME, cell_of, seen_in

Drawn = list[tuple[Premise, tuple[Hypothesis, ...]]]


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return premises(train=300, validation=60, test=60, seed=7)


@pytest.fixture(scope="module")
def many() -> Drawn:
    return draw_premises("train", 3000, seed=5)


POSITION = re.compile(r"\b(top|bottom|left|right|centre)\b")


def parsed(text: str) -> tuple[tuple[int, int] | None, str | None, str | None]:
    """Cell, colour and shape that a hypothesis speaks of."""
    words = [SAME.get(word, word) for word in re.findall(r"\w+", text)]
    colours = [word for word in words if word in COLOURS]
    shapes = [word for word in words if word in SHAPES]
    assert len(colours) <= 1
    assert len(shapes) <= 1
    assert colours or shapes
    cell = cell_of(text) if POSITION.search(text) else None
    return cell, colours[0] if colours else None, shapes[0] if shapes else None


def expected(premise: Premise, text: str) -> str:
    """The label that a hypothesis should have."""
    cell, colour, shape = parsed(text)
    curtain = premise.curtain
    hidden = {
        (row, column)
        for row in range(3)
        for column in range(3)
        if curtain and (column if curtain.upright else row) == curtain.index
    }
    candidates = [thing for thing in premise.scene.objects if cell in (None, (thing.row, thing.column))]
    if any(colour in (None, thing.colour) and shape in (None, thing.shape) for thing in candidates):
        return "entailment"
    return "neutral" if (hidden if cell is None else cell in hidden) else "contradiction"


def test_labels_are_right(dataset: Dataset) -> None:
    assert dataset.classes == LABELS
    for split, count in (("train", 300), ("validation", 60), ("test", 60)):
        for row, (premise, hypotheses) in zip(dataset.rows(split), draw_premises(split, count, seed=7), strict=True):
            example = dataset.examples[row]
            assert example.texts == tuple(assertion.text for assertion in hypotheses)
            assert example.labels == tuple(expected(premise, text) for text in example.texts)
            for assertion in hypotheses:
                assert parsed(assertion.text) == (assertion.cell, assertion.colour, assertion.shape)


def greys(picture: np.ndarray) -> set[tuple[int, int]]:
    """Cells of a picture of 48 pixels that are all curtain."""
    result = set()
    for row in range(3):
        for column in range(3):
            cell = picture[row * 16 : row * 16 + 16, column * 16 : column * 16 + 16].astype(int)
            if ((np.ptp(cell, axis=2) == 0) & (cell[..., 0] > 100) & (cell[..., 0] < 200)).all():
                result.add((row, column))
    return result


def test_labels_are_right_of_the_pixels(dataset: Dataset) -> None:
    checked = Counter[str]()
    for picture, example in zip(dataset.images(48), dataset.examples, strict=True):
        grey = greys(picture)
        assert len(grey) in (0, 3)
        colours = {(row, column): seen_in(picture, row, column) for row in range(3) for column in range(3)}
        for text, label in zip(example.texts, example.labels, strict=True):
            cell, colour, _ = parsed(text)
            assert (label == "neutral") <= bool(grey)
            assert (label == "contradiction") <= (not grey)
            if cell is not None:
                assert (label == "neutral") == (cell in grey)
            if colour and label == "entailment":
                assert colour in (colours.values() if cell is None else [colours[cell]])
                checked[label] += 1
    assert checked["entailment"] > 600


def test_a_curtain_hides_a_third_of_every_other_picture_and_three_to_five_objects_are_seen(many: Drawn) -> None:
    for premise, _ in many:
        hidden = [(row, column) for row in range(3) for column in range(3) if premise.hides(row, column)]
        assert len(hidden) == (3 if premise.curtain else 0)
        assert 3 <= len(premise.scene.objects) <= 5
        assert not {(thing.row, thing.column) for thing in premise.scene.objects} & set(hidden)
    assert {premise.curtain for premise, _ in many} == {
        None,
        *(Curtain(upright, index) for upright in (True, False) for index in range(3)),
    }
    assert np.mean([premise.curtain is None for premise, _ in many]) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("hypotheses", [2, 4, 6])
def test_a_picture_alone_predicts_half(hypotheses: int) -> None:
    orders = set()
    for premise, assertions in draw_premises("train", 100, hypotheses=hypotheses):
        other = "neutral" if premise.curtain else "contradiction"
        assert Counter(assertion.label for assertion in assertions) == {
            "entailment": hypotheses // 2,
            other: hypotheses // 2,
        }
        open_or_denied = [
            (assertion.cell, assertion.colour, assertion.shape) for assertion in assertions if assertion.label == other
        ]
        assert len(set(open_or_denied)) == len(open_or_denied)
        orders.add(tuple(assertion.label for assertion in assertions))
    assert len(orders) >= 4


def turn(text: str) -> str:
    """The phrase without what it is about."""
    _, colour, shape = parsed(text)
    text = " ".join(SAME.get(word, word) for word in text.split())
    for word in (colour, shape):
        text = text.replace(word, "_") if word else text
    return re.sub(r"\b(at the|on the|in the|top|bottom|left|right|centre|an?)\b", "", text).strip()


@pytest.mark.parametrize("aspect", ["cell", "colour", "shape", "turn"])
def test_attributes_do_not_depend_on_the_label(many: Drawn, aspect: str) -> None:
    counts: dict[str, Counter[object]] = {label: Counter() for label in LABELS}
    for _, assertions in many:
        for assertion in assertions:
            cell, colour, shape = parsed(assertion.text)
            cell = cell or "anywhere"  # type: ignore[assignment]
            counts[assertion.label][
                {"cell": cell, "colour": colour, "shape": shape, "turn": turn(assertion.text)}[aspect]
            ] += 1
    kinds = sorted(set().union(*counts.values()), key=str)
    assert 6 < len(kinds) < 80
    table = np.array([[counts[label][kind] for kind in kinds] for label in LABELS])
    assert chi2_contingency(table[:, table.sum(0) > 20]).pvalue > 1e-3


def test_text_alone_is_at_chance_and_with_the_picture_is_not(many: Drawn) -> None:
    test = draw_premises("test", 400, seed=5)

    def accuracy(curtain_known: bool) -> float:
        def lines(drawn: Drawn) -> tuple[list[str], list[str]]:
            assertions = [(premise, assertion) for premise, all_of in drawn for assertion in all_of]
            texts = [
                assertion.text + (" open" if premise.curtain is None else " hidden") * curtain_known
                for premise, assertion in assertions
            ]
            return texts, [assertion.label for _, assertion in assertions]

        texts, labels = lines(many)
        bag = CountVectorizer(ngram_range=(1, 2)).fit(texts)
        model = LogisticRegression(max_iter=200).fit(bag.transform(texts), labels)
        texts, labels = lines(test)
        return float(model.score(bag.transform(texts), labels))

    assert accuracy(curtain_known=False) == pytest.approx(1 / 2, abs=0.035)  # the share of entailment
    assert accuracy(curtain_known=True) < 0.6


def test_what_is_not_seen_is_often_like_what_is(many: Drawn) -> None:
    ways = Counter[str]()
    for premise, assertions in many:
        for assertion in assertions:
            if assertion.label != "entailment" and assertion.colour and assertion.shape:
                ways["all"] += 1
                ways["colour"] += any(thing.fits(assertion.colour, None) for thing in premise.scene.objects)
                ways["shape"] += any(thing.fits(None, assertion.shape) for thing in premise.scene.objects)
    assert 0.4 * ways["all"] < ways["colour"] < 0.9 * ways["all"]
    assert 0.4 * ways["all"] < ways["shape"] < 0.9 * ways["all"]


def test_hypotheses_speak_of_look_colour_or_shape(many: Drawn) -> None:
    kinds = Counter(
        (assertion.colour is None, assertion.shape is None) for _, assertions in many for assertion in assertions
    )
    assert sum(kinds.values()) == 18000
    assert kinds[False, False] / 18000 == pytest.approx(0.6, abs=0.02)
    assert kinds[False, True] / 18000 == pytest.approx(0.2, abs=0.02)
    with_position = Counter(
        (assertion.label, assertion.cell is not None) for _, assertions in many for assertion in assertions
    )
    for label in LABELS:
        share = with_position[label, True] / (with_position[label, True] + with_position[label, False])
        assert share == pytest.approx(WITH_POSITION, abs=0.02)


def test_no_premise_occurs_twice_even_across_splits() -> None:
    drawn = {
        split: {(premise.scene.key, premise.curtain) for premise, _ in draw_premises(split, 800)} for split in SPLITS
    }
    assert all(len(keys) == 800 for keys in drawn.values())
    for one, other in combinations(SPLITS, 2):
        assert not drawn[one] & drawn[other]


def test_a_split_does_not_depend_on_any_count() -> None:
    small, large = premises(train=5, validation=3, test=4, size=24), premises(train=40, validation=20, test=4, size=24)
    for split in SPLITS:
        few, many = small.rows(split), large.rows(split)[: len(small.rows(split))]
        assert [small.examples[row] for row in few] == [large.examples[row] for row in many]
        np.testing.assert_array_equal(small.images(24)[few], large.images(24)[many])
    assert small.examples[2].id == "train-00002"


def test_same_seed_same_premises() -> None:
    one, same, other = (premises(train=20, validation=2, test=2, seed=seed) for seed in (3, 3, 4))
    assert one.hash == same.hash
    assert [example.texts for example in one.examples] != [example.texts for example in other.examples]


@pytest.mark.parametrize("size", [16, 33, 100])
def test_curtain_covers_its_cells_at_any_size(size: int) -> None:
    things = (SceneObject("red", "square", 0, 0, (1.0, 1.0)), SceneObject("blue", "square", 2, 2, (-1.0, -1.0)))
    plain, upright, lying = paint_premises(
        [Premise(Scene(things)), *(Premise(Scene(things), Curtain(upright, 1)) for upright in (True, False))], size
    )
    edges = (round(size / 3), round(2 * size / 3))
    for picture in (upright, lying.swapaxes(0, 1)):
        assert (picture[:, edges[0] : edges[1]] < 200).all()
        assert len(np.unique(picture[:, edges[0] : edges[1]])) == 2
    np.testing.assert_array_equal(upright[:, : edges[0]], plain[:, : edges[0]])
    np.testing.assert_array_equal(lying[edges[1] :], plain[edges[1] :])


def test_four_thousand_premises_take_seconds() -> None:
    start = time.process_time()
    assert len(premises(train=4000, validation=0, test=0)) == 4000
    assert time.process_time() - start < 20  # about one second; a slow and busy machine may take longer


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": 0}, "premises expects 'train' to be an integer of at least 1, got 0"),
        ({"validation": -1}, "premises expects 'validation' to be an integer of at least 0, got -1"),
        ({"size": 8}, "premises expects 'size' to be an integer of at least 16, got 8"),
        ({"seed": 0.5}, "premises expects 'seed' to be an integer of at least 0, got 0.5"),
        ({"hypotheses": 0}, "premises expects 'hypotheses' to be an integer of at least 2, got 0"),
        ({"hypotheses": 3}, "premises expects 'hypotheses' to be 2, 4 or 6, so that half are entailed, got 3"),
        ({"hypotheses": 8}, "premises expects 'hypotheses' to be 2, 4 or 6, so that half are entailed, got 8"),
    ],
)
def test_bad_option(options: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        premises(**options)
