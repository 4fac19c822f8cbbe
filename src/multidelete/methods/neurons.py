"""Activations, perturbed inputs and weights of single neurons, for L-CODEC."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from multidelete.data.batches import PairInputs, Rows
from multidelete.models.base import Model
from multidelete.models.inputs import Batch, Encoding, ModalityInput, Subgraphs, Tokens, iterate_rows
from multidelete.utils.randomness import generator

ROWS = 64  # pairs fused at a time; with more, a fusion module may reorder them to save padding


class Watch:
    """Mean activations of the neurons of all linear and convolutional layers in scope, for each pair.

    Args:
        model: Model to observe.
        scope: Scope that contains the layers' weights.
    """

    def __init__(self, model: Model, scope: str) -> None:
        moving = model.parameters_of(scope)
        self.layers: dict[str, nn.Module] = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear | _ConvNd) and f"{name}.weight" in moving
        }
        self.pictures: int = model.config.images
        self.sequence_first = model.sequence_first
        self.seen: list[str] = []  # layers that were called, in the order of the columns

    @contextmanager
    def _listen(self, count: int) -> Iterator[_Means]:
        """Context with hooks on every layer, for one pass of ``count`` pairs."""
        means = _Means(count, self.pictures)

        def seen(name: str, module: nn.Module, output: Tensor) -> None:
            rows_first = output.transpose(0, 1) if re.match(self.sequence_first, name) else output
            means.add(name, rows_first, isinstance(module, _ConvNd))

        handles = [
            layer.register_forward_hook(lambda module, _, output, name=name: seen(name, module, output))
            for name, layer in self.layers.items()
        ]
        try:
            yield means
        finally:
            for handle in handles:
                handle.remove()

    def columns(self, model: Model, batch: Batch) -> tuple[Tensor, dict[str, Encoding]]:
        """Activations of all neurons, ``(B, p)``, and the encodings."""
        with self._listen(len(batch)) as means:
            encoded = model.encode(batch)
            means.fusing = True
            for part in iterate_rows(len(batch), ROWS):
                means.rows = part
                rows = torch.arange(part.start, part.stop, device=next(iter(batch.examples.values())).device)
                model.head(model.fuse({modality: each[rows] for modality, each in encoded.items()}))
        self.seen = [name for name in self.layers if name in means.sums]
        self.widths = [means.sums[name].shape[1] for name in self.seen]
        return torch.cat([means.sums[name] / means.calls[name] for name in self.seen], dim=1), encoded

    def neuron(self, column: int) -> tuple[str, int]:
        """Layer and index of the neuron of a column."""
        ends = np.cumsum(self.widths)
        layer = int(np.searchsorted(ends, column, side="right"))
        return self.seen[layer], column - int(ends[layer] - self.widths[layer])


class _Means:
    """Mean activations of one pass; layers that are called several times are averaged.

    Args:
        count: Number of pairs, B.
        pictures: Number of images per example.
    """

    def __init__(self, count: int, pictures: int) -> None:
        self.count, self.pictures = count, pictures
        self.fusing = False
        self.rows = slice(0, count)  # rows of the pairs being processed
        self.sums: dict[str, Tensor] = {}
        self.calls: dict[str, int] = {}

    def add(self, name: str, output: Tensor, convolution: bool) -> None:
        """Add the mean over all dimensions except pairs and neurons, ``(B, neurons)``.

        In an encoder images of an example are adjacent rows; in the fusion, all first images precede all second ones.
        """
        values = output.detach().float()
        values = values.movedim(1, -1) if convolution else values
        count, width = self.rows.stop - self.rows.start, values.shape[-1]
        if len(values) % count:
            return  # shared by all pairs
        if self.fusing and self.pictures > 1 and len(values) == self.pictures * count:
            means = values.reshape(self.pictures, count, -1, width).mean((0, 2))
        else:
            means = values.reshape(count, -1, width).mean(1)
        self.sums.setdefault(name, means.new_zeros(self.count, width))[self.rows] += means
        self.calls[name] = self.calls.get(name, 0) + (self.rows.start == 0)


class NeuronWeights:
    """Weight rows and biases of selected neurons as one vector.

    Args:
        model: Model with the weights.
        neurons: Layer and index of each neuron, without duplicates.
    """

    def __init__(self, model: Model, neurons: list[tuple[str, int]]) -> None:
        rows: dict[str, list[int]] = {}
        for layer, neuron in neurons:
            rows.setdefault(layer, []).append(neuron)
        moving = model.parameters_of("all")
        self.rows: dict[str, Tensor] = {}
        self.parameters: dict[str, nn.Parameter] = {}
        for layer, chosen in rows.items():
            for name in (f"{layer}.weight", f"{layer}.bias"):
                if name in moving:
                    self.parameters[name] = moving[name]
                    self.rows[name] = torch.tensor(chosen, device=moving[name].device)

    def pick(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Select the entries of these neurons from tensors by parameter name, such as gradients, ``(W,)``."""
        return torch.cat([tensors[name][rows].flatten() for name, rows in self.rows.items()])

    def get(self) -> Tensor:
        """Current weights, ``(W,)``."""
        return self.pick({name: parameter.detach() for name, parameter in self.parameters.items()})

    @torch.no_grad()
    def set(self, values: Tensor) -> None:
        """Set the weights."""
        start = 0
        for name, rows in self.rows.items():
            shape = self.parameters[name][rows].shape
            self.parameters[name][rows] = values[start : start + shape.numel()].view(shape).to(self.parameters[name])
            start += shape.numel()


