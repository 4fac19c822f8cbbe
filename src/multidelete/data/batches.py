"""The inputs of one model for a dataset, from which batches of pairs are taken by row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from multidelete.data.dataset import Dataset
from multidelete.data.images import Decoded
from multidelete.models.base import Model
from multidelete.models.graph import FEATURES
from multidelete.models.inputs import Batch, Encoding, ModalityInput, Subgraphs, Tokens

Rows = NDArray[np.int64]


TOGETHER = 10_000  # rows of a collection up to which all are decoded, encoded and asked of the teacher in one go


class Source(Protocol):
    """Inputs of one modality, by row."""

    def take(self, rows: Rows) -> ModalityInput:
        """The inputs of these rows, in this order."""


@runtime_checkable
class OnDemand(Source, Protocol):
    """Inputs that are computed when they are first asked for."""

    def fetch(self, rows: Rows) -> None:
        """Compute these rows now, at once, which is faster than in small batches."""


@runtime_checkable
class Encoded(OnDemand, Protocol):
    """Encodings that are computed when they are first asked for."""

    stage: str

    def select(self, rows: Rows) -> Encodings:
        """The encodings of these rows, in memory."""


@dataclass(frozen=True)
class Pixels:
    """Prepared images, uint8 ``(N · per_example, H, W, C)`` or ``(N · per_example, R, P)``, usually in the cache."""

    images: NDArray[np.uint8] | Decoded
    per_example: int = 1

    def fetch(self, rows: Rows) -> None:
        """Decode the pictures of these examples."""
        if isinstance(self.images, Decoded):
            self.images.decode(self._indices(rows).ravel())

    def take(self, rows: Rows) -> torch.Tensor:
        """uint8 ``(B, C, H, W)``, or ``(B, n, C, H, W)`` where an example has n pictures."""
        images = torch.from_numpy(self.images[self._indices(rows)])
        return images.movedim(-1, -3) if self.images.ndim == 4 else images

    def _indices(self, rows: Rows) -> Rows:
        return rows if self.per_example == 1 else rows[:, None] * self.per_example + np.arange(self.per_example)


@dataclass(frozen=True)
class Ragged:
    """Sequences of different lengths, concatenated.

    Args:
        flat: All sequences, ``(sum of lengths, ...)``.
        offsets: Start of each sequence and the end of the last, ``(N + 1,)``.
    """

    flat: NDArray[np.generic]
    offsets: Rows

    def lengths(self, rows: Rows) -> Rows:
        """Length of each of these sequences."""
        result: Rows = self.offsets[rows + 1] - self.offsets[rows]
        return result

    def take(self, rows: Rows) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Padded sequences ``(B, L, ...)`` and their mask ``(B, L)``, padded with each sequence's last element."""
        lengths = self.lengths(rows)
        indices = np.arange(lengths.max())
        index = self.offsets[rows, None] + np.minimum(indices, lengths[:, None] - 1)
        return self.flat[index], indices < lengths[:, None]

    def select(self, rows: Rows) -> Ragged:
        """The sequences of these rows, in memory."""
        lengths = self.lengths(rows)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        index = np.arange(offsets[-1]) + np.repeat(self.offsets[rows] - offsets[:-1], lengths)
        return Ragged(self.flat[index], offsets)

    @classmethod
    def of(cls, sequences: list[list[int]]) -> Ragged:
        """From lists of integers."""
        return cls.join([np.asarray(sequence, dtype=np.int64) for sequence in sequences])

    @classmethod
    def join(cls, sequences: Sequence[NDArray[Any]]) -> Ragged:
        """From arrays, ``(length, ...)`` each."""
        offsets = np.concatenate([[0], np.cumsum([len(each) for each in sequences])]).astype(np.int64)
        return cls(np.concatenate(sequences), offsets)


@dataclass(frozen=True)
class Texts:
    """Tokenised texts."""

    ids: Ragged
    padding: int

    def lengths(self, rows: Rows) -> Rows:
        """Number of tokens of these texts."""
        return self.ids.lengths(rows)

    def take(self, rows: Rows) -> Tokens:
        """Token ids and mask, ``(B, L)`` with L the longest of the batch."""
        ids, mask = self.ids.take(rows)
        return Tokens(torch.from_numpy(np.where(mask, ids, self.padding)), torch.from_numpy(mask.astype(np.int64)))


