"""Scenes: an independent parser of the captions is compared with the pixels."""

from __future__ import annotations

import re
import time
from itertools import combinations

import numpy as np
import pytest

from multidelete.data.dataset import Dataset
from multidelete.data.examples import SPLITS
from multidelete.data.synthetic.scenes import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    Scene,
    SceneObject,
    describe,
    draw,
    paint,
    scenes,
)
from multidelete.utils.errors import InputError

SAME = {
    "violet": "purple",
    "disc": "circle",
    "box": "square",
    "plus": "cross",
    "rhombus": "diamond",
    "hoop": "ring",
}
ROWS = {"top": 0, "bottom": 2}
COLUMNS = {"left": 0, "right": 2}
LOOK = re.compile(r"(red|orange|yellow|green|cyan|blue|purple|violet|black) (\w+)")

Look = tuple[str, str]


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return scenes(train=300, validation=60, test=60, seed=7)


def looks_in(caption: str) -> list[tuple[Look, int, int]]:
    """Colour and shape of each object named, with where its words begin and end."""
    result = []
    for match in LOOK.finditer(caption):
        colour, shape = (SAME.get(word, word) for word in match.groups())
        assert shape in SHAPES
        result.append(((colour, shape), match.start(), match.end()))
    return result


def cell_of(words: str) -> tuple[int, int]:
    """The cell of a phrase like 'at the top', 'bottom left' or 'in the centre'."""
    row = [ROWS[word] for word in words.split() if word in ROWS] or [1]
    column = [COLUMNS[word] for word in words.split() if word in COLUMNS] or [1]
    assert len(row) == len(column) == 1
    assert row + column != [1, 1] or "centre" in words
    return row[0], column[0]


def positions_in(caption: str) -> dict[Look, tuple[int, int]]:
    """Cells of the objects of a caption with absolute positions."""
    clauses = re.split(r", | and ", caption)
    result = {}
    for clause in clauses:
        [(look, start, end)] = looks_in(clause)
        result[look] = cell_of(clause[:start] + clause[end:])
    return result


def seen_in(picture: np.ndarray, row: int, column: int) -> str | None:
    """The colour that a cell of a picture holds; nothing where it is all background."""
    edges = np.linspace(0, len(picture), 4).round().astype(int)
    cell = picture[edges[row] : edges[row + 1], edges[column] : edges[column + 1]].reshape(-1, 3).astype(int)
    counts = {name: int((cell == rgb).all(1).sum()) for name, rgb in COLOURS.items()}
    best = max(counts, key=lambda name: counts[name])
    return best if counts[best] > 0 else None


def test_positions_are_true_of_the_pixels(dataset: Dataset) -> None:
    pictures = dataset.images(48)
    for picture, example in zip(pictures, dataset.examples, strict=True):
        for caption in example.texts[:2]:
            colours = {cell: colour for (colour, _), cell in positions_in(caption).items()}
            for row in range(3):
                for column in range(3):
                    assert seen_in(picture, row, column) == colours.get((row, column)), (example.id, caption)


def test_captions_name_every_object_once_with_its_position(dataset: Dataset) -> None:
    for split, count in (("train", 300), ("validation", 60), ("test", 60)):
        rows = dataset.rows(split)
        for row, (scene, captions) in zip(rows, draw(split, count, seed=7), strict=True):
            example = dataset.examples[row]
            assert example.texts == captions
            assert len(set(captions)) == 3
            truth = {(thing.colour, thing.shape): (thing.row, thing.column) for thing in scene.objects}
            assert len(truth) == len(scene.objects) in (2, 3, 4)
            for caption in captions:
                assert {look for look, _, _ in looks_in(caption)} == set(truth)
                assert len(caption.split()) <= 28
            assert positions_in(captions[0]) == truth
            assert positions_in(captions[1]) == truth


def test_relations_are_true(dataset: Dataset) -> None:
    checked = 0
    for example in dataset.examples:
        cells = positions_in(example.texts[0])
        looks = looks_in(example.texts[2])
        for (one, _, end), (other, start, _) in zip(looks[::2], looks[1::2], strict=True):
            words = example.texts[2][end:start].split()
            down, right = np.subtract(cells[other], cells[one])
            properties = {
                "above": down > 0, "over": down > 0, "below": down < 0, "under": down < 0,
                "left": right > 0, "right": right < 0,
            }  # fmt: skip
            result = [word for word in words if word in properties]
            assert result, example.texts[2]
            assert all(properties[word] for word in result), (example.id, example.texts[2])
            # A diagonal relation has two directions.
            assert len(result) == np.count_nonzero((down, right))
            checked += 1
    assert checked > 500


