"""Gradients accumulated over chunks that fit into memory.

``losses(chunk)`` computes the unreduced losses of one chunk, ``(b,)``, as ``Model.losses`` does; :func:`mean_gradient`
also accepts their sum, a scalar. Memory holds the autograd graph of one chunk at a time. ``.grad`` is not touched, and
``requires_grad`` of the parameters is restored.
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
        losses: Losses of chunk 0, 1, ..., ``(b,)``, or their sum.
        chunks: Number of chunks.
        parameters: Parameters to differentiate by; unused ones get zeros.
        count: Number of examples in all chunks; the divisor of the sum.

    Returns:
        One fp32 tensor for each parameter, of its shape.
    """
    total = zeros_like(parameters)
    with differentiable(parameters):
        for chunk in range(chunks):
            # Divide before accumulation, to lose no precision in bf16 or in large sums.
            for name, gradient in _gradient(losses(chunk).float().sum() / count, parameters).items():
                total[name] += gradient
    return total


def mean_squared_batch_gradient(losses: Losses, chunks: int, parameters: Mapping[str, nn.Parameter]) -> Gradients:
    """Mean over the chunks of the squared gradient of their mean loss; one backward pass each.

    Within a chunk gradients of opposite sign cancel, so it is smaller than :func:`mean_squared_gradient`, by up to the
    size of the chunks.

    Args:
        losses: Losses of chunk 0, 1, ..., ``(b,)``, not reduced.
        chunks: Number of chunks.
        parameters: Parameters to differentiate by; unused ones get zeros.
    """
    total = zeros_like(parameters)
    with differentiable(parameters):
        for chunk in range(chunks):
            for gradients in _each(losses(chunk).mean()[None], parameters):
                for name, gradient in gradients.items():
                    total[name].addcmul_(gradient, gradient, value=1 / chunks)
    return total


def mean_squared_gradient(losses: Losses, chunks: int, parameters: Mapping[str, nn.Parameter], count: int) -> Gradients:
    """Mean squared per-sample gradient over ``count`` examples: the diagonal of the empirical Fisher information.

    Each example costs a backward pass over its chunk, so small chunks are cheaper. With in-batch negatives, however,
    the loss of an example depends on its chunk.

    Args:
        losses: Losses of chunk 0, 1, ..., ``(b,)``, not reduced.
        chunks: Number of chunks.
        parameters: Parameters to differentiate by; unused ones get zeros.
        count: Number of examples in all chunks; the divisor of the sum.

    Returns:
        One fp32 tensor for each parameter, of its shape.
    """
    total = zeros_like(parameters)
    with differentiable(parameters):
        for chunk in range(chunks):
            for gradients in _each(losses(chunk), parameters):
                for name, gradient in gradients.items():
                    total[name].addcmul_(gradient, gradient, value=1 / count)
    return total


def zeros_like(parameters: Mapping[str, Tensor]) -> Gradients:
    """Zero gradients, in fp32."""
    return {name: torch.zeros_like(parameter, dtype=torch.float32) for name, parameter in parameters.items()}


@contextmanager
def differentiable(parameters: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """Context that enables gradients of these parameters and restores ``requires_grad`` on exit."""
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
    for index in range(len(losses)):
        yield _gradient(losses[index].float(), parameters, keep=index + 1 < len(losses))


def _gradient(loss: Tensor, parameters: Mapping[str, nn.Parameter], *, keep: bool = False) -> Gradients:
    result = torch.autograd.grad(loss, list(parameters.values()), retain_graph=keep, allow_unused=True)
    return {
        name: torch.zeros_like(parameter, dtype=torch.float32) if gradient is None else gradient.detach().float()
        for (name, parameter), gradient in zip(parameters.items(), result, strict=True)
    }
