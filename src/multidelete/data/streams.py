"""Batches: a corpus as one model reads it, and the order in which training and unlearning draw from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from multidelete.data.corpus import Corpus
from multidelete.models.base import Batch, Encoding, ModalityInput, Model, Tokens
from multidelete.randomness import derive, generator

Rows = NDArray[np.int64]


class Source(Protocol):
    """Inputs of one modality, by row."""

    def take(self, rows: Rows) -> ModalityInput:
        """The inputs of these rows, in this order."""


@dataclass(frozen=True)
class Pixels:
    """Images, ``(N, H, W, 3)`` uint8, usually memory-mapped."""

    images: NDArray[np.uint8]

    def take(self, rows: Rows) -> torch.Tensor:
        """uint8 ``(B, 3, H, W)``."""
        return torch.from_numpy(self.images[rows]).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Ragged:
    """Sequences of different lengths, one behind the other.

    Args:
        flat: All sequences, ``(sum of lengths, ...)``.
        offsets: Where each begins, ``(N + 1,)``.
    """

    flat: NDArray[np.generic]
    offsets: Rows

    def take(self, rows: Rows) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Padded sequences ``(B, L, ...)`` and their mask ``(B, L)``; padding repeats a sequence's last element."""
        lengths = self.offsets[rows + 1] - self.offsets[rows]
        places = np.arange(lengths.max())
        index = self.offsets[rows, None] + np.minimum(places, lengths[:, None] - 1)
        return self.flat[index], places < lengths[:, None]

    def select(self, rows: Rows) -> Ragged:
        """The sequences of these rows alone, in memory."""
        lengths = self.offsets[rows + 1] - self.offsets[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        index = np.arange(offsets[-1]) + np.repeat(self.offsets[rows] - offsets[:-1], lengths)
        return Ragged(self.flat[index], offsets)

    @classmethod
    def of(cls, sequences: list[list[int]]) -> Ragged:
        """From lists of integers."""
        offsets = np.concatenate([[0], np.cumsum([len(s) for s in sequences])]).astype(np.int64)
        return cls(np.concatenate([np.asarray(s, dtype=np.int64) for s in sequences]), offsets)


@dataclass(frozen=True)
class Texts:
    """Tokenised texts."""

    ids: Ragged
    padding: int

    def take(self, rows: Rows) -> Tokens:
        """Token ids and mask, ``(B, L)`` with L the longest of the batch."""
        ids, mask = self.ids.take(rows)
        return Tokens(torch.from_numpy(np.where(mask, ids, self.padding)), torch.from_numpy(mask.astype(np.int64)))


@dataclass(frozen=True)
class Encodings:
    """Outputs of a frozen encoder, computed once and kept, usually memory-mapped."""

    tokens: Ragged
    pooled: NDArray[np.float32]
    stage: str

    def select(self, rows: Rows) -> Encodings:
        """The encodings of these rows alone, in memory."""
        return Encodings(self.tokens.select(rows), self.pooled[rows], self.stage)

    def take(self, rows: Rows) -> Encoding:
        """Encodings of these rows."""
        tokens, mask = self.tokens.take(rows)
        return Encoding(
            torch.from_numpy(tokens),
            torch.from_numpy(mask.astype(np.int64)),
            torch.from_numpy(self.pooled[rows]),
            self.stage,  # type: ignore[arg-type]
        )


def by_length(source: object, rows: Rows) -> Rows:
    """An order of these rows in which sequences of similar length stand together: little is padding then, ``(n,)``."""
    ragged = getattr(source, "ids", None) or getattr(source, "tokens", None)
    if not isinstance(ragged, Ragged):
        return np.arange(len(rows))
    return np.argsort(ragged.offsets[rows + 1] - ragged.offsets[rows], kind="stable")


@dataclass(frozen=True)
class PairInputs:
    """A corpus as one model reads it: images as pixels, texts as tokens, or either as encodings computed before.

    Rows of modality ``vision`` are rows of ``corpus.units``, rows of ``text`` are rows of ``corpus.texts``.
    """

    corpus: Corpus
    sources: dict[str, Source]

    @classmethod
    def of(cls, corpus: Corpus, model: Model) -> PairInputs:
        """The raw inputs for this model."""
        return cls(
            corpus,
            {
                "vision": Pixels(corpus.images(model.config.image_size)),
                "text": Texts(Ragged.of(model.tokenize(corpus.texts)), model.tokenizer.pad_token_id),
            },
        )

    def with_sources(self, sources: Mapping[str, Source]) -> PairInputs:
        """The same corpus with some modalities read from elsewhere."""
        return replace(self, sources={**self.sources, **sources})

    def count(self, modality: str) -> int:
        """Number of rows of a modality."""
        return len(self.corpus.units if modality == "vision" else self.corpus.texts)

    def true_pairs(self, text_rows: Rows) -> dict[str, Rows]:
        """Rows of the true pairs that these texts belong to."""
        return {"vision": self.corpus.text_units[text_rows], "text": text_rows}

    def batch(self, rows: Mapping[str, Rows], device: torch.device, randomness: torch.Generator | None = None) -> Batch:
        """The pairs of these rows on a device."""
        units = {"vision": rows["vision"], "text": self.corpus.text_units[rows["text"]]}
        return Batch(
            {modality: self.sources[modality].take(chosen).to(device) for modality, chosen in rows.items()},
            {modality: torch.from_numpy(chosen) for modality, chosen in rows.items()},
            {modality: torch.from_numpy(unit).to(device) for modality, unit in units.items()},
            randomness,
        )


@dataclass(frozen=True)
class Cycle:
    """Endless passes over ``rows``, each in an order of its own; any position can be asked for at any time."""

    rows: Rows
    seed: int
    purpose: str

    def take(self, start: int, count: int) -> Rows:
        """``count`` rows from position ``start`` on."""
        positions = np.arange(start, start + count)
        laps, places = positions // len(self.rows), positions % len(self.rows)
        taken = np.empty(count, dtype=np.int64)
        for lap in np.unique(laps):
            chosen = laps == lap
            taken[chosen] = self.rows[self._order(int(lap))[places[chosen]]]
        return taken

    def _order(self, lap: int) -> Rows:
        cache: dict[int, Rows] = self.__dict__.setdefault("_orders", {})
        if lap not in cache:
            if len(cache) > 1:
                cache.pop(min(cache))
            cache[lap] = np.random.default_rng(derive(self.seed, self.purpose, lap)).permutation(len(self.rows))
        return cache[lap]


@dataclass(frozen=True)
class TrainStream:
    """Batches of true pairs for training.

    Args:
        inputs: What the model reads.
        text_rows: The pairs to train on, one text row each.
        batch_size: Pairs in a step.
        seed: Seed of the order.
    """

    inputs: PairInputs
    text_rows: Rows
    batch_size: int
    seed: int

    def steps(self, epochs: float) -> int:
        """Steps in which so many passes are made."""
        return max(1, round(epochs * len(self.text_rows) / min(self.batch_size, len(self.text_rows))))

    def at(self, step: int, device: torch.device) -> Batch:
        """The batch of a step."""
        size = min(self.batch_size, len(self.text_rows))
        chosen = Cycle(self.text_rows, self.seed, "train").take(step * size, size)
        return self.inputs.batch(self.inputs.true_pairs(chosen), device, generator(self.seed, "negatives", step))


@dataclass(frozen=True)
class RetainBatch(Batch):
    """Pairs of D_r of one step, from which mismatched pairs can be drawn."""

    stream: ForgetRetainStream | None = None
    step: int = 0

    def mismatched(self, count: int) -> Batch:
        """``count`` pairs (I_p, T_q) of D_r with p and q from two different units, fresh at every step."""
        assert self.stream is not None
        rows = self.stream.mismatched_rows(count, self.step, "target")
        return self.stream.inputs.batch(rows, next(iter(self.units.values())).device)


@dataclass(frozen=True)
class ForgetRetainStream:
    """Batches of D_f and D_r side by side.

    Args:
        inputs: What the student reads.
        forget: Text rows of the pairs of D_f.
        retain: Text rows of the pairs of D_r, of at least two units.
        batch_size: Pairs of D_f in a step.
        retain_ratio: Pairs of D_r in a step, for each pair of D_f.
        mismatched: Share of the D_r pairs that are re-paired, image and text from two different units.
        seed: Seed of the order.
    """

    inputs: PairInputs
    forget: Rows
    retain: Rows
    batch_size: int
    retain_ratio: int
    mismatched: float
    seed: int

    @property
    def forget_size(self) -> int:
        """Pairs of D_f in a step; a small D_f is one batch."""
        return min(self.batch_size, len(self.forget))

    @property
    def retain_size(self) -> int:
        """Pairs of D_r in a step; the same for a small D_f, so that retention is not starved."""
        return min(self.batch_size * self.retain_ratio, len(self.retain))

    @property
    def apart(self) -> int:
        """How many of the pairs of D_r in a step are re-paired."""
        return round(self.mismatched * self.retain_size)

    def mismatched_at(self, step: int) -> list[dict[str, Rows]]:
        """Rows of the mismatched pairs of a step: those of the D_r batch, and one target for each pair of D_f."""
        return [
            self.mismatched_rows(self.apart, step, "retain"),
            self.mismatched_rows(self.forget_size, step, "target"),
        ]

    def steps(self, epochs: float) -> int:
        """Steps in which so many passes over D_f are made."""
        return max(1, round(epochs * len(self.forget) / self.forget_size))

    def at(self, step: int, device: torch.device) -> tuple[Batch, RetainBatch]:
        """The two batches of a step."""
        chosen = Cycle(self.forget, self.seed, "forget").take(step * self.forget_size, self.forget_size)
        forget = self.inputs.batch(
            self.inputs.true_pairs(chosen), device, generator(self.seed, "forget negatives", step)
        )
        apart = self.apart
        matched = self.retain_size - apart
        kept = self.inputs.true_pairs(Cycle(self.retain, self.seed, "retain").take(step * matched, matched))
        if apart:
            wrong = self.mismatched_rows(apart, step, "retain")
            kept = {modality: np.concatenate([rows, wrong[modality]]) for modality, rows in kept.items()}
        batch = self.inputs.batch(kept, device, generator(self.seed, "retain negatives", step))
        return forget, RetainBatch(**vars(batch), stream=self, step=step)

    def mismatched_rows(self, count: int, step: int, purpose: str) -> dict[str, Rows]:
        """Rows of ``count`` pairs (I_p, T_q) of D_r whose units differ."""
        randomness = np.random.default_rng(derive(self.seed, "mismatched", purpose, step))
        units = self.inputs.corpus.text_units
        image = units[randomness.choice(self.retain, count)]
        text = randomness.choice(self.retain, count)
        while (same := image == units[text]).any():
            text[same] = randomness.choice(self.retain, int(same.sum()))
        return {"vision": image, "text": text}
