"""How an original model is made, and by the same recipe a retrained one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from multidelete.data.streams import PairInputs, Rows, TrainStream
from multidelete.engine import Engine, History, Plan
from multidelete.models.base import Model, ModelConfig


class TrainSettings(BaseModel):
    """Settings of training; the last checkpoint is the model ("trained to convergence").

    Args:
        epochs: Passes over the pairs.
        batch_size: Pairs in a step.
        learning_rate: Peak of the schedule: linear warm-up, then cosine to zero.
        weight_decay: AdamW's, on matrices only.
        warmup: Share of the steps.
        clip: Largest norm of the gradient.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    epochs: float = Field(default=10, gt=0)
    batch_size: int = Field(default=128, ge=2)
    learning_rate: float = Field(default=5e-4, gt=0)
    weight_decay: float = Field(default=0.02, ge=0)
    warmup: float = Field(default=0.1, ge=0, lt=1)
    clip: float = Field(default=1.0, gt=0)


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
        texts: The corpus' texts, see :meth:`Model.build`.
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
) -> History:
    """Train a model in place on true pairs.

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
    """
    model.to(engine.device)
    inputs = engine.frozen_inputs(model, inputs, scope)
    stream = TrainStream(inputs, text_rows, settings.batch_size, seed)
    plan = Plan(
        steps=stream.steps(settings.epochs),
        seed=seed,
        **settings.model_dump(include={"learning_rate", "weight_decay", "warmup", "clip"}),
    )
    return engine.fit(
        model,
        model.parameters_of(scope),
        lambda step: {"task": model.losses(stream.at(step, engine.device)).mean()},
        plan,
        what=what,
        training=True,
        folder=folder,
    )
