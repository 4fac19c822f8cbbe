"""Samplers: the pairs of each step of training and unlearning, a function of seed and step."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from multidelete.data.batches import TOGETHER, PairInputs, Rows, find
from multidelete.models.inputs import Batch
from multidelete.utils.randomness import derive, generator

PARTNERS = 4096  # pairs of a large D_r from which mismatched pairs are drawn


@dataclass(frozen=True)
class EpochSampler:
    """Shuffled passes over ``rows`` without end, with random access by position.

    Args:
        rows: The rows of one pass.
        seed: Seed of the order.
        purpose: Samplers with different purposes have different orders.
    """

    rows: Rows
    seed: int
    purpose: str

    def take(self, start: int, count: int) -> Rows:
        """``count`` rows from position ``start``."""
        positions = np.arange(start, start + count)
        epochs, indices = positions // len(self.rows), positions % len(self.rows)
        taken = np.empty(count, dtype=np.int64)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            taken[chosen] = self.rows[self._order(int(epoch))[indices[chosen]]]
        return taken

    def _order(self, epoch: int) -> Rows:
        cache: dict[int, Rows] = self.__dict__.setdefault("_orders", {})
        if epoch not in cache:
            if len(cache) > 1:
                cache.pop(min(cache))
            cache[epoch] = np.random.default_rng(derive(self.seed, self.purpose, epoch)).permutation(len(self.rows))
        return cache[epoch]


@dataclass(frozen=True)
class TrainStream:
    """Batches of true pairs for training.

    Args:
        inputs: Inputs of the model.
        text_rows: Text rows of the pairs to train on.
        batch_size: Pairs in a step.
        seed: Seed of the order.
    """

    inputs: PairInputs
    text_rows: Rows
    batch_size: int
    seed: int

    def steps(self, epochs: float) -> int:
        """Number of steps of this many epochs."""
        return max(1, round(epochs * len(self.text_rows) / min(self.batch_size, len(self.text_rows))))

    def epoch(self, step: int) -> int:
        """Epoch, from 0, in which the batch of a step begins."""
        return step * min(self.batch_size, len(self.text_rows)) // len(self.text_rows)

    def at(self, step: int, device: torch.device) -> Batch:
        """The batch of a step."""
        size = min(self.batch_size, len(self.text_rows))
        chosen = EpochSampler(self.text_rows, self.seed, "train").take(step * size, size)
        return self.inputs.batch(self.inputs.true_pairs(chosen), device, generator(self.seed, "negatives", step))


@dataclass(frozen=True)
class RetainBatch(Batch):
    """Pairs of D_r of one step, with access to mismatched pairs of D_r.

    Args:
        stream: Stream that samples mismatched pairs.
        step: Number of the step.
        progress: Fraction of the steps taken so far, in [0, 1).
    """

    stream: ForgetRetainStream | None = None
    step: int = 0
    progress: float = 0.0

    def mismatched(self, count: int) -> Batch:
        """``count`` new pairs (I_p, T_q) of D_r with p and q from two different examples."""
        assert self.stream is not None
        rows = self.stream.mismatched_rows(count, self.step, "target")
        return self.stream.inputs.batch(rows, next(iter(self.examples.values())).device)


@dataclass(frozen=True)
class ForgetRetainStream:
    """Batches of D_f and D_r for each step.

    Args:
        inputs: Inputs of the student.
        forget: Text rows of D_f.
        retain: Text rows of D_r, of at least two examples.
        batch_size: Pairs of D_f in a step.
        retain_ratio: Pairs of D_r per pair of D_f.
        mismatched: Fraction of the D_r pairs that are mismatched: image and text of two different examples.
        seed: Seed of the order.
        near_misses: Text rows of D_r that have a picture or a text in common with D_f.
        near: Fraction of the D_r pairs that are drawn from ``near_misses``, if there are any.
    """

    inputs: PairInputs
    forget: Rows
    retain: Rows
    batch_size: int
    retain_ratio: int
    mismatched: float
    seed: int
    near_misses: Rows = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    near: float = 0.0

    @property
    def forget_size(self) -> int:
        """Pairs of D_f in a step, at most all of them."""
        return min(self.batch_size, len(self.forget))

    @property
    def retain_size(self) -> int:
        """Pairs of D_r in a step; not reduced for a small D_f, so that enough pairs are retained."""
        return min(self.batch_size * self.retain_ratio, len(self.retain))

    @property
    def num_mismatched(self) -> int:
        """Number of mismatched pairs of D_r in a step."""
        return round(self.mismatched * self.retain_size)

    def steps(self, epochs: float) -> int:
        """Number of steps of this many passes over D_f."""
        return max(1, round(epochs * len(self.forget) / self.forget_size))

    def at(self, step: int, device: torch.device) -> tuple[Batch, RetainBatch]:
        """The batches of D_f and D_r of a step."""
        forgotten, retained = self._rows(step)
        forget = self.inputs.batch(forgotten, device, generator(self.seed, "forget negatives", step))
        batch = self.inputs.batch(retained, device, generator(self.seed, "retain negatives", step))
        return forget, RetainBatch(**vars(batch), stream=self, step=step)

    def first_kept(self, count: int) -> Rows:
        """Text rows of the first kept pairs, at most ``count`` and two steps of them; the steps draw them too."""
        size = min(count, 2 * self.retain_size, len(self.retain))
        return np.sort(EpochSampler(self.retain, self.seed, "retain").take(0, size))

    def drawn(self, steps: int) -> dict[str, Rows]:
        """All rows of each modality that the batches of these steps contain, sorted."""
        both = [rows for step in range(steps) for rows in self._rows(step)]
        return {modality: np.unique(np.concatenate([rows[modality] for rows in both])) for modality in both[0]}

    def _rows(self, step: int) -> tuple[dict[str, Rows], dict[str, Rows]]:
        """Rows of D_f and D_r of a step."""
        chosen = EpochSampler(self.forget, self.seed, "forget").take(step * self.forget_size, self.forget_size)
        num_mismatched = self.num_mismatched
        num_near = round(self.near * (self.retain_size - num_mismatched)) if len(self.near_misses) else 0
        matched = self.retain_size - num_mismatched - num_near
        kept = EpochSampler(self.retain, self.seed, "retain").take(step * matched, matched)
        if num_near:
            near = EpochSampler(self.near_misses, self.seed, "near misses").take(step * num_near, num_near)
            kept = np.concatenate([kept, near])
        rows = self.inputs.true_pairs(kept)
        if num_mismatched:
            wrong = self.mismatched_rows(num_mismatched, step, "retain")
            rows = {modality: np.concatenate([true, wrong[modality]]) for modality, true in rows.items()}
        return self.inputs.true_pairs(chosen), rows

    def mismatched_rows(self, count: int, step: int, purpose: str) -> dict[str, Rows]:
        """Rows of ``count`` pairs (I_p, T_q) of D_r whose examples differ.

        Of a large D_r, both are taken from a sample that the first steps draw too, so that few pictures are needed.
        """
        randomness = np.random.default_rng(derive(self.seed, "mismatched", purpose, step))
        examples = self.inputs.dataset.text_examples
        image = examples[randomness.choice(self._partners, count)]
        text = randomness.choice(self._partners, count)
        while (same := self._match(image, text)).any():
            text[same] = randomness.choice(self._partners, int(same.sum()))
        return {self.inputs.modalities[0]: image, "text": text}

    @cached_property
    def _partners(self) -> Rows:
        """Text rows of D_r from which mismatched pairs are drawn."""
        if len(self.retain) <= TOGETHER:
            return self.retain
        return np.sort(EpochSampler(self.retain, self.seed, "retain").take(0, PARTNERS))

    def _match(self, image: Rows, text: Rows) -> NDArray[np.bool_]:
        """Whether each text is one of its image, deleted or not, or equal to one of them."""
        dataset = self.inputs.dataset
        keys = dataset.content[image] * len(dataset.texts) + dataset.equal_texts[text]
        return find(self._true_pairs, keys)[1]

    @cached_property
    def _true_pairs(self) -> Rows:
        """A number for each true pair of a picture and a text, sorted."""
        dataset = self.inputs.dataset
        return np.unique(dataset.content[dataset.text_examples] * len(dataset.texts) + dataset.equal_texts)
