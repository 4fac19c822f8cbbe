"""Generated statements about one, two or three scenes at once, each true or false.

Examples are drawn in couples. A statement is chosen because it is true of one example of the couple and false of the
other, and both examples get it, half of them true of each: neither the words nor the pictures alone tell anything
about a label. NLVR2 was collected in this way. What a statement asks for is often to be seen in the wrong picture. No
scene occurs twice, within a split or across splits.
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
    a,
    check_counts,
    generator,
    least_counts,
    noun,
    one_of,
    paint,
    scatter,
    some,
    split_of,
    weighted,
)
from multidelete.utils.errors import InputError

#: What statements claim, and how often. "X" is a look, a colour or a shape, see ``ABOUT``. The claims in ``ACROSS``
#: need several pictures; with one picture the others share their part.
MIX = {
    "has": 0.58,  # the left picture has X
    "lacks": 0.03,  # the left picture has no X
    "all": 0.20,  # both pictures have X
    "none": 0.04,  # neither picture has X
    "one": 0.07,  # exactly one picture has X
    "count": 0.04,  # there are two X in the left picture; also of all its objects
    "total": 0.01,  # there are two X in all; also of all objects
    "more": 0.02,  # the left picture has more X than the right one; also of all objects
    "rival": 0.01,  # the left picture has more X than Y
}
ACROSS = ("all", "none", "one", "total", "more")

#: How often a statement about what is there speaks of colour and shape, of a colour, and of a shape.
ABOUT = {"look": 0.35, "colour": 0.35, "shape": 0.3}
#: How often a count does; a look is never twice in a scene.
COUNTED = {"any": 0.4, "colour": 0.3, "shape": 0.3}

_NAMES = {1: ("the {}",), 2: ("the left {}", "the right {}"), 3: ("the first {}", "the second {}", "the third {}")}
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_MOST = 8  # more statements than this could not always be found
_THINGS = (2, 3)  # objects of a scene, least and most
_PALETTE = (8, 6)  # colours and shapes that the scenes of a couple are drawn from
_TRIES = 30  # with words for one kind of claim, before another kind is tried

What = tuple[str | None, str | None]  # colour and shape; None is any


@dataclass(frozen=True, slots=True)
class Assertion:
    """What a statement says of the pictures.

    Args:
        kind: A key of ``MIX``.
        what: Colour and shape of what it speaks of; ``None`` is any.
        picture: The picture that it speaks of, where it speaks of one.
        other: The picture that this one is compared with.
        number: How many there are, in a claim that counts.
        rival: Colour and shape of what there is less of in the same picture.
    """

    kind: str
    what: What
    picture: int = 0
    other: int = 0
    number: int = 0
    rival: What = (None, None)

    def holds(self, pictured: Sequence[Scene]) -> bool:
        """Whether it is true of these scenes. Numbers are exact: "two rings" are not three."""
        counts = [_count(scene, self.what) for scene in pictured]
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
        return counts[self.picture] > _count(pictured[self.picture], self.rival)


@dataclass(frozen=True, slots=True)
class Told:
    """Scenes side by side and what is said of them.

    Args:
        pictured: The scenes, from left to right.
        claims: What each statement says.
        texts: The statements in words.
        labels: "true" or "false", for each statement.
    """

    pictured: tuple[Scene, ...]
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
    """A dataset of generated scenes side by side, with statements about them that are true or false.

    Each split has its own generator: it is the same whatever the size of the others, and its first examples are the
    same whatever its own size. The last example of a split of odd size lacks the other of its couple.

    Args:
        train: Number of examples to train on.
        validation: Number of examples to select on.
        test: Number of examples to test on.
        size: Side of a picture in pixels; the layout scales with it.
        pictures: Number of pictures in an example, 1 to 3.
        statements: Number of statements about each example, half of them true; an even number up to 8.
        seed: Another seed draws other scenes.
    """
    counts = {"train": train, "validation": validation, "test": test}
    check_counts("statements", [*least_counts(counts), ("size", size, SMALLEST), ("seed", seed, 0)])
    _check_numbers(pictures, statements)
    examples = []
    pictured: list[Scene] = []
    for split, count in counts.items():
        for number, told in enumerate(draw_statements(split, count, seed, pictures, statements)):
            examples.append(Example(f"{split}-{number:05d}", split, told.texts, labels=told.labels))
            pictured.extend(told.pictured)
    pixels = paint(pictured, size).reshape(len(examples), pictures, size, size, 3)
    return Dataset("statements", examples, pixels=pixels)


def draw_statements(split: str, count: int, seed: int = 0, pictures: int = 2, statements: int = 4) -> list[Told]:
    """The first examples of a split: those of a couple follow each other.

    Args:
        split: One of ``SPLITS``.
        count: How many.
        seed: Of the generator; each split has its own.
        pictures: How many each example has.
        statements: How many each example has.
    """
    _check_numbers(pictures, statements)
    rng = generator(split, seed)
    drawn: list[Told] = []
    seen: set[object] = set()
    while len(drawn) < count:
        looks = _draw_palette(rng)
        couple = [tuple(_draw_scene(split, looks, seen, rng) for _ in range(pictures)) for _ in range(2)]
        drawn.extend(_tell_apart(couple, looks, statements, rng))
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
    some_colours = [colours[index] for index in rng.permutation(len(colours))[: _PALETTE[0]]]
    some_shapes = [SHAPES[index] for index in rng.permutation(len(SHAPES))[: _PALETTE[1]]]
    return list(product(some_colours, some_shapes))


def _draw_scene(split: str, looks: Sequence[tuple[str, str]], seen: set[object], rng: np.random.Generator) -> Scene:
    while True:
        things = int(rng.integers(_THINGS[0], _THINGS[1] + 1))
        scene = scatter(rng.permutation(9)[:things].tolist(), rng, looks)
        if split_of(scene.key) == split and scene.key not in seen:
            seen.add(scene.key)
            return scene


def _tell_apart(
    couple: Sequence[tuple[Scene, ...]], looks: Sequence[tuple[str, str]], count: int, rng: np.random.Generator
) -> list[Told]:
    """Both examples with claims of which half are true of the one and half of the other.

    Nothing comes back where too few claims are found, as with two scenes that hold the same objects elsewhere.
    """
    kinds = {kind: weight for kind, weight in MIX.items() if len(couple[0]) > 1 or kind not in ACROSS}
    true_of = [int(index) % 2 for index in rng.permutation(count)]
    assertions: list[Assertion] = []
    for which in true_of:
        for _ in range(len(MIX) * 3):
            assertion = _find_assertion(weighted(kinds, rng), couple[which], couple[1 - which], looks, rng)
            if assertion is not None and assertion not in assertions:
                assertions.append(assertion)
                break
        else:
            return []
    texts = tuple(_tell(assertion, len(couple[0]), rng) for assertion in assertions)
    return [
        Told(pictured, tuple(assertions), texts, tuple("true" if which == example else "false" for which in true_of))
        for example, pictured in enumerate(couple)
    ]


def _find_assertion(
    kind: str,
    true_of: tuple[Scene, ...],
    false_of: tuple[Scene, ...],
    looks: Sequence[tuple[str, str]],
    rng: np.random.Generator,
) -> Assertion | None:
    """A claim of this kind that is true of these scenes and false of those, if one is found."""
    counts = kind in ("count", "total", "more")
    for _ in range(_TRIES):
        about = weighted(COUNTED if counts else ABOUT, rng)
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
        # "There are no rings" is what another kind of claim says.
        empty = kind in ("count", "total") and assertion.number == 0
        if not empty and assertion.holds(true_of) and not assertion.holds(false_of):
            return assertion
    return None


def _part(looks: Sequence[tuple[str, str]], about: str, rng: np.random.Generator) -> What:
    colour, shape = looks[int(rng.integers(len(looks)))]
    return colour if about in ("look", "colour") else None, shape if about in ("look", "shape") else None


def _count(scene: Scene, what: What) -> int:
    return sum(thing.fits(*what) for thing in scene.things)


def _tell(assertion: Assertion, pictures: int, rng: np.random.Generator) -> str:
    name = _NAMES[pictures][assertion.picture]
    picture = name.format("picture")
    both = pictures == 2
    match assertion.kind:
        case "has":
            what = some(*assertion.what, rng)
            turns = [f"{picture} has {what}", f"there is {what} in {picture}", f"{what} is in {picture}"]
        case "lacks":
            what = noun(*assertion.what, rng)
            turns = [f"{picture} has no {what}", f"there is no {what} in {picture}"]
        case "all":
            what = some(*assertion.what, rng)
            every = "both pictures" if both else "all pictures"
            turns = [f"{every} have {what}", f"each picture has {what}", f"there is {what} in {every}"]
        case "none":
            what = noun(*assertion.what, rng)
            nowhere = f"neither picture has {a(what)}" if both else f"none of the pictures has {a(what)}"
            turns = [
                nowhere,
                f"no picture has {a(what)}",
                f"there is no {what} in {'either' if both else 'any'} picture",
            ]
        case "one":
            what = some(*assertion.what, rng)
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
