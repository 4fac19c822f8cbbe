"""The contract of a method: it is given the original and the data, and gives back an unlearned model."""

from __future__ import annotations

import copy
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, final, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor

from multidelete.data.batches import PairInputs, Rows
from multidelete.data.requests import Request
from multidelete.data.samplers import ForgetRetainStream, RetainBatch
from multidelete.methods.teacher import Teacher
from multidelete.models.base import Model
from multidelete.models.extras import EXTRAS
from multidelete.models.inputs import Batch
from multidelete.tasks.base import Task
from multidelete.training.engine import Engine
from multidelete.training.features import encoded_inputs, frozen_inputs
from multidelete.training.loop import FitSettings, TrainingHistory, fit
from multidelete.training.original import TrainSettings, initial_model
from multidelete.utils.errors import InputError

Scope = Literal["all", "fusion", "vision", "graph", "text"]
OTHER_COLORS = ("#44475A", "#7A5195", "#3D8361", "#A44A3F")  # for methods that have none of their own


@dataclass(frozen=True)
class UnlearningData:
    """What a method works with beside the original.

    Args:
        request: D_f, D_r, validation and test. Methods never read test.
        inputs: The dataset as the model reads it.
        task: What is asked, for the choice of a checkpoint on validation.
        training: How the original was trained.
        seed: Seed of every draw.
        folder: Where checkpoints are kept while the method runs.
        initial_seed: Seed of the original's initial weights.
        start: Folder of the model that the original's training started from, if it did from one.
    """

    request: Request
    inputs: PairInputs
    task: Task
    training: TrainSettings = field(default_factory=TrainSettings)
    seed: int = 0
    folder: Path | None = None
    initial_seed: int = 0
    start: Path | None = None

    def initial_model(self, original: Model) -> Model:
        """The original as it was before its training."""
        return initial_model(
            type(original), original.config, (), self.initial_seed, self.start, tokenizer=original.tokenizer
        )

    @property
    def forget_pairs(self) -> Rows:
        """Text rows of the pairs of D_f."""
        return self.request.dataset.text_rows(self.request.forget)

    @property
    def retain_pairs(self) -> Rows:
        """Text rows of the pairs of D_r."""
        return self.request.dataset.text_rows(self.request.retain)


@dataclass
class Unlearned:
    """What a method gives back.

    Args:
        model: The unlearned model, in eval mode.
        history: Loss terms of each step, checkpoints judged, seconds of the updates.
        prepare_seconds: Time spent before the first update (teacher's outputs, encodings).
        inputs: What the model reads, with what is frozen in it computed beforehand: evaluation can go on from it.
    """

    model: Model
    history: TrainingHistory
    prepare_seconds: float
    inputs: PairInputs


