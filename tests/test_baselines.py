"""The effect of every baseline, its formula by hand, and what several of them share."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

import tiny
from multidelete.data.batches import PairInputs
from multidelete.data.requests import resolve
from multidelete.data.samplers import ForgetRetainStream, RetainBatch
from multidelete.methods import (
    NPO,
    SSD,
    BadTeacher,
    FineTune,
    KnowledgeUnlearning,
    L1Sparse,
    LossMethod,
    NegGrad,
    NegGradPlus,
    RandomLabel,
    SalUn,
    Scrub,
    Teacher,
    UnlearningData,
    pairs,
)
from multidelete.methods.npo import negative_preference
from multidelete.methods.pairs import divergence, encoded, label_log_probabilities, with_wrong_labels
from multidelete.methods.salun import salient
from multidelete.models import Batch, Model
from multidelete.recipe import validate
from multidelete.tasks import TASKS, Retrieval
from multidelete.training import checkpoint
from multidelete.training.engine import Engine
from multidelete.utils.errors import InputError

CPU = torch.device("cpu")
CASES = [("retrieval", "albef"), ("retrieval", "dual_encoder"), ("entailment", "albef"), ("graph_text", "graph_text")]
EFFECTS = CASES[1:]  # the fast ones, for whatever is trained
QUICK: dict[str, Any] = {"min_steps": 24, "epochs": 1, "batch_size": 12, "retain_ratio": 2, "evaluations": 0}


def original_of(task: str, name: str) -> Model:
    return tiny.original(name) if task == "retrieval" else tiny.original_for(task, name)


def data_of(task: str, model: Model, **changes: Any) -> UnlearningData:
    dataset = tiny.dataset_for(task)
    return UnlearningData(
        resolve(dataset, count=8),
        PairInputs.of(dataset, model),
        TASKS[task](),
        **{"training": tiny.TRAINING, **changes},
    )


@dataclass(frozen=True)
class Start:
    """What a method is given at its first step."""

    model: Model
    teacher: Teacher
    forget: Batch
    retain: RetainBatch

    @classmethod
    def of(cls, task: str, name: str, batch_size: int = 24, seed: int = 0) -> Start:
        model = original_of(task, name)
        data = data_of(task, model, seed=seed)
        initial = Teacher(data.initial_model(model).requires_grad_(False), data.inputs, tiny.engine())
        teacher = Teacher(model, data.inputs, tiny.engine(), initial=initial)
        stream = ForgetRetainStream(data.inputs, data.forget_pairs, data.retain_pairs, batch_size, 2, 0.0, seed)
        return cls(model, teacher, *stream.at(0, CPU))

    def losses(self, method: LossMethod, student: Model | None = None) -> dict[str, Tensor]:
        with torch.no_grad():
            return method.losses(student or self.model, self.teacher, self.forget, self.retain)


def shaken(model: Model, size: float = 0.1) -> Model:
    """A model with other weights."""
    student = copy.deepcopy(model)
    randomness = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=randomness))
    return student


def pairs_of(data: UnlearningData, of: str) -> Batch:
    rows = data.forget_pairs if of == "forget" else data.retain_pairs
    return data.inputs.batch(data.inputs.true_pairs(rows), CPU)


@torch.no_grad()
def loss_on(model: Model, data: UnlearningData, of: str) -> float:
    return float(model.losses(pairs_of(data, of)).mean())


@torch.no_grad()
def confidence(model: Model, data: UnlearningData, of: str) -> float:
    """Mean probability of the true label."""
    batch = pairs_of(data, of)
    logits = model.head(model.fused(batch))
    labels = batch.labels if model.config.labels else torch.ones(len(batch), dtype=torch.long)
    assert labels is not None
    return float(logits.softmax(-1)[torch.arange(len(batch)), labels].mean())


@torch.no_grad()
def divergence_on(teacher: Model, student: Model, data: UnlearningData, of: str) -> float:
    """KL(teacher || student), from the definition."""
    batch = pairs_of(data, of)
    p, q = (model.head(model.fused(batch)).softmax(-1) for model in (teacher, student))
    return float((p * (p / q).log()).sum(-1).mean())


# -- what several methods share -----------------------------------------------------------------------------------


def test_divergence_by_hand() -> None:
    """KL((3/4, 1/4) || (1/2, 1/2)) = 3/4 ln(3/2) + 1/4 ln(1/2); shifted logits are the same; not symmetric."""
    teacher = torch.tensor([[math.log(3.0), 0.0]])
    student = torch.zeros(1, 2)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert float(divergence(student, teacher)) == pytest.approx(expected, abs=1e-6)
    assert float(divergence(student + 7, teacher - 3)) == pytest.approx(expected, abs=1e-6)
    assert float(divergence(teacher, student)) == pytest.approx(0.5 * math.log(4 / 3), abs=1e-6)
    warm = torch.tensor([[2 * math.log(3.0), 0.0]])
    assert float(divergence(student, warm, temperature=2)) == pytest.approx(4 * expected, abs=1e-6)


@pytest.mark.parametrize(("task", "name"), CASES)
def test_label_log_probabilities(task: str, name: str) -> None:
    start = Start.of(task, name)
    with torch.no_grad():
        logits = start.model.head(start.model.fused(start.forget))
    result = label_log_probabilities(start.model, logits, start.forget).exp()
    for row in range(len(start.forget)):
        label = 1 if task == "retrieval" else int(start.forget.labels[row])  # type: ignore[index]
        assert float(result[row]) == pytest.approx(float(logits[row].softmax(-1)[label]), rel=1e-5)


@pytest.mark.parametrize(("task", "name"), CASES)
def test_encoding_once_changes_no_answer(task: str, name: str) -> None:
    start = Start.of(task, name)
    batch = encoded(start.model, start.retain)
    with torch.no_grad():
        assert torch.equal(start.model.fused(batch), start.model.fused(start.retain))
        start.retain.generator.manual_seed(0)  # type: ignore[union-attr]
        plain = start.model.losses(start.retain)
        start.retain.generator.manual_seed(0)  # type: ignore[union-attr]
        assert torch.equal(start.model.losses(batch), plain)


@pytest.mark.parametrize("task", ["entailment", "reasoning", "graph_text"])
def test_wrong_labels_are_other_classes(task: str) -> None:
    start = Start.of(task, "graph_text" if task == "graph_text" else "albef")
    assert start.forget.labels is not None
    true, classes = start.forget.labels.clone(), len(start.model.config.labels)
    drawn = []
    for step in range(20):
        wrong = with_wrong_labels(start.model, start.forget, replace(start.retain, step=step))
        assert wrong.labels is not None
        assert wrong.inputs is start.forget.inputs
        assert (wrong.labels != true).all()
        drawn.append((wrong.labels - true) % classes)
    assert torch.equal(start.forget.labels, true)
    assert torch.stack(drawn).unique().tolist() == list(range(1, classes))
    assert classes == 2 or not torch.equal(drawn[0], drawn[1])
    again = with_wrong_labels(start.model, start.forget, replace(start.retain, step=3))
    assert torch.equal((again.labels - true) % classes, drawn[3])  # type: ignore[operator]


@pytest.mark.parametrize("size", [1, 2, 24])
def test_wrong_texts_are_of_other_examples(size: int) -> None:
    """One pair, two of them, and more than an example's; the true texts stay in the batch, as wrong ones."""
    start = Start.of("retrieval", "albef", size)
    examples = start.retain.stream.inputs.dataset.text_examples  # type: ignore[union-attr]
    before = start.forget.rows["text"].clone()
    seen = []
    for step in range(10):
        wrong = with_wrong_labels(start.model, start.forget, replace(start.retain, step=step))
        assert torch.equal(wrong.rows["vision"], start.forget.rows["vision"])
        texts = wrong.rows["text"].numpy()
        assert (examples[texts] != wrong.rows["vision"].numpy()).all()
        assert torch.equal(wrong.examples["vision"], wrong.examples["text"])  # they pass for true pairs
        assert wrong.examples["text"].tolist() == examples[texts].tolist()
        seen.append(texts.tolist())
        if size == 24:
            assert np.isin(texts, before.numpy()).mean() > 0.6
    assert torch.equal(start.forget.rows["text"], before)
    assert seen[0] != seen[1]
    again = with_wrong_labels(start.model, start.forget, replace(start.retain, step=0))
    assert again.rows["text"].tolist() == seen[0]


