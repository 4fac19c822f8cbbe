"""Datasets made of two: one without the unseen images of another, and one with another as a split."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from multidelete.data.dataset import Dataset
from multidelete.data.examples import Example
from multidelete.data.stores import Joined
from multidelete.utils.errors import InputError

UNSEEN = "unseen"


def without(dataset: Dataset, other: Dataset) -> Dataset:
    """A dataset without the examples whose image is in the validation or test split of another dataset.

    Args:
        dataset: The dataset.
        other: The other dataset; both must have one image file per example.
    """
    if any(each.store is None or each.images_per_example != 1 for each in (dataset, other)):
        raise InputError(
            f"dataset {dataset.name!r} cannot leave out the images of {other.name!r}; expected one image file per "
            "example in both"
        )
    digests = other.image_digests()
    unseen = {digests[row] for split in ("validation", "test") for row in other.rows(split)}
    kept = [
        example
        for example, digest in zip(dataset.examples, dataset.image_digests(), strict=True)
        if digest not in unseen
    ]
    if not any(example.split == "train" for example in kept):
        raise InputError(f"without the images of {other.name!r}, dataset {dataset.name!r} has nothing left to train on")
    return Dataset(dataset.name, kept, root=dataset.store, notes=dataset.notes)


def joined(dataset: Dataset, other: Dataset, split: str) -> Dataset:
    """A dataset with all examples of another as a split.

    Args:
        dataset: The dataset.
        other: The other one, of the same kind.
        split: ``validation``, ``test``, or ``unseen`` for both: half of the examples each, by a hash of the id.

    Raises:
        InputError: The datasets are of different kinds, or the dataset has examples of this split already.
    """
    if dataset.modalities != other.modalities or bool(dataset.classes) != bool(other.classes):
        raise InputError(f"{other.name!r} is data of another kind than {dataset.name!r}; expected the same as {split}")
    if dataset.store is None or other.store is None:
        raise InputError(f"{dataset.name!r} cannot be joined with {other.name!r}: both must have image files")
    splits = ("validation", "test") if split == UNSEEN else (split,)
    for each in splits:
        if len(dataset.rows(each)):
            raise InputError(f"dataset {dataset.name!r} has a {each} split already; leave out data.{split}")
    examples = [
        *(_moved(example, "0", example.id, example.split) for example in dataset.examples),
        *(
            _moved(
                example,
                "1",
                f"{split}/{example.id}" if example.id in dataset.rows_by_id else example.id,
                _halved(example.id) if split == UNSEEN else split,
            )
            for example in other.examples
        ),
    ]
    return Dataset(
        dataset.name,
        examples,
        root=Joined({"0": dataset.store, "1": other.store}),
        notes=[*dataset.notes, *other.notes],
    )


def _moved(example: Example, key: str, example_id: str, split: str) -> Example:
    return replace(example, id=example_id, split=split, images=tuple(f"{key}/{name}" for name in example.images))


def _halved(name: str) -> str:
    """Split of an example of data that no split has seen: validation or test, by a hash of its name."""
    return ("validation", "test")[hashlib.sha256(name.encode()).digest()[0] % 2]
