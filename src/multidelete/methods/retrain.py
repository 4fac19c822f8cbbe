"""Retraining from scratch without the forget set: the reference of every comparison."""

from __future__ import annotations

import time
from typing import ClassVar

import torch

from multidelete.methods.base import Method, Unlearned, UnlearningData
from multidelete.models.base import Model
from multidelete.training.engine import Engine
from multidelete.training.features import frozen_inputs
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
            data.retain_pairs,
            data.training,
            engine,
            scope=self.scope,
            seed=data.seed,
            what=f"{self.title} ({self.scope})",
            folder=data.folder,
        )
        return Unlearned(student, history, prepared, inputs)