@torch.no_grad()
def perturbed(
    model: Model,
    inputs: PairInputs,
    pairs: Rows,
    watch: Watch,
    count: int,
    noise: float,
    key: tuple[int, int],
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Activations ``(P, p)`` and losses ``(P,)`` of perturbed copies, centred on the means of each pair.

    Args:
        model: Model in eval mode.
        inputs: Raw inputs.
        pairs: Pairs; each is copied equally often, so that P may slightly exceed ``count``.
        watch: Layers to observe.
        count: P.
        noise: See :func:`perturb`.
        key: Seed and number of the step.
        device: Device; computations are in fp32, because the differences are small.
    """
    size = len(pairs)
    rounds = -(-count // size)  # each round has every pair once: they are each other's negatives, as in training
    columns: list[Tensor] = []
    losses: list[Tensor] = []
    for part in iterate_rows(rounds, max(1, ROWS // size)):
        copies = part.stop - part.start
        batch = inputs.batch(inputs.true_pairs(np.tile(pairs, copies)), device)
        randomness = generator(key[0], "perturbations", key[1], part.start)
        drawn = {modality: perturb(given, model, noise, randomness) for modality, given in batch.inputs.items()}
        activations, encoded = watch.columns(model, replace(batch, inputs=drawn))
        columns.append(activations)
        for rows in torch.arange(len(batch)).split(size):
            losses.append(model.losses(_rows_of(batch, encoded, rows)))
    every, result = torch.cat(columns).unflatten(0, (rounds, size)), torch.stack(losses)
    return (every - every.mean(0)).flatten(0, 1), (result - result.mean(0)).flatten()


def _rows_of(batch: Batch, encoded: Mapping[str, Encoding], rows: Tensor) -> Batch:
    there = rows.to(next(iter(batch.examples.values())).device)
    return Batch(
        {modality: each[there] for modality, each in encoded.items()},
        {modality: each[rows] for modality, each in batch.rows.items()},
        {modality: each[there] for modality, each in batch.examples.items()},
        None,
        None if batch.labels is None else batch.labels[there],
    )


def perturb(inputs: ModalityInput, model: Model, noise: float, randomness: torch.Generator) -> ModalityInput:
    """Perturb inputs; random numbers are drawn on the CPU, so that they are the same on every device.

    Args:
        inputs: Raw pixels, tokens or graphs.
        model: Model with the pixel normalisation and the vocabulary.
        noise: Standard deviation of the noise on normalised pixels, or on node features.
        randomness: Random generator.
    """
    if isinstance(inputs, Tokens):
        return _replace_token(inputs, model, randomness)
    if isinstance(inputs, Subgraphs):
        drawn = torch.randn(inputs.features.shape, generator=randomness).to(inputs.features)
        return replace(inputs, features=inputs.features + noise * drawn * inputs.mask.unsqueeze(-1))
    assert isinstance(inputs, Tensor), f"{type(inputs).__name__} is no raw input"
    return model.noised(inputs, noise, randomness)


def _replace_token(tokens: Tokens, model: Model, randomness: torch.Generator) -> Tokens:
    """Replace one token of each text by another one of the vocabulary; special tokens are excluded."""
    special = torch.tensor(sorted(model.tokenizer.all_special_ids))
    words = torch.arange(len(model.tokenizer))
    words = words[~torch.isin(words, special)]
    ids, own = tokens.ids.cpu(), torch.arange(len(tokens.ids))
    ordinary = torch.isin(ids, words) & tokens.mask.cpu().bool()
    position = torch.rand(ids.shape, generator=randomness).masked_fill(~ordinary, -1).argmax(1)
    # A shift in the vocabulary never yields the same word.
    further = torch.randint(1, max(2, len(words)), (len(ids),), generator=randomness)
    old = torch.searchsorted(words, ids[own, position])
    new = words[(old + further) % len(words)]
    ids = ids.clone()
    ids[own, position] = torch.where(ordinary.any(1), new, ids[own, position])
    return Tokens(ids.to(tokens.ids.device), tokens.mask)
