"""The dataset: examples with texts, images or a graph, and labels, checked when it is created."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from multidelete.data.columns import Examples, Facts, Strings
from multidelete.data.equality import first_equal, hash_of_pairs
from multidelete.data.examples import ALL_SPLITS, SPLITS, Example, example_problem, split_problem
from multidelete.data.images import (
    Decoded,
    ImageFacts,
    ImageFile,
    Pixels,
    ProgressCallback,
    changes,
    file_facts,
)
from multidelete.data.stores import Folder, ImageStore
from multidelete.metrics.holdouts import HOLDOUTS
from multidelete.models.graph import Graph
from multidelete.models.processor import Preparation, Square
from multidelete.utils.errors import InputError, did_you_mean, raise_all

Rows = NDArray[np.int64]


class Dataset:
    """Examples in a fixed order; N examples with T texts.

    Args:
        name: Its name in tables and reports.
        examples: The examples; the position of an example here is its *row*. They are kept as columns.
        root: Folder that the examples' image paths start from, or another store of encoded pictures.
        pixels: The images themselves, ``(N, R, R, 3)``, or ``(N, n, R, R, 3)`` for n pictures in an example.
        facts: What is known of each image file, if the files were read before; they are then not read again.
        notes: What the reader noticed, one sentence each, such as rows that were left out.
        graph: Graph of the examples' nodes. Exactly one of ``root``, ``pixels`` and ``graph`` is given.

    Attributes:
        texts: All texts in the order of the examples, ``(T,)``.
        text_examples: Row of the example that each text belongs to, ``(T,)``.
        text_counts: Number of texts of each example, ``(N,)``.
        text_starts: Row of the first text of each example, ``(N,)``.
        classes: Names of the labels, sorted; empty in retrieval.
        labels: Class of each text, ``(T,)``, or None in retrieval.
        images_per_example: Pictures in each example; 0 with a graph.
        rows_by_id: Row of each example by its id.
    """

    name: str
    examples: Examples
    texts: Strings
    text_examples: Rows
    text_counts: Rows
    text_starts: Rows
    classes: tuple[str, ...]
    labels: Rows | None
    images_per_example: int
    rows_by_id: dict[str, int]

    def __init__(
        self,
        name: str,
        examples: Iterable[Example],
        *,
        root: Path | ImageStore | None = None,
        pixels: Pixels | None = None,
        graph: Graph | None = None,
        facts: Sequence[ImageFacts] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.notes = tuple(notes)
        self.store = Folder(root) if isinstance(root, Path) else root
        self.pixels = pixels[:, None] if pixels is not None and pixels.ndim == 4 else pixels
        self.graph = graph
        if sum(each is not None for each in (root, pixels, graph)) != 1:
            raise InputError(
                f"dataset {name!r} expects one of root= (image files), pixels= (generated images) and graph="
            )
        if facts is not None:
            self._file_facts = Facts(facts)
        self.rows_by_id = {}
        problems = []
        self.examples = Examples(examples)
        first = next(iter(self.examples), None)
        for row, example in enumerate(self.examples):
            problem = example_problem(example) or self._unlike(first or example, example)
            if problem is None and self.store is not None:
                problem = next(filter(None, map(self.store.problem, example.images or ("",))), None)
            if problem is None and graph is not None:
                problem = graph.pair_problem(example.nodes)
            if problem is None and example.id in self.rows_by_id:
                problem = f"id {example.id!r} was already used by example {self.rows_by_id[example.id]}"
            self.rows_by_id.setdefault(example.id, row)
            if problem:
                problems.append(f"dataset {name!r}, example {row}: {problem}")
        raise_all(problems, "examples")
        if not self.examples:
            raise InputError(f"dataset {name!r} has no examples; expected at least one")
        if pixels is not None:
            _check_pixels(name, pixels, len(self.examples))
            assert self.pixels is not None
        self.images_per_example = self.examples[0].pictures if self.pixels is None else self.pixels.shape[1]

        ends = self.examples.text_ends
        self.texts = self.examples.texts
        self.text_counts = np.diff(ends)
        self.text_starts = ends[:-1]
        self.text_examples = np.repeat(np.arange(len(self.examples), dtype=np.int64), self.text_counts)
        self._splits = np.array([ALL_SPLITS.index(each) for each in self.examples.column("split")], dtype=np.int8)
        self._pictures: dict[str, Pixels | Decoded] = {}
        given = [label for example in self.examples for label in example.labels]
        self.classes = tuple(sorted(set(given)))
        class_of = {label: number for number, label in enumerate(self.classes)}
        self.labels = np.array([class_of[label] for label in given], dtype=np.int64) if given else None

    def _unlike(self, first: Example, example: Example) -> str | None:
        """The message for an example that differs from the first one where all must agree, or None."""
        if bool(example.labels) != bool(first.labels):
            one, other = ("has labels", "none") if example.labels else ("has no labels", "some")
            return f"example {example.id!r} {one}, but example {first.id!r} has {other}; label all texts or none"
        if self.store is not None and example.pictures != first.pictures:
            return (
                f"example {example.id!r} has {example.pictures} images, but example {first.id!r} has {first.pictures}"
            )
        if example.panels != first.panels:
            return (
                f"example {example.id!r} has {example.panels} panels in an image, "
                f"but example {first.id!r} has {first.panels}"
            )
        return None

    @property
    def modalities(self) -> tuple[str, str]:
        """The modalities of a pair: ``vision`` or ``graph``, and ``text``."""
        return ("vision" if self.graph is None else "graph", "text")

    def __len__(self) -> int:
        return len(self.examples)

    def __repr__(self) -> str:
        sizes = {split: len(self.rows(split)) for split in ALL_SPLITS}
        counts = ", ".join(f"{split}={size:,}" for split, size in sizes.items() if size or split in SPLITS)
        return f"Dataset({self.name!r}, {counts}, texts={len(self.texts):,})"

    def rows(self, split: str) -> Rows:
        """Rows of the examples of a split, in dataset order, ``(n,)``."""
        if split not in ALL_SPLITS:
            raise InputError(split_problem(split))
        return np.flatnonzero(self._splits == ALL_SPLITS.index(split)).astype(np.int64)

    @cached_property
    def learned(self) -> Rows:
        """Text rows of the pairs that an original is trained on: training and holdouts."""
        return self.text_rows(np.sort(np.concatenate([self.rows(split) for split in ("train", *HOLDOUTS)])))

    def check_train(self) -> None:
        """Check that there is something to train on.

        Raises:
            InputError: The training split is empty.
        """
        if not len(self.rows("train")):
            raise InputError(f"dataset {self.name!r} has no example in the split 'train': nothing could be learned")

    def text_rows(self, example_rows: Rows) -> Rows:
        """Rows of the texts of these examples, in the order of ``example_rows``."""
        counts = self.text_counts[example_rows]
        ends = np.cumsum(counts)
        within = np.arange(counts.sum(), dtype=np.int64) - np.repeat(ends - counts, counts)
        rows: Rows = np.repeat(self.text_starts[example_rows], counts) + within
        return rows

    def example_rows(self, text_rows: Rows) -> Rows:
        """Rows of the examples that these texts belong to, each once, in the order of their first text."""
        examples, first = np.unique(self.text_examples[text_rows], return_index=True)
        rows: Rows = examples[np.argsort(first, kind="stable")]
        return rows

    @cached_property
    def equal_texts(self) -> Rows:
        """The row of the first equal text of each text, ``(T,)``."""
        return first_equal(self.texts)

    @cached_property
    def content(self) -> Rows:
        """The row of the first example with the same picture (or nodes), for each example, ``(N,)``."""
        return first_equal(self.image_digests())

    def row_of(self, example_id: str) -> int:
        """Row of the example with this id."""
        if example_id not in self.rows_by_id:
            hint = did_you_mean(example_id, self.rows_by_id)
            raise InputError(f"dataset {self.name!r} has no example {example_id!r}{hint}")
        return self.rows_by_id[example_id]

    def images(self, preparation: Preparation | int, progress: ProgressCallback | None = None) -> Pixels:
        """All images as a model reads them, in the order of the examples, ``(N · images_per_example, ...)``.

        Args:
            preparation: What is done to each picture; a number is the side of a square that it is stretched to.
            progress: Called with (images done, images to do) while files are decoded.
        """
        pictures = self.pictures(preparation)
        return pictures.decode(progress=progress) if isinstance(pictures, Decoded) else pictures

    def pictures(self, preparation: Preparation | int) -> Pixels | Decoded:
        """As :meth:`images`, but image files are decoded when first asked for, then kept in the cache."""
        if isinstance(preparation, int | float | np.number | str | None):
            size: Any = preparation
            if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
                raise InputError(f"the image size is an integer of at least 1 (pixels), got {size!r}")
            preparation = Square(int(size))
        if self.graph is not None:
            raise InputError(f"dataset {self.name!r} has a graph and no images; a model of graph and text reads it")
        if isinstance(preparation, Square) and self.pixels is not None and self.pixels.shape[2] == preparation.size:
            return self.pixels.reshape(-1, *preparation.shape)
        key = preparation.key
        if key not in self._pictures:
            if self.pixels is None:
                files, panels = self.image_files(), self.examples[0].panels
                self._pictures[key] = Decoded(files, self._file_digests, preparation, panels)
            else:
                flat = self.pixels.reshape(-1, *self.pixels.shape[2:])
                self._pictures[key] = np.stack([preparation(Image.fromarray(image)) for image in flat])
        return self._pictures[key]

    def image_digests(self) -> list[str]:
        """SHA-256 of each example's image files, of its pixels where they are generated, or of its nodes."""
        return self._file_digests if self.store is not None and len(self.examples[0].images) == 1 else self._digests

    @cached_property
    def _digests(self) -> list[str]:
        if self.graph is not None:
            return [hashlib.sha256("\0".join(example.nodes).encode()).hexdigest() for example in self.examples]
        if self.pixels is not None:
            return [hashlib.sha256(images.tobytes()).hexdigest() for images in self.pixels]
        digests = self._file_digests
        count = len(self.examples[0].images)
        of_example = (digests[start : start + count] for start in range(0, len(digests), count))
        return [hashlib.sha256("\0".join(each).encode()).hexdigest() for each in of_example]

    def check_images(self, rows: Rows | None = None) -> None:
        """Decode image files without keeping the pictures.

        Args:
            rows: Rows of the examples whose files are decoded; all by default.

        Raises:
            InputError: Files cannot be read; all of them are named.
        """
        files = self.image_files()
        if rows is None:
            self._file_facts = Facts(file_facts(files, decoded=True))
            return
        count = len(files) // len(self)
        chosen = (rows[:, None] * count + np.arange(count)).ravel()
        facts = list(self._file_facts)
        for number, each in zip(
            chosen.tolist(), file_facts([files[n] for n in chosen.tolist()], decoded=True), strict=True
        ):
            facts[number] = each
        self._file_facts = Facts(facts)

    def fingerprints(self) -> NDArray[np.uint64]:
        """What the first picture of each example looks like, ``(N,)``: those of similar pictures differ in few bits.

        Known after :meth:`check_images`; 0 for flat pictures, and without image files.
        """
        facts = self._file_facts[:: len(self.examples[0].images)] if self.store is not None else []
        known = [each.fingerprint for each in facts] or [0] * len(self)
        return np.array(known, dtype=np.uint64)

    def image_changes(self) -> dict[str, int]:
        """Number of image files that decoding changes, by change (see :class:`ImageFacts`), without zeros."""
        return changes(self._file_facts)

    @cached_property
    def _file_facts(self) -> Facts:
        return Facts(file_facts(self.image_files()))

    @property
    def _file_digests(self) -> list[str]:
        return [facts.digest for facts in self._file_facts]

    @cached_property
    def pairs_hash(self) -> str:
        """SHA-256 over the different pairs (image digest, text, label), sorted; independent of ids, splits and order.

        Two layouts of the same pairs have the same.
        """
        return hash_of_pairs(
            "\0".join((image, text, label))
            for example, image in zip(self.examples, self.image_digests(), strict=True)
            for text, label in zip(example.texts, example.labels or [""] * len(example.texts), strict=True)
        )

    @cached_property
    def hash(self) -> str:
        """SHA-256 over ids, splits, texts, labels and image digests, in order; independent of paths."""
        digest = hashlib.sha256()
        for example, image in zip(self.examples, self.image_digests(), strict=True):
            fields = [example.id, example.split, example.texts, image, example.labels, example.panels]
            digest.update(json.dumps(fields).encode() + b"\n")
        if self.graph is not None:
            digest.update(self.graph.hash.encode())
        return digest.hexdigest()

    @classmethod
    def load(cls, folder: str | Path) -> Dataset:
        """Read a folder with ``manifest.jsonl``, as the reader ``manifest``; every line and image path is checked.

        Args:
            folder: Folder of the manifest; image paths start from here.

        Raises:
            InputError: Lines cannot be used; up to ten are named.
        """
        from multidelete.data.readers.manifest import manifest

        return manifest(folder)

    def save(self, folder: str | Path) -> None:
        """Write ``manifest.jsonl`` and ``images/`` for :meth:`load`, atomically.

        Generated pixels are written as PNG files; the loaded dataset has another hash.

        Args:
            folder: Must be missing or empty.
        """
        from multidelete.data.saving import save

        save(self, Path(folder))

    @classmethod
    def from_records(
        cls,
        records: Any,
        *,
        validation: Any = None,
        test: Any = None,
        unseen: Any = None,
        name: str = "records",
        columns: Mapping[str, str] | None = None,
        unusable: str = "error",
    ) -> Dataset:
        """A dataset from objects in memory; nothing is written.

        Records with the same picture (same bytes) become one example with several texts. Keys are found by their names
        ("image", "text", "caption" ...) or named; others are metadata. Pictures are those of PIL, arrays, bytes of an
        image file, or paths.

        Args:
            records: Training data: a list of objects or of (picture, text), a pandas data frame, a
                ``datasets.Dataset``, or a torch dataset that yields (picture, text). A key "split" may say otherwise.
            validation: Records of the validation split.
            test: Records of the test split.
            unseen: Records that the model was not trained on; one half becomes validation, the other test.
            name: Name of the dataset in tables and reports.
            columns: Key of each role whose key has another name: image, text (or lists of them), id (of pictures or of
                records), split, label, and group, whose pictures are deleted together.
            unusable: "error" or "drop": what is done with records that cannot be used.

        Raises:
            InputError: Records cannot be used; up to ten are named.
        """
        from multidelete.data.records import from_records

        parts = {"train": records, "validation": validation, "test": test, "unseen": unseen}
        return from_records({key: part for key, part in parts.items() if part is not None}, name, columns, unusable)

    def image_files(self) -> list[ImageFile]:
        """The image files, in the order of the examples; none for generated pixels and for a graph."""
        if self.store is None:
            return []
        return [
            ImageFile(example.id, self.store, name, example.source)
            for example in self.examples
            for name in example.images
        ]


def _check_pixels(name: str, pixels: NDArray[Any], count: int) -> None:
    shape = pixels.shape
    fits = len(shape) in (4, 5) and shape[0] == count and shape[-3] == shape[-2] and shape[-1] == 3
    if not fits or pixels.dtype != np.uint8:
        raise InputError(
            f"dataset {name!r} expects uint8 pixels of shape ({count}, R, R, 3), got {pixels.dtype} of {shape}"
        )