# -- UL -----------------------------------------------------------------------------------------------------------


class Scripted(Retrieval):
    """A task that returns validation metrics from a list."""

    script: ClassVar[Iterator[float]] = iter(())

    def validation_metrics(self, model: Any, inputs: Any, request: Any, engine: Any) -> dict[str, float]:
        """Confidence on validation drops together with that on D_f, as in gradient ascent."""
        confidence = next(self.script)
        return {"utility": 0.0, "confidence_forget": confidence, "confidence_validation": 0.5 * confidence}


@pytest.mark.parametrize(("task", "name"), EFFECTS)
@pytest.mark.parametrize("scope", ["text", "fusion"])
def test_ul_raises_the_loss_on_the_forget_set(task: str, name: str, scope: str) -> None:
    original = original_of(task, name)
    data = data_of(task, original)
    method = KnowledgeUnlearning(scope=scope, epochs=4, learning_rate=2e-3, evaluations=1)  # type: ignore[arg-type]
    result = method(original, data, tiny.engine())
    assert loss_on(result.model, data, "forget") > loss_on(original, data, "forget") + 0.05
    moved = tiny.changed(tiny.weights(original), tiny.weights(result.model))
    assert moved <= set(original.parameters_of(scope))


def test_ul_stops_where_deleted_pairs_look_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    original = tiny.original("albef")
    data = tiny.data_for(original, task=Scripted())
    method = KnowledgeUnlearning(epochs=5, evaluations=5, min_steps=5)

    def lines(*confidences: float) -> list[dict[str, Any]]:
        monkeypatch.setattr(
            Scripted, "script", iter([100.0, *confidences])
        )  # the original's first: the threshold is 50
        return method(original, data, tiny.engine()).history.lines

    stopped = lines(90, 60, 50, 10, 0)
    assert [line["step"] for line in stopped if "validation" in line] == [1, 2, 3]
    assert stopped[-1]["step"] == 3
    assert stopped[-1]["selected"]
    never = lines(90, 60, 55, 70, 80)
    assert never[-1]["step"] == 5
    assert [line["step"] for line in never if line.get("selected")] == [3]
    rates = {line["learning_rate"] for line in never if "losses" in line}
    assert rates == {5e-5}
    assert len([line for line in lines(20, 10, 0, 0, 0) if "losses" in line]) == 1


