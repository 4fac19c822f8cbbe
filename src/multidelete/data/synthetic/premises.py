"""Generated premises: scenes, half of them partly covered by a curtain, with hypotheses about them.

A curtain covers a column or a row of the 3 x 3 grid; three to five objects are visible. Most hypotheses state that
there is an object; a fraction ``WITH_POSITION`` also states its cell:

- *entailment*: the object is visible (in this cell);
- *contradiction*: nothing is covered and there is no such object; or its cell is visible and does not hold it;
- *neutral*: the object is not visible, but a part of the picture, or its cell, is covered.

Neither modality predicts the label alone. Half of the hypotheses of each premise are entailed; the curtain decides
whether the others are contradicted or neutral. Cells, colours and shapes are drawn uniformly, and phrases independently
of the label, so that each has the same distribution under all three labels.
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
    check_counts,
    generator,
    object_phrase,
    one_of,
    paint,
    position_phrase,
    scatter,
    split_minimums,
    split_of,
    weighted_choice,
)
from multidelete.utils.errors import InputError

LABELS = ("contradiction", "entailment", "neutral")

#: Frequency of hypotheses that mention colour and shape ("look"), colour only and shape only.
ABOUT = {"look": 0.6, "colour": 0.2, "shape": 0.2}
#: Fraction of the hypotheses that state a position.
WITH_POSITION = 0.1

_HYPOTHESES = (2, 4, 6)  # half are entailed, each by a different object, and a scene may have only three objects
_CURTAIN = ((150, 150, 150), (164, 164, 164))  # colours of its folds; no object and no background is grey


@dataclass(frozen=True, slots=True)
class Curtain:
    """A covered column or row of the picture.

    Args:
        upright: Whether it covers a column, else a row.
        index: Index of the column or row, 0 to 2.
    """

    upright: bool
    index: int


@dataclass(frozen=True, slots=True)
class Premise:
    """A scene with or without a curtain.

    Args:
        scene: The visible objects.
        curtain: The curtain, if any.
    """

    scene: Scene
    curtain: Curtain | None = None

    def hides(self, row: int, column: int) -> bool:
        """Whether the curtain covers a cell."""
        return self.curtain is not None and (column if self.curtain.upright else row) == self.curtain.index


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """The statement that a picture has an object; ``None`` stands for an attribute that is not mentioned.

    Args:
        cell: Row and column of the cell of the object.
        colour: Colour of the object.
        shape: Shape of the object.
        label: One of ``LABELS``.
        text: The hypothesis as a sentence.
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

    Each split has its own generator. It does not depend on the size of the other splits, and a smaller split is a
    prefix of a larger one.

    Args:
        train: Number of training scenes.
        validation: Number of validation scenes.
        test: Number of test scenes.
        size: Side of a picture in pixels.
        hypotheses: Number of hypotheses of each scene, half of them entailed: 2, 4 or 6.
        seed: Seed of the scenes.
    """
    counts = {"train": train, "validation": validation, "test": test}
    check_counts("premises", [*split_minimums(counts), ("size", size, SMALLEST), ("seed", seed, 0)])
    _check_hypotheses(hypotheses)
    examples = []
    drawn_premises = []
    for split, count in counts.items():
        for number, (premise, drawn) in enumerate(draw_premises(split, count, seed, hypotheses)):
            texts = tuple(hypothesis.text for hypothesis in drawn)
            labels = tuple(hypothesis.label for hypothesis in drawn)
            examples.append(Example(f"{split}-{number:05d}", split, texts, labels=labels))
            drawn_premises.append(premise)
    return Dataset("premises", examples, pixels=paint_premises(drawn_premises, size))


def draw_premises(
    split: str, count: int, seed: int = 0, hypotheses: int = 6
) -> list[tuple[Premise, tuple[Hypothesis, ...]]]:
    """The first premises of a split with their hypotheses.

    Args:
        split: One of ``SPLITS``.
        count: Number of premises.
        seed: Seed of the generators of all splits.
        hypotheses: Number of hypotheses of each premise.
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
            drawn.append((premise, _draw_hypotheses(premise, hypotheses, rng)))
    return drawn


