"""Generated scenes: coloured shapes on a grid, with captions that describe them.

A scene has a few objects in different cells of a 3 x 3 grid. No scene occurs twice, within a split or across splits.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from multidelete.data.dataset import Dataset
from multidelete.data.examples import SPLITS, Example
from multidelete.data.images import Pixels
from multidelete.utils.errors import InputError

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 30, 40),
    "orange": (255, 135, 0),
    "yellow": (245, 215, 0),
    "green": (20, 145, 60),
    "cyan": (0, 190, 205),
    "blue": (35, 65, 215),
    "purple": (150, 45, 180),
    "black": (25, 25, 25),
}
SHAPES = ("circle", "square", "triangle", "cross", "diamond", "ring")
LOOKS = tuple(product(COLOURS, SHAPES))
BACKGROUNDS = ((250, 250, 250), (236, 236, 236), (232, 238, 246), (246, 238, 238))
POSITIONS = (
    ("top left", "top", "top right"),
    ("left", "centre", "right"),
    ("bottom left", "bottom", "bottom right"),
)
SYNONYMS = {
    "purple": ("purple", "violet"),
    "circle": ("circle", "disc"),
    "square": ("square", "box"),
    "cross": ("cross", "plus"),
    "diamond": ("diamond", "rhombus"),
    "ring": ("ring", "hoop"),
}

_PLURALS = {"box": "boxes", "cross": "crosses", "plus": "pluses", "rhombus": "rhombuses"}

SMALLEST = 16  # pixels: shapes cannot be distinguished in smaller pictures

_DIAMETER = 0.8  # of a cell
_JITTER = 0.04  # of a cell, in each direction; objects stay in their cells

# Split of a scene by the remainder of its hash: half of all scenes are training data.
_SPLIT_OF_RESIDUE = ("train", "train", "validation", "test")


@dataclass(frozen=True, slots=True)
class SceneObject:
    """An object of a scene.

    Args:
        colour: A key of ``COLOURS``.
        shape: One of ``SHAPES``.
        row: Row of its cell, 0 (top) to 2.
        column: Column of its cell, 0 (left) to 2.
        shift: Offset from the centre of its cell, down and right, in units of the largest shift, in [-1, 1].
    """

    colour: str
    shape: str
    row: int
    column: int
    shift: tuple[float, float] = (0.0, 0.0)

    def fits(self, colour: str | None, shape: str | None) -> bool:
        """Whether it has this colour and shape; ``None`` matches any."""
        return colour in (None, self.colour) and shape in (None, self.shape)


@dataclass(frozen=True, slots=True)
class Scene:
    """Objects on a background; no two share a cell, or both colour and shape.

    Args:
        objects: The objects, in the order of their cells.
        background: Index into ``BACKGROUNDS``.
    """

    objects: tuple[SceneObject, ...]
    background: int = 0

    @property
    def key(self) -> tuple[tuple[str, str, int, int], ...]:
        """Scenes with the same key are the same: objects and cells, without shifts and background."""
        return tuple((item.colour, item.shape, item.row, item.column) for item in self.objects)


def scenes(train: int = 4000, validation: int = 400, test: int = 400, size: int = 48, seed: int = 0) -> Dataset:
    """A dataset of generated scenes with three captions each.

    Each split has its own generator. It does not depend on the size of the other splits, and a smaller split is a
    prefix of a larger one.

    Args:
        train: Number of training scenes.
        validation: Number of validation scenes.
        test: Number of test scenes.
        size: Side of a picture in pixels.
        seed: Seed of the scenes.
    """
    counts = {"train": train, "validation": validation, "test": test}
    check_counts("scenes", [*split_minimums(counts), ("size", size, SMALLEST), ("seed", seed, 0)])
    examples = []
    drawn_scenes = []
    for split, count in counts.items():
        for number, (scene, captions) in enumerate(draw(split, count, seed)):
            examples.append(Example(f"{split}-{number:05d}", split, captions))
            drawn_scenes.append(scene)
    return Dataset("scenes", examples, pixels=paint(drawn_scenes, size))


def draw(split: str, count: int, seed: int = 0) -> list[tuple[Scene, tuple[str, ...]]]:
    """The first scenes of a split with their captions.

    Args:
        split: One of ``SPLITS``.
        count: Number of scenes.
        seed: Seed of the generators of all splits.
    """
    rng = generator(split, seed)
    drawn: list[tuple[Scene, tuple[str, ...]]] = []
    seen: set[tuple[tuple[str, str, int, int], ...]] = set()
    while len(drawn) < count:
        objects = int(rng.integers(2, 4))
        scene = scatter(rng.permutation(9)[:objects].tolist(), rng)
        if split_of(scene.key) == split and scene.key not in seen:
            seen.add(scene.key)
            drawn.append((scene, describe(scene, rng)))
    return drawn


def describe(scene: Scene, rng: np.random.Generator) -> tuple[str, str, str]:
    """Three captions that name every object: two with positions in the picture, one with relative positions.

    Args:
        scene: The scene to describe.
        rng: Generator for order, words and phrases.
    """
    first, second = rng.permutation(len(_CAPTIONS))[:2]
    return _CAPTIONS[first](scene, rng), _CAPTIONS[second](scene, rng), _related(scene, rng)


def paint(scenes: Sequence[Scene], size: int) -> Pixels:
    """The scenes as pictures, ``(N, size, size, 3)``."""
    cell = size / 3
    diameter = round(_DIAMETER * cell)
    stamps = _stamps(diameter)
    pictures = np.empty((len(scenes), size, size, 3), dtype=np.uint8)
    for picture, scene in zip(pictures, scenes, strict=True):
        picture[:] = BACKGROUNDS[scene.background]
        for item in scene.objects:
            down, right = item.shift
            top = round((item.row + 0.5 + _JITTER * down) * cell - diameter / 2)
            left = round((item.column + 0.5 + _JITTER * right) * cell - diameter / 2)
            stamp = stamps[item.shape, item.colour, scene.background]
            picture[top : top + diameter, left : left + diameter] = stamp
    return pictures


def check_counts(reader: str, options: Iterable[tuple[str, object, int]]) -> None:
    """Refuse options of a generator that are not integers, or too small.

    Args:
        reader: Name of the reader, for the message.
        options: Name, value and minimum of each option.
    """
    for name, value, minimum in options:
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise InputError(f"{reader} expects {name!r} to be an integer of at least {minimum}, got {value!r}")


def split_minimums(counts: dict[str, int]) -> list[tuple[str, object, int]]:
    """Options of :func:`check_counts` for the sizes of the splits; only the training split must not be empty."""
    return [(split, count, 1 if split == "train" else 0) for split, count in counts.items()]


def generator(split: str, seed: int) -> np.random.Generator:
    """The generator of a split, independent of those of the other splits."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(SPLITS.index(split),)))