def test_what_has_stopped_stays_stopped_when_it_is_resumed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(checkpoint, "CHECKPOINT_SECONDS", -1.0)  # a checkpoint after every step
    monkeypatch.setattr(Scripted, "script", iter([100, 90, 40, 100]))
    original = tiny.original("albef")
    data = tiny.data_for(original, task=Scripted(), folder=tmp_path)
    method = KnowledgeUnlearning(epochs=3, evaluations=3, min_steps=3)
    first = method(original, data, Engine(precision="fp32"))
    again = method(original, data, Engine(precision="fp32", resume=True))
    assert again.history.lines == first.history.lines
    assert again.history.lines[-1]["step"] == 2
    assert tiny.changed(tiny.weights(first.model), tiny.weights(again.model)) == set()


def test_ul_is_for_text_and_fusion_only() -> None:
    assert KnowledgeUnlearning().scope == "text"
    for scope in ("all", "vision", "graph"):
        sentence = f"method 'knowledge_unlearning' has the scopes text and fusion, not '{scope}'"
        with pytest.raises(ValidationError, match=sentence):
            KnowledgeUnlearning(scope=scope)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=f"'method.scope': {sentence}"):
            validate({"forget": {"count": 2}, "method": {"name": "knowledge_unlearning", "scope": scope}}, "here")


