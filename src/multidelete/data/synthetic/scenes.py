"""Generated scenes: coloured shapes on a grid with captions that are true of them, in any number and size.

A scene has two to four objects in different cells of a 3 x 3 grid. No scene occurs twice, within a split or
across splits: what is tested was never trained on.
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

SMALLEST = 16  # pixels: below it the shapes cannot be told apart

_DIAMETER = 0.8  # of a cell
_JITTER = 0.04  # of a cell, to either side: an object never leaves its cell

# The split that a scene may go to, by the remainder of its hash: half of all scenes are training data.
_SPLIT_OF_RESIDUE = ("train", "train", "validation", "test")


@dataclass(frozen=True, slots=True)
class Thing:
    """An object of a scene.

    Args:
        colour: A key of ``COLOURS``.
        shape: One of ``SHAPES``.
        row: Of its cell, 0 (top) to 2.
        column: Of its cell, 0 (left) to 2.
        shift: How far it lies off the middle of its cell, down and right, in [-1, 1] of the largest shift.
    """

    colour: str
    shape: str
    row: int
    column: int
    shift: tuple[float, float] = (0.0, 0.0)

    def fits(self, colour: str | None, shape: str | None) -> bool:
        """Whether it has this colour and this shape; ``None`` is any."""
        return colour in (None, self.colour) and shape in (None, self.shape)


@dataclass(frozen=True, slots=True)
class Scene:
    """What is to be seen; no two objects share a cell, or both colour and shape.

    Args:
        things: The objects, in the order of their cells.
        background: Index into ``BACKGROUNDS``.
    """

    things: tuple[Thing, ...]
    background: int = 0

    @property
    def key(self) -> tuple[tuple[str, str, int, int], ...]:
        """What makes two scenes the same: their objects, wherever in its cell each lies."""
        return tuple((thing.colour, thing.shape, thing.row, thing.column) for thing in self.things)


def scenes(train: int = 4000, validation: int = 400, test: int = 400, size: int = 48, seed: int = 0) -> Dataset:
    """A dataset of generated scenes with three captions each.

    Each split has its own generator: it is the same whatever the size of the others, and its first scenes are
    the same whatever its own size.

    Args:
        train: Number of scenes to train on.
        validation: Number of scenes to select on.
        test: Number of scenes to test on.
        size: Side of a picture in pixels; the layout scales with it.
        seed: Another seed draws other scenes.
    """
    counts = {"train": train, "validation": validation, "test": test}
    check_counts("scenes", [*least_counts(counts), ("size", size, SMALLEST), ("seed", seed, 0)])
    examples = []
    pictured = []
    for split, count in counts.items():
        for number, (scene, captions) in enumerate(draw(split, count, seed)):
            examples.append(Example(f"{split}-{number:05d}", split, captions))
            pictured.append(scene)
    return Dataset("scenes", examples, pixels=paint(pictured, size))


def draw(split: str, count: int, seed: int = 0) -> list[tuple[Scene, tuple[str, ...]]]:
    """The first scenes of a split with their captions.

    Args:
        split: One of ``SPLITS``.
        count: How many.
        seed: Of the generator; each split has its own.
    """
    rng = generator(split, seed)
    drawn: list[tuple[Scene, tuple[str, ...]]] = []
    seen: set[tuple[tuple[str, str, int, int], ...]] = set()
    while len(drawn) < count:
        things = int(rng.integers(2, 4))
        scene = scatter(rng.permutation(9)[:things].tolist(), rng)
        if split_of(scene.key) == split and scene.key not in seen:
            seen.add(scene.key)
            drawn.append((scene, describe(scene, rng)))
    return drawn


def describe(scene: Scene, rng: np.random.Generator) -> tuple[str, str, str]:
    """Three captions that name every object: two say where each one lies, one how they lie to each other.

    Args:
        scene: What the captions are true of.
        rng: Chooses order, words and turns of phrase.
    """
    first, second = rng.permutation(len(_PLACED))[:2]
    return _PLACED[first](scene, rng), _PLACED[second](scene, rng), _related(scene, rng)


def paint(pictured: Sequence[Scene], size: int) -> Pixels:
    """The scenes as pictures, ``(N, size, size, 3)``."""
    cell = size / 3
    diameter = round(_DIAMETER * cell)
    stamps = _stamps(diameter)
    pictures = np.empty((len(pictured), size, size, 3), dtype=np.uint8)
    for picture, scene in zip(pictures, pictured, strict=True):
        picture[:] = BACKGROUNDS[scene.background]
        for thing in scene.things:
            down, right = thing.shift
            top = round((thing.row + 0.5 + _JITTER * down) * cell - diameter / 2)
            left = round((thing.column + 0.5 + _JITTER * right) * cell - diameter / 2)
            stamp = stamps[thing.shape, thing.colour, scene.background]
            picture[top : top + diameter, left : left + diameter] = stamp
    return pictures


def check_counts(reader: str, options: Iterable[tuple[str, object, int]]) -> None:
    """Refuse an option of a generator that is no whole number, or too small.

    Args:
        reader: Whose options they are.
        options: Name, value and least value of each.
    """
    for name, value, least in options:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"{reader} expects {name!r} to be a whole number of at least {least}, got {value!r}")


def least_counts(counts: dict[str, int]) -> list[tuple[str, object, int]]:
    """The numbers of examples of the splits as ``check_counts`` expects them: something must be learned from."""
    return [(split, count, 1 if split == "train" else 0) for split, count in counts.items()]


def generator(split: str, seed: int) -> np.random.Generator:
    """The generator of a split, which shares nothing with those of the other splits."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(SPLITS.index(split),)))