def split_of(key: object) -> str:
    """The split of a generated object, by a hash of its key: no split can repeat an object of another."""
    return _SPLIT_OF_RESIDUE[zlib.crc32(repr(key).encode()) % len(_SPLIT_OF_RESIDUE)]


def scatter(cells: Sequence[int], rng: np.random.Generator, looks: Sequence[tuple[str, str]] = LOOKS) -> Scene:
    """A scene with one object in each of these cells.

    Args:
        cells: Indices of the cells, row by row, 0 to 8.
        rng: Generator for looks, shifts and background.
        looks: Pairs of colour and shape to choose from.
    """
    # Without replacement, so that "the red circle" is one object of the scene.
    chosen = [looks[look] for look in rng.choice(len(looks), size=len(cells), replace=False)]
    shifts = rng.uniform(-1, 1, size=(len(cells), 2)).tolist()
    objects = tuple(
        SceneObject(colour, shape, cell // 3, cell % 3, (down, right))
        for cell, (colour, shape), (down, right) in zip(sorted(cells), chosen, shifts, strict=True)
    )
    return Scene(objects, int(rng.integers(len(BACKGROUNDS))))


def _stamps(diameter: int) -> dict[tuple[str, str, int], Pixels]:
    """Anti-aliased picture of every shape, colour and background, ``(diameter, diameter, 3)``."""
    fine = 8  # sub-pixels per pixel and direction
    axis = (np.arange(diameter * fine) + 0.5) / (diameter * fine) * 2 - 1
    y, x = np.meshgrid(axis, axis, indexing="ij")
    radius = np.hypot(x, y)
    inside = {
        "circle": radius < 1,
        "square": np.maximum(abs(x), abs(y)) < 0.86,
        "triangle": abs(x) < (y + 0.95) / 1.9,
        "cross": np.minimum(abs(x), abs(y)) < 0.3,
        "diamond": abs(x) + abs(y) < 1,
        "ring": (radius < 1) & (radius > 0.55),
    }
    stamps = {}
    for shape in SHAPES:
        cover = inside[shape].reshape(diameter, fine, diameter, fine).mean((1, 3))[..., None]
        for colour, rgb in COLOURS.items():
            for index, background in enumerate(BACKGROUNDS):
                mixed = cover * np.array(rgb) + (1 - cover) * np.array(background)
                stamps[shape, colour, index] = mixed.round().astype(np.uint8)
    return stamps


def one_of(options: Sequence[str], rng: np.random.Generator) -> str:
    """One of the options, uniformly at random."""
    return options[int(rng.integers(len(options)))]


def weighted_choice(weights: Mapping[str, float], rng: np.random.Generator) -> str:
    """One of the keys, with probability proportional to its weight."""
    left = rng.random() * sum(weights.values())
    for key, weight in weights.items():
        left -= weight
        if left < 0:
            return key
    return key


def word(name: str, rng: np.random.Generator) -> str:
    """A synonym for a colour or shape."""
    return one_of(SYNONYMS.get(name, (name,)), rng)


def with_article(words: str) -> str:
    """The words with their indefinite article."""
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def noun(colour: str | None, shape: str | None, rng: np.random.Generator, *, plural: bool = False) -> str:
    """A noun for this colour and shape (``None`` is any): "red circle", "red object", "circles"."""
    what = word(shape, rng) if shape else one_of(("object", "thing"), rng)
    if plural:
        what = _PLURALS.get(what, f"{what}s")
    return f"{word(colour, rng)} {what}" if colour else what


def object_phrase(colour: str | None, shape: str | None, rng: np.random.Generator) -> str:
    """A noun phrase for one object of this colour and shape: "a red circle", "something red", "a circle"."""
    if colour and not shape and rng.random() < 0.5:
        return f"something {word(colour, rng)}"
    return with_article(noun(colour, shape, rng))


def position_phrase(row: int, column: int) -> str:
    """Position of a cell with its preposition: "at the top"."""
    position = POSITIONS[row][column]
    preposition = {
        "centre": "in the",
        "left": "on the",
        "right": "on the",
        "top": "at the",
        "bottom": "at the",
    }
    return f"{preposition[position]} {position}" if position in preposition else position


def _look(item: SceneObject, rng: np.random.Generator) -> str:
    return f"{word(item.colour, rng)} {word(item.shape, rng)}"


def _position(item: SceneObject) -> str:
    return POSITIONS[item.row][item.column]


def _positioned(item: SceneObject) -> str:
    return position_phrase(item.row, item.column)


def _shuffled(scene: Scene, rng: np.random.Generator) -> list[SceneObject]:
    return [scene.objects[index] for index in rng.permutation(len(scene.objects))]


def _joined(parts: Sequence[str]) -> str:
    return ", ".join(parts[:-1]) + " and " + parts[-1]


def _objects_first(scene: Scene, rng: np.random.Generator) -> str:
    opening = one_of(("", "there is ", "we see "), rng)
    return opening + _joined(
        [f"{with_article(_look(item, rng))} {_positioned(item)}" for item in _shuffled(scene, rng)]
    )


def _positions_first(scene: Scene, rng: np.random.Generator) -> str:
    verb = one_of(("", "is ", "sits ") if len(scene.objects) < 4 else ("",), rng)  # captions of four objects are long
    return _joined([f"{_positioned(item)} {verb}{with_article(_look(item, rng))}" for item in _shuffled(scene, rng)])


def _listed(scene: Scene, rng: np.random.Generator) -> str:
    opening = one_of(("picture", "scene", "image"), rng)
    return f"{opening} with " + _joined([f"{_look(item, rng)} at {_position(item)}" for item in _shuffled(scene, rng)])


def _related(scene: Scene, rng: np.random.Generator) -> str:
    objects = _shuffled(scene, rng)
    looks = [_look(item, rng) for item in objects]
    first = f"{with_article(looks[0])} {_relation(objects[0], objects[1], rng)} {with_article(looks[1])}"
    if len(objects) == 2:
        return first
    if len(objects) == 3:
        return f"{first} and {with_article(looks[2])} {_relation(objects[2], objects[0], rng)} the {looks[0]}"
    return f"{first} and {with_article(looks[2])} {_relation(objects[2], objects[3], rng)} {with_article(looks[3])}"


def _relation(one: SceneObject, other: SceneObject, rng: np.random.Generator) -> str:
    """Position of one object relative to another; two directions if both row and column differ."""
    words = []
    if one.row != other.row:
        words.append(one_of(("above", "over") if one.row < other.row else ("below", "under"), rng))
    if one.column != other.column:
        side = "left" if one.column < other.column else "right"
        words.append(f"{side} of" if words else one_of((f"to the {side} of", f"{side} of"), rng))
    return " and ".join(words)


_CAPTIONS = (_objects_first, _positions_first, _listed)