# -- NegGrad+ -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("task", "name"), CASES)
def test_neggrad_plus_lies_between_finetune_and_neggrad(task: str, name: str) -> None:
    def terms(method: LossMethod) -> dict[str, float]:
        return {key: float(term) for key, term in Start.of(task, name).losses(method).items()}

    only_retain, only_forget = terms(FineTune()), terms(NegGrad())
    assert terms(NegGradPlus(beta=1)) == only_retain
    assert terms(NegGradPlus(beta=0)) == only_forget
    expected = {"retain": 0.75 * only_retain["retain"], "forget": 0.25 * only_forget["forget"]}
    assert terms(NegGradPlus(beta=0.75)) == pytest.approx(expected)
    assert only_forget["forget"] < 0 < only_retain["retain"]


@pytest.mark.parametrize(("task", "name"), EFFECTS)
def test_neggrad_plus_separates_the_losses_of_the_two_sets(task: str, name: str) -> None:
    original = original_of(task, name)
    data = data_of(task, original)
    settings = {**QUICK, "min_steps": 48, "learning_rate": 3e-3}
    result = NegGradPlus(beta=0.6, **settings)(original, data, tiny.engine()).model
    ascended = NegGrad(**settings)(original, data, tiny.engine()).model
    forget, retain = (loss_on(result, data, of) - loss_on(original, data, of) for of in ("forget", "retain"))
    assert forget > retain + 0.05
    assert loss_on(result, data, "retain") < loss_on(ascended, data, "retain") - 0.05


# -- SCRUB --------------------------------------------------------------------------------------------------------


class OnlyAway(Scrub):
    """Every step is a max step."""

    def losses(self, student: Model, teacher: Teacher, forget: Batch, retain: RetainBatch) -> dict[str, Tensor]:
        return super().losses(student, teacher, forget, replace(retain, step=1, progress=0.0))


@pytest.mark.parametrize(("task", "name"), EFFECTS)
def test_scrub_leaves_the_teacher_on_the_forget_set_only(task: str, name: str) -> None:
    original = original_of(task, name)
    data = data_of(task, original)
    settings = {**QUICK, "ascent": 0.9, "learning_rate": 3e-3, "alpha": 5.0}
    result = Scrub(**settings)(original, data, tiny.engine())
    away = OnlyAway(**settings)(original, data, tiny.engine())
    forget, retain = (divergence_on(original, result.model, data, of) for of in ("forget", "retain"))
    assert forget > 1e-4
    assert divergence_on(original, away.model, data, "forget") > forget
    assert retain < divergence_on(original, away.model, data, "retain") / 2


def test_scrub_goes_away_at_every_other_step_until_the_last_ones() -> None:
    original = tiny.original("albef")
    settings = {**QUICK, "min_steps": 10, "batch_size": 24, "ascent": 0.5}
    result = Scrub(**settings)(original, tiny.data_for(original), tiny.engine())
    terms = [set(line["losses"]) - {"total"} for line in result.history.lines]
    away, back = {"forget"}, {"retain", "task"}
    assert terms == [back, away, back, away, back, back, back, back, back, back]
    assert all(line["losses"]["forget"] <= 1e-6 for line in result.history.lines if "forget" in line["losses"])


