"""The checks of ``multidelete.testing`` over every method, and the checks themselves: broken methods must fail them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from multidelete.data.samplers import RetainBatch
from multidelete.methods import METHODS, FineTune, Method, NegGrad, Retrain, Teacher, Unlearned, UnlearningData
from multidelete.models import Batch, Model
from multidelete.testing import CHECKS, PROPERTIES, Case, CheckError, check_method, trial_for
from multidelete.utils.errors import InputError


@cache
def case_of(method: type[Method]) -> Case:
    return Case(method, trial_for(method))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("check", CHECKS)
def test_every_method(name: str, check: Callable[[Case], None]) -> None:
    check(case_of(METHODS[name]))


@pytest.mark.parametrize(
    ("name", "property_name"), [(name, property_name) for name in METHODS for property_name in METHODS[name].properties]
)
def test_every_property(name: str, property_name: str) -> None:
    PROPERTIES[property_name](case_of(METHODS[name]))


def test_properties_are_declared() -> None:
    assert set(PROPERTIES) == {property_name for method in METHODS.values() for property_name in method.properties}


class Broken(NegGrad):
    """What the methods below break, each in one place.

    References:
        .. [1] Nobody, "A method", 2024
    """

    name: ClassVar[str] = "broken"
    properties: ClassVar[tuple[str, ...]] = ()


class SignFlipped(Broken):
    properties = ("raises_forget_loss",)

    def losses(self, student: Model, teacher: Teacher, forget: Batch, retain: RetainBatch) -> dict[str, Tensor]:
        return {"forget": student.losses(forget).mean()}


class WrongBatch(Broken):
    properties = ("never_reads_retain",)

    def losses(self, student: Model, teacher: Teacher, forget: Batch, retain: RetainBatch) -> dict[str, Tensor]:
        return {"forget": -student.losses(retain).mean()}


class ReadsForget(FineTune):
    properties = ("never_reads_forget",)

    def losses(self, student: Model, teacher: Teacher, forget: Batch, retain: RetainBatch) -> dict[str, Tensor]:
        return {"retain": student.losses(retain).mean(), "forget": 0.1 * student.losses(forget).mean()}


class TrainsOnAll(Retrain):
    properties = ("never_reads_forget",)

    def unlearn(self, student: Model, original: Model, data: UnlearningData, engine: Any) -> Unlearned:
        everything = UnlearningData(**{**vars(data), "request": _Everything(data.request)})
        return super().unlearn(student, original, everything, engine)


class _Everything:
    """A request that takes D_f for a part of D_r."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.dataset = inner, inner.dataset
        self.retain_pairs = inner.dataset.text_rows(inner.dataset.rows("train"))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class MutatesTheOriginal(Broken):
    needs_teacher: ClassVar[bool] = True

    def prepare(self, student: Model, teacher: Teacher, stream: Any, steps: int) -> None:
        with torch.no_grad():
            next(iter(teacher.model.parameters_of("fusion").values())).add_(1e-3)


class Unseeded(Broken):
    def losses(self, student: Model, teacher: Teacher, forget: Batch, retain: RetainBatch) -> dict[str, Tensor]:
        noise = torch.rand(len(forget), generator=GENERATOR)
        return {"forget": -(student.losses(forget) * noise).mean()}


GENERATOR = torch.Generator().manual_seed(0)


class SameForEverySeed(Broken):
    def unlearn(self, student: Model, original: Model, data: UnlearningData, engine: Any) -> Unlearned:
        with torch.no_grad():
            for parameter in student.parameters_of(self.scope).values():
                parameter.mul_(0.99)
        return unlearned(student, data)


class LeavesItsScope(Broken):
    def unlearn(self, student: Model, original: Model, data: UnlearningData, engine: Any) -> Unlearned:
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.add_(1e-3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(data.seed)))
        return unlearned(student, data)


class GivesTheOriginalBack(Broken):
    def unlearn(self, student: Model, original: Model, data: UnlearningData, engine: Any) -> Unlearned:
        return unlearned(original, data)


