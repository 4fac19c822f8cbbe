"""Training of originals, and of retrained models by the same recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from multidelete.data.batches import PairInputs, Rows
from multidelete.data.samplers import TrainStream
from multidelete.models.base import Model
from multidelete.models.config import ModelConfig
from multidelete.models.extras import EXTRAS, add_extra
from multidelete.models.hub import has_tokenizer
from multidelete.models.processor import Processor
from multidelete.training.engine import Engine
from multidelete.training.extras import Extra, check_extra
from multidelete.training.features import frozen_inputs
from multidelete.training.loop import FitSettings, TrainingHistory, fit
from multidelete.utils.entries import Entry


class TrainSettings(BaseModel):
    """Settings of training; the last checkpoint is used ("trained to convergence").

    Args:
        epochs: Passes over the pairs.
        batch_size: Pairs per step.
        learning_rate: Peak learning rate; linear warm-up, then cosine to zero.
        weight_decay: Weight decay of AdamW, for matrices only.
        warmup: Fraction of the steps.
        clip: Maximum gradient norm.
        extra: Extra module to train too, for methods that require one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    epochs: float = Field(default=10, gt=0)
    batch_size: int = Field(default=128, ge=2)
    learning_rate: float = Field(default=5e-4, gt=0)
    weight_decay: float = Field(default=0.02, ge=0)
    warmup: float = Field(default=0.1, ge=0, lt=1)
    clip: float = Field(default=1.0, gt=0)
    extra: Annotated[Extra, Entry(EXTRAS, "extra module")] | None = None

    def model_post_init(self, _: Any) -> None:
        """Check that the training suits the extra module."""
        if self.extra is not None:
            self.extra.check(self.epochs)


def initial_model(
    architecture: type[Model],
    config: ModelConfig,
    texts: Sequence[str],
    seed: int,
    start: Path | None = None,
    tokenizer: Any = None,
) -> Model:
    """Build a model before training, with seeded random weights or those of a start model.

    Args:
        architecture: Model class.
        config: Model configuration.
        texts: Texts of the dataset, see :meth:`Model.build`.
        seed: Seed of the random weights.
        start: Folder of the start model.
        tokenizer: Tokenizer to use instead.
    """
    model = architecture.build(config.model_copy(update={"extra": None}), texts, seed, tokenizer=tokenizer)
    add_extra(model, config.extra)
    if start is not None:
        lacks_one = isinstance(tokenizer, Processor) and not has_tokenizer(start)
        model.take_weights(Model.from_pretrained(start, tokenizer if lacks_one else None))
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

    Args:
        model: Newly built model.
        inputs: Model inputs of the dataset.
        text_rows: Pairs, one text row each.
        settings: Training settings.
        engine: Device, precision, progress.
        scope: Parameters to train.
        seed: Seed of order, hard negatives and dropout.
        what: Name for progress and messages.
        folder: Folder of checkpoints.
        forget: Rows of the examples of D_f, for an extra module; not needed if training uses none of them.

    Raises:
        InputError: The settings have an extra module that the model lacks, or the loss is not finite.
    """
    extra = settings.extra if settings.extra is not None and scope in settings.extra.scopes else None
    check_extra(model, extra)
    model.to(engine.device)
    inputs = frozen_inputs(engine, model, inputs, scope)
    stream = TrainStream(inputs, text_rows, settings.batch_size, seed)
    extra_training = None if extra is None else extra.training(model, inputs.dataset, forget)

    def losses(step: int) -> dict[str, Tensor]:
        batch = stream.at(step, engine.device)
        if extra_training is not None:
            return extra_training.losses(model, batch, step, stream.epoch(step))
        return {"task": model.losses(batch).mean()}

    fit_settings = FitSettings(
        steps=stream.steps(settings.epochs),
        seed=seed,
        **settings.model_dump(include={"learning_rate", "weight_decay", "warmup", "clip"}),
    )
    moving = model.parameters_of(scope)
    history = fit(engine, model, moving, losses, fit_settings, what=what, training=True, folder=folder)
    if extra_training is not None:
        extra_training.finish()
    return history