@pytest.mark.parametrize(("task", "name"), CASES)
def test_scrub_by_hand(task: str, name: str) -> None:
    student = shaken(original_of(task, name))
    start = Start.of(task, name)
    method = Scrub(alpha=0.5, gamma=3.0, temperature=2.0)
    away = replace(start, retain=replace(start.retain, step=1))
    with torch.no_grad():
        p, q = ((m.head(m.fused(start.forget)) / 2).softmax(-1) for m in (start.model, student))
        expected = -4 * (p * (p / q).log()).sum(-1).mean()
        torch.testing.assert_close(away.losses(method, student)["forget"], expected, rtol=1e-4, atol=1e-6)
        p, q = ((m.head(m.fused(start.retain)) / 2).softmax(-1) for m in (start.model, student))
        result = start.losses(method, student)
        torch.testing.assert_close(result["retain"], 2 * (p * (p / q).log()).sum(-1).mean(), rtol=1e-4, atol=1e-6)
        again = Start.of(task, name).retain  # with the randomness of its wrong partners untouched
        torch.testing.assert_close(result["task"], 3 * student.losses(again).mean(), rtol=1e-5, atol=1e-6)


# -- bad teacher --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("task", "name"), EFFECTS)
def test_bad_teacher_is_followed_on_the_forget_set_only(task: str, name: str) -> None:
    original = original_of(task, name)
    data = data_of(task, original)
    bad = data.initial_model(original)
    settings = {**QUICK, "min_steps": 60, "learning_rate": 3e-3}
    result = BadTeacher(**settings)(original, data, tiny.engine()).model
    before = divergence_on(bad, original, data, "forget")
    assert before > 1e-4
    assert divergence_on(bad, result, data, "forget") < 0.8 * before
    unbound = BadTeacher(retain_kl=0, **settings)(original, data, tiny.engine()).model
    assert divergence_on(original, result, data, "retain") < divergence_on(original, unbound, data, "retain") / 2


@pytest.mark.parametrize(("task", "name"), CASES)
def test_bad_teacher_by_hand(task: str, name: str) -> None:
    start = Start.of(task, name)
    student = shaken(start.model)
    result = start.losses(BadTeacher(forget_kl=0.5, retain_kl=2), student)
    bad = data_of(task, start.model).initial_model(start.model)
    with torch.no_grad():
        for key, weight, teacher, batch in (
            ("forget", 0.5, bad, start.forget),
            ("retain", 2, start.model, start.retain),
        ):
            p, q = (model.head(model.fused(batch)).softmax(-1) for model in (teacher, student))
            torch.testing.assert_close(result[key], weight * (p * (p / q).log()).sum(-1).mean(), rtol=1e-4, atol=1e-6)


def test_bad_teacher_computes_no_mismatched_pair_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    original = tiny.original("albef")
    method = BadTeacher(retain_mismatched=0.5, **QUICK)
    plain = method(original, tiny.data_for(original), tiny.engine())
    with monkeypatch.context() as patch:
        patch.setattr(BadTeacher, "prepare", lambda *_: None)
        slow = method(original, tiny.data_for(original), tiny.engine())
    fast = tiny.weights(plain.model)
    for key, weight in tiny.weights(slow.model).items():
        torch.testing.assert_close(weight, fast[key], rtol=1e-3, atol=1e-4)
    monkeypatch.setattr(Teacher, "_compute", lambda *_: pytest.fail("computed again"))
    monkeypatch.setattr(Teacher, "_compute_all", lambda self, examples, texts: torch.zeros(len(examples), 16))
    method(original, tiny.data_for(original), tiny.engine())


# -- SalUn --------------------------------------------------------------------------------------------------------


def test_salient_entries_by_hand() -> None:
    gradients = {"a": torch.tensor([[0.5, -3.0]]), "b": torch.tensor([0.0, 2.0, 0.0])}
    assert [mask.int().tolist() for mask in salient(gradients, 0.4).values()] == [[[0, 1]], [0, 1, 0]]
    assert [mask.int().tolist() for mask in salient(gradients, 0.6).values()] == [[[1, 1]], [0, 1, 0]]
    # What the loss does not reach is not salient, however many entries are asked for.
    assert [mask.int().tolist() for mask in salient(gradients, 1.0).values()] == [[[1, 1]], [0, 1, 0]]


