"""Base classes of unlearning methods: a method maps the original and the data to an unlearned model."""

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

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from torch import Tensor

from multidelete.data.batches import TOGETHER, PairInputs, Rows
from multidelete.data.requests import Request
from multidelete.data.samplers import ForgetRetainStream, RetainBatch
from multidelete.methods.teacher import Teacher
from multidelete.methods.unseen import Unseen
from multidelete.models.base import Model
from multidelete.models.extras import EXTRAS
from multidelete.models.inputs import Batch
from multidelete.models.lora import LowRank, merge
from multidelete.tasks.base import Task
from multidelete.training.engine import Engine
from multidelete.training.features import encoded_inputs, frozen_inputs
from multidelete.training.loop import FitSettings, TrainingHistory, fit
from multidelete.training.original import TrainSettings, initial_model
from multidelete.utils.errors import InputError

Scope = Literal["all", "fusion", "vision", "graph", "text"]
OTHER_COLORS = ("#44475A", "#7A5195", "#3D8361", "#A44A3F")  # default colors of methods


@dataclass(frozen=True)
class UnlearningData:
    """Inputs of a method besides the original model.

    Args:
        request: D_f, D_r, validation and test. Methods never read test.
        inputs: Model inputs of the dataset.
        task: Task, for validation metrics.
        training: Training settings of the original.
        seed: Seed of all random draws.
        folder: Folder of checkpoints.
        initial_seed: Seed of the original's initial weights.
        start: Folder of the start model of the original's training, if any.
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
        """The original before its training."""
        return initial_model(
            type(original), original.config, (), self.initial_seed, self.start, tokenizer=original.tokenizer
        )

    @property
    def forget_pairs(self) -> Rows:
        """Text rows of the pairs of D_f."""
        return self.request.forget_pairs

    @property
    def retain_pairs(self) -> Rows:
        """Text rows of the pairs of D_r."""
        return self.request.retain_pairs


@dataclass
class Unlearned:
    """Result of a method.

    Args:
        model: Unlearned model, in eval mode.
        history: Loss terms of each step, validated checkpoints, seconds of updates.
        prepare_seconds: Seconds before the first update (teacher outputs, encodings).
        inputs: Model inputs with precomputed encodings of frozen parts, for evaluation.
        note: What a reader of the result must know, as a sentence.
    """

    model: Model
    history: TrainingHistory
    prepare_seconds: float
    inputs: PairInputs
    note: str = ""


class Method(BaseModel, ABC):
    """Unlearning method: fields are hyper-parameters, calling the method unlearns.

    Args:
        scope: Parameters that may change: ``all``, ``fusion`` (the "-F" rows), or the encoder of one modality:
            ``vision``, ``graph`` or ``text``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: ClassVar[str]
    title: ClassVar[str]  # name in tables and figures
    color: ClassVar[str] = ""  # in figures; the default depends on the name
    needs_training: ClassVar[bool] = False  # whether it needs the original's training settings
    needs_start: ClassVar[bool] = False  # whether it trains from what the original's training started from
    stored: ClassVar[bool] = False  # whether the store keeps its result for other runs
    seeded: ClassVar[bool] = True  # whether the result depends on the seed
    timed: ClassVar[bool] = True  # whether the time of the updates is known
    properties: ClassVar[tuple[str, ...]] = ()  # checked properties, keys of PROPERTIES in ``multidelete.testing``
    requires: ClassVar[frozenset[str]] = frozenset()  # capabilities of the task ("labels", "vision"), or extra modules
    scopes: ClassVar[tuple[str, ...]] = get_args(Scope)

    scope: Scope = "all"

    @model_validator(mode="before")
    @classmethod
    def _lora_follows_gradients(cls, values: Any) -> Any:
        if isinstance(values, dict) and "lora" in values and "lora" not in cls.model_fields:
            raise ValueError(f"method '{cls.name}' does not follow gradients of a loss, so it cannot run as LoRA")
        return values

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
            original: Original model, never changed.
            data: D_f, D_r and other inputs.
            engine: Device, precision, progress.

        Raises:
            InputError: The combination is impossible, or the loss is not finite.
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
        """Check that the method applies to a model, before anything slow starts.

        Args:
            model: The original, or a model of the same configuration before training.
            request: The deletion request, if it is known.

        Raises:
            InputError: The method or model does not have the scope, or the scope is entirely frozen.
        """
        model.parameters_of(self.scope)
        extra = model.config.extra["name"] if model.config.extra else None
        for name in self.requires & EXTRAS.keys() - {extra}:
            raise InputError(
                f"{self.name} needs an original that was trained with '{name}', and this {model.name} model was not; "
                "train it with a table [train.extra] in the recipe"
            )

    def reads(self, inputs: PairInputs, model: Model) -> PairInputs:
        """Model inputs of this method: all by default; methods may blank a part."""
        return inputs

    @classmethod
    def display(cls) -> dict[str, str]:
        """Title and color, for rows of results."""
        return {"title": cls.title, "color": cls.color or OTHER_COLORS[sum(map(ord, cls.name)) % len(OTHER_COLORS)]}

    def settings(self, data: UnlearningData) -> dict[str, Any]:
        """Settings for rows of results: the fields of the method without its scope."""
        return self.model_dump(exclude={"scope"})

    @abstractmethod
    def unlearn(self, student: Model, original: Model, data: UnlearningData, engine: Engine) -> Unlearned:
        """Unlearn in place: change the student, a copy of the original, and return it."""