@dataclass(frozen=True)
class TextRows:
    """Texts that are tokenised when they are first asked for, and then kept in memory.

    Args:
        texts: All texts.
        tokenize: Function from texts to their token ids.
        padding: Token id of padding.
    """

    texts: Sequence[str]
    tokenize: Callable[[Sequence[str]], list[list[int]]]
    padding: int
    _known: dict[int, NDArray[np.int64]] = field(default_factory=dict)

    def fetch(self, rows: Rows) -> None:
        """Tokenise these texts."""
        missing = [row for row in np.unique(rows).tolist() if row not in self._known]
        if missing:
            done = self.tokenize([self.texts[row] for row in missing])
            self._known.update(zip(missing, (np.array(ids, dtype=np.int64) for ids in done), strict=True))

    def lengths(self, rows: Rows) -> Rows:
        """Number of tokens of these texts."""
        self.fetch(rows)
        return np.array([len(self._known[row]) for row in rows.tolist()], dtype=np.int64)

    def take(self, rows: Rows) -> Tokens:
        """As :meth:`Texts.take`."""
        self.fetch(rows)
        return Texts(Ragged.join([self._known[row] for row in rows.tolist()]), self.padding).take(np.arange(len(rows)))


@dataclass(frozen=True)
class Neighbourhoods:
    """The visible part of a graph around each example's pair of nodes.

    Args:
        nodes: Rows of the graph's nodes.
        features: Features of these nodes, with the same offsets.
        edges: Pairs of indices into an example's nodes.
    """

    nodes: Ragged
    features: Ragged
    edges: Ragged

    @classmethod
    def of(cls, dataset: Dataset, size: int) -> Neighbourhoods:
        """The neighbourhood of every example, of at most ``size`` nodes."""
        graph = dataset.graph
        assert graph is not None
        neighbourhoods = [
            graph.neighbourhood(graph.row(example.nodes[0]), graph.row(example.nodes[1]), size)
            for example in dataset.examples
        ]
        return cls(
            Ragged.join([each.nodes for each in neighbourhoods]),
            Ragged.join([each.features for each in neighbourhoods]),
            Ragged.join([each.edges for each in neighbourhoods]),
        )

    def take(self, rows: Rows) -> Subgraphs:
        """Subgraphs of these examples, padded to the largest."""
        nodes, mask = self.nodes.take(rows)
        features, _ = self.features.take(rows)
        own = self.edges.select(rows)
        example = np.repeat(np.arange(len(rows)), np.diff(own.offsets))
        adjacency = np.zeros((*nodes.shape, nodes.shape[1]), dtype=np.float32)
        adjacency[example, own.flat[:, 0], own.flat[:, 1]] = 1
        adjacency[example, own.flat[:, 1], own.flat[:, 0]] = 1
        return Subgraphs(
            torch.from_numpy(nodes),
            torch.from_numpy(np.where(mask[..., None], features, 0)),
            torch.from_numpy(adjacency),
            torch.from_numpy(mask.astype(np.int64)),
        )


@dataclass(frozen=True)
class Constant:
    """The same input for every row, for a modality that is blanked.

    Args:
        inner: Its row 0 is the input.
    """

    inner: Source

    def take(self, rows: Rows) -> ModalityInput:
        """The input, repeated for each row."""
        return self.inner.take(np.zeros_like(rows))


@dataclass(frozen=True)
class Encodings:
    """Precomputed outputs of a frozen encoder, usually memory-mapped.

    Args:
        tokens: Outputs for each token.
        pooled: Pooled outputs, ``(N, D)``.
        stage: Stage of ``Encoding`` that they are the output of.
        mask: 1 on real tokens, ``(N, L)``, if padding lies between them; all sequences then have the same length.
    """

    tokens: Ragged
    pooled: NDArray[np.float32]
    stage: str
    mask: NDArray[np.int64] | None = None

    def lengths(self, rows: Rows) -> Rows:
        """Number of tokens of these rows."""
        return self.tokens.lengths(rows)

    def select(self, rows: Rows) -> Encodings:
        """The encodings of these rows, in memory."""
        mask = None if self.mask is None else self.mask[rows]
        return Encodings(self.tokens.select(rows), self.pooled[rows], self.stage, mask)

    @classmethod
    def join(cls, parts: Sequence[Encodings]) -> Encodings:
        """Encodings of one stage, one behind the other, in memory."""
        lengths = np.concatenate([np.diff(part.tokens.offsets) for part in parts])
        masks = None
        if any(part.mask is not None for part in parts):
            length = next(part.mask.shape[1] for part in parts if part.mask is not None)
            filled = [np.ones((len(p.pooled), length), np.int64) if p.mask is None else p.mask for p in parts]
            masks = np.concatenate(filled)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        tokens = Ragged(np.concatenate([part.tokens.flat for part in parts]), offsets)
        return cls(tokens, np.concatenate([part.pooled for part in parts]), parts[0].stage, masks)

    def take(self, rows: Rows) -> Encoding:
        """Encodings of these rows."""
        tokens, mask = self.tokens.take(rows)
        return Encoding(
            torch.from_numpy(tokens),
            torch.from_numpy(mask.astype(np.int64) if self.mask is None else self.mask[rows]),
            torch.from_numpy(self.pooled[rows]),
            self.stage,  # type: ignore[arg-type]
        )


