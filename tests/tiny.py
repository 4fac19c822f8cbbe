"""Models and data small enough that a test can train them: 24-pixel scenes, one layer, width 16."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import torch

from multidelete.data.batches import PairInputs
from multidelete.data.dataset import Dataset
from multidelete.data.requests import Request, resolve
from multidelete.data.synthetic.genes import genes
from multidelete.data.synthetic.premises import premises
from multidelete.data.synthetic.scenes import scenes
from multidelete.data.synthetic.statements import statements
from multidelete.methods import UnlearningData
from multidelete.methods.channel_mask import ChannelMaskSettings
from multidelete.models import MODELS, Model, ModelConfig
from multidelete.models.albef import AlbefConfig, FusionConfig
from multidelete.models.blip import BlipConfig
from multidelete.models.clip import ClipConfig
from multidelete.models.config import EncoderConfig
from multidelete.models.graph_text import GraphConfig, GraphTextConfig
from multidelete.models.vilt import ViltConfig
from multidelete.tasks import TASKS, Retrieval
from multidelete.training.callbacks import Callback
from multidelete.training.engine import Engine
from multidelete.training.original import TrainSettings, initial_model, train

PIXELS = 24
TRAINING = TrainSettings(epochs=4, batch_size=32, learning_rate=2e-3)
MASKED = TRAINING.model_copy(update={"extra": ChannelMaskSettings(classes=3, every=2)})


class KillAfter(Callback):
    """Ctrl-C after so many steps."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_step(self, what: str, line: Mapping[str, Any]) -> None:
        self.steps -= 1
        if self.steps == 0:
            raise KeyboardInterrupt


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


def blip(*, width: int = 16, **changes: Any) -> BlipConfig:
    vision = {"model_type": "blip_vision_model", "image_size": PIXELS, "patch_size": 8, **_size(width)}
    text = {"model_type": "blip_text_model", "max_position_embeddings": 64, **_size(width)}
    fields = {
        "image_size": PIXELS,
        "vision": EncoderConfig(config=vision),
        "text": EncoderConfig(config=text),
        "embedding_width": 8,
    }
    return BlipConfig(**{**fields, **changes})


def vilt(*, width: int = 16, **changes: Any) -> ViltConfig:
    encoder = {"model_type": "vilt", "image_size": PIXELS, "patch_size": 8, "max_position_embeddings": 64}
    return ViltConfig(**{"image_size": PIXELS, "encoder": EncoderConfig(config=encoder | _size(width)), **changes})


def graph_text(*, width: int = 16, **changes: Any) -> GraphTextConfig:
    bert = {"model_type": "bert", "max_position_embeddings": 64, **_size(width)}
    fields = {
        "graph": GraphConfig(width=width, layers=2, neighbourhood=12),
        "text": EncoderConfig(config=bert),
        "fusion": FusionConfig(layers=1, width=width, heads=2, expansion=2),
    }
    return GraphTextConfig(**{**fields, **changes})


def _size(width: int) -> dict[str, int]:
    return {
        "hidden_size": width,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 2 * width,
    }


CONFIGS: dict[str, ModelConfig] = {
    "albef": albef(),
    "clip": clip(),
    "blip": blip(),
    "vilt": vilt(),
    "graph_text": graph_text(),
}
IN_DEPTH = ("albef", "clip")  # on which loops and methods are tested from every side; the rest follows in test_tasks.py
RETRIEVAL = tuple(name for name in CONFIGS if TASKS["retrieval"].provides() <= MODELS[name].provides)
EACH = [
    (task, name) for task in TASKS for name in CONFIGS if TASKS[task].provides() <= MODELS[name].provides
]  # every task of every model


@cache
def dataset_for(task: str) -> Dataset:
    sizes = {"train": 40, "validation": 12, "test": 12}
    if task == "graph_text":
        return genes(**sizes)
    reader = {"retrieval": scenes, "entailment": premises, "reasoning": statements}[task]
    return reader(**sizes, size=PIXELS)


@cache
def original_for(task: str, name: str) -> Model:
    """A model that was trained for a moment on a task; every test that is given it must leave it as it is."""
    data = dataset_for(task)
    config = CONFIGS[name].for_dataset(data, labelled=TASKS[task].labelled)
    model = MODELS[name].build(config, data.texts, 0)
    train(
        model,
        PairInputs.of(data, model),
        data.text_rows(data.rows("train")),
        TRAINING.model_copy(update={"epochs": 1}),
        engine(),
        seed=0,
        what="original",
    )
    return model


@cache
def masked_for(task: str, name: str, count: int) -> Model:
    """A model that was trained with a mask for the deletion of so many examples; to be left as it is."""
    data = dataset_for(task)
    request = resolve(data, count=count)
    config = masked(CONFIGS[name].for_dataset(data, labelled=TASKS[task].labelled), request)
    model = initial_model(MODELS[name], config, data.texts, 0)
    rows = data.text_rows(data.rows("train"))
    inputs = PairInputs.of(data, model)
    train(model, inputs, rows, MASKED, engine(), seed=0, what="original", forget=request.forget)
    return model


def masked(config: ModelConfig, request: Request) -> Any:
    """The configuration with the mask of ``MASKED`` for this request."""
    assert MASKED.extra is not None
    facts = {"name": "channel_mask", **MASKED.extra.facts(), "request": request.hash}
    return config.model_copy(update={"extra": facts})


@cache
def dataset() -> Dataset:
    return scenes(train=40, validation=12, test=12, size=PIXELS)


@cache
def request_of(count: int = 8) -> Request:
    return resolve(dataset(), count=count)


@cache
def engine() -> Engine:
    return Engine(precision="fp32")


def build(config: ModelConfig, seed: int = 0) -> Model:
    name = next(name for name, model in MODELS.items() if model.config_class is type(config))
    return initial_model(MODELS[name], config, dataset().texts, seed)


@cache
def original(name: str) -> Model:
    """A model that was trained for a moment; every test that is given it must leave it as it is."""
    model = build(CONFIGS[name])
    rows = dataset().text_rows(dataset().rows("train"))
    train(model, PairInputs.of(dataset(), model), rows, TRAINING, engine(), seed=0, what="original")
    return model


def data_for(model: Model, request: Request | None = None, **changes: Any) -> UnlearningData:
    fields = {"task": Retrieval(), "training": TRAINING, **changes}
    return UnlearningData(request or request_of(), PairInputs.of(dataset(), model), **fields)


def weights(model: Model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def changed(before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]) -> set[str]:
    """Names of the tensors that are not the same bit for bit."""
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def first_pairs(model: Model, count: int) -> Any:
    """The batch of the first texts of the dataset, which are three to an image."""
    inputs = PairInputs.of(dataset(), model)
    return inputs.batch(inputs.true_pairs(np.arange(count)), torch.device("cpu"))