@pytest.mark.parametrize(("task", "name"), EFFECTS)
def test_salun_moves_salient_entries_only(task: str, name: str) -> None:
    original = original_of(task, name)
    data = data_of(task, original)
    method = SalUn(**{**QUICK, "min_steps": 8, "batch_size": 100, "share": 0.3})
    result = method(original, data, tiny.engine()).model
    student = copy.deepcopy(original).requires_grad_(True)
    batch = pairs_of(data, "forget")
    if task != "retrieval":  # the saliency, written down once more
        student.losses(batch).mean().backward()
        sizes = {
            key: p.grad.abs() if p.grad is not None else torch.zeros_like(p) for key, p in student.named_parameters()
        }
        every = torch.cat([size.flatten() for size in sizes.values()])
        threshold = every.sort(descending=True).values[round(0.3 * len(every)) - 1]
        expected = {key: size >= threshold for key, size in sizes.items()}
    else:
        stream = ForgetRetainStream(data.inputs, data.forget_pairs, data.retain_pairs, 100, 2, 0.0, 0)
        expected = dict(method.masks(student, stream, tiny.engine()))
    before, after = original.state_dict(), result.state_dict()
    moved = {key: before[key].view(torch.int32) != after[key].view(torch.int32) for key in expected}
    wrong = sum(int((moved[key] & ~mask).sum()) for key, mask in expected.items())
    entries = sum(mask.numel() for mask in expected.values())
    masked = sum(int(mask.sum()) for mask in expected.values())
    assert masked / entries == pytest.approx(0.3, abs=0.02)
    assert (
        wrong <= 1e-4 * entries if task != "retrieval" else wrong == 0
    )  # sums in another order: a tie at the threshold
    assert sum(int(each.sum()) for each in moved.values()) > 0.5 * masked
    assert not any(parameter._backward_hooks for parameter in result.parameters())


def test_salun_lowers_the_confidence_in_the_forget_set_and_refuses_weight_decay() -> None:
    original = original_of("entailment", "albef")
    data = data_of("entailment", original)
    result = SalUn(**{**QUICK, "learning_rate": 3e-3})(original, data, tiny.engine()).model
    assert confidence(result, data, "forget") < confidence(original, data, "forget") - 0.03
    with pytest.raises(ValidationError, match="weight_decay"):
        SalUn(weight_decay=0.1)


# -- SSD ----------------------------------------------------------------------------------------------------------


def test_ssd_by_hand() -> None:
    """Ratios 1, 3 and 8 with alpha 2 and lambda 4: kept; 4/3 is cut to 1; 4/8 halves. Nothing is divided by 0."""
    model = copy.deepcopy(tiny.original("albef"))
    name = "matching_head.bias"
    with torch.no_grad():
        model.get_parameter("matching_head.weight")[0, :4] = torch.tensor([5.0, 6.0, 7.0, 8.0])
    weight = model.get_parameter("matching_head.weight")
    forget, train = torch.zeros_like(weight), torch.zeros_like(weight)
    forget[0, :4], train[0, :4] = torch.tensor([1.0, 3.0, 8.0, 0.0]), torch.ones(4)
    before = weight.clone()
    changed = SSD(alpha=2, dampening=4).dampen(model, {"matching_head.weight": forget}, {"matching_head.weight": train})
    assert weight[0, :4].tolist() == [5.0, 6.0, 3.5, 8.0]
    assert changed == 1
    assert torch.equal(weight[1], before[1])
    assert torch.equal(weight[0, 4:], before[0, 4:])
    assert torch.equal(model.get_parameter(name), tiny.original("albef").get_parameter(name))