def find(values: Rows, wanted: Rows) -> tuple[Rows, NDArray[np.bool_]]:
    """Index of each wanted value in sorted values, and whether it is there at all, ``(n,)`` both."""
    index = np.searchsorted(values, wanted)
    found = index < len(values)
    found[found] = values[index[found]] == wanted[found]
    return index, found


def by_length(source: Source, rows: Rows) -> Rows:
    """Indices that sort the rows by sequence length, so that batches need little padding, ``(n,)``."""
    lengths: Callable[[Rows], Rows] | None = getattr(source, "lengths", None)
    return np.arange(len(rows)) if lengths is None else np.argsort(lengths(rows), kind="stable")


@dataclass(frozen=True)
class PairInputs:
    """A dataset as inputs of one model: pixels or subgraphs, and tokens, or precomputed encodings of them.

    Rows of ``text`` index ``dataset.texts``; rows of ``vision`` or ``graph`` index ``dataset.examples``.

    Args:
        dataset: The dataset.
        sources: Inputs of each modality.
        blanked: The modality that is blanked, if any.
    """

    dataset: Dataset
    sources: dict[str, Source]
    blanked: str = ""

    @classmethod
    def of(cls, dataset: Dataset, model: Model) -> PairInputs:
        """The raw inputs for this model.

        Raises:
            InputError: The model cannot read this dataset.
        """
        model.check_dataset(dataset)
        padding, texts = model.tokenizer.pad_token_id, dataset.texts
        few = len(texts) <= TOGETHER
        tokens = Texts(Ragged.of(model.tokenize(texts)), padding) if few else TextRows(texts, model.tokenize, padding)
        if dataset.graph is not None:
            return cls(dataset, {"graph": Neighbourhoods.of(dataset, model.neighbourhood), "text": tokens})
        pixels = Pixels(dataset.pictures(model.preparation), dataset.images_per_example)
        if len(dataset) <= TOGETHER:
            pixels.fetch(np.arange(len(dataset)))  # a damaged picture stops the run here, not when it is reached
        return cls(dataset, {"vision": pixels, "text": tokens})

    def blank(self, modality: str, model: Model) -> PairInputs:
        """The same pairs with one modality blanked: grey pictures, empty texts, or nodes without neighbours."""
        blank: Source
        if modality == "text":
            blank = Texts(Ragged.of(model.tokenize([""])), model.tokenizer.pad_token_id)
        elif modality == "vision":
            count = self.dataset.images_per_example
            grey = model.preparation(Image.new("RGB", (64, 64), (127, 127, 127)))
            blank = Pixels(np.repeat(grey[None], count, axis=0), count)
        else:
            features = np.zeros((2, FEATURES), dtype=np.float32)
            blank = Neighbourhoods(
                Ragged.of([[-1, -1]]), Ragged.join([features]), Ragged.join([np.empty((0, 2), np.int64)])
            )
        return replace(self, sources={**self.sources, modality: Constant(blank)}, blanked=modality)

    @property
    def modalities(self) -> tuple[str, str]:
        """``vision`` or ``graph``, and ``text``."""
        return self.dataset.modalities

    @property
    def hash(self) -> str:
        """Hash of the dataset and the blanked modality."""
        return self.dataset.hash + self.blanked

    def with_sources(self, sources: Mapping[str, Source]) -> PairInputs:
        """The same dataset with some sources replaced."""
        return replace(self, sources={**self.sources, **sources})

    def fetch(self, rows: Mapping[str, Rows]) -> None:
        """Decode or encode these rows of each modality now, if that is done on demand."""
        for modality, chosen in rows.items():
            source = self.sources[modality]
            if isinstance(source, OnDemand):
                source.fetch(chosen)

    def count(self, modality: str) -> int:
        """Number of rows of a modality."""
        return len(self.dataset.texts if modality == "text" else self.dataset.examples)

    def true_pairs(self, text_rows: Rows) -> dict[str, Rows]:
        """Rows of the true pairs that these texts belong to."""
        return {self.modalities[0]: self.dataset.text_examples[text_rows], "text": text_rows}

    def batch(self, rows: Mapping[str, Rows], device: torch.device, randomness: torch.Generator | None = None) -> Batch:
        """A batch of pairs.

        Args:
            rows: Rows of each modality.
            device: Device of the batch.
            randomness: Generator that the batch carries, for negatives.
        """
        other = self.modalities[0]
        examples = {other: rows[other], "text": self.dataset.text_examples[rows["text"]]}
        labels = self.dataset.labels
        return Batch(
            {modality: self.sources[modality].take(chosen).to(device) for modality, chosen in rows.items()},
            {modality: torch.from_numpy(chosen) for modality, chosen in rows.items()},
            {modality: torch.from_numpy(example).to(device) for modality, example in examples.items()},
            randomness,
            None if labels is None else torch.from_numpy(labels[rows["text"]]).to(device),
        )
