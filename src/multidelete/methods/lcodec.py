"""L-CODEC: a Newton step against each deleted example, on the few neurons that its loss depends on."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from multidelete.data.batches import PairInputs, Rows
from multidelete.data.requests import Request
from multidelete.methods.base import Method, Unlearned, UnlearningData
from multidelete.methods.neurons import ROWS, NeuronWeights, Watch, perturbed
from multidelete.methods.steps import Steps
from multidelete.models.base import Model
from multidelete.numerics.dependence import foci
from multidelete.numerics.gradients import mean_gradient
from multidelete.numerics.hessian import deletion_step, rank_one
from multidelete.numerics.noise import newton_sigma
from multidelete.training.engine import Engine
from multidelete.training.features import frozen_inputs
from multidelete.utils.errors import InputError
from multidelete.utils.randomness import derive, generator

logger = logging.getLogger(__name__)


class Lcodec(Method):
    r"""A Newton step on the neurons that the loss of deleted pairs depends on, and noise [1]_.

    For one batch z of pairs of D_f after the other:

    1. P perturbed copies of z: pixels (normalised) + 0.1 N(0, 1), one token of the text replaced by another; of a graph
       the nodes' features + 0.1 N(0, 1) (ours). Mean activations :math:`A \in R^{P \times p}` of the neurons of every
       linear and convolutional layer in scope, over places of a picture or words of a text, and losses
       :math:`\ell \in R^P`.
    2. Neurons are chosen by FOCI with the coefficient of conditional dependence
    (:mod:`multidelete.numerics.dependence`),
       until none tells more about the losses.
    3. On their rows and biases w a Newton step away from z,

       .. math:: w \leftarrow w + (H + \lambda I)^{-1} \frac{b \, g}{n - b}, \qquad g = \nabla_w \ell(z), \qquad
                 H = \frac{n H_{train} - b H_z}{n - b},

       both Hessians rank-one finite differences :math:`(g_1 - g_2)(g_1 - g_2)^T / \lVert w_1 - w_2 \rVert_1` with
       gradients computed afresh, solved by the Sherman-Morrison-Woodbury identity.
    4. Noise on w, :math:`\sigma = (\gamma / \varepsilon) \sqrt{2 \ln(1.25 / \delta)}` with
       :math:`\gamma = 2 \cdot 0.25 \, m^2 / (n^2 \lambda^3)`.
    5. The step is reverted if the utility on validation drops by more than 5 points by it, or if the curvature is so
       negative that it would lead towards z.

    Where we leave the paper, which deletes one example at a time (``batch_size`` 1 is the paper, and as many times
    slower): the P copies are shared evenly among the b pairs of z, and activations and losses are taken as deviations
    from their means over the copies of the same pair, so that what tells pairs apart is not taken for dependence. A
    batch is also what gives a pair its in-batch negatives. The second weights of a finite difference lie a short way
    down the gradient; the released code takes those of an earlier epoch, which a model that is brought does not have.
    :math:`H_{train}` is of a sample of the pairs not yet deleted. With an encoder frozen by the scope, the copies
    still go through it: inputs are perturbed, not encodings; all gradients begin where something can move. All of it
    is computed in fp32: small differences are what is looked at.

    The noise falls with :math:`n^2`: at n = 12,000 pairs it is 0.1, the size of a weight, and at 1,000 it is 15, so
    that every step is reverted. A larger ``epsilon`` or ``damping`` then lets steps be taken. A killed run goes on at
    the last batch that was kept.

    Args:
        perturbations: P.
        batch_size: b, pairs of D_f that are deleted together.
        input_noise: Deviation of the noise on normalised pixels, or on node features.
        neurons: Most neurons that are chosen for a batch. Ours; the paper leaves it to the coefficient alone.
        damping: :math:`\lambda`.
        displacement: Distance of the two weights of a finite difference, as a share of their norm.
        hessian_pairs: Pairs of the sample for :math:`H_{train}`.
        lipschitz: m, Lipschitz constant of a pair's loss.
        epsilon: Of the noise; smaller means more.
        delta: Of the noise.
        largest_drop: Points of utility on validation that a step may cost; 100 takes every step, and validation is not
            read.

    References:
        .. [1] Mehta et al., "Deep Unlearning via Randomized Conditionally Independent Hessians", CVPR 2022
    """

    name: ClassVar[str] = "lcodec"
    title: ClassVar[str] = "L-CODEC"
    color: ClassVar[str] = "#CC79A7"

    perturbations: int = Field(default=1000, ge=2)
    batch_size: int = Field(default=100, ge=1)
    input_noise: float = Field(default=0.1, gt=0)
    neurons: int = Field(default=20, ge=1)
    damping: float = Field(default=0.01, gt=0)
    displacement: float = Field(default=0.01, gt=0)
    hessian_pairs: int = Field(default=256, ge=2)
    lipschitz: float = Field(default=1.0, gt=0)
    epsilon: float = Field(default=0.1, gt=0)
    delta: float = Field(default=0.01, gt=0, lt=1)
    largest_drop: float = Field(default=5.0, ge=0, le=100)

    def model_post_init(self, _: Any) -> None:
        """Refuse copies too few to see a pair vary."""
        if self.perturbations < 2 * self.batch_size:
            raise ValueError(
                f"each of the {self.batch_size} pairs of a batch needs 2 perturbed copies or more: perturbations must "
                f"be at least {2 * self.batch_size}, or batch_size at most {self.perturbations // 2}"
            )

    def check(self, model: Model, request: Request | None = None) -> None:
        """See :meth:`Method.check`; without a validation split it cannot be seen what a step costs."""
        super().check(model, request)
        if self.largest_drop < 100 and request is not None and len(request.validation) == 0:
            raise InputError(
                f"dataset '{request.dataset.name}' has no validation split, "
                f"on which {self.name} sees whether a step costs too much; "
                "add one, or set method.largest_drop=100 to take every step"
            )

    def unlearn(self, student: Model, original: Model, data: UnlearningData, engine: Engine) -> Unlearned:
        """See :meth:`Method.unlearn`."""
        reads_validation = self.largest_drop < 100
        began = time.perf_counter()
        inputs = frozen_inputs(engine, original, data.inputs, self.scope)
        student.eval().requires_grad_(False)
        parameters = student.parameters_of(self.scope)
        # Mixed, so that the pairs of a batch are of different examples and can be each other's negatives.
        forget = np.random.default_rng(derive(data.seed, "deletions")).permutation(data.forget_pairs)
        # As even as they go: a last batch of one pair would have no negatives.
        batches = np.array_split(forget, -(-len(forget) // self.batch_size))
        what = f"{self.title} ({self.scope})"
        state = Steps(what, parameters, f"{self!r} seed {data.seed} forget {data.request.hash}", data.folder, engine)
        utility = (
            data.task.validation_metrics(student, inputs, data.request, engine)["utility"] if reads_validation else 0.0
        )
        prepared = time.perf_counter() - began

        advance = engine.progress.start(what, len(forget))
        advance(sum(map(len, batches[: state.done])))
        for number in range(state.done, len(batches)):
            engine.synchronise()
            began = time.perf_counter()
            line: dict[str, Any] = {"step": number + 1}
            left = np.concatenate([data.retain_pairs, *batches[number:]])  # not yet deleted, z among them
            key = (data.seed, number)
            result, undo = self._delete(student, data.inputs, inputs, batches[number], left, key, engine)
            line |= result
            engine.synchronise()
            state.history.update_seconds += time.perf_counter() - began
            if reads_validation and line["neurons"] and not line["reverted"]:
                began = time.perf_counter()
                line["validation"] = scores = data.task.validation_metrics(student, inputs, data.request, engine)
                line["reverted"] = utility - scores["utility"] > self.largest_drop
                utility = utility if line["reverted"] else scores["utility"]
                state.history.selection_seconds += time.perf_counter() - began
            if line["reverted"]:
                undo()
            state.finished(line)
            advance(len(batches[number]))
        engine.progress.finish()
        taken = sum(bool(line["neurons"]) and not line["reverted"] for line in state.history.lines)
        if taken < len(batches):
            logger.info(
                f"{what}: {taken} of {len(batches)} steps were taken, the others reverted or without a neuron "
                "to change; with a larger method.epsilon there is less noise"
            )
        return Unlearned(student, state.history, prepared, inputs)

    def _delete(
        self,
        student: Model,
        raw: PairInputs,
        inputs: PairInputs,
        pairs: Rows,
        left: Rows,
        key: tuple[int, int],
        engine: Engine,
    ) -> tuple[dict[str, Any], Callable[[], None]]:
        """One step on the student, in place.

        Args:
            student: Changed.
            raw: Pixels, tokens and graphs, to perturb.
            inputs: What the student reads, with what is frozen computed beforehand.
            pairs: z.
            left: Pairs not yet deleted, z among them.
            key: Seed and number of the step.
            engine: Where to run.

        Returns:
            What is logged of it, and what takes it back.
        """
        watch = Watch(student, self.scope)
        columns, losses = perturbed(
            student, raw, pairs, watch, self.perturbations, self.input_noise, key, engine.device
        )
        chosen = foci(columns, losses, self.neurons)
        line: dict[str, Any] = {
            "neurons": [f"{layer}[{neuron}]" for layer, neuron in map(watch.neuron, chosen.columns)],
            "dependence": list(chosen.dependence),
            "reverted": False,
        }

        def loss_of(rows: Rows) -> Tensor:
            return student.losses(inputs.batch(inputs.true_pairs(rows), engine.device))

        with torch.no_grad():
            line["losses"] = {"forget": float(loss_of(pairs).mean())}
        if not chosen.columns:
            return line, lambda: None
        weights = NeuronWeights(student, [watch.neuron(column) for column in chosen.columns])
        sample = np.random.default_rng(derive(key[0], "hessian", key[1])).permutation(left)[: self.hessian_pairs]

        def secant(rows: Rows) -> tuple[Tensor, Tensor]:
            """Mean gradient at the weights as they are, and the vector of the Hessian there, ``(W,)`` both."""
            chunks = np.array_split(rows, -(-len(rows) // ROWS))

            def gradient() -> Tensor:
                result = mean_gradient(lambda k: loss_of(chunks[k]), len(chunks), weights.parameters, len(rows))
                return weights.pick(result)

            here, values = gradient(), weights.get()
            if not here.any():  # flat: no way leads down
                return here, torch.zeros_like(here)
            away = -self.displacement * values.norm().clamp_min(1e-6) / here.norm() * here
            weights.set(values + away)
            there = gradient()
            weights.set(values)
            return here, rank_one((here, there), away)

        gradient, deleted = secant(pairs)
        _, train = secant(sample)
        step = deletion_step(gradient, train, deleted, len(left), len(pairs), self.damping).float()
        sigma = newton_sigma(len(left), self.damping, self.lipschitz, self.epsilon, self.delta)
        drawn = torch.randn(step.shape, generator=generator(key[0], "noise", key[1])).to(step)
        values = weights.get()
        weights.set(values + step)
        with torch.no_grad():
            line["losses"]["forget_after"] = float(loss_of(pairs).mean())
        line["noise"] = sigma
        line["reverted"] = not float(gradient @ step) > 0
        weights.set(values + step + sigma * drawn)
        return line, lambda: weights.set(values)