@pytest.mark.parametrize(("task", "name"), CASES[2:])
def test_ssd_dampens_by_the_squared_gradients_of_each_pair(task: str, name: str) -> None:
    original = original_of(task, name)
    data = data_of(task, original)
    result = SSD(alpha=1.5, dampening=0.7)(original, data, tiny.engine()).model
    student = copy.deepcopy(original).requires_grad_(True)

    def importance(rows: np.ndarray[Any, Any]) -> dict[str, Tensor]:
        total = {key: torch.zeros_like(parameter) for key, parameter in student.named_parameters()}
        for row in rows:
            student.zero_grad()
            student.losses(data.inputs.batch(data.inputs.true_pairs(np.array([row])), CPU)).sum().backward()
            for key, parameter in student.named_parameters():
                if parameter.grad is not None:
                    total[key] += parameter.grad.square() / len(rows)
        return total

    forget, train = importance(data.forget_pairs), importance(np.concatenate([data.forget_pairs, data.retain_pairs]))
    selected = 0
    for key, parameter in original.named_parameters():
        chosen = forget[key] > 1.5 * train[key]
        # Where the gradient is nothing but rounding (a key's bias), and next to the threshold, no two sums agree.
        clearly = ((forget[key] / (1.5 * train[key] + 1e-30) - 1).abs() > 1e-2) & (train[key] > 1e-10)
        expected = torch.where(chosen, parameter * (0.7 * train[key] / forget[key]).clamp(max=1), parameter)
        after = result.get_parameter(key)
        torch.testing.assert_close(after[clearly], expected[clearly], rtol=1e-3, atol=1e-6)
        assert torch.equal(after[~chosen & clearly], parameter[~chosen & clearly])
        selected += int(chosen.sum())
    assert selected > 100
    assert loss_on(result, data, "forget") > loss_on(original, data, "forget")


def test_ssd_that_would_change_nothing_is_refused() -> None:
    original = tiny.original("albef")
    with pytest.raises(InputError, match=r"more than alpha = 100 times as important .* none can be more than 5 times"):
        SSD(alpha=100, samples=20)(original, tiny.data_for(original), tiny.engine())


# -- NPO ----------------------------------------------------------------------------------------------------------


def test_negative_preference_by_hand() -> None:
    """At the original 2/beta ln 2; the gradient is 2 pi^beta / (pi^beta + ref^beta): 1 there, and 0 where pi is 0."""
    for beta in (0.1, 1.0, 3.0):
        assert float(negative_preference(torch.zeros(()), beta)) == pytest.approx(2 * math.log(2) / beta)
    third = torch.tensor(math.log(1 / 3), requires_grad=True)  # -2 log sigmoid(ln 3) = -2 ln(3/4)
    loss = negative_preference(third, 1.0)
    assert float(loss.detach()) == pytest.approx(-2 * math.log(0.75))
    (gradient,) = torch.autograd.grad(loss, third)
    assert float(gradient) == pytest.approx(2 * (1 / 3) / (1 / 3 + 1))
    far = torch.tensor([-1e4, -60.0, 0.0, 60.0, 1e4], requires_grad=True)
    (gradients,) = torch.autograd.grad(negative_preference(far, 1.0).sum(), far)
    assert gradients.tolist() == pytest.approx([0, 0, 1, 2, 2], abs=1e-6)


def test_npo_becomes_ascent_for_small_beta() -> None:
    ratio = torch.linspace(-2, 0.5, 7, requires_grad=True)
    (gradients,) = torch.autograd.grad(negative_preference(ratio, 1e-4).sum(), ratio)
    torch.testing.assert_close(gradients, torch.ones(7), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("task", "name"), EFFECTS)
def test_npo_lowers_the_probability_of_deleted_pairs(task: str, name: str) -> None:
    original = original_of(task, name)
    data = data_of(task, original)
    result = NPO(**{**QUICK, "learning_rate": 3e-3})(original, data, tiny.engine())
    assert confidence(result.model, data, "forget") < 0.9 * confidence(original, data, "forget")
    first = result.history.lines[0]["losses"]
    assert first["forget"] == pytest.approx(2 * math.log(2), abs=1e-4)
    assert first["retain"] > 0
    assert set(Start.of(task, name).losses(NPO(gamma=0))) == {"forget"}


