"""Multimodal machine unlearning: make a trained model forget chosen pairs, keep everything else, and verify it.

Names are imported at first use, so that ``import multidelete`` and ``multidelete --help`` are fast.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multidelete.api import evaluate, load, train, unlearn
    from multidelete.data.dataset import Dataset
    from multidelete.data.examples import Example
    from multidelete.data.readers import READERS, read
    from multidelete.data.requests import Request, resolve
    from multidelete.data.synthetic.genes import genes
    from multidelete.data.synthetic.premises import premises
    from multidelete.data.synthetic.scenes import scenes
    from multidelete.data.synthetic.statements import statements
    from multidelete.methods import METHODS, FineTune, LossMethod, Method, MultiDelete, NegGrad, Retrain, Unimodal
    from multidelete.metrics.registry import METRICS, metric
    from multidelete.models import MODELS, Albef, Blip, Blip2, BridgeTower, DualEncoder, GraphTextModel, Model, Vilt
    from multidelete.models.graph import Graph
    from multidelete.outcome import Outcome
    from multidelete.tasks import TASKS, Entailment, GraphText, Reasoning, Retrieval
    from multidelete.training.callbacks import Callback
    from multidelete.training.engine import Engine
    from multidelete.training.original import TrainSettings
    from multidelete.utils.errors import InputError

__version__: str

_HOMES = {
    "multidelete.api": ("evaluate", "load", "train", "unlearn"),
    "multidelete.outcome": ("Outcome",),
    "multidelete.data.dataset": ("Dataset",),
    "multidelete.data.examples": ("Example",),
    "multidelete.data.synthetic.genes": ("genes",),
    "multidelete.models.graph": ("Graph",),
    "multidelete.data.synthetic.premises": ("premises",),
    "multidelete.data.readers": ("READERS", "read"),
    "multidelete.data.requests": ("Request", "resolve"),
    "multidelete.data.synthetic.scenes": ("scenes",),
    "multidelete.data.synthetic.statements": ("statements",),
    "multidelete.training.callbacks": ("Callback",),
    "multidelete.training.engine": ("Engine",),
    "multidelete.utils.errors": ("InputError",),
    "multidelete.methods": (
        "METHODS",
        "FineTune",
        "LossMethod",
        "Method",
        "MultiDelete",
        "NegGrad",
        "Retrain",
        "Unimodal",
    ),
    "multidelete.metrics.registry": ("METRICS", "metric"),
    "multidelete.models": (
        "MODELS",
        "Albef",
        "Blip",
        "Blip2",
        "BridgeTower",
        "Blip2",
        "BridgeTower",
        "DualEncoder",
        "GraphTextModel",
        "Model",
        "Vilt",
    ),
    "multidelete.tasks": ("TASKS", "Entailment", "GraphText", "Reasoning", "Retrieval"),
    "multidelete.training.original": ("TrainSettings",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "METHODS",
    "METRICS",
    "MODELS",
    "READERS",
    "TASKS",
    "Albef",
    "Blip",
    "Blip2",
    "BridgeTower",
    "Callback",
    "Dataset",
    "DualEncoder",
    "Engine",
    "Entailment",
    "Example",
    "FineTune",
    "Graph",
    "GraphText",
    "GraphTextModel",
    "InputError",
    "LossMethod",
    "Method",
    "Model",
    "MultiDelete",
    "NegGrad",
    "Outcome",
    "Reasoning",
    "Request",
    "Retrain",
    "Retrieval",
    "TrainSettings",
    "Unimodal",
    "Vilt",
    "__version__",
    "evaluate",
    "genes",
    "load",
    "metric",
    "premises",
    "read",
    "resolve",
    "scenes",
    "statements",
    "train",
    "unlearn",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("multidelete")
    if name not in _HOME:
        raise AttributeError(f"module 'multidelete' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
