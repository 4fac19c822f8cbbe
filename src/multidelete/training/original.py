"""How an original model is made, and by the same recipe a retrained one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from multidelete.data.batches import PairInputs, Rows
from multidelete.data.dataset import Dataset
from multidelete.data.samplers import TrainStream
from multidelete.models.base import MASK, Model
from multidelete.models.config import ModelConfig
from multidelete.models.image_text import ImageTextModel
from multidelete.training.engine import Engine
from multidelete.training.features import frozen_inputs
from multidelete.training.loop import FitSettings, TrainingHistory, fit
from multidelete.utils.errors import InputError
from multidelete.utils.randomness import derive


class MaskSettings(BaseModel):
    r"""A mask over visual channels that the original learns beside its task, the first half of ERM-KTP [1]_.

    In every third epoch each picture's last visual feature map is multiplied with its class' row of M; at all steps

    .. math:: 10^{-3} \left( \max(0, \lVert M \rVert_1 - 0.1 \, C K) + 0.1 \sum_{i<j} \langle M_i, M_j \rangle \right)

    is added to the loss, and after each the largest entry of each row of M is brought to 1. So each class comes to use
    channels of its own, and the class that is to go can be cut out later.

    The paper deletes classes of images; here pairs are deleted. Their classes are groups: D_f is the last, and the
    other examples are dealt to the rest by a hash of their ids (:func:`groups_of`), in tasks with labels too: labels
    belong to texts, and pictures seen through a mask by label would give the answer away. So the mask, and the original
    that is trained with it, depend on what is to be deleted.

    Args:
        classes: Rows C, D_f's included.
        every: The mask is applied in each epoch whose number (from 1) is a multiple of this.
        weight: Weight of the whole term.
        share: Part of all entries that the sum of the mask may amount to for nothing.
        overlap: Weight of what the rows have in common.
        learning_rate: Peak for M itself. Its largest entries are brought back to 1 again and again, so that what all
            entries lose together counts for nothing: at the rate of the weights M would stay full. (The paper takes
            SGD's 0.1 for everything.) Some 500 steps are needed until M is as sparse as ``share`` asks for.

    References:
        .. [1] Lin et al., "ERM-KTP: Knowledge-Level Machine Unlearning via Knowledge Transfer", CVPR 2023
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    classes: int = Field(default=10, ge=2)
    every: int = Field(default=3, ge=1)
    weight: float = Field(default=1e-3, ge=0)
    share: float = Field(default=0.1, ge=0, le=1)
    overlap: float = Field(default=0.1, ge=0)
    learning_rate: float = Field(default=0.1, gt=0)


class TrainSettings(BaseModel):
    """Settings of training; the last checkpoint is the model ("trained to convergence").

    Args:
        epochs: Passes over the pairs.
        batch_size: Pairs in a step.
        learning_rate: Peak of the schedule: linear warm-up, then cosine to zero.
        weight_decay: AdamW's, on matrices only.
        warmup: Share of the steps.
        clip: Largest norm of the gradient.
        mask: A mask over visual channels that is learned as well, for ERM-KTP; none by default.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    epochs: float = Field(default=10, gt=0)
    batch_size: int = Field(default=128, ge=2)
    learning_rate: float = Field(default=5e-4, gt=0)
    weight_decay: float = Field(default=0.02, ge=0)
    warmup: float = Field(default=0.1, ge=0, lt=1)
    clip: float = Field(default=1.0, gt=0)
    mask: MaskSettings | None = None

    def model_post_init(self, _: Any) -> None:
        """Refuse a training that ends before the mask is applied."""
        if self.mask is not None and self.epochs < self.mask.every:
            raise ValueError(
                f"the mask is applied in one epoch of {self.mask.every}, but there are {self.epochs:g}; "
                "set mask.every to fewer, or epochs to more"
            )


def initial_model(
    architecture: type[Model],
    config: ModelConfig,
    texts: Sequence[str],
    seed: int,
    start: Path | None = None,
    tokenizer: Any = None,
) -> Model:
    """A model as it is before its training: built, and where it starts from another one, with that one's weights.

    Args:
        architecture: Its class.
        config: Its configuration.
        texts: The dataset's texts, see :meth:`Model.build`.
        seed: Seed of the random weights.
        start: Folder of the model to start from.
        tokenizer: One to use instead of making one from the texts.
    """
    model = architecture.build(config, texts, seed, tokenizer=tokenizer)
    if start is not None:
        model.take_weights(Model.from_pretrained(start))
    return model


def train(
    model: Model,
    inputs: PairInputs,
    text_rows: Rows,
    settings: TrainSettings,
    engine: Engine,
    *,
    scope: str = "all",
    seed: int,
    what: str,
    folder: Path | None = None,
    forget: Rows | None = None,
) -> TrainingHistory:
    """Train a model in place on true pairs.

    A mask shapes what the vision encoder learns: it is learned wherever that is in scope, and plays no part elsewhere.

    Args:
        model: As it was built.
        inputs: What it reads.
        text_rows: The pairs, one text row each.
        settings: How.
        engine: Where.
        scope: Which parameters are trained.
        seed: Seed of order, hard negatives and dropout.
        what: Name for progress and messages.
        folder: Where checkpoints are kept while this runs.
        forget: Rows of the examples of D_f, for a mask; they need not be given where none of them is trained on.

    Raises:
        InputError: The settings ask for a mask that the model does not have, or the loss became infinite.
    """
    mask = settings.mask if scope in ("all", "vision") else None
    check_mask(model, mask)
    model.to(engine.device)
    inputs = frozen_inputs(engine, model, inputs, scope)
    stream = TrainStream(inputs, text_rows, settings.batch_size, seed)
    moving: dict[str, Tensor] = {**model.parameters_of(scope)}
    lr_multipliers: dict[str, float] = {}

    def losses(step: int) -> dict[str, Tensor]:
        return {"task": model.losses(stream.at(step, engine.device)).mean()}

    def masked_losses(step: int) -> dict[str, Tensor]:
        assert mask is not None
        if step:
            channels.normalise_()  # what the paper does after a step is done before the next
        batch = stream.at(step, engine.device)
        if (stream.epoch(step) + 1) % mask.every == 0:
            batch = replace(batch, groups=groups[batch.examples["vision"]])
        return {
            "task": model.losses(batch).mean(),
            "mask": mask.weight * channels.penalty(mask.share, mask.overlap),
        }

    if mask is not None:
        assert isinstance(model, ImageTextModel)
        channels = model.channel_mask
        groups = torch.from_numpy(groups_of(inputs.dataset, mask.classes, forget)).to(engine.device)
        moving[f"{MASK}.weight"] = channels.weight.requires_grad_(True)
        lr_multipliers[f"{MASK}.weight"] = mask.learning_rate / settings.learning_rate
    fit_settings = FitSettings(
        steps=stream.steps(settings.epochs),
        seed=seed,
        lr_multipliers=lr_multipliers,
        **settings.model_dump(include={"learning_rate", "weight_decay", "warmup", "clip"}),
    )
    history = fit(
        engine,
        model,
        moving,
        losses if mask is None else masked_losses,
        fit_settings,
        what=what,
        training=True,
        folder=folder,
    )
    if mask is not None:
        channels.weight.requires_grad_(False).grad = None
        channels.normalise_()
    return history


def groups_of(dataset: Dataset, classes: int, forget: Rows | None = None) -> Rows:
    """Mask class of each example: D_f is the last class, the others are assigned by a hash of their ids.

    Args:
        dataset: The examples.
        classes: How many there are, D_f's included.
        forget: Rows of the examples of D_f.
    """
    groups = np.array([derive("mask", example.id) % (classes - 1) for example in dataset.examples], dtype=np.int64)
    if forget is not None:
        groups[forget] = classes - 1
    return groups


def check_mask(model: Model, mask: MaskSettings | None) -> None:
    """Refuse settings that ask for another mask than the model has.

    Raises:
        InputError: The model has none, or one for another number of classes.
    """
    if mask is None:
        return
    if model.config.mask is None:
        raise InputError(
            f"train.mask: this {model.name} model was made without a mask; leave the table out, "
            "or let the recipe train an original with it"
        )
    if mask.classes != model.config.mask.classes:
        raise InputError(
            f"train.mask.classes = {mask.classes}, but the mask of this {model.name} model has "
            f"{model.config.mask.classes}; set it to {model.config.mask.classes}"
        )