class Method(BaseModel, ABC):
    """A method: its fields are its hyper-parameters, and calling it unlearns.

    Args:
        scope: Which parameters may change: ``all``, ``fusion`` (the "-F" rows), or the encoder of one modality:
            ``vision``, ``graph`` or ``text``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: ClassVar[str]
    title: ClassVar[str]  # what tables and figures call it
    color: ClassVar[str] = ""  # in figures; by default one that follows from the name
    needs_training: ClassVar[bool] = False  # whether it must be known how the original was trained
    stored: ClassVar[bool] = False  # whether its outcome is kept beside the originals, to be found again
    seeded: ClassVar[bool] = True  # whether it draws anything, so that another seed gives other weights
    properties: ClassVar[tuple[str, ...]] = ()  # what it says of itself, out of PROPERTIES in ``multidelete.testing``
    requires: ClassVar[frozenset[str]] = frozenset()  # of the task ("labels", "vision") or original (an extra module)
    scopes: ClassVar[tuple[str, ...]] = get_args(Scope)

    scope: Scope = "all"

    @field_validator("scope")
    @classmethod
    def _known_scope(cls, scope: Scope) -> Scope:
        if scope not in cls.scopes:
            raise ValueError(f"method '{cls.name}' has the scopes {' and '.join(cls.scopes)}, not '{scope}'")
        return scope

    @final
    def __call__(self, original: Model, data: UnlearningData, engine: Engine) -> Unlearned:
        """Unlearn D_f.

        Args:
            original: The model before; never changed.
            data: D_f, D_r and the rest.
            engine: Where to run.

        Raises:
            InputError: The combination is impossible, or the loss became infinite.
        """
        modes = {module: module.training for module in original.modules()}
        original = original.to(engine.device).eval()
        self.check(original, data.request)
        before = {name: parameter.requires_grad for name, parameter in original.named_parameters()}
        student = copy.deepcopy(original)
        try:
            original.requires_grad_(False)
            return self.unlearn(student, original, data, engine)
        finally:
            for name, parameter in original.named_parameters():
                parameter.requires_grad_(before[name])
            for module, mode in modes.items():
                module.training = mode

    def check(self, model: Model, request: Request | None = None) -> None:
        """Refuse a model that the method does not apply to, before anything slow starts.

        Args:
            model: The original, or what is to be trained to be it.
            request: What is to be deleted, where that is known.

        Raises:
            InputError: The scope is unknown to it, or everything in it is frozen.
        """
        model.parameters_of(self.scope)
        extra = model.config.extra["name"] if model.config.extra else None
        for name in self.requires & EXTRAS.keys() - {extra}:
            raise InputError(
                f"{self.name} needs an original that was trained with '{name}', and this {model.name} model was not; "
                "train it with a table [train.extra] in the recipe"
            )

    def reads(self, inputs: PairInputs, model: Model) -> PairInputs:
        """What the method's model reads of the dataset: all of it, but for methods that blank a part."""
        return inputs

    @classmethod
    def display(cls) -> dict[str, str]:
        """Title and color, as rows of results carry them."""
        return {"title": cls.title, "color": cls.color or OTHER_COLORS[sum(map(ord, cls.name)) % len(OTHER_COLORS)]}

    def settings(self, data: UnlearningData) -> dict[str, Any]:
        """Settings that a row of results records: the fields of the method without its scope."""
        return self.model_dump(exclude={"scope"})

    @abstractmethod
    def unlearn(self, student: Model, original: Model, data: UnlearningData, engine: Engine) -> Unlearned:
        """Change the student, a copy of the original, and return it."""


