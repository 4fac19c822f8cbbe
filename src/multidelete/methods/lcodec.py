"""L-CODEC: a Newton step against each deleted example, on the few neurons that its loss depends on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from multidelete.data.batches import PairInputs, Rows
from multidelete.data.requests import Request
from multidelete.methods.base import Method, Unlearned, UnlearningData
from multidelete.methods.steps import Steps
from multidelete.models.base import Batch, Encoding, ModalityInput, Model, Subgraphs, Tokens, iterate_rows
from multidelete.numerics.dependence import foci
from multidelete.numerics.gradients import mean_gradient
from multidelete.numerics.hessian import deletion_step, rank_one
from multidelete.numerics.noise import newton_sigma
from multidelete.training.engine import Engine
from multidelete.utils.errors import InputError
from multidelete.utils.randomness import derive, generator

ROWS = 64  # pairs that are fused together: of more, a fusion module may put some in another order to save padding


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
        inputs = engine.frozen_inputs(original, data.inputs, self.scope)
        student.eval().requires_grad_(False)
        parameters = student.parameters_of(self.scope)
        # Mixed, so that the pairs of a batch are of different examples and can be each other's negatives.
        forget = np.random.default_rng(derive(data.seed, "deletions")).permutation(data.forget_pairs)
        # As even as they go: a last batch of one pair would have no negatives.
        batches = np.array_split(forget, -(-len(forget) // self.batch_size))
        what = f"{self.title} ({self.scope})"
        state = Steps(parameters, f"{self!r} seed {data.seed} forget {data.request.hash}", data.folder, engine)
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
            state.history.lines.append(line)
            state.finished()
            advance(len(batches[number]))
        engine.progress.finish()
        taken = sum(bool(line["neurons"]) and not line["reverted"] for line in state.history.lines)
        if taken < len(batches):
            engine.progress.say(
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
        _, whole = secant(sample)
        step = deletion_step(gradient, whole, deleted, len(left), len(pairs), self.damping).float()
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


class Watch:
    """Mean activations of the neurons of every linear and convolutional layer in scope, pair by pair.

    Args:
        model: Whose layers are watched.
        scope: A layer whose weight lies in it counts.
    """

    def __init__(self, model: Model, scope: str) -> None:
        moving = model.parameters_of(scope)
        self.layers: dict[str, nn.Module] = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear | _ConvNd) and f"{name}.weight" in moving
        }
        self.pictures: int = model.config.images
        self.seen: list[str] = []  # layers that took part, in the order of the columns

    @contextmanager
    def _listen(self, count: int) -> Iterator[_Means]:
        """Hooks on every layer, for one pass of ``count`` pairs."""
        means = _Means(count, self.pictures)
        handles = [
            layer.register_forward_hook(
                lambda module, _, output, name=name: means.add(name, output, isinstance(module, _ConvNd))
            )
            for name, layer in self.layers.items()
        ]
        try:
            yield means
        finally:
            for handle in handles:
                handle.remove()

    def columns(self, model: Model, batch: Batch) -> tuple[Tensor, dict[str, Encoding]]:
        """The neurons side by side, ``(B, p)``, and the encodings on the way there."""
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
        """Layer and number of the neuron that a column is of."""
        ends = np.cumsum(self.widths)
        place = int(np.searchsorted(ends, column, side="right"))
        return self.seen[place], column - int(ends[place] - self.widths[place])


class _Means:
    """What the layers said in one pass; a layer that is called several times speaks by the mean.

    Args:
        count: Pairs, B.
        pictures: In an example.
    """

    def __init__(self, count: int, pictures: int) -> None:
        self.count, self.pictures = count, pictures
        self.fusing = False
        self.rows = slice(0, count)  # of which pairs is being spoken
        self.sums: dict[str, Tensor] = {}
        self.calls: dict[str, int] = {}

    def add(self, name: str, output: Tensor, convolution: bool) -> None:
        """Take the mean over everything but pairs and neurons, ``(B, neurons)``.

        In an encoder the pictures of an example, or whatever else was flattened, stand side by side; the fusion puts
        all first pictures before all second ones.
        """
        values = output.detach().float()
        values = values.movedim(1, -1) if convolution else values
        count, width = self.rows.stop - self.rows.start, values.shape[-1]
        if len(values) % count:
            return  # of something that all pairs share
        if self.fusing and self.pictures > 1 and len(values) == self.pictures * count:
            means = values.reshape(self.pictures, count, -1, width).mean((0, 2))
        else:
            means = values.reshape(count, -1, width).mean(1)
        self.sums.setdefault(name, means.new_zeros(self.count, width))[self.rows] += means
        self.calls[name] = self.calls.get(name, 0) + (self.rows.start == 0)


class NeuronWeights:
    """Rows of weights, and biases, of some neurons as one vector.

    Args:
        model: Whose weights.
        neurons: Layer and number of each, all different.
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
        """What whole tensors, gradients say, have for these neurons, ``(W,)``."""
        return torch.cat([tensors[name][rows].flatten() for name, rows in self.rows.items()])

    def get(self) -> Tensor:
        """The weights as they are, ``(W,)``."""
        return self.pick({name: parameter.detach() for name, parameter in self.parameters.items()})

    @torch.no_grad()
    def set(self, values: Tensor) -> None:
        """Change the weights, and no others."""
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
    """Activations ``(P, p)`` and losses ``(P,)`` of perturbed copies, as deviations from the means of each pair.

    Args:
        model: In eval mode.
        inputs: Raw.
        pairs: Each is copied equally often, so that P may be a little more than ``count``.
        watch: What to listen to.
        count: P.
        noise: See :func:`perturb`.
        key: Seed and number of the step.
        device: Where to run; in fp32, for small differences are what is looked at.
    """
    size = len(pairs)
    rounds = -(-count // size)  # each has every pair once: they are each other's negatives, as in training
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
    """Slightly different inputs, drawn on the CPU so that they are the same on every device.

    Args:
        inputs: Raw: pixels, tokens or graphs.
        model: Whose mean and deviation of pixels count, and whose vocabulary.
        noise: Deviation of what is added to normalised pixels, or to the features of nodes.
        randomness: Where from.
    """
    if isinstance(inputs, Tokens):
        return _replace_token(inputs, model, randomness)
    if isinstance(inputs, Subgraphs):
        drawn = torch.randn(inputs.features.shape, generator=randomness).to(inputs.features)
        return replace(inputs, features=inputs.features + noise * drawn * inputs.mask.unsqueeze(-1))
    assert isinstance(inputs, Tensor), f"{type(inputs).__name__} is no raw input"
    deviation = 255 * torch.tensor(model.config.image_std, device=inputs.device).view(3, 1, 1)
    return inputs.float() + noise * deviation * torch.randn(inputs.shape, generator=randomness).to(inputs.device)


def _replace_token(tokens: Tokens, model: Model, randomness: torch.Generator) -> Tokens:
    """One token of each text becomes another of the vocabulary; special ones neither go nor come."""
    special = torch.tensor(sorted(model.tokenizer.all_special_ids))
    words = torch.arange(len(model.tokenizer))
    words = words[~torch.isin(words, special)]
    ids, own = tokens.ids.cpu(), torch.arange(len(tokens.ids))
    ordinary = torch.isin(ids, words) & tokens.mask.cpu().bool()
    place = torch.rand(ids.shape, generator=randomness).masked_fill(~ordinary, -1).argmax(1)
    # So many words further on, which is never the word that stood there.
    further = torch.randint(1, max(2, len(words)), (len(ids),), generator=randomness)
    old = torch.searchsorted(words, ids[own, place])
    new = words[(old + further) % len(words)]
    ids = ids.clone()
    ids[own, place] = torch.where(ordinary.any(1), new, ids[own, place])
    return Tokens(ids.to(tokens.ids.device), tokens.mask)
