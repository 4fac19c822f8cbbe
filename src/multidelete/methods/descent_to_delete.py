"""Descent-to-Delete: gradient descent on the retain set, then Gaussian noise on the weights."""

from __future__ import annotations

import time
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from multidelete.methods.base import Method, Unlearned, UnlearningData
from multidelete.methods.steps import Steps
from multidelete.models.base import Model
from multidelete.numerics.gradients import mean_gradient
from multidelete.numerics.noise import descent_sigma
from multidelete.training.engine import Engine
from multidelete.training.features import frozen_inputs
from multidelete.utils.errors import InputError
from multidelete.utils.randomness import derive, generator


class DescentToDelete(Method):
    r"""Full-batch gradient descent on D_r, then Gaussian noise on the weights [1]_.

    .. math::
        w \leftarrow w - \eta \, \nabla \left( \ell(D_r) + \tfrac{m}{2} \lVert w \rVert^2 \right)
        \quad I \text{ times, then} \quad w \leftarrow w + N(0, \sigma^2), \qquad
        \sigma = \frac{4 \sqrt 2 \, L \, \gamma^I}
                      {m \, n \, (1 - \gamma^I) (\sqrt{\ln(1 / \delta) + \varepsilon} - \sqrt{\ln(1 / \delta)})}, \quad
        \gamma = \frac{M - m}{M + m}

    with n the number of pairs of D_r. Only weights in scope get noise, not running statistics. D_f is never read.

    **The guarantee holds only for convex, M-smooth losses** and the paper's rate :math:`\eta = 2 / (M + m)`. The losses
    of these models are neither convex nor M-smooth, so the noise guarantees nothing here, and it is usually so large
    that it destroys the model, as in the published comparison. The default rate is smaller than the paper's, so that
    the loss decreases.

    Each step uses all of D_r in fixed chunks: with in-batch negatives, the loss of a pair depends on its chunk. A
    killed run continues from the last saved step.

    Args:
        steps: I, number of gradient descent steps.
        learning_rate: :math:`\eta`.
        weight_decay: m, strong convexity from the penalty :math:`\tfrac{m}{2} \lVert w \rVert^2`.
        smoothness: M; by default 4 - weight_decay.
        lipschitz: L; by default 1 + weight_decay.
        epsilon: ε of the guarantee; smaller means more noise.
        delta: δ of the guarantee; by default :math:`1 / n^2`.
        batch_size: Pairs of D_r in a chunk.

    References:
        .. [1] Neel, Roth and Sharifi-Malvajerdi, "Descent-to-Delete: Gradient-Based Methods for Machine Unlearning",
           ALT 2021
    """

    name: ClassVar[str] = "descent_to_delete"
    title: ClassVar[str] = "DtD"
    color: ClassVar[str] = "#009E73"
    properties: ClassVar[tuple[str, ...]] = ("never_reads_forget",)

    steps: int = Field(default=10, ge=1)
    learning_rate: float = Field(default=0.01, gt=0)
    weight_decay: float = Field(default=0.02, gt=0, lt=2)
    smoothness: float | None = Field(default=None, gt=0)
    lipschitz: float | None = Field(default=None, gt=0)
    epsilon: float = Field(default=5.0, gt=0)
    delta: float | None = Field(default=None, gt=0, lt=1)
    batch_size: int = Field(default=64, ge=2)

    def model_post_init(self, _: Any) -> None:
        """Check that the smoothness exceeds the strong convexity."""
        if self.smoothness is not None and self.smoothness <= self.weight_decay:
            raise ValueError(f"smoothness must be larger than weight_decay, which is {self.weight_decay}")

    def sigma(self, count: int) -> float:
        """Standard deviation of the noise when ``count`` pairs are retained."""
        m = self.weight_decay
        smooth, lipschitz = self.smoothness or 4 - m, self.lipschitz or 1 + m
        return descent_sigma(self.steps, count, m, smooth, lipschitz, self.epsilon, self.delta or min(0.5, count**-2))

    def unlearn(self, student: Model, original: Model, data: UnlearningData, engine: Engine) -> Unlearned:
        """See :meth:`Method.unlearn`."""
        began = time.perf_counter()
        inputs = frozen_inputs(engine, original, data.inputs, self.scope)
        student.eval().requires_grad_(False)
        parameters = student.parameters_of(self.scope)
        order = np.random.default_rng(derive(data.seed, "descent")).permutation(data.retain_pairs)
        # Chunks of nearly equal size: a last chunk of one pair would have no negatives.
        chunks = np.array_split(order, -(-len(order) // self.batch_size))
        what = f"{self.title} ({self.scope})"
        settings = f"{self!r} seed {data.seed} forget {data.request.hash}"
        state = Steps(what, parameters, settings, data.folder, engine)
        prepared = time.perf_counter() - began

        advance = engine.progress.start(what, self.steps * len(chunks))
        advance(state.done * len(chunks))
        for _ in state.remaining(self.steps):
            engine.synchronise()
            began = time.perf_counter()
            total = 0.0

            def losses(chunk: int) -> Tensor:
                nonlocal total
                pairs = inputs.true_pairs(chunks[chunk])
                # The same draws in every step, so that all steps minimise the same function.
                negatives = generator(data.seed, "descent negatives", chunk)
                with engine.autocast():
                    result = student.losses(inputs.batch(pairs, engine.device, negatives)).float()
                total += float(result.detach().sum())
                advance(1)
                return result

            gradient = mean_gradient(losses, len(chunks), parameters, len(order))
            with torch.no_grad():
                for name, parameter in parameters.items():
                    parameter.sub_(gradient[name] + self.weight_decay * parameter, alpha=self.learning_rate)
            engine.synchronise()
            state.history.update_seconds += time.perf_counter() - began
            mean = total / len(order)
            if not np.isfinite(mean) or not all(bool(each.isfinite().all()) for each in parameters.values()):
                raise InputError(
                    f"{what}: the loss became {mean} at step {state.done + 1}, or the weights did after it; "
                    "a smaller learning rate or fewer steps usually helps"
                )
            state.finished({"step": state.done + 1, "losses": {"retain": mean}, "learning_rate": self.learning_rate})
        engine.progress.finish()

        sigma = self.sigma(len(order))
        with torch.no_grad():
            for name, parameter in parameters.items():
                drawn = torch.randn(parameter.shape, generator=generator(data.seed, "noise", name))
                parameter.add_(drawn.to(parameter), alpha=sigma)
        state.history.lines[-1]["noise"] = sigma
        return Unlearned(student, state.history, prepared, inputs)