class LossMethod(Method):
    """Method defined by a loss over batches of D_f and D_r.

    The student runs in eval mode: without dropout and with frozen running statistics. The checkpoint is selected on
    validation by ``utility − forget_weight · |forget_auc − forget_target|``, all in points: utility is the task's score
    on validation, ``forget_auc`` that of D_f against validation pairs, which are not trained on. With target 0, deleted
    pairs should score as low as possible (the paper); with target 50, they should look unseen, since a method can also
    forget too much.

    Args:
        epochs: Passes over the pairs of D_f.
        batch_size: Pairs of D_f per step.
        retain_ratio: Pairs of D_r per pair of D_f in a step.
        learning_rate: Peak learning rate; linear warm-up, then cosine to zero.
        weight_decay: Weight decay of AdamW, for matrices only.
        warmup: Fraction of the steps.
        clip: Maximum gradient norm.
        min_steps: Minimum number of steps for small D_f.
        evaluations: Number of checkpoints to validate; 0 keeps the last.
        forget_weight: Weight of ``forget_auc`` relative to utility in checkpoint selection.
        forget_target: Target of ``forget_auc``.
        retain_near: Share of the D_r pairs in a step that are near misses: they have a picture or a text in common with
            D_f, and lose most by a deletion. If there are none, it has no effect.
        lora: Low-rank matrices that change instead of the weights (:class:`LowRank`); they are merged afterwards.
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

    retain_near: float = Field(default=0.0, ge=0, le=1, exclude_if=lambda share: share == 0)
    lora: LowRank | None = Field(default=None, exclude_if=lambda lora: lora is None)

    needs_teacher: ClassVar[bool] = False
    needs_initial: ClassVar[bool] = False  # whether ``original.initial`` is used on D_f; requires needs_teacher
    schedule: ClassVar[Literal["cosine", "constant"]] = "cosine"

    def check(self, model: Model, request: Request | None = None) -> None:
        """See :meth:`Method.check`; with ``lora``, there must be layers for it."""
        super().check(model, request)
        if self.lora is not None:
            self.lora.layers(model, self.scope)

    def needs_before(self) -> bool:
        """Whether the method needs validation metrics of the original."""
        return False

    @abstractmethod
    def losses(self, student: Model, teacher: Teacher, forget: Batch, retain: RetainBatch) -> dict[str, Tensor]:
        """Named loss terms of one step, scalars; their sum is minimised, and each is logged."""

    def mismatched_share(self) -> float:
        """Fraction of the D_r batch that is re-paired: image and text from two different examples."""
        return 0.0

    def peak_rate(self, data: UnlearningData) -> float:
        """Peak learning rate."""
        return self.learning_rate

    def prepare(self, student: Model, teacher: Teacher, stream: ForgetRetainStream, steps: int) -> None:
        """Prepare once before the first step.

        Args:
            student: Student, still equal to the original.
            teacher: The original, if ``needs_teacher`` is set; requests of later steps should be precomputed here.
            stream: Batches of D_f and D_r.
            steps: Number of steps.
        """

    def masks(self, student: Model, stream: ForgetRetainStream, engine: Engine) -> Mapping[str, Tensor]:
        """Masks by parameter name: entries that may change; gradients of others are set to 0. Without a mask, all may.

        Args:
            student: Student, still equal to the original.
            stream: Batches of D_f and D_r.
            engine: Device and precision.
        """
        return {}

    def criterion(self, metrics: Mapping[str, float], before: Mapping[str, float]) -> float:
        """Selection criterion of a checkpoint, higher is better; the first maximum is kept.

        Args:
            metrics: :meth:`Task.validation_metrics` of the checkpoint.
            before: The same of the original, if :meth:`needs_before`.
        """
        return metrics["utility"] - self.forget_weight * abs(metrics["forget_auc"] - self.forget_target)

    def stop_at(self) -> float:
        """Criterion value at which training stops."""
        return math.inf

    def unseen(
        self, student: Model, inputs: PairInputs, stream: ForgetRetainStream, data: UnlearningData, engine: Engine
    ) -> Unseen | None:
        """Signals of unseen pairs, if the method aims there; the original is then the first checkpoint."""
        return None

    @final
    def unlearn(self, student: Model, original: Model, data: UnlearningData, engine: Engine) -> Unlearned:
        """See :meth:`Method.unlearn`."""
        if len(data.request.validation) == 0 and self.evaluations:
            raise InputError(
                f"dataset '{data.request.dataset.name}' has no validation split, "
                f"on which {self.name} selects its checkpoint; add one, or set method.evaluations=0 to keep the last"
            )
        began = time.perf_counter()
        inputs = frozen_inputs(engine, original, data.inputs, self.scope, on_demand=True)
        before = data.task.validation_metrics(student, inputs, data.request, engine) if self.needs_before() else {}
        stream = ForgetRetainStream(
            inputs,
            data.forget_pairs,
            data.retain_pairs,
            self.batch_size,
            self.retain_ratio,
            self.mismatched_share(),
            data.seed,
            data.request.near_misses,
            self.retain_near,
        )
        steps = max(stream.steps(self.epochs), self.min_steps)
        pairs = None
        if len(data.request.dataset.texts) > TOGETHER:
            drawn = stream.drawn(steps)
            inputs.fetch(drawn)
            pairs = drawn["text"]
        unseen = self.unseen(student, inputs, stream, data, engine)

        def checked(metrics: dict[str, float]) -> dict[str, float]:
            known = metrics if unseen is None else metrics | {"distance": unseen.distance(metrics)}
            return {**known, "criterion": self.criterion(known, before)}

        start = None if unseen is None else checked(before)
        if unseen is not None and start is not None and start["distance"] <= 0:  # the original needs no change
            history, seconds = unseen.untouched(start), time.perf_counter() - began
            return Unlearned(student.requires_grad_(False), history, seconds, inputs, unseen.note(history))
        if self.lora is not None:
            self.lora.add(student, self.scope, data.seed)
        initial = teacher = None
        if self.needs_initial:
            untrained = data.initial_model(original).to(engine.device).eval().requires_grad_(False)
            initial = Teacher(untrained, data.inputs, engine, data.forget_pairs)
        if self.needs_teacher:
            teacher = Teacher(original, encoded_inputs(engine, original, data.inputs), engine, pairs, initial, unseen)

        fit_settings = FitSettings(
            steps=steps,
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
            return checked(data.task.validation_metrics(student, inputs, data.request, engine))

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
                start=start,
                folder=data.folder,
            )
        if self.lora is not None:
            merge(student)
        note = "" if unseen is None else unseen.note(history)
        return Unlearned(student, history, prepared, inputs, note)


@contextmanager
def masked(model: Model, masks: Mapping[str, Tensor]) -> Iterator[None]:
    """Context in which gradients are multiplied by masks when they are computed, and thus before clipping."""
    parameters = {name: model.get_parameter(name).requires_grad_(True) for name in masks}
    handles = [parameter.register_hook(masks[name].mul) for name, parameter in parameters.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
