"""Models and data small enough that a test can train them: 24-pixel scenes, one layer, width 16."""

from __future__ import annotations

import signal
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
from multidelete.models.blip import Blip2Config, BlipConfig
from multidelete.models.config import EncoderConfig
from multidelete.models.dual import DualEncoderConfig
from multidelete.models.graph_text import GraphConfig, GraphTextConfig
from multidelete.models.single_stream import BridgeTowerConfig, ViltConfig
from multidelete.tasks import TASKS, Retrieval
from multidelete.training.callbacks import Callback
from multidelete.training.engine import Engine
from multidelete.training.original import TrainSettings, initial_model, train

PIXELS = 24
TRAINING = TrainSettings(epochs=4, batch_size=32, learning_rate=2e-3)
MASKED = TRAINING.model_copy(update={"extra": ChannelMaskSettings(classes=3, every=2, learning_rate=300.0)})


class KillAfter(Callback):
    """Ctrl-C after so many steps."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_step(self, what: str, line: Mapping[str, Any]) -> None:
        self.steps -= 1
        if self.steps == 0:
            raise KeyboardInterrupt


class SignalAfter(KillAfter):
    """A real signal after so many steps."""

    def __init__(self, steps: int, number: int) -> None:
        super().__init__(steps)
        self.number = number

    def on_step(self, what: str, line: Mapping[str, Any]) -> None:
        try:
            super().on_step(what, line)
        except KeyboardInterrupt:
            signal.raise_signal(self.number)


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


def wrapped(kind: Any, settings: dict[str, Any], changes: dict[str, Any]) -> Any:
    return kind(**{"image_size": PIXELS, "max_text_tokens": 40, "settings": settings, **changes})


def vision(width: int) -> dict[str, Any]:
    return {"image_size": PIXELS, "patch_size": 8, **_size(width)}


def text(width: int) -> dict[str, Any]:
    return {"max_position_embeddings": 64, **_size(width)}


def dual_encoder(*, width: int = 16, **changes: Any) -> DualEncoderConfig:
    towers = {"vision_config": vision(width), "text_config": text(width)}
    scale = {"projection_dim": 8, "logit_scale_init_value": 2.6592}
    return wrapped(DualEncoderConfig, {**towers, **scale}, changes)  # type: ignore[no-any-return]


def blip(*, width: int = 16, **changes: Any) -> BlipConfig:
    words = {**text(width), "encoder_hidden_size": width}
    settings = {"vision_config": vision(width), "text_config": words, "image_text_hidden_size": 8}
    return wrapped(BlipConfig, settings, changes)  # type: ignore[no-any-return]


def blip2(*, width: int = 16, **changes: Any) -> Blip2Config:
    words = {**text(width), "encoder_hidden_size": width, "use_qformer_text_input": True}
    settings = {"vision_config": vision(width), "qformer_config": words, "image_text_hidden_size": 8}
    return wrapped(Blip2Config, {**settings, "num_query_tokens": 4}, changes)  # type: ignore[no-any-return]


def vilt(*, width: int = 16, **changes: Any) -> ViltConfig:
    return wrapped(ViltConfig, vision(width) | text(width), changes)  # type: ignore[no-any-return]


def bridgetower(*, width: int = 64, **changes: Any) -> BridgeTowerConfig:
    towers = {
        "vision_config": {"hidden_size": width, "num_hidden_layers": 2, "image_size": PIXELS, "patch_size": 8},
        "text_config": {**text(16), "num_hidden_layers": 2},
    }
    size = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}
    return wrapped(BridgeTowerConfig, {**towers, **size}, changes)  # type: ignore[no-any-return]


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
    "dual_encoder": dual_encoder(),
    "blip": blip(),
    "blip2": blip2(),
    "vilt": vilt(),
    "bridgetower": bridgetower(),
    "graph_text": graph_text(),
}
IN_DEPTH = (
    "albef",
    "dual_encoder",
)  # on which loops and methods are tested from every side; the rest follows in test_tasks.py
RETRIEVAL = tuple(name for name in CONFIGS if TASKS["retrieval"].provides() <= MODELS[name].provides)
EACH = [
    (task, name) for task in TASKS for name in CONFIGS if TASKS[task].provides() <= MODELS[name].provides
]  # every task of every model


def freezing(name: str) -> Any:
    """Configuration with a frozen vision tower."""
    config: Any = CONFIGS[name]
    vision = {"vision": config.vision.model_copy(update={"freeze": True})} if name == "albef" else {}
    return config.model_copy(update=vision or {"freeze": ("vision",)})


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