class LossMethod(Method):
    """A method that is a loss over batches of D_f and D_r.

    The student runs in eval mode: without dropout and with frozen running statistics. The checkpoint is chosen on
    validation by ``utility − forget_weight · |forget_auc − forget_target|``, all in points: utility is the task's score
    on validation, ``forget_auc`` that of D_f against validation pairs, which nobody trained on. With a target of 0
    deleted pairs should score as low as possible (the paper), with 50 they should look unseen: a method can also forget
    too much.

    Args:
        epochs: Passes over the pairs of D_f.
        batch_size: Pairs of D_f in a step.
        retain_ratio: Pairs of D_r in a step, for each pair of D_f.
        learning_rate: Peak of the schedule: linear warm-up, then cosine to zero.
        weight_decay: AdamW's, on matrices only.
        warmup: Share of the steps.
        clip: Largest norm of the gradient.
        min_steps: Steps that are taken at least, however small D_f is.
        evaluations: Checkpoints judged on validation; 0 takes the last.
        forget_weight: Points of utility that one point of ``forget_auc`` is worth in that choice.
        forget_target: The ``forget_auc`` that is aimed at.
    """

    epochs: float = Field(default=3.0, gt=0)
    batch_size: int = Field(default=64, ge=1)
    retain_ratio: int = Field(default=4, ge=1)
    learning_rate: float = Field(default=3e-4, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    warmup: float = Field(default=0.1, ge=0, lt=1)
    clip: float = Field(default=1.0, gt=0)
    min_steps: int = Field(default=20, ge=1)
    evaluations: int = Field(default=4, ge=0)
    forget_weight: float = Field(default=0.5, ge=0)
    forget_target: float = Field(default=0.0, ge=0, le=100)

    needs_teacher: ClassVar[bool] = False
    needs_initial: ClassVar[bool] = False  # whether ``original.initial`` is asked about D_f; needs a teacher too
    schedule: ClassVar[Literal["cosine", "constant"]] = "cosine"

    def needs_before(self) -> bool:
        """Whether it asks what the task judges of the original."""
        return False

    @abstractmethod
    def losses(self, student: Model, teacher: Teacher, forget: Batch, retain: RetainBatch) -> dict[str, Tensor]:
        """Named loss terms of one step, scalars; their sum is minimised, and they are logged by name."""

    def mismatched_share(self) -> float:
        """Share of the D_r batch that is re-paired, image and text from two different examples."""
        return 0.0

    def peak_rate(self, data: UnlearningData) -> float:
        """Peak learning rate."""
        return self.learning_rate

    def prepare(self, student: Model, teacher: Teacher, stream: ForgetRetainStream, steps: int) -> None:
        """Whatever is done once, before the first step.

        Args:
            student: Still equal to the original.
            teacher: Where ``needs_teacher`` is set; what the steps will ask of it is best asked here, all at once.
            stream: The batches of D_f and D_r.
            steps: How many steps there will be.
        """

    def masks(self, student: Model, stream: ForgetRetainStream, engine: Engine) -> Mapping[str, Tensor]:
        """Which entries of a parameter may move, by name; gradients of the others are 0. None are given: all may.

        Args:
            student: Still equal to the original.
            stream: The batches of D_f and D_r.
            engine: Device and precision.
        """
        return {}

    def criterion(self, metrics: Mapping[str, float], before: Mapping[str, float]) -> float:
        """What a checkpoint is worth; the best is kept, the first of equals.

        Args:
            metrics: What :meth:`Task.validation_metrics` found of it.
            before: What that found of the original, where it is asked for.
        """
        return metrics["utility"] - self.forget_weight * abs(metrics["forget_auc"] - self.forget_target)

    def stop_at(self) -> float:
        """A checkpoint whose criterion reaches this is the last."""
        return math.inf

    @final
    def unlearn(self, student: Model, original: Model, data: UnlearningData, engine: Engine) -> Unlearned:
        """See :meth:`Method.unlearn`."""
        if len(data.request.validation) == 0 and self.evaluations:
            raise InputError(
                f"dataset '{data.request.dataset.name}' has no validation split, "
                f"on which {self.name} chooses its checkpoint; add one, or set method.evaluations=0 to keep the last"
            )
        began = time.perf_counter()
        inputs = frozen_inputs(engine, original, data.inputs, self.scope)
        before = data.task.validation_metrics(student, inputs, data.request, engine) if self.needs_before() else {}
        initial = teacher = None
        if self.needs_initial:
            untrained = data.initial_model(original).to(engine.device).eval().requires_grad_(False)
            initial = Teacher(untrained, data.inputs, engine, data.forget_pairs)
        if self.needs_teacher:
            teacher = Teacher(original, encoded_inputs(engine, original, data.inputs), engine, None, initial, before)
        stream = ForgetRetainStream(
            inputs,
            data.forget_pairs,
            data.retain_pairs,
            self.batch_size,
            self.retain_ratio,
            self.mismatched_share(),
            data.seed,
        )
        fit_settings = FitSettings(
            steps=max(stream.steps(self.epochs), self.min_steps),
            learning_rate=self.peak_rate(data),
            seed=data.seed,
            schedule=self.schedule,
            stop_at=self.stop_at(),
            **self.model_dump(include={"weight_decay", "warmup", "clip", "evaluations"}),
        )
        self.prepare(student, teacher, stream, fit_settings.steps)  # type: ignore[arg-type]
        masks = self.masks(student, stream, engine)
        prepared = time.perf_counter() - began

        def losses(step: int) -> dict[str, Tensor]:
            forget, retain = stream.at(step, engine.device)
            retain = replace(retain, progress=step / fit_settings.steps)
            return self.losses(student, teacher, forget, retain)  # type: ignore[arg-type]

        def validate() -> dict[str, float]:
            result = data.task.validation_metrics(student, inputs, data.request, engine)
            return {**result, "criterion": self.criterion(result, before)}

        with masked(student, masks):
            history = fit(
                engine,
                student,
                student.parameters_of(self.scope),
                losses,
                fit_settings,
                what=f"{self.title} ({self.scope})",
                training=False,
                validate=validate if self.evaluations else None,
                folder=data.folder,
            )
        return Unlearned(student, history, prepared, inputs)


@contextmanager
def masked(model: Model, masks: Mapping[str, Tensor]) -> Iterator[None]:
    """Gradients are multiplied by these masks inside, as soon as they are there: what is clipped is what is left."""
    parameters = {name: model.get_parameter(name).requires_grad_(True) for name in masks}
    handles = [parameter.register_hook(masks[name].mul) for name, parameter in parameters.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
