"""Models and data small enough that a test can train them: 24-pixel scenes, one layer, width 16."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import torch

from multidelete.data.corpus import Corpus
from multidelete.data.requests import Request, resolve
from multidelete.data.scenes import scenes
from multidelete.data.streams import PairInputs
from multidelete.engine import Engine
from multidelete.methods import UnlearningData
from multidelete.models import MODELS, Model, ModelConfig
from multidelete.models.albef import AlbefConfig, FusionConfig
from multidelete.models.base import EncoderConfig
from multidelete.models.clip import ClipConfig
from multidelete.tasks import Retrieval
from multidelete.training import TrainSettings, train

PIXELS = 24
TRAINING = TrainSettings(epochs=4, batch_size=32, learning_rate=2e-3)


def albef(*, width: int = 16, dropout: float = 0.0, **changes: Any) -> AlbefConfig:
    vit = {"model_type": "vit", "image_size": PIXELS, "patch_size": 8, **_size(width)}
    bert = {"model_type": "bert", "max_position_embeddings": 64, **_size(width)}
    drop = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    fields = {
        "image_size": PIXELS,
        "vision": EncoderConfig(config=vit | drop),
        "text": EncoderConfig(config=bert | drop),
        "fusion": FusionConfig(layers=2, width=width, heads=2, expansion=2, dropout=dropout),
        "embedding_width": 8,
    }
    return AlbefConfig(**{**fields, **changes})


def clip(*, width: int = 16, **changes: Any) -> ClipConfig:
    vision = {"model_type": "clip_vision_model", "image_size": PIXELS, "patch_size": 8, **_size(width)}
    text = {"model_type": "clip_text_model", "max_position_embeddings": 64, **_size(width)}
    fields = {
        "image_size": PIXELS,
        "vision": EncoderConfig(config=vision, pooling="pooler"),
        "text": EncoderConfig(config=text, pooling="pooler"),
        "embedding_width": 8,
    }
    return ClipConfig(**{**fields, **changes})


def _size(width: int) -> dict[str, int]:
    return {
        "hidden_size": width,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 2 * width,
    }


CONFIGS: dict[str, ModelConfig] = {"albef": albef(), "clip": clip()}


@cache
def corpus() -> Corpus:
    return scenes(train=40, valid=12, test=12, size=PIXELS)


@cache
def request_of(count: int = 8) -> Request:
    return resolve(corpus(), count=count)


@cache
def engine() -> Engine:
    return Engine(precision="fp32")


def build(config: ModelConfig, seed: int = 0) -> Model:
    name = next(name for name, model in MODELS.items() if model.config_class is type(config))
    return MODELS[name].build(config, corpus().texts, seed)


@cache
def original(name: str) -> Model:
    """A model that was trained for a moment; every test that is given it must leave it as it is."""
    model = build(CONFIGS[name])
    rows = corpus().text_rows(corpus().rows("train"))
    train(model, PairInputs.of(corpus(), model), rows, TRAINING, engine(), seed=0, what="original")
    return model


def data_for(model: Model, request: Request | None = None, **changes: Any) -> UnlearningData:
    fields = {"task": Retrieval(), "training": TRAINING, **changes}
    return UnlearningData(request or request_of(), PairInputs.of(corpus(), model), **fields)


def weights(model: Model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def changed(before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]) -> set[str]:
    """Names of the tensors that are not the same bit for bit."""
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def first_pairs(model: Model, count: int) -> Any:
    """The batch of the first texts of the corpus, which are three to an image."""
    inputs = PairInputs.of(corpus(), model)
    return inputs.batch(inputs.true_pairs(np.arange(count)), torch.device("cpu"))
