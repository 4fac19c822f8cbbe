"""Descent-to-Delete: gradient descent on the retain set, then noise that hides where it came from."""

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
    r"""Full steps of gradient descent on D_r, then Gaussian noise on the weights [1]_.

    .. math::
        w \leftarrow w - \eta \, \nabla \left( \ell(D_r) + \tfrac{m}{2} \lVert w \rVert^2 \right)
        \quad I \text{ times, then} \quad w \leftarrow w + N(0, \sigma^2), \qquad
        \sigma = \frac{4 \sqrt 2 \, L \, \gamma^I}
                      {m \, n \, (1 - \gamma^I) (\sqrt{\ln(1 / \delta) + \varepsilon} - \sqrt{\ln(1 / \delta)})}, \quad
        \gamma = \frac{M - m}{M + m}

    with n the number of pairs of D_r. Noise goes to the weights in scope and to nothing else: running statistics are
    no weights. D_f is never read.

    **The guarantee holds for convex losses only**, and for the paper's rate :math:`\eta = 2 / (M + m)` where the loss
    is M-smooth. The losses of these models are neither, so that the noise proves nothing here, and by its size mostly
    destroys the model, as it does in the published comparison. The rate is a setting, smaller than the paper's, with
    which the loss does fall.

    Every step is over all of D_r, in chunks that are the same in every step: with in-batch negatives the loss of a
    pair looks at its chunk. A killed run goes on at the last step that was kept.

    Args:
        steps: I, steps of gradient descent.
        learning_rate: :math:`\eta`.
        weight_decay: m, strong convexity by :math:`\tfrac{m}{2} \lVert w \rVert^2`; a small pull to zero.
        smoothness: M; by default 4 - weight_decay.
        lipschitz: L; by default 1 + weight_decay.
        epsilon: Of the guarantee; smaller means more noise.
        delta: Of the guarantee; by default :math:`1 / n^2`.
        batch_size: Pairs of D_r whose gradient is computed at a time.

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
        """Refuse a smoothness that no strongly convex function has."""
        if self.smoothness is not None and self.smoothness <= self.weight_decay:
            raise ValueError(f"smoothness must be larger than weight_decay, which is {self.weight_decay}")

    def sigma(self, count: int) -> float:
        """Deviation of the noise where ``count`` pairs are kept."""
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
        # As even as they go: a last chunk of one pair would have no negatives.
        chunks = np.array_split(order, -(-len(order) // self.batch_size))
        what = f"{self.title} ({self.scope})"
        settings = f"{self!r} seed {data.seed} forget {data.request.hash}"
        state = Steps(what, parameters, settings, data.folder, engine)
        prepared = time.perf_counter() - began

        advance = engine.progress.start(what, self.steps * len(chunks))
        advance(state.done * len(chunks))
        while state.done < self.steps:
            engine.synchronise()
            began = time.perf_counter()
            total = 0.0

            def losses(chunk: int) -> Tensor:
                nonlocal total
                pairs = inputs.true_pairs(chunks[chunk])
                # The same draws in every step: what descends is one function.
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
