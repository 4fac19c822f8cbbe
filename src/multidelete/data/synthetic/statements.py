"""Generated statements about one, two or three scenes at once, each true or false.

Examples are drawn in pairs, as NLVR2 was collected. Each statement is true of one example of the pair and false of the
other; both examples get it, and half of the statements of each are true. So neither the text nor the pictures alone
predict a label. The object of a statement is often visible in the wrong picture. No scene occurs twice, within a split
or across splits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from multidelete.data.dataset import Dataset
from multidelete.data.examples import Example
from multidelete.data.synthetic.scenes import (
    COLOURS,
    SHAPES,
    SMALLEST,
    Scene,
    check_counts,
    generator,
    noun,
    object_phrase,
    one_of,
    paint,
    scatter,
    split_minimums,
    split_of,
    weighted_choice,
    with_article,
)
from multidelete.utils.errors import InputError

#: Kinds of statements and their frequency. "X" is a look, a colour or a shape, see ``ABOUT``. The kinds in ``ACROSS``
#: need several pictures; with one picture the others are drawn in proportion.
MIX = {
    "has": 0.58,  # the left picture has X
    "lacks": 0.03,  # the left picture has no X
    "all": 0.20,  # both pictures have X
    "none": 0.04,  # neither picture has X
    "one": 0.07,  # exactly one picture has X
    "count": 0.04,  # there are two X in the left picture; or of all its objects
    "total": 0.01,  # there are two X in all; or of all objects
    "more": 0.02,  # the left picture has more X than the right one; or of all objects
    "rival": 0.01,  # the left picture has more X than Y
}
ACROSS = ("all", "none", "one", "total", "more")

#: Frequency of statements that mention colour and shape ("look"), colour only and shape only.
ABOUT = {"look": 0.35, "colour": 0.35, "shape": 0.3}
#: The same for statements that count; a look never occurs twice in a scene.
COUNTED = {"any": 0.4, "colour": 0.3, "shape": 0.3}

_NAMES = {1: ("the {}",), 2: ("the left {}", "the right {}"), 3: ("the first {}", "the second {}", "the third {}")}
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_MOST = 8  # there may be no more different statements
_OBJECTS = (2, 3)  # objects of a scene, minimum and maximum
_PALETTE = (8, 6)  # numbers of colours and shapes in a pair of examples
_TRIES = 30  # for one kind of statement, before another kind is drawn

PartialLook = tuple[str | None, str | None]  # colour and shape; None is any


@dataclass(frozen=True, slots=True)
class Assertion:
    """The meaning of a statement.

    Args:
        kind: A key of ``MIX``.
        what: Colour and shape of its objects; ``None`` is any.
        picture: Index of its picture, for a statement about one picture.
        other: Index of the picture to compare with.
        number: Number of objects, for a statement that counts.
        rival: Colour and shape of the less frequent objects in the same picture.
    """

    kind: str
    what: PartialLook
    picture: int = 0
    other: int = 0
    number: int = 0
    rival: PartialLook = (None, None)

    def holds(self, scenes: Sequence[Scene]) -> bool:
        """Whether it is true of these scenes; numbers are exact ("two rings" means exactly two)."""
        counts = [_count(scene, self.what) for scene in scenes]
        match self.kind:
            case "has":
                return counts[self.picture] > 0
            case "lacks":
                return counts[self.picture] == 0
            case "all":
                return min(counts) > 0
            case "none":
                return max(counts) == 0
            case "one":
                return sum(count > 0 for count in counts) == 1
            case "count":
                return counts[self.picture] == self.number
            case "total":
                return sum(counts) == self.number
            case "more":
                return counts[self.picture] > counts[self.other]
        assert self.kind == "rival"
        return counts[self.picture] > _count(scenes[self.picture], self.rival)


@dataclass(frozen=True, slots=True)
class SceneStatements:
    """Scenes side by side with statements about them.

    Args:
        scenes: The scenes, from left to right.
        assertions: Meaning of each statement.
        texts: The statements as sentences.
        labels: "true" or "false" for each statement.
    """

    scenes: tuple[Scene, ...]
    assertions: tuple[Assertion, ...]
    texts: tuple[str, ...]
    labels: tuple[str, ...]


def statements(
    train: int = 4000,
    validation: int = 400,
    test: int = 400,
    size: int = 48,
    pictures: int = 2,
    statements: int = 4,
    seed: int = 0,
) -> Dataset:
    """A dataset of generated scenes side by side, with true and false statements about them.

    Each split has its own generator. It does not depend on the size of the other splits, and a smaller split is a
    prefix of a larger one. In a split of odd size, the last example is without its counterpart.

    Args:
        train: Number of training examples.
        validation: Number of validation examples.
        test: Number of test examples.
        size: Side of a picture in pixels.
        pictures: Number of pictures in an example, 1 to 3.
        statements: Number of statements about each example, half of them true; an even number up to 8.
        seed: Seed of the scenes.
    """
    counts = {"train": train, "validation": validation, "test": test}
    check_counts("statements", [*split_minimums(counts), ("size", size, SMALLEST), ("seed", seed, 0)])
    _check_numbers(pictures, statements)
    examples = []
    scenes: list[Scene] = []
    for split, count in counts.items():
        for number, drawn in enumerate(draw_statements(split, count, seed, pictures, statements)):
            examples.append(Example(f"{split}-{number:05d}", split, drawn.texts, labels=drawn.labels))
            scenes.extend(drawn.scenes)
    pixels = paint(scenes, size).reshape(len(examples), pictures, size, size, 3)
    return Dataset("statements", examples, pixels=pixels)


def draw_statements(
    split: str, count: int, seed: int = 0, pictures: int = 2, statements: int = 4
) -> list[SceneStatements]:
    """The first examples of a split; the two examples of a pair are neighbours.

    Args:
        split: One of ``SPLITS``.
        count: Number of examples.
        seed: Seed of the generators of all splits.
        pictures: Number of pictures in an example.
        statements: Number of statements about an example.
    """
    _check_numbers(pictures, statements)
    rng = generator(split, seed)
    drawn: list[SceneStatements] = []
    seen: set[object] = set()
    while len(drawn) < count:
        looks = _draw_palette(rng)
        pair = [tuple(_draw_scene(split, looks, seen, rng) for _ in range(pictures)) for _ in range(2)]
        drawn.extend(_contrasting_examples(pair, looks, statements, rng))
    return drawn[:count]


def _check_numbers(pictures: int, statements: int) -> None:
    check_counts("statements", [("pictures", pictures, 1), ("statements", statements, 2)])
    if pictures not in _NAMES:
        raise InputError(f"statements expects 'pictures' to be 1, 2 or 3, got {pictures}")
    if statements % 2 or statements > _MOST:
        raise InputError(
            f"statements expects 'statements' to be an even number up to {_MOST}, so that half are true, "
            f"got {statements}"
        )


def _draw_palette(rng: np.random.Generator) -> list[tuple[str, str]]:
    colours = tuple(COLOURS)
    palette = [colours[index] for index in rng.permutation(len(colours))[: _PALETTE[0]]]
    shapes = [SHAPES[index] for index in rng.permutation(len(SHAPES))[: _PALETTE[1]]]
    return list(product(palette, shapes))


def _draw_scene(split: str, looks: Sequence[tuple[str, str]], seen: set[object], rng: np.random.Generator) -> Scene:
    while True:
        objects = int(rng.integers(_OBJECTS[0], _OBJECTS[1] + 1))
        scene = scatter(rng.permutation(9)[:objects].tolist(), rng, looks)
        if split_of(scene.key) == split and scene.key not in seen:
            seen.add(scene.key)
            return scene


def _contrasting_examples(
    pair: Sequence[tuple[Scene, ...]], looks: Sequence[tuple[str, str]], count: int, rng: np.random.Generator
) -> list[SceneStatements]:
    """Both examples with the same statements; each is true of one example, half of them of the first.

    Empty if there are too few statements, as for scenes with the same objects in different cells.
    """
    kinds = {kind: weight for kind, weight in MIX.items() if len(pair[0]) > 1 or kind not in ACROSS}
    true_of = [int(index) % 2 for index in rng.permutation(count)]
    assertions: list[Assertion] = []
    for which in true_of:
        for _ in range(len(MIX) * 3):
            assertion = _draw_assertion(weighted_choice(kinds, rng), pair[which], pair[1 - which], looks, rng)
            if assertion is not None and assertion not in assertions:
                assertions.append(assertion)
                break
        else:
            return []
    texts = tuple(_phrase(assertion, len(pair[0]), rng) for assertion in assertions)
    return [
        SceneStatements(
            scenes, tuple(assertions), texts, tuple("true" if which == example else "false" for which in true_of)
        )
        for example, scenes in enumerate(pair)
    ]


def _draw_assertion(
    kind: str,
    true_of: tuple[Scene, ...],
    false_of: tuple[Scene, ...],
    looks: Sequence[tuple[str, str]],
    rng: np.random.Generator,
) -> Assertion | None:
    """A statement of this kind that is true of the first scenes and false of the others, or None after ``_TRIES``."""
    counts = kind in ("count", "total", "more")
    for _ in range(_TRIES):
        about = weighted_choice(COUNTED if counts else ABOUT, rng)
        what = _part(looks, about, rng)
        picture, other = int(rng.integers(len(true_of))), int(rng.integers(len(true_of)))
        if kind == "count":
            assertion = Assertion(kind, what, picture, number=_count(true_of[picture], what))
        elif kind == "total":
            assertion = Assertion(kind, what, number=sum(_count(scene, what) for scene in true_of))
        elif kind == "more":
            assertion = Assertion(kind, what, picture, other)
        elif kind == "rival":
            about = one_of(("colour", "shape"), rng)
            assertion = Assertion(kind, _part(looks, about, rng), picture, rival=_part(looks, about, rng))
        else:
            assertion = Assertion(kind, what, picture if kind in ("has", "lacks") else 0)
        # "There are no rings" belongs to another kind.
        empty = kind in ("count", "total") and assertion.number == 0
        if not empty and assertion.holds(true_of) and not assertion.holds(false_of):
            return assertion
    return None


def _part(looks: Sequence[tuple[str, str]], about: str, rng: np.random.Generator) -> PartialLook:
    colour, shape = looks[int(rng.integers(len(looks)))]
    return colour if about in ("look", "colour") else None, shape if about in ("look", "shape") else None


def _count(scene: Scene, what: PartialLook) -> int:
    return sum(item.fits(*what) for item in scene.objects)


def _phrase(assertion: Assertion, pictures: int, rng: np.random.Generator) -> str:
    name = _NAMES[pictures][assertion.picture]
    picture = name.format("picture")
    both = pictures == 2
    match assertion.kind:
        case "has":
            what = object_phrase(*assertion.what, rng)
            turns = [f"{picture} has {what}", f"there is {what} in {picture}", f"{what} is in {picture}"]
        case "lacks":
            what = noun(*assertion.what, rng)
            turns = [f"{picture} has no {what}", f"there is no {what} in {picture}"]
        case "all":
            what = object_phrase(*assertion.what, rng)
            every = "both pictures" if both else "all pictures"
            turns = [f"{every} have {what}", f"each picture has {what}", f"there is {what} in {every}"]
        case "none":
            what = noun(*assertion.what, rng)
            nowhere = (
                f"neither picture has {with_article(what)}"
                if both
                else f"none of the pictures has {with_article(what)}"
            )
            turns = [
                nowhere,
                f"no picture has {with_article(what)}",
                f"there is no {what} in {'either' if both else 'any'} picture",
            ]
        case "one":
            what = object_phrase(*assertion.what, rng)
            turns = [f"exactly one picture has {what}", f"only one picture has {what}"]
        case "count":
            many = _many(assertion, rng)
            turns = [f"{picture} has {many}", f"there {_are(assertion)} {many} in {picture}"]
        case "total":
            many = _many(assertion, rng)
            turns = [f"there {_are(assertion)} {many} in all", f"the pictures have {many} in all"]
        case "more":
            what, other = noun(*assertion.what, rng, plural=True), _NAMES[pictures][assertion.other]
            turns = [
                f"{picture} has more {what} than {other.format('one')}",
                f"{other.format('picture')} has fewer {what} than {name.format('one')}",
            ]
        case _:
            more, fewer = noun(*assertion.what, rng, plural=True), noun(*assertion.rival, rng, plural=True)
            turns = [f"{picture} has more {more} than {fewer}", f"there are fewer {fewer} than {more} in {picture}"]
    return one_of(turns, rng)


def _many(assertion: Assertion, rng: np.random.Generator) -> str:
    return f"{_NUMBERS[assertion.number]} {noun(*assertion.what, rng, plural=assertion.number > 1)}"


def _are(assertion: Assertion) -> str:
    return "is" if assertion.number == 1 else "are"
