"""A method on a tiny trained model, for the checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch

from multidelete.data.batches import PairInputs, Rows
from multidelete.data.dataset import Dataset
from multidelete.data.requests import Request, resolve
from multidelete.data.synthetic.genes import genes
from multidelete.data.synthetic.premises import premises
from multidelete.data.synthetic.scenes import scenes
from multidelete.data.synthetic.statements import statements
from multidelete.methods.base import LossMethod, Method, Unlearned, UnlearningData
from multidelete.models import MODELS, Model
from multidelete.models.config import EncoderConfig
from multidelete.models.extras import EXTRAS
from multidelete.tasks import TASKS, Task
from multidelete.training.engine import Engine
from multidelete.training.original import TrainSettings, initial_model, train
from multidelete.utils.errors import InputError

PIXELS = 24


QUICK = {"stop": "lowest", "epochs": 1, "min_steps": 4, "batch_size": 8, "retain_ratio": 2, "evaluations": 2}


class CheckError(AssertionError):
    """A method fails a check of every method, or of its properties."""


@dataclass(frozen=True)
class Trial:
    """Small original on generated data, with a deletion request.

    Args:
        task: Task of the original.
        original: The original; checks must not change it.
        request: Deletion request.
        inputs: Model inputs of the dataset.
        training: Training settings of the original.
    """

    task: Task
    original: Model
    request: Request
    inputs: PairInputs
    training: TrainSettings


@cache
def trial(task: str = "retrieval", extra: str | None = None) -> Trial:
    """Trial of a task: an ALBEF, or for graphs a GCN with a sentence encoder, of one layer and width 16.

    Args:
        task: Name of the task.
        extra: Extra module of the original, for methods that require one.

    Raises:
        InputError: There is no such task.
    """
    if task not in TASKS:
        raise InputError(f"'{task}' is not a task (there are {', '.join(TASKS)})")
    sizes = {"train": 40, "validation": 12, "test": 12}
    readers: dict[str, Callable[..., Dataset]] = {"entailment": premises, "reasoning": statements, "retrieval": scenes}
    dataset = genes(train=40, validation=12, test=12) if task == "graph_text" else readers[task](**sizes, size=PIXELS)
    name = "graph_text" if task == "graph_text" else "albef"
    request = resolve(dataset, count=8)
    config = _small(name).for_dataset(dataset, labelled=TASKS[task].labelled)
    training = TrainSettings(epochs=1, batch_size=24, learning_rate=2e-3)
    if extra is not None:
        training = TrainSettings(epochs=3, batch_size=24, learning_rate=2e-3, extra=extra)
        assert training.extra is not None
        facts = {"name": extra, **training.extra.facts(), "request": request.hash}
        config = config.model_copy(update={"extra": facts})
    original = initial_model(MODELS[name], config, dataset.texts, 0)
    inputs = PairInputs.of(dataset, original)
    rows, engine = dataset.text_rows(dataset.rows("train")), Engine("fp32")
    train(original, inputs, rows, training, engine, seed=0, what="original", forget=request.forget)
    return Trial(TASKS[task](), original, request, inputs, training)


def trial_for(method: type[Method], task: str | None = None) -> Trial:
    """Trial with everything that a method requires, on this task or the first suitable one."""
    extras = method.requires & EXTRAS.keys()
    task = task or next(name for name, kind in TASKS.items() if method.requires - extras <= kind.provides())
    return trial(task, next(iter(extras), None))


def _small(name: str) -> Any:
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    dropout = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    text = EncoderConfig(config={"model_type": "bert", "max_position_embeddings": 64, **size, **dropout})
    fusion = {"layers": 1, "width": 16, "heads": 2, "expansion": 2, "dropout": 0.1}
    fields: dict[str, Any] = {"text": text, "fusion": fusion}
    if name == "graph_text":
        fields |= {"graph": {"width": 16, "layers": 2, "neighbourhood": 12, "dropout": 0.1}}
    else:
        vision = {"model_type": "vit", "image_size": PIXELS, "patch_size": 8, **size, **dropout}
        fields |= {"image_size": PIXELS, "vision": EncoderConfig(config=vision), "embedding_width": 8}
    return MODELS[name].config_class(**fields)


@dataclass(frozen=True)
class Case:
    """A method and its settings on a trial.

    Args:
        method: Method class.
        trial: The trial.
        settings: Settings; a :class:`LossMethod` takes few steps by default.
    """

    method: type[Method]
    trial: Trial
    settings: Mapping[str, Any] = field(default_factory=dict)

    def make(self, **more: Any) -> Method:
        """Create the method."""
        known = self.method.model_fields
        few = {name: value for name, value in QUICK.items() if name in known and issubclass(self.method, LossMethod)}
        return self.method(**{**few, **self.settings, **more})

    @cached_property
    def result(self) -> Unlearned:
        """Result of the method with seed 0."""
        return self.run()

    @property
    def plain(self) -> Model:
        """Model of :attr:`result`."""
        return self.result.model

    def run(
        self,
        method: Method | None = None,
        *,
        original: Model | None = None,
        inputs: PairInputs | None = None,
        seed: int = 0,
        folder: Path | None = None,
        engine: Engine | None = None,
    ) -> Unlearned:
        """Unlearn the trial's D_f."""
        trial = self.trial
        data = UnlearningData(
            trial.request, inputs or trial.inputs, trial.task, trial.training, seed=seed, folder=folder
        )
        return (method or self.make())(original or trial.original, data, engine or Engine("fp32"))

    def loss(self, model: Model, examples: Rows) -> float:
        """The task's mean loss on the true pairs of some examples."""
        inputs = self.trial.inputs
        rows = inputs.true_pairs(self.trial.request.dataset.text_rows(examples))
        with torch.no_grad():
            return float(model.losses(inputs.batch(rows, torch.device("cpu"))).mean())

    def expect(self, holds: bool, problem: str) -> None:
        """Raise a :class:`CheckError` that names the method, unless ``holds``."""
        if not holds:
            raise CheckError(f"{self.method.__name__} on {self.trial.task.name}: {problem}")