def split_of(key: object) -> str:
    """The split that something generated may go to, which depends on nothing else.

    No split needs to know what the others have drawn.
    """
    return _SPLIT_OF_RESIDUE[zlib.crc32(repr(key).encode()) % len(_SPLIT_OF_RESIDUE)]


def scatter(cells: Sequence[int], rng: np.random.Generator, looks: Sequence[tuple[str, str]] = LOOKS) -> Scene:
    """A scene with one object in each of these cells.

    Args:
        cells: Numbers of the cells, row by row, 0 to 8.
        rng: Chooses looks, shifts and background.
        looks: Colours and shapes to choose from.
    """
    # Looks are drawn without replacement: "the red circle" means one object of the scene.
    chosen = [looks[look] for look in rng.choice(len(looks), size=len(cells), replace=False)]
    shifts = rng.uniform(-1, 1, size=(len(cells), 2)).tolist()
    things = tuple(
        Thing(colour, shape, cell // 3, cell % 3, (down, right))
        for cell, (colour, shape), (down, right) in zip(sorted(cells), chosen, shifts, strict=True)
    )
    return Scene(things, int(rng.integers(len(BACKGROUNDS))))


def _stamps(diameter: int) -> dict[tuple[str, str, int], Pixels]:
    """Every shape in every colour on every background, ``(diameter, diameter, 3)``, with smooth edges."""
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
    """One of these, each as likely."""
    return options[int(rng.integers(len(options)))]


def weighted(weights: Mapping[str, float], rng: np.random.Generator) -> str:
    """One of these keys, each as likely as its weight says."""
    left = rng.random() * sum(weights.values())
    for key, weight in weights.items():
        left -= weight
        if left < 0:
            return key
    return key


def word(name: str, rng: np.random.Generator) -> str:
    """A word for a colour or a shape."""
    return one_of(SYNONYMS.get(name, (name,)), rng)


def a(words: str) -> str:
    """The words with their indefinite article."""
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def noun(colour: str | None, shape: str | None, rng: np.random.Generator, *, plural: bool = False) -> str:
    """What has this colour and this shape, ``None`` being any: "red circle", "red object", "circles"."""
    what = word(shape, rng) if shape else one_of(("object", "thing"), rng)
    if plural:
        what = _PLURALS.get(what, f"{what}s")
    return f"{word(colour, rng)} {what}" if colour else what


def some(colour: str | None, shape: str | None, rng: np.random.Generator) -> str:
    """One such object: "a red circle", "something red", "a circle"."""
    if colour and not shape and rng.random() < 0.5:
        return f"something {word(colour, rng)}"
    return a(noun(colour, shape, rng))


def at(row: int, column: int) -> str:
    """Where a cell is, with its preposition."""
    place = POSITIONS[row][column]
    preposition = {
        "centre": "in the",
        "left": "on the",
        "right": "on the",
        "top": "at the",
        "bottom": "at the",
    }
    return f"{preposition[place]} {place}" if place in preposition else place


def _look(thing: Thing, rng: np.random.Generator) -> str:
    return f"{word(thing.colour, rng)} {word(thing.shape, rng)}"


def _place(thing: Thing) -> str:
    return POSITIONS[thing.row][thing.column]


def _at(thing: Thing) -> str:
    return at(thing.row, thing.column)


def _shuffled(scene: Scene, rng: np.random.Generator) -> list[Thing]:
    return [scene.things[index] for index in rng.permutation(len(scene.things))]


def _joined(parts: Sequence[str]) -> str:
    return ", ".join(parts[:-1]) + " and " + parts[-1]


def _thing_first(scene: Scene, rng: np.random.Generator) -> str:
    opening = one_of(("", "there is ", "we see "), rng)
    return opening + _joined([f"{a(_look(thing, rng))} {_at(thing)}" for thing in _shuffled(scene, rng)])


def _place_first(scene: Scene, rng: np.random.Generator) -> str:
    verb = one_of(("", "is ", "sits ") if len(scene.things) < 4 else ("",), rng)  # four make a long caption
    return _joined([f"{_at(thing)} {verb}{a(_look(thing, rng))}" for thing in _shuffled(scene, rng)])


def _listed(scene: Scene, rng: np.random.Generator) -> str:
    opening = one_of(("picture", "scene", "image"), rng)
    return f"{opening} with " + _joined([f"{_look(thing, rng)} at {_place(thing)}" for thing in _shuffled(scene, rng)])


def _related(scene: Scene, rng: np.random.Generator) -> str:
    things = _shuffled(scene, rng)
    looks = [_look(thing, rng) for thing in things]
    first = f"{a(looks[0])} {_relation(things[0], things[1], rng)} {a(looks[1])}"
    if len(things) == 2:
        return first
    if len(things) == 3:
        return f"{first} and {a(looks[2])} {_relation(things[2], things[0], rng)} the {looks[0]}"
    return f"{first} and {a(looks[2])} {_relation(things[2], things[3], rng)} {a(looks[3])}"


def _relation(one: Thing, other: Thing, rng: np.random.Generator) -> str:
    """How one object lies to another; both directions where it lies aslant."""
    words = []
    if one.row != other.row:
        words.append(one_of(("above", "over") if one.row < other.row else ("below", "under"), rng))
    if one.column != other.column:
        side = "left" if one.column < other.column else "right"
        words.append(f"{side} of" if words else one_of((f"to the {side} of", f"{side} of"), rng))
    return " and ".join(words)


_PLACED = (_thing_first, _place_first, _listed)
