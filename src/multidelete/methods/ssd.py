"""Selective synaptic dampening: shrinks weights that are important to the forget set, without training."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from multidelete.data.batches import PairInputs, Rows
from multidelete.methods.base import Method, Unlearned, UnlearningData
from multidelete.methods.pairs import chunked_losses
from multidelete.models.base import Model
from multidelete.numerics.gradients import mean_squared_batch_gradient, mean_squared_gradient
from multidelete.training.engine import Engine
from multidelete.training.features import frozen_inputs
from multidelete.training.loop import TrainingHistory
from multidelete.utils.errors import InputError
from multidelete.utils.randomness import derive


class SSD(Method):
    r"""Dampening of weights that are much more important to D_f than to D_train [1]_.

    .. math::

        \theta_i \leftarrow \beta_i \theta_i \;\text{ where }\; I_{D_f,i} > \alpha I_{D,i}, \qquad
        \beta_i = \min\Big( \frac{\lambda I_{D,i}}{I_{D_f,i}}, 1 \Big)

    I is the diagonal of the empirical Fisher information: the mean squared gradient of the task loss of single pairs
    (``squares = "pair"``, the definition), or of batches (``"batch"``, the authors' code). D is D_train; its I is the
    mean of those of D_f and D_r, weighted by their sizes, each over a sample. So :math:`I_{D_f} / I_D` is at most
    |D| / |D_f|: the paper's alpha of 10, for deletions of 1 % or less, selects nothing if 10 % are deleted, hence our
    default. In retrieval the loss of a pair, and so its gradient, depends on the other pairs of its batch.

    Args:
        alpha: Ratio of importance to D_f and to D_train above which an entry is dampened; should exceed 1.
        dampening: Lambda; larger values dampen less.
        squares: Whether gradients are squared for each ``pair`` or for each ``batch``.
        samples: Maximum number of pairs of D_f, and of D_r, for the mean importance, drawn with the seed; each costs a
            backward pass.
        batch_size: Pairs in a forward pass.

    References:
        .. [1] Foster, Schoepf and Brintrup, "Fast Machine Unlearning without Retraining through Selective Synaptic
           Dampening", AAAI 2024
    """

    name: ClassVar[str] = "ssd"
    title: ClassVar[str] = "SSD"
    color: ClassVar[str] = "#6B4C2A"

    alpha: float = Field(default=2.0, gt=0)
    dampening: float = Field(default=1.0, gt=0)
    squares: Literal["pair", "batch"] = "pair"
    samples: int = Field(default=1000, ge=1)
    batch_size: int = Field(default=16, ge=2)

    def unlearn(self, student: Model, original: Model, data: UnlearningData, engine: Engine) -> Unlearned:
        """See :meth:`Method.unlearn`."""
        began = time.perf_counter()
        inputs = frozen_inputs(engine, student, data.inputs, self.scope)
        share = len(data.forget_pairs) / (len(data.forget_pairs) + len(data.retain_pairs))
        nothing = InputError(
            f"ssd: no weight in scope '{self.scope}' is more than alpha = {self.alpha:g} times as important to D_f "
            f"as to D_train, and none can be more than {1 / share:.3g} times; a smaller alpha selects more"
        )
        if self.alpha * share >= 1:
            raise nothing
        forget = self.importance(student, inputs, data.forget_pairs, engine, data.seed, "D_f")
        retain = self.importance(student, inputs, data.retain_pairs, engine, data.seed, "D_r")
        train = {name: share * forget[name] + (1 - share) * retain[name] for name in forget}
        engine.synchronise()
        prepared = time.perf_counter() - began
        began = time.perf_counter()
        dampened = self.dampen(student, forget, train)
        engine.synchronise()
        if not dampened:
            raise nothing
        student.eval().requires_grad_(False)
        entries = sum(importance.numel() for importance in forget.values())
        line = {"step": 1, "dampened": dampened, "dampened_share": dampened / entries}
        return Unlearned(student, TrainingHistory([line], time.perf_counter() - began), prepared, inputs)

    def importance(
        self, model: Model, inputs: PairInputs, pairs: Rows, engine: Engine, seed: int, of: str
    ) -> dict[str, Tensor]:
        """Importance I of every parameter in scope, averaged over the pairs or a sample of them."""
        if len(pairs) > self.samples:
            chosen = np.random.default_rng(derive(seed, "importance sample", of)).choice
            pairs = np.sort(chosen(pairs, self.samples, replace=False))
        losses, chunks = chunked_losses(model, inputs, pairs, self.batch_size, engine, seed, f"importance {of}")
        parameters = model.parameters_of(self.scope)
        if self.squares == "batch":
            return mean_squared_batch_gradient(losses, chunks, parameters)
        return mean_squared_gradient(losses, chunks, parameters, len(pairs))

    @torch.no_grad()
    def dampen(self, student: Model, forget: Mapping[str, Tensor], train: Mapping[str, Tensor]) -> int:
        """Dampen parameters in place.

        Args:
            student: The model.
            forget: Importance to D_f, by parameter name.
            train: Importance to D_train, by parameter name.

        Returns:
            Number of dampened entries.
        """
        changed = 0
        for name, importance in forget.items():
            parameter = student.get_parameter(name)
            beta = (self.dampening * train[name] / importance).clamp(max=1)
            beta = torch.where(importance > self.alpha * train[name], beta, 1)
            changed += int((beta < 1).sum())
            parameter.mul_(beta)
        return changed