# -- L1-sparse ----------------------------------------------------------------------------------------------------


def l1_norm(model: Model, scope: str = "all") -> float:
    return sum(float(parameter.detach().abs().sum()) for parameter in model.parameters_of(scope).values())


@pytest.mark.parametrize("scope", ["all", "fusion"])
def test_l1_sparse_shrinks_what_finetuning_leaves(scope: str) -> None:
    original = tiny.original("albef")
    data = tiny.data_for(original)
    method = L1Sparse(gamma=1e-3, rate_factor=2, scope=scope, **QUICK)  # type: ignore[arg-type]
    sparse = method(original, data, tiny.engine())
    plain = FineTune(scope=scope, **QUICK)(original, data, tiny.engine())  # type: ignore[arg-type]
    assert l1_norm(sparse.model, scope) < 0.95 * l1_norm(plain.model, scope)
    lines = [line["losses"] for line in sparse.history.lines]
    assert len(lines) == 24
    assert lines[0]["l1"] == pytest.approx(1e-3 * l1_norm(original, scope), rel=1e-4)
    assert 0 < lines[-1]["l1"] < lines[0]["l1"] / 20
    rates = [[line["learning_rate"] for line in result.history.lines] for result in (sparse, plain)]
    assert rates[0] == rates[1]


def test_l1_sparse_by_hand() -> None:
    start = Start.of("entailment", "albef")
    start = replace(start, retain=replace(start.retain, progress=0.75))
    result = start.losses(L1Sparse(gamma=0.01))
    assert float(result["l1"]) == pytest.approx(0.01 * 0.25 * l1_norm(start.model), rel=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(result["retain"], start.model.losses(start.retain).mean())


# -- random labels ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("task", "name"), EFFECTS)
def test_random_labels_lower_the_confidence_in_deleted_pairs(
    task: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the same training with the true labels: in retrieval these models have hardly learned what matches."""
    original = original_of(task, name)
    data = data_of(task, original)
    method = RandomLabel(**{**QUICK, "min_steps": 40, "learning_rate": 3e-3})
    result = method(original, data, tiny.engine()).model
    monkeypatch.setattr(pairs, "with_wrong_labels", lambda model, forget, retain: forget)
    control = method(original, data, tiny.engine()).model
    assert loss_on(result, data, "forget") > loss_on(control, data, "forget") + 0.1
    if task != "retrieval":
        assert confidence(result, data, "forget") < confidence(original, data, "forget") - 0.02


def test_random_label_by_hand() -> None:
    start = Start.of("entailment", "albef")
    result = start.losses(RandomLabel(retain_weight=0.5))
    wrong = with_wrong_labels(start.model, start.forget, start.retain)
    with torch.no_grad():
        logits = start.model.head(start.model.fused(start.forget))
        torch.testing.assert_close(result["forget"], F.cross_entropy(logits, wrong.labels))  # type: ignore[arg-type]
        torch.testing.assert_close(result["retain"], 0.5 * start.model.losses(start.retain).mean())
    assert set(start.losses(RandomLabel(retain_weight=0))) == {"forget"}


def test_ssd_squares_pairs_or_batches() -> None:
    """The squared mean of a batch is at most the mean square of its pairs."""
    original = tiny.original("albef")
    data, engine = tiny.data_for(original), tiny.engine()
    found = {
        squares: SSD(squares=squares, batch_size=6).importance(  # type: ignore[arg-type]
            original, data.inputs, data.forget_pairs, engine, 0, "D_f"
        )
        for squares in ("pair", "batch")
    }
    assert found["pair"].keys() == found["batch"].keys()
    assert all(bool((found["batch"][name] <= found["pair"][name] * 1.001 + 1e-9).all()) for name in found["pair"])
    assert sum(float(each.sum()) for each in found["batch"].values()) > 0