class LeavesTrainingMode(Broken):
    def unlearn(self, student: Model, original: Model, data: UnlearningData, engine: Any) -> Unlearned:
        result = super().unlearn(student, original, data, engine)
        result.model.train()
        return result


class SwitchesGradientsOff(Broken):
    def unlearn(self, student: Model, original: Model, data: UnlearningData, engine: Any) -> Unlearned:
        result = super().unlearn(student, original, data, engine)
        torch.set_grad_enabled(False)
        return result


class DrawsGlobally(Broken):
    def prepare(self, student: Model, teacher: Teacher, stream: Any, steps: int) -> None:
        torch.rand(1)


class ForgetsWhereItWas(Broken):
    """Its schedule counts calls, not steps.

    References:
        .. [1] Nobody, "A method", 2024
    """

    def losses(self, student: Model, teacher: Teacher, forget: Batch, retain: RetainBatch) -> dict[str, Tensor]:
        calls = student.__dict__.setdefault("calls", [])
        calls.append(retain.step)
        return {"forget": (1 if len(calls) > 2 else -1) * student.losses(forget).mean()}


class ReadsTest(Broken):
    def losses(self, student: Model, teacher: Teacher, forget: Batch, retain: RetainBatch) -> dict[str, Tensor]:
        assert retain.stream is not None
        inputs = retain.stream.inputs
        rows = inputs.dataset.text_rows(inputs.dataset.rows("test")[:4])
        test = inputs.batch(inputs.true_pairs(rows), torch.device("cpu"))
        return {"forget": -student.losses(forget).mean(), "test": student.losses(test).mean()}


class Undocumented(Broken):
    """Has a setting that it says nothing of.

    References:
        .. [1] Nobody, "A method", 2024
    """

    strength: float = 1.0


class Uncited(Broken):
    """Cites nothing."""


class DeclaresTheImpossible(Broken):
    properties = ("forgets_everything",)


def unlearned(model: Model, data: UnlearningData) -> Unlearned:
    from multidelete.training.loop import TrainingHistory

    return Unlearned(model.eval(), TrainingHistory(), 0.0, data.inputs)


@pytest.mark.parametrize(
    ("method", "problem"),
    [
        (SignFlipped, "it should rise"),
        (WrongBatch, "it reads D_r, despite its property"),
        (ReadsForget, "it reads D_f, despite its property"),
        (TrainsOnAll, "it changed nothing"),  # it is the original once more
        (MutatesTheOriginal, "it changed the original's weights"),
        (Unseeded, "the same seed gave other weights"),
        (SameForEverySeed, "another seed gave the same weights"),
        (LeavesItsScope, "which is not in its scope"),
        (GivesTheOriginalBack, "its model shares memory with the original"),
        (LeavesTrainingMode, "its model is in training mode"),
        (SwitchesGradientsOff, "it changed torch.is_grad_enabled"),
        (DrawsGlobally, "it used torch's global random generator"),
        (ForgetsWhereItWas, "interrupted and resumed, it ended with other weights"),
        (ReadsTest, "it reads the test split"),
        (Undocumented, "no docstring says what its setting 'strength' is"),
        (Uncited, "its docstring cites no paper"),
        (DeclaresTheImpossible, r"it has unknown properties \['forgets_everything'\]"),
    ],
)
def test_broken_methods_fail(method: type[Method], problem: str) -> None:
    settings = {LeavesItsScope: {"scope": "fusion"}, ForgetsWhereItWas: {"evaluations": 0}}.get(method, {})
    try:
        with pytest.raises(CheckError, match=problem):
            check_method(method, **settings)  # type: ignore[arg-type]
    finally:
        torch.set_grad_enabled(True)


@pytest.mark.parametrize("task", ["entailment", "reasoning", "graph_text"])
def test_other_tasks_and_settings(task: str) -> None:
    check_method(NegGrad, task=task, scope="fusion", learning_rate=1e-3)


def test_unknown_task() -> None:
    with pytest.raises(InputError, match=r"'retrival' is not a task \(there are retrieval, "):
        check_method(NegGrad, task="retrival")