def test_shapes_look_like_themselves() -> None:
    def share(shape: str) -> np.ndarray:
        [picture] = paint([Scene((SceneObject("black", shape, 1, 1),))], 600)
        return (picture == COLOURS["black"]).all(-1)[200:400, 200:400]

    area = {shape: float(share(shape).mean()) / 0.8**2 for shape in SHAPES}
    assert area["circle"] == pytest.approx(np.pi / 4, abs=0.03)
    assert area["square"] == pytest.approx(0.86**2, abs=0.03)
    assert area["triangle"] == pytest.approx(0.5, abs=0.03)
    assert area["diamond"] == pytest.approx(0.5, abs=0.03)
    assert area["ring"] == pytest.approx(np.pi / 4 * (1 - 0.55**2), abs=0.03)
    assert not share("ring")[100, 100]
    assert share("cross")[100, 30]
    assert not share("cross")[40, 40]
    assert share("triangle")[165].sum() > 2 * share("triangle")[60].sum()
    for one, other in combinations(SHAPES, 2):
        assert (share(one) != share(other)).mean() > 0.08


def test_no_scene_occurs_twice_even_across_splits_and_seeds() -> None:
    def keys(split: str, seed: int) -> list[frozenset[tuple[object, ...]]]:
        return [
            frozenset((thing.colour, thing.shape, thing.row, thing.column) for thing in scene.objects)
            for scene, _ in draw(split, 1500, seed)
        ]

    drawn = {(split, seed): keys(split, seed) for split in SPLITS for seed in (0, 1)}
    for scene_keys in drawn.values():
        assert len(set(scene_keys)) == 1500
    for one, other in combinations(SPLITS, 2):
        for seed in (0, 1):
            assert not set(drawn[one, 0]) & set(drawn[other, seed])


def test_a_split_does_not_depend_on_any_count() -> None:
    small, large = scenes(train=5, validation=3, test=4, size=24), scenes(train=40, validation=20, test=4, size=24)
    for split in SPLITS:
        few, many = small.rows(split), large.rows(split)[: len(small.rows(split))]
        assert [small.examples[row] for row in few] == [large.examples[row] for row in many]
        np.testing.assert_array_equal(small.images(24)[few], large.images(24)[many])
    assert small.examples[2].id == "train-00002"


def test_same_seed_same_scenes() -> None:
    one, same, other = (scenes(train=20, validation=2, test=2, seed=seed) for seed in (3, 3, 4))
    assert one.hash == same.hash
    assert not set(one.texts) & set(other.texts)


@pytest.mark.parametrize("size", [32, 33, 64, 224])
def test_layout_scales(size: int) -> None:
    dataset = scenes(train=30, validation=0, test=0, size=size)
    assert dataset.images(size).shape == (30, size, size, 3)
    for picture, example in zip(dataset.images(size), dataset.examples, strict=True):
        for (colour, _), (row, column) in positions_in(example.texts[0]).items():
            assert seen_in(picture, row, column) == colour


def test_objects_stay_in_their_cells() -> None:
    for shift in ((-1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)):
        for size in (16, 48, 100):
            [picture] = paint([Scene((SceneObject("red", "square", 1, 1, shift),))], size)
            touched = np.argwhere((picture != BACKGROUNDS[0]).any(-1))
            assert touched.min() >= np.floor(size / 3)
            assert touched.max() < np.ceil(size * 2 / 3)


def test_vocabulary_is_small_and_lower_case(dataset: Dataset) -> None:
    text = " ".join(dataset.texts)
    assert text == text.lower()
    assert 40 <= len(set(re.findall(r"\w+", text))) <= 120


def test_describe_is_random_only_through_its_generator() -> None:
    scene = Scene((SceneObject("red", "circle", 0, 0), SceneObject("blue", "ring", 2, 2)))
    captions = [describe(scene, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert captions[0] == captions[1] != captions[2]


def test_four_thousand_scenes_take_seconds() -> None:
    start = time.process_time()
    assert len(scenes(train=4000, validation=0, test=0)) == 4000
    assert time.process_time() - start < 20  # about one second; a slow and busy machine may take longer


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": 0}, "scenes expects 'train' to be an integer of at least 1, got 0"),
        ({"test": -1}, "scenes expects 'test' to be an integer of at least 0, got -1"),
        ({"size": 8}, "scenes expects 'size' to be an integer of at least 16, got 8"),
        ({"seed": -1}, "scenes expects 'seed' to be an integer of at least 0, got -1"),
        ({"validation": 2.0}, "scenes expects 'validation' to be an integer of at least 0, got 2.0"),
    ],
)
def test_bad_option(options: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        scenes(**options)
