"""Unimodal control: the same model, trained to do the task from one modality."""

from __future__ import annotations

import time
from typing import Any, ClassVar, Literal

import numpy as np

from multidelete.data.batches import PairInputs
from multidelete.methods.base import Method, Unlearned, UnlearningData
from multidelete.models.base import Model
from multidelete.training.engine import Engine
from multidelete.training.features import frozen_inputs
from multidelete.training.original import train
from multidelete.utils.errors import InputError


class Unimodal(Method):
    """Training on all pairs with the original's recipe and one modality blanked, in training and evaluation.

    Unlearns nothing. It measures how much of the task one modality solves; an original that is not clearly better
    has not learned to combine its modalities, so there is little association to forget [1]_.

    Args:
        modality: Modality that the model reads; the other is blanked (grey pictures, no words, or no neighbours).

    References:
        .. [1] Goyal et al., "Making the V in VQA Matter: Elevating the Role of Image Understanding in Visual
           Question Answering", CVPR 2017
    """

    name: ClassVar[str] = "unimodal"
    title: ClassVar[str] = "Single modality"
    color: ClassVar[str] = "#a3a9b1"
    needs_training: ClassVar[bool] = True
    needs_start: ClassVar[bool] = True
    stored: ClassVar[bool] = True
    requires: ClassVar[frozenset[str]] = frozenset({"labels"})

    modality: Literal["text", "vision", "graph"] = "text"

    def model_post_init(self, _: Any) -> None:
        """Check that the scope is ``all``: this control trains all parameters."""
        if self.scope != "all":
            raise ValueError(f"unimodal trains all parameters: scope must be 'all', not '{self.scope}'")

    def reads(self, inputs: PairInputs, model: Model) -> PairInputs:
        """The inputs with the other modality blanked."""
        if self.modality not in inputs.modalities:
            raise InputError(
                f"unimodal: there is no modality '{self.modality}' here, only {' and '.join(inputs.modalities)}"
            )
        other = next(each for each in inputs.modalities if each != self.modality)
        return inputs.blank(other, model)

    def unlearn(self, student: Model, original: Model, data: UnlearningData, engine: Engine) -> Unlearned:
        """See :meth:`Method.unlearn`."""
        began = time.perf_counter()
        fresh = data.initial_model(original).to(engine.device)
        inputs = self.reads(data.inputs, fresh)
        prepared = time.perf_counter() - began
        history = train(
            fresh,
            inputs,
            np.sort(np.concatenate([data.forget_pairs, data.retain_pairs])),
            data.training,
            engine,
            seed=data.seed,
            what=f"{self.title} ({self.modality})",
            forget=data.request.forget,
            folder=data.folder,
        )
        return Unlearned(fresh, history, prepared, frozen_inputs(engine, fresh, inputs, "all"))
