"""The original model as a frozen teacher with cached outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from multidelete.data.batches import PairInputs, Rows, by_length, find
from multidelete.data.samplers import ForgetRetainStream
from multidelete.methods.unseen import Unseen
from multidelete.models.base import Model
from multidelete.models.inputs import Batch, Encoding, iterate_rows
from multidelete.training.engine import Engine
from multidelete.training.features import fused_once

MEAN_OF = 2048  # number of mismatched pairs in an estimated mean


class Teacher:
    """The original model: frozen, in eval mode, with cached outputs.

    Encodings and fused representations of the true pairs that are drawn are computed once and cached on disk.
    Mismatched pairs are drawn at every step, but known beforehand, so that :meth:`remember` can precompute them; other
    pairs cost a pass of the fusion module.

    Args:
        model: The original.
        inputs: Model inputs of the dataset, encoded if the encodings fit on disk.
        engine: Device and precision.
        pairs: Text rows of the true pairs to cache; by default all of the training split.
        initial: The original before its training, if the method needs it.
        unseen: Signals of unseen pairs, if the method aims at them.
    """

    def __init__(
        self,
        model: Model,
        inputs: PairInputs,
        engine: Engine,
        pairs: Rows | None = None,
        initial: Teacher | None = None,
        unseen: Unseen | None = None,
    ) -> None:
        self.model, self.inputs, self._engine, self.initial = model, inputs, engine, initial
        self.unseen = unseen
        if pairs is None:
            pairs = inputs.dataset.text_rows(inputs.dataset.rows("train"))
        pairs = np.unique(pairs)
        self._true = fused_once(engine, model, inputs, pairs)
        self._keys = np.empty(0, dtype=np.int64)
        self._fused = torch.empty(0, self._true.values.shape[1])
        self._means: dict[bool, Tensor] = {}

    def remember(self, rows: Sequence[Mapping[str, Rows]]) -> None:
        """Precompute these pairs in large batches."""
        examples, texts = (np.concatenate([each[modality] for each in rows]) for modality in self.inputs.modalities)
        self._keys, first = np.unique(self._key(examples, texts), return_index=True)
        self._fused = self._compute_all(examples[first], texts[first])

    def mismatched_mean(self, stream: ForgetRetainStream, *, by_class: bool = False) -> Tensor:
        """Mean of ``f(I_p, T_q)`` over many mismatched pairs of D_r, ``(D,)``, cached at the first call.

        Args:
            stream: Stream that draws the pairs.
            by_class: Whether to compute a mean for each class that the original predicts, and mix them so that its
                head cannot decide between the classes, see :func:`undecided_mixture`.
        """
        if by_class not in self._means:
            rows = stream.mismatched_rows(MEAN_OF, 0, "mean")
            examples, texts = (rows[modality] for modality in self.inputs.modalities)
            fused = self._compute_all(examples, texts).to(self._engine.device)
            if by_class:
                with torch.no_grad():
                    decided = self.model.head(fused).argmax(-1)
                means = torch.stack([fused[decided == each].mean(0) for each in decided.unique()])
                self._means[by_class] = undecided_mixture(means, self.model.head)
            else:
                self._means[by_class] = fused.mean(0)
        return self._means[by_class]

    def encode(self, batch: Batch) -> dict[str, Encoding]:
        """Encodings of the batch's rows."""
        rows = {modality: chosen.numpy() for modality, chosen in batch.rows.items()}
        with torch.no_grad():
            return self.model.encode(self.inputs.batch(rows, self._engine.device))

    def fused(self, batch: Batch) -> Tensor:
        """``f(I, T)`` of the batch's pairs, true or mismatched, ``(B, D)``."""
        examples, texts = (batch.rows[modality].numpy() for modality in self.inputs.modalities)
        fused = torch.empty(len(texts), self._fused.shape[1])
        known, cached = find(self._true.rows, texts)
        true = (self.inputs.dataset.text_examples[texts] == examples) & cached
        fused[true] = torch.from_numpy(self._true.values[known[true]])
        index, remembered = find(self._keys, self._key(examples, texts))
        remembered &= ~true
        fused[remembered] = self._fused[index[remembered]]
        unknown = ~true & ~remembered
        if unknown.any():
            fused[unknown] = self._compute(examples[unknown], texts[unknown])
        return fused.to(self._engine.device)

    def logits(self, batch: Batch) -> Tensor:
        """Logits of the head for the batch's pairs, ``(B, C)``, without gradient."""
        with torch.no_grad():
            return self.model.head(self.fused(batch)).float()

    def _key(self, examples: Rows, texts: Rows) -> Rows:
        return examples * len(self.inputs.dataset.texts) + texts

    def _compute_all(self, examples: Rows, texts: Rows) -> Tensor:
        """:meth:`_compute` in large batches of texts of similar length."""
        self.inputs.fetch(dict(zip(self.inputs.modalities, (examples, texts), strict=True)))
        order = by_length(self.inputs.sources["text"], texts)
        fused = torch.empty(len(order), self._true.values.shape[1])
        for part in iterate_rows(len(order), 512):
            fused[order[part]] = self._compute(examples[order[part]], texts[order[part]])
        return fused

    @torch.no_grad()
    def _compute(self, examples: Rows, texts: Rows) -> Tensor:
        rows = dict(zip(self.inputs.modalities, (examples, texts), strict=True))
        with self._engine.autocast():
            return self.model.fused(self.inputs.batch(rows, self._engine.device)).float().cpu()


def undecided_mixture(means: Tensor, head: Callable[[Tensor], Tensor]) -> Tensor:
    """Mixture of class means for which the head's prediction is closest to uniform, ``(D,)``.

    A nonlinear head may be certain of one class even at the midpoint of two class means.

    Args:
        means: Mean of each class, ``(K, D)``.
        head: Function from representations to logits, ``(..., C)``.
    """
    leaning = torch.zeros(len(means), device=means.device, requires_grad=True)
    optimiser = torch.optim.LBFGS([leaning], max_iter=200, line_search_fn="strong_wolfe")

    def certainty() -> Tensor:
        with torch.enable_grad():
            value = -head(leaning.softmax(0) @ means).float().log_softmax(-1).mean()
        (leaning.grad,) = torch.autograd.grad(value, [leaning])
        return value

    optimiser.step(certainty)
    return leaning.detach().softmax(0) @ means
