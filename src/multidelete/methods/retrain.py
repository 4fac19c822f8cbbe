"""Retraining without the forget set: the reference of every comparison."""

from __future__ import annotations

import time
from typing import ClassVar

import numpy as np
import torch

from multidelete.data.batches import PairInputs
from multidelete.methods.base import Method, Unlearned, UnlearningData
from multidelete.models.base import Model
from multidelete.training.engine import Engine
from multidelete.training.features import encoded_inputs, frozen_inputs
from multidelete.training.loop import TrainingHistory
from multidelete.training.original import train


class Retrain(Method):
    """Training on D_r only, with the original's recipe and initial weights [1]_.

    D_f is never read. With a scope other than ``all``, parameters outside the scope keep the original's weights, which
    were trained on D_f; the model is then no reference.

    References:
        .. [1] Bourtoule et al., "Machine Unlearning", IEEE S&P 2021: exact unlearning by retraining
    """

    name: ClassVar[str] = "retrain"
    title: ClassVar[str] = "Retrain"
    color: ClassVar[str] = "#1c1c1c"
    needs_training: ClassVar[bool] = True
    needs_start: ClassVar[bool] = True
    stored: ClassVar[bool] = True
    properties: ClassVar[tuple[str, ...]] = ("never_reads_forget",)

    def unlearn(self, student: Model, original: Model, data: UnlearningData, engine: Engine) -> Unlearned:
        """See :meth:`Method.unlearn`."""
        began = time.perf_counter()
        fresh = data.initial_model(original).to(engine.device)
        if self.scope == "all":
            student = fresh
        else:
            with torch.no_grad():
                begun = dict(fresh.named_parameters())
                for name, parameter in student.parameters_of(self.scope).items():
                    parameter.copy_(begun[name])
        inputs = frozen_inputs(engine, student, data.inputs, self.scope)
        prepared = time.perf_counter() - began
        history = train(
            student,
            inputs,
            np.sort(np.concatenate([data.retain_pairs, *data.request.holdouts.values()])),
            data.training,
            engine,
            scope=self.scope,
            seed=data.seed,
            what=f"{self.title} ({self.scope})",
            folder=data.folder,
        )
        return Unlearned(student, history, prepared, inputs)


class Retrained(Method):
    """A model that was trained without D_f elsewhere, as SALMUBench's Clean model, instead of training one.

    Args:
        model: Its folder or hub id.
    """

    name: ClassVar[str] = Retrain.name
    title: ClassVar[str] = Retrain.title
    color: ClassVar[str] = Retrain.color
    seeded: ClassVar[bool] = False
    timed: ClassVar[bool] = False

    model: str

    def unlearn(self, student: Model, original: Model, data: UnlearningData, engine: Engine) -> Unlearned:
        """See :meth:`Method.unlearn`.

        Raises:
            InputError: The model cannot be loaded, or does not support the task.
        """
        began = time.perf_counter()
        model = Model.from_pretrained(self.model).to(engine.device).eval()
        data.task.check(data.inputs.dataset, type(model))
        inputs = encoded_inputs(engine, model, PairInputs.of(data.inputs.dataset, model))
        return Unlearned(model, TrainingHistory(), time.perf_counter() - began, inputs)
