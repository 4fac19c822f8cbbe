"""Gradients over more pairs than fit into memory at once, and of each example for itself.

A loss over N examples is given in chunks: ``losses(chunk)`` computes those of one chunk, ``(b,)`` and never reduced, as
``Model.losses`` gives them (their sum, a scalar, does where no example is looked at for itself). Memory holds the graph
of one chunk at a time. Nothing is left in ``.grad``, and whether parameters require gradients is as it was before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Losses = Callable[[int], Tensor]
Gradients = dict[str, Tensor]


def mean_gradient(losses: Losses, chunks: int, parameters: Mapping[str, nn.Parameter], count: int) -> Gradients:
    """Gradient of the mean loss of ``count`` examples.

    Args:
        losses: The losses of chunk 0, 1, ..., ``(b,)``, or their sum.
        chunks: How many chunks there are.
        parameters: With respect to which; those that the loss does not reach get zeros.
        count: Examples in all chunks together, by which the sum is divided.

    Returns:
        One tensor for each parameter, of its shape, in fp32.
    """
    total = zeros_like(parameters)
    with differentiable(parameters):
        for chunk in range(chunks):
            # Divided before it is added up, so that bf16 or large sums lose nothing.
            for name, gradient in _gradient(losses(chunk).float().sum() / count, parameters).items():
                total[name] += gradient
    return total


def mean_squared_gradient(losses: Losses, chunks: int, parameters: Mapping[str, nn.Parameter], count: int) -> Gradients:
    """Mean over ``count`` examples of the squared gradient of each one's loss: the diagonal of the empirical Fisher.

    Every example costs a backward pass over its whole chunk, so small chunks are the cheap ones where the forward pass
    allows them: with in-batch negatives the loss of an example depends on its chunk.

    Args:
        losses: The losses of chunk 0, 1, ..., ``(b,)``, not reduced.
        chunks: How many chunks there are.
        parameters: With respect to which; those that the loss does not reach get zeros.
        count: Examples in all chunks together, by which the sum is divided.

    Returns:
        One tensor for each parameter, of its shape, in fp32.
    """
    total = zeros_like(parameters)
    with differentiable(parameters):
        for chunk in range(chunks):
            for gradients in _each(losses(chunk), parameters):
                for name, gradient in gradients.items():
                    total[name].addcmul_(gradient, gradient, value=1 / count)
    return total


def per_sample_gradients(losses: Losses, chunks: int, parameters: Mapping[str, nn.Parameter]) -> Gradients:
    """The gradient of each example's loss, all of them in memory: for a handful of examples or parameters.

    Args:
        losses: The losses of chunk 0, 1, ..., ``(b,)``, not reduced.
        chunks: How many chunks there are.
        parameters: With respect to which; those that the loss does not reach get zeros.

    Returns:
        ``(N, *shape)`` for each parameter, in fp32, examples in the order of the chunks.
    """
    rows: dict[str, list[Tensor]] = {name: [] for name in parameters}
    with differentiable(parameters):
        for chunk in range(chunks):
            for gradients in _each(losses(chunk), parameters):
                for name, gradient in gradients.items():
                    rows[name].append(gradient)
    return {name: torch.stack(each) for name, each in rows.items()}


def zeros_like(parameters: Mapping[str, Tensor]) -> Gradients:
    """A gradient of zeros, in fp32."""
    return {name: torch.zeros_like(parameter, dtype=torch.float32) for name, parameter in parameters.items()}


@contextmanager
def differentiable(parameters: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """Gradients are recorded inside, for these parameters; afterwards everything is as it was."""
    before = {name: parameter.requires_grad for name, parameter in parameters.items()}
    try:
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        with torch.enable_grad():
            yield
    finally:
        for name, parameter in parameters.items():
            parameter.requires_grad_(before[name])


def _each(losses: Tensor, parameters: Mapping[str, nn.Parameter]) -> Iterator[Gradients]:
    assert losses.dim() == 1, "one loss for each example is needed, not their sum"
    for place in range(len(losses)):
        yield _gradient(losses[place].float(), parameters, keep=place + 1 < len(losses))


def _gradient(loss: Tensor, parameters: Mapping[str, nn.Parameter], *, keep: bool = False) -> Gradients:
    result = torch.autograd.grad(loss, list(parameters.values()), retain_graph=keep, allow_unused=True)
    return {
        name: torch.zeros_like(parameter, dtype=torch.float32) if gradient is None else gradient.detach().float()
        for (name, parameter), gradient in zip(parameters.items(), result, strict=True)
    }
