"""Generated premises: scenes, half of them behind a curtain, with hypotheses that they entail, deny or leave open.

A curtain covers a column or a row of the 3 x 3 grid; three to five objects are to be seen beside it. Most hypotheses
say that there is an object, some (``PLACED``) also in which cell:

- *entailment*: it is seen (there);
- *contradiction*: the whole picture is seen and it is not in it; or its cell is seen and does not hold it;
- *neutral*: it is not seen, but a part of the picture, or its cell, lies behind the curtain.

Neither side tells the label alone. Half of every premise's hypotheses are entailed; of the others the curtain says
whether they are denied or open. And no step that leads to a hypothesis prefers one colour, shape or cell to another,
while the turn of phrase is drawn without regard to the label; so place, colour, shape and phrase have the same
distribution under all three.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from multidelete.data.dataset import Dataset
from multidelete.data.examples import Example
from multidelete.data.images import Pixels
from multidelete.data.synthetic.scenes import (
    LOOKS,
    SMALLEST,
    Scene,
    at,
    check_counts,
    generator,
    least_counts,
    one_of,
    paint,
    scatter,
    some,
    split_of,
    weighted,
)
from multidelete.utils.errors import InputError

LABELS = ("contradiction", "entailment", "neutral")

#: How much of what lies in its cell a hypothesis speaks of, and how often.
ABOUT = {"look": 0.6, "colour": 0.2, "shape": 0.2}
#: Share of the hypotheses that say where.
PLACED = 0.1

_HYPOTHESES = (2, 4, 6)  # half of them are entailed, each by an object of its own, and there may be no more than three
_CURTAIN = ((150, 150, 150), (164, 164, 164))  # its folds; no object and no background is grey


@dataclass(frozen=True, slots=True)
class Curtain:
    """What covers a part of the picture.

    Args:
        upright: Whether it covers a column; else it covers a row.
        index: Of the column or row, 0 to 2.
    """

    upright: bool
    index: int


@dataclass(frozen=True, slots=True)
class Premise:
    """What is to be seen, and what is not.

    Args:
        scene: The objects that are to be seen.
        curtain: What covers a part of the picture, if anything does.
    """

    scene: Scene
    curtain: Curtain | None = None

    def hides(self, row: int, column: int) -> bool:
        """Whether a cell lies behind the curtain."""
        return self.curtain is not None and (column if self.curtain.upright else row) == self.curtain.index


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """What is said to be in a picture.

    Args:
        cell: Row and column of the cell that it is said to lie in; ``None`` where nothing is said of it.
        colour: Of the object; ``None`` where nothing is said of it.
        shape: Of the object; ``None`` where nothing is said of it.
        label: One of ``LABELS``.
        text: The hypothesis in words.
    """

    cell: tuple[int, int] | None
    colour: str | None
    shape: str | None
    label: str
    text: str


def premises(
    train: int = 4000, validation: int = 400, test: int = 400, size: int = 48, hypotheses: int = 6, seed: int = 0
) -> Dataset:
    """A dataset of generated scenes, half of them behind a curtain, with hypotheses: entailed, neutral or contradicted.

    Each split has its own generator: it is the same whatever the size of the others, and its first scenes are
    the same whatever its own size.

    Args:
        train: Number of scenes to train on.
        validation: Number of scenes to select on.
        test: Number of scenes to test on.
        size: Side of a picture in pixels; the layout scales with it.
        hypotheses: Number of hypotheses of each scene, half of them entailed: 2, 4 or 6.
        seed: Another seed draws other scenes.
    """
    counts = {"train": train, "validation": validation, "test": test}
    check_counts("premises", [*least_counts(counts), ("size", size, SMALLEST), ("seed", seed, 0)])
    _check_hypotheses(hypotheses)
    examples = []
    pictured = []
    for split, count in counts.items():
        for number, (premise, assertions) in enumerate(draw_premises(split, count, seed, hypotheses)):
            texts = tuple(assertion.text for assertion in assertions)
            labels = tuple(assertion.label for assertion in assertions)
            examples.append(Example(f"{split}-{number:05d}", split, texts, labels=labels))
            pictured.append(premise)
    return Dataset("premises", examples, pixels=paint_premises(pictured, size))


def draw_premises(
    split: str, count: int, seed: int = 0, hypotheses: int = 6
) -> list[tuple[Premise, tuple[Hypothesis, ...]]]:
    """The first premises of a split with their hypotheses.

    Args:
        split: One of ``SPLITS``.
        count: How many.
        seed: Of the generator; each split has its own.
        hypotheses: How many each premise has.
    """
    _check_hypotheses(hypotheses)
    rng = generator(split, seed)
    drawn: list[tuple[Premise, tuple[Hypothesis, ...]]] = []
    seen = set()
    while len(drawn) < count:
        premise = _draw_premise(rng)
        key = (premise.scene.key, premise.curtain and (premise.curtain.upright, premise.curtain.index))
        if split_of(key) == split and key not in seen:
            seen.add(key)
            drawn.append((premise, _hypothesise(premise, hypotheses, rng)))
    return drawn


def paint_premises(pictured: list[Premise], size: int) -> Pixels:
    """The premises as pictures, ``(N, size, size, 3)``."""
    pictures = paint([premise.scene for premise in pictured], size)
    edges = [round(cell * size / 3) for cell in range(4)]
    folds = np.array(_CURTAIN, dtype=np.uint8)[np.arange(size) * 24 // size % 2]
    for picture, premise in zip(pictures, pictured, strict=True):
        if premise.curtain is None:
            continue
        # Folds run along the curtain: a column hangs, a row is drawn across.
        across = picture if premise.curtain.upright else picture.swapaxes(0, 1)
        start, end = edges[premise.curtain.index], edges[premise.curtain.index + 1]
        across[:, start:end] = folds[start:end]
    return pictures


def _check_hypotheses(hypotheses: int) -> None:
    check_counts("premises", [("hypotheses", hypotheses, _HYPOTHESES[0])])
    if hypotheses not in _HYPOTHESES:
        raise InputError(f"premises expects 'hypotheses' to be 2, 4 or 6, so that half are entailed, got {hypotheses}")


def _draw_premise(rng: np.random.Generator) -> Premise:
    curtain = Curtain(bool(rng.integers(2)), int(rng.integers(3))) if rng.random() < 0.5 else None
    empty = Premise(Scene(()), curtain)
    seen = [cell for cell in range(9) if not empty.hides(cell // 3, cell % 3)]
    things = int(rng.integers(3, 6))
    return Premise(scatter(rng.permutation(seen)[:things].tolist(), rng), curtain)


def _hypothesise(premise: Premise, count: int, rng: np.random.Generator) -> tuple[Hypothesis, ...]:
    """Hypotheses in any order, half of them entailed, each by another object."""
    things = premise.scene.things
    result: list[Hypothesis] = []
    for index in rng.permutation(len(things))[: count // 2]:
        thing = things[index]
        cell = (thing.row, thing.column) if rng.random() < PLACED else None
        result.append(_told(cell, (thing.colour, thing.shape), weighted(ABOUT, rng), "entailment", rng))
    other = "contradiction" if premise.curtain is None else "neutral"
    while len(result) < count:
        about = weighted(ABOUT, rng)
        if rng.random() < PLACED:
            cells = [(row, column) for row in range(3) for column in range(3)]
            candidates = [each for each in cells if premise.curtain is None or premise.hides(*each)]
            cell = candidates[int(rng.integers(len(candidates)))]
            told = _told(cell, _false_look(premise.scene, cell, about, rng), about, other, rng)
        else:
            told = _told(None, _false_look(premise.scene, None, about, rng), about, other, rng)
        if all((told.cell, told.colour, told.shape) != (each.cell, each.colour, each.shape) for each in result):
            result.append(told)
    return tuple(result[index] for index in rng.permutation(count))


def _false_look(scene: Scene, cell: tuple[int, int] | None, about: str, rng: np.random.Generator) -> tuple[str, str]:
    """A look that nothing in the picture, or in its cell, has, in as much of it as will be spoken of.

    Half of the time it is like that of an object in the picture, but for its colour or its shape.
    """
    there = [thing for thing in scene.things if cell is None or (thing.row, thing.column) == cell]
    while True:
        colour, shape = LOOKS[int(rng.integers(len(LOOKS)))]
        if rng.random() < 0.5:
            like = scene.things[int(rng.integers(len(scene.things)))]
            colour, shape = (like.colour, shape) if rng.random() < 0.5 else (colour, like.shape)
        if not any(thing.fits(*_said((colour, shape), about)) for thing in there):
            return colour, shape


def _said(look: tuple[str, str], about: str) -> tuple[str | None, str | None]:
    return look[0] if about != "shape" else None, look[1] if about != "colour" else None


def _told(
    cell: tuple[int, int] | None, look: tuple[str, str], about: str, label: str, rng: np.random.Generator
) -> Hypothesis:
    colour, shape = _said(look, about)
    what = some(colour, shape, rng)
    picture = one_of(("picture", "scene", "image"), rng)
    if cell is None:
        turns = [f"there is {what}", f"we see {what}", f"{what} is to be seen", f"the {picture} shows {what}"]
    else:
        where, lies = at(*cell), one_of(("is", "sits", "lies"), rng)
        turns = [
            f"there is {what} {where}",
            f"we see {what} {where}",
            f"{where} {lies} {what}",
            f"{what} {lies} {where}",
        ]
    return Hypothesis(
        cell, colour, shape, label, one_of([*turns, f"{picture} with {what}" + (f" {at(*cell)}" if cell else "")], rng)
    )
