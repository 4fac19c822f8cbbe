"""L-CODEC: a Newton step for each batch of deleted pairs, on the few neurons that their loss depends on."""

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
    r"""Newton step on the neurons that the loss of deleted pairs depends on, with noise [1]_.

    For each batch z of pairs of D_f:

    1. P perturbed copies of z: pixels (normalised) + 0.1 N(0, 1), one token of the text replaced; in graphs, node
       features + 0.1 N(0, 1) (ours). Mean activations :math:`A \in R^{P \times p}` of the neurons of all linear and
       convolutional layers in scope, over positions of an image or tokens of a text, and losses
       :math:`\ell \in R^P`.
    2. FOCI selects neurons with the coefficient of conditional dependence
       (:mod:`multidelete.numerics.dependence`),
       until none adds information about the losses.
    3. On their rows and biases w a Newton step away from z,

       .. math:: w \leftarrow w + (H + \lambda I)^{-1} \frac{b \, g}{n - b}, \qquad g = \nabla_w \ell(z), \qquad
                 H = \frac{n H_{train} - b H_z}{n - b},

       both Hessians rank-one finite differences :math:`(g_1 - g_2)(g_1 - g_2)^T / \lVert w_1 - w_2 \rVert_1` with
       newly computed gradients, solved by the Sherman-Morrison-Woodbury identity.
    4. Noise on w, :math:`\sigma = (\gamma / \varepsilon) \sqrt{2 \ln(1.25 / \delta)}` with
       :math:`\gamma = 2 \cdot 0.25 \, m^2 / (n^2 \lambda^3)`.
    5. The step is reverted if it lowers the utility on validation by more than 5 points, or if the curvature is so
       negative that the step would lead towards z.

    Where we leave the paper, which deletes one example at a time (``batch_size`` 1, as many times slower): the P copies
    are shared evenly among the b pairs of z, and activations and losses are centred on their means over the copies of
    the same pair, so that differences between pairs do not count as dependence. A batch also provides in-batch
    negatives. The second weights of a finite difference are a small step along the negative gradient; the released code
    uses those of an earlier epoch, which user-provided models lack. :math:`H_{train}` is estimated on a sample of the
    pairs not yet deleted. Copies pass through frozen encoders too, since inputs are perturbed, not encodings; gradients
    start at the first trainable layer. All computations are in fp32, because the differences are small.

    The noise is that for one deleted pair, as in the authors' code; the bound for m pairs is larger by a factor of
    :math:`m^2`. It decreases with :math:`n^2`: at n = 12,000 pairs it is 0.1, the size of a weight, and at 1,000 it is
    15, so that every step is reverted; a larger ``epsilon`` or ``damping`` then helps. An interrupted run resumes at
    the last saved batch.

    Args:
        perturbations: P.
        batch_size: b, number of pairs of D_f to delete together.
        input_noise: Standard deviation of the noise on normalised pixels, or on node features.
        neurons: Maximum number of neurons per batch. Ours; the paper uses only the coefficient.
        damping: :math:`\lambda`.
        displacement: Distance of both weights of a finite difference, relative to their norm.
        hessian_pairs: Sample size for :math:`H_{train}`.
        lipschitz: m, Lipschitz constant of a pair's loss.
        epsilon: Privacy parameter of the noise; smaller means more noise.
        delta: Privacy parameter of the noise.
        largest_drop: Maximum drop of utility on validation, in points; with 100 every step is taken, and validation is
            not read.

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
        """Check that every pair gets at least two copies."""
        if self.perturbations < 2 * self.batch_size:
            raise ValueError(
                f"each of the {self.batch_size} pairs of a batch needs 2 perturbed copies or more: perturbations must "
                f"be at least {2 * self.batch_size}, or batch_size at most {self.perturbations // 2}"
            )

    def check(self, model: Model, request: Request | None = None) -> None:
        """See :meth:`Method.check`; the drop of utility needs a validation split."""
        super().check(model, request)
        if self.largest_drop < 100 and request is not None and len(request.validation) == 0:
            raise InputError(
                f"dataset '{request.dataset.name}' has no validation split, "
                f"on which {self.name} measures the drop of utility; "
                "add one, or set method.largest_drop=100 to take every step"
            )

    def unlearn(self, student: Model, original: Model, data: UnlearningData, engine: Engine) -> Unlearned:
        """See :meth:`Method.unlearn`."""
        reads_validation = self.largest_drop < 100
        began = time.perf_counter()
        inputs = frozen_inputs(engine, original, data.inputs, self.scope)
        student.eval().requires_grad_(False)
        parameters = student.parameters_of(self.scope)
        # Shuffled, so that pairs of a batch belong to different examples and can be each other's negatives.
        forget = np.random.default_rng(derive(data.seed, "deletions")).permutation(data.forget_pairs)
        # Evenly, because a last batch of one pair would have no negatives.
        batches = np.array_split(forget, -(-len(forget) // self.batch_size))
        what = f"{self.title} ({self.scope})"
        state = Steps(what, parameters, f"{self!r} seed {data.seed} forget {data.request.hash}", data.folder, engine)
        utility = (
            data.task.validation_metrics(student, inputs, data.request, engine)["utility"] if reads_validation else 0.0
        )
        prepared = time.perf_counter() - began

        advance = engine.progress.start(what, len(forget))
        advance(sum(map(len, batches[: state.done])))
        for number in state.remaining(len(batches)):
            engine.synchronise()
            began = time.perf_counter()
            line: dict[str, Any] = {"step": number + 1}
            left = np.concatenate([data.retain_pairs, *batches[number:]])  # not yet deleted, including z
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
                f"{what}: {taken} of {len(batches)} steps were taken, the others were reverted or had no neuron "
                "to change; a larger method.epsilon reduces the noise"
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
        """Delete one batch from the student, in place.

        Args:
            student: Model to change.
            raw: Pixels, tokens and graphs, to perturb.
            inputs: Model inputs with precomputed encodings of frozen parts.
            pairs: z.
            left: Pairs not yet deleted, including z.
            key: Seed and number of the step.
            engine: Device, precision, progress.

        Returns:
            Line of the history, and a function that reverts the step.
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
            """Mean gradient at the current weights, and the vector of the rank-one Hessian, ``(W,)`` each."""
            chunks = np.array_split(rows, -(-len(rows) // ROWS))

            def gradient() -> Tensor:
                result = mean_gradient(lambda k: loss_of(chunks[k]), len(chunks), weights.parameters, len(rows))
                return weights.pick(result)

            here, values = gradient(), weights.get()
            if not here.any():  # zero gradient: no descent direction
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