def paint_premises(premises: list[Premise], size: int) -> Pixels:
    """The premises as pictures, ``(N, size, size, 3)``."""
    pictures = paint([premise.scene for premise in premises], size)
    edges = [round(cell * size / 3) for cell in range(4)]
    folds = np.array(_CURTAIN, dtype=np.uint8)[np.arange(size) * 24 // size % 2]
    for picture, premise in zip(pictures, premises, strict=True):
        if premise.curtain is None:
            continue
        # Folds run along the curtain.
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
    visible = [cell for cell in range(9) if not empty.hides(cell // 3, cell % 3)]
    objects = int(rng.integers(3, 6))
    return Premise(scatter(rng.permutation(visible)[:objects].tolist(), rng), curtain)


def _draw_hypotheses(premise: Premise, count: int, rng: np.random.Generator) -> tuple[Hypothesis, ...]:
    """Hypotheses in random order, half of them entailed, each by a different object."""
    objects = premise.scene.objects
    result: list[Hypothesis] = []
    for index in rng.permutation(len(objects))[: count // 2]:
        item = objects[index]
        cell = (item.row, item.column) if rng.random() < WITH_POSITION else None
        result.append(_hypothesis(cell, (item.colour, item.shape), weighted_choice(ABOUT, rng), "entailment", rng))
    other = "contradiction" if premise.curtain is None else "neutral"
    while len(result) < count:
        about = weighted_choice(ABOUT, rng)
        if rng.random() < WITH_POSITION:
            cells = [(row, column) for row in range(3) for column in range(3)]
            candidates = [each for each in cells if premise.curtain is None or premise.hides(*each)]
            cell = candidates[int(rng.integers(len(candidates)))]
            hypothesis = _hypothesis(cell, _false_look(premise.scene, cell, about, rng), about, other, rng)
        else:
            hypothesis = _hypothesis(None, _false_look(premise.scene, None, about, rng), about, other, rng)
        if all(
            (hypothesis.cell, hypothesis.colour, hypothesis.shape) != (each.cell, each.colour, each.shape)
            for each in result
        ):
            result.append(hypothesis)
    return tuple(result[index] for index in rng.permutation(count))


def _false_look(scene: Scene, cell: tuple[int, int] | None, about: str, rng: np.random.Generator) -> tuple[str, str]:
    """A colour and shape that no object in the picture, or in the cell, has, as far as they are mentioned.

    Half of the time it shares colour or shape with an object in the picture.
    """
    candidates = [item for item in scene.objects if cell is None or (item.row, item.column) == cell]
    while True:
        colour, shape = LOOKS[int(rng.integers(len(LOOKS)))]
        if rng.random() < 0.5:
            similar = scene.objects[int(rng.integers(len(scene.objects)))]
            colour, shape = (similar.colour, shape) if rng.random() < 0.5 else (colour, similar.shape)
        if not any(item.fits(*_mentioned((colour, shape), about)) for item in candidates):
            return colour, shape


def _mentioned(look: tuple[str, str], about: str) -> tuple[str | None, str | None]:
    return look[0] if about != "shape" else None, look[1] if about != "colour" else None


def _hypothesis(
    cell: tuple[int, int] | None, look: tuple[str, str], about: str, label: str, rng: np.random.Generator
) -> Hypothesis:
    colour, shape = _mentioned(look, about)
    what = object_phrase(colour, shape, rng)
    picture = one_of(("picture", "scene", "image"), rng)
    if cell is None:
        turns = [f"there is {what}", f"we see {what}", f"{what} is to be seen", f"the {picture} shows {what}"]
    else:
        where, verb = position_phrase(*cell), one_of(("is", "sits", "lies"), rng)
        turns = [
            f"there is {what} {where}",
            f"we see {what} {where}",
            f"{where} {verb} {what}",
            f"{what} {verb} {where}",
        ]
    return Hypothesis(
        cell,
        colour,
        shape,
        label,
        one_of([*turns, f"{picture} with {what}" + (f" {position_phrase(*cell)}" if cell else "")], rng),
    )
