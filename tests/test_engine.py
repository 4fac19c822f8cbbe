"""The loops: only what is in scope moves, a killed run continues bit for bit, what is kept equals what is computed."""

from __future__ import annotations

import copy
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import tiny
from multidelete.data.batches import Encodings, PairInputs
from multidelete.data.requests import resolve
from multidelete.data.samplers import TrainStream
from multidelete.methods import MultiDelete, Teacher
from multidelete.models import Model
from multidelete.models.inputs import Batch
from multidelete.training import loop
from multidelete.training.callbacks import Callback
from multidelete.training.checkpoint import CHECKPOINT_FILE, Checkpoint
from multidelete.training.engine import Engine
from multidelete.training.features import encode_once, encoded_inputs, frozen_inputs, fused_once
from multidelete.training.inference import embeddings, encode_all, pair_logits
from multidelete.training.loop import FitSettings, TrainingHistory, _FitState
from multidelete.training.original import TrainSettings, train
from multidelete.utils.errors import InputError
from multidelete.utils.keys import weights_hash
from multidelete.utils.randomness import generator, seeded

CPU = torch.device("cpu")


@pytest.fixture(params=tiny.IN_DEPTH)
def model(request: pytest.FixtureRequest) -> Model:
    """A copy of a trained model, for the test to change."""
    return copy.deepcopy(tiny.original(request.param))


@pytest.fixture
def albef() -> Model:
    return copy.deepcopy(tiny.original("albef"))


def task_loss(model: Model, batch_size: int = 24) -> Callable[[int], dict[str, torch.Tensor]]:
    dataset = tiny.dataset()
    stream = TrainStream(PairInputs.of(dataset, model), dataset.text_rows(dataset.rows("train")), batch_size, 0)
    return lambda step: {"task": model.losses(stream.at(step, CPU)).mean()}


def fit(model: Model, fit_settings: FitSettings, scope: str = "all", **options: Any) -> TrainingHistory:
    losses = options.pop("losses", None) or task_loss(model)
    options = {"what": "test", "training": False, **options}
    return loop.fit(tiny.engine(), model, model.parameters_of(scope), losses, fit_settings, **options)


# -- plan ---------------------------------------------------------------------------------------------------------


def test_rates_by_hand() -> None:
    fit_settings = FitSettings(steps=10, learning_rate=1.0, warmup=0.2)
    expected = [0.5, 1.0, *(0.5 * (1 + math.cos(math.pi * done / 8)) for done in range(8))]
    assert [fit_settings.lr_at(step) for step in range(10)] == pytest.approx(expected)
    constant = FitSettings(steps=10, learning_rate=1.0, warmup=0.3, schedule="constant")
    assert [constant.lr_at(step) for step in range(10)] == pytest.approx([1 / 3, 2 / 3, *[1.0] * 8])
    assert FitSettings(steps=4, learning_rate=1.0, warmup=0.0).lr_at(0) == 1.0


@pytest.mark.parametrize(
    ("steps", "evaluations", "expected"),
    [(10, 0, set()), (10, 1, {10}), (10, 4, {2, 5, 8, 10}), (2, 4, {1, 2}), (1, 3, {1})],
)
def test_checkpoints_are_evenly_spaced_and_the_last_is_one(steps: int, evaluations: int, expected: set[int]) -> None:
    assert FitSettings(steps=steps, learning_rate=1.0, evaluations=evaluations).validation_steps() == expected


def test_history_has_the_rates(albef: Model) -> None:
    fit_settings = FitSettings(steps=5, learning_rate=1e-3, warmup=0.4)
    history = fit(albef, fit_settings)
    assert [line["step"] for line in history.lines] == [1, 2, 3, 4, 5]
    assert [line["learning_rate"] for line in history.lines] == [fit_settings.lr_at(step) for step in range(5)]
    assert all(line["losses"]["total"] == line["losses"]["task"] for line in history.lines)
    assert history.update_seconds > 0


# -- fit ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["all", "vision", "text", "fusion"])
def test_only_what_is_in_scope_gets_a_gradient_and_moves(model: Model, scope: str) -> None:
    before = tiny.weights(model)
    inside = set(model.parameters_of(scope))
    losses = task_loss(model)

    def watched(step: int) -> dict[str, torch.Tensor]:
        assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == inside
        if step:
            assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} <= inside
        return losses(step)

    fit(model, FitSettings(steps=3, learning_rate=1e-3), scope, losses=watched)
    moved = tiny.changed(before, tiny.weights(model))
    assert moved
    assert moved <= inside


def test_fit_leaves_nothing_behind(albef: Model) -> None:
    assert torch.is_grad_enabled()
    torch.manual_seed(7)
    state = torch.get_rng_state()
    handler = signal.getsignal(signal.SIGINT)
    fit(albef, FitSettings(steps=2, learning_rate=1e-3), training=True)
    assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), state)
    assert signal.getsignal(signal.SIGINT) is handler
    assert not any(module.training for module in albef.modules())
    assert all(parameter.grad is None for parameter in albef.parameters())


def test_weight_decay_is_on_matrices_alone(albef: Model) -> None:
    before = {name: parameter.clone() for name, parameter in albef.named_parameters()}

    def no_gradient(step: int) -> dict[str, torch.Tensor]:
        return {"nothing": torch.stack([0 * parameter.sum() for parameter in albef.parameters()]).sum()}

    fit_settings = FitSettings(steps=2, learning_rate=0.1, weight_decay=0.5, warmup=0.0, schedule="constant")
    fit(albef, fit_settings, losses=no_gradient)
    after = dict(albef.named_parameters())
    for name, weight in before.items():
        expected = weight * (1 - 0.1 * 0.5) ** 2 if weight.dim() > 1 else weight
        torch.testing.assert_close(after[name].detach(), expected.detach(), msg=name)


def test_gradient_is_clipped(albef: Model) -> None:
    norms = []
    fit_settings = FitSettings(steps=1, learning_rate=1e-3, clip=0.01)

    class Watching(Engine):
        def synchronise(self) -> None:
            gradients = [p.grad.norm() for p in albef.parameters() if p.grad is not None]
            norms.extend([torch.stack(gradients).norm().item()] if gradients else [])

    watching = Watching(precision="fp32")
    loop.fit(watching, albef, albef.parameters_of("all"), task_loss(albef), fit_settings, what="test", training=False)
    assert norms == pytest.approx([0.01], rel=1e-3)


def test_named_losses_are_summed(albef: Model) -> None:
    losses = task_loss(albef)
    history = fit(
        albef, FitSettings(steps=1, learning_rate=1e-3), losses=lambda step: {**losses(step), "more": torch.tensor(2.0)}
    )
    shown = history.lines[0]["losses"]
    assert shown["total"] == pytest.approx(shown["task"] + 2)


def test_loss_that_is_not_finite_stops_with_a_sentence(albef: Model) -> None:
    losses = task_loss(albef)

    def broken(step: int) -> dict[str, torch.Tensor]:
        return {**losses(step), "forget": torch.tensor(-float("inf") if step == 2 else 0.0)}

    expected = (
        r"test: the loss became -inf at step 3 \(task [\d.]+, forget -inf\); "
        r"a smaller learning rate or fewer epochs usually helps"
    )
    with pytest.raises(InputError, match=expected):
        fit(albef, FitSettings(steps=5, learning_rate=1e-3), losses=broken)


def test_weights_that_are_not_finite_after_the_last_step_stop_too(albef: Model) -> None:
    def broken(step: int) -> dict[str, torch.Tensor]:
        weight = next(iter(albef.parameters_of("fusion").values())).sum()
        return {"root": (weight - weight).abs().sqrt()}  # 0, with a gradient that is not a number

    with pytest.raises(InputError, match="weights are not finite after step 1"):
        fit(albef, FitSettings(steps=1, learning_rate=1e-3), losses=broken)


def test_best_validated_checkpoint_is_kept_and_marked(albef: Model) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    criteria = [0.1, 0.7, 0.7, 0.3]  # of two that are equally good the earlier one

    def validate() -> dict[str, float]:
        assert not any(module.training for module in albef.modules())
        seen.append(tiny.weights(albef))
        return {"criterion": criteria[len(seen) - 1], "utility": 1.0}

    history = fit(albef, FitSettings(steps=8, learning_rate=1e-2, evaluations=4), validate=validate, training=True)
    assert len(seen) == 4
    assert tiny.changed(seen[1], tiny.weights(albef)) == set()
    assert tiny.changed(seen[3], tiny.weights(albef))
    validated = [line for line in history.lines if "validation" in line]
    assert [line["step"] for line in validated] == [2, 4, 6, 8]
    assert [line["validation"]["criterion"] for line in validated] == criteria
    assert [bool(line.get("selected")) for line in validated] == [False, True, False, False]
    assert history.selection_seconds > 0


def test_without_evaluations_the_last_weights_are_kept(albef: Model) -> None:
    twin = copy.deepcopy(albef)
    fit(albef, FitSettings(steps=4, learning_rate=1e-2), validate=lambda: pytest.fail("judged"))
    fit(twin, FitSettings(steps=4, learning_rate=1e-2))
    assert tiny.changed(tiny.weights(albef), tiny.weights(twin)) == set()


def test_dropout_depends_on_seed_and_step_alone() -> None:
    def trained(seed: int, disturbed: bool = False) -> dict[str, torch.Tensor]:
        model = tiny.build(tiny.albef(dropout=0.3))
        torch.manual_seed(99 if disturbed else 0)
        fit(model, FitSettings(steps=3, learning_rate=1e-3, seed=seed), training=True)
        return tiny.weights(model)

    plain = trained(0)
    assert tiny.changed(plain, trained(0, disturbed=True)) == set()
    assert tiny.changed(plain, trained(1))


def test_seeded_block_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    with seeded(0, "step", 1):
        first = torch.rand(3)
    with seeded(0, "step", 1):
        assert torch.equal(torch.rand(3), first)
    with seeded(0, "step", 2):
        assert not torch.equal(torch.rand(3), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(torch.rand(2, generator=generator(1, "a")), torch.rand(2, generator=generator(1, "a")))
    assert not torch.equal(torch.rand(2, generator=generator(1, "a")), torch.rand(2, generator=generator(1, "b")))


def test_encoder_outside_the_scope_stands_still_in_training() -> None:
    """Its dropout would make outputs that were computed beforehand differ from those computed in each step."""
    modes: list[tuple[bool, bool, bool]] = []
    model: Any = tiny.build(tiny.albef(dropout=0.3))
    losses = task_loss(model)

    def watched(step: int) -> dict[str, torch.Tensor]:
        modes.append((model.vision.training, model.text.training, model.fusion.training))
        return losses(step)

    fit_settings = FitSettings(steps=2, learning_rate=1e-3, evaluations=2)
    fit(model, fit_settings, "fusion", losses=watched, training=True, validate=lambda: {"criterion": 0.0})
    assert modes == [(False, False, True)] * 2


# -- killed and resumed -------------------------------------------------------------------------------------------

CHILD = """
import sys
from pathlib import Path

sys.path.insert(0, {tests!r})
import multidelete.training.checkpoint
import tiny
from test_engine import run_to_be_killed

multidelete.training.checkpoint.CHECKPOINT_SECONDS = 0.0
run_to_be_killed({kind!r}, Path({folder!r}), Path({result!r}), slow=True)
"""


class Slow(Callback):
    def on_step(self, what: str, line: Any) -> None:
        time.sleep(0.03)


def run_to_be_killed(kind: str, folder: Path | None, result: Path, *, slow: bool = False) -> None:
    """Train or unlearn, continuing from what is in the folder, and leave the weights; slow enough to be killed."""
    engine = Engine(precision="fp32", resume=True, callbacks=[Slow()] if slow else ())
    if kind == "train":
        model = tiny.build(tiny.albef(dropout=0.1))
        dataset = tiny.dataset()
        rows = dataset.text_rows(dataset.rows("train"))
        settings = TrainSettings(epochs=6, batch_size=24, learning_rate=1e-3)
        train(model, PairInputs.of(dataset, model), rows, settings, engine, seed=0, what="training", folder=folder)
    else:
        original = tiny.build(tiny.albef())
        method = MultiDelete(
            stop="lowest", min_steps=30, batch_size=12, retain_ratio=2, evaluations=6, retain_mismatched=0.25
        )
        model = method(original, tiny.data_for(original, folder=folder), engine).model
    model.save_pretrained(result)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["train", "multidelete"])
def test_killed_and_resumed_is_bit_equal_to_uninterrupted(kind: str, tmp_path: Path) -> None:
    run_to_be_killed(kind, None, tmp_path / "plain")
    folder, result = tmp_path / "work", tmp_path / "resumed"
    checkpoint = folder / CHECKPOINT_FILE
    child = tmp_path / "child.py"
    child.write_text(CHILD.format(tests=str(Path(__file__).parent), kind=kind, folder=str(folder), result=str(result)))
    moments = random.Random(kind)
    reached = []
    for _ in range(3):
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        with subprocess.Popen([sys.executable, str(child)], env=os.environ) as process:
            try:
                deadline = time.monotonic() + 120
                while not checkpoint.exists() or checkpoint.stat().st_mtime_ns == before:
                    assert process.poll() is None, "ended before it wrote a checkpoint"
                    assert time.monotonic() < deadline
                    time.sleep(0.005)
                time.sleep(moments.uniform(0.0, 0.25))
            finally:
                process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        assert not result.exists()
        reached.append(step_of(checkpoint))
    assert reached == sorted(set(reached))  # each continued where the one before was killed
    subprocess.run([sys.executable, str(child)], env=os.environ, check=True, timeout=120)
    plain, resumed = (load_file(path / "model.safetensors") for path in (tmp_path / "plain", result))
    assert tiny.changed(plain, resumed) == set()


def step_of(checkpoint: Path) -> int:
    with safe_open(checkpoint, "pt") as content:
        return int(json.loads(content.metadata()["facts"])["step"])


def test_checkpoint_holds_everything_a_step_depends_on(albef: Model, tmp_path: Path) -> None:
    fit_settings = FitSettings(steps=6, learning_rate=1e-3)
    checkpoint = Checkpoint(tmp_path, {}, resume=True)
    state = _FitState(albef.requires_grad_(True), albef.parameters_of("all"), fit_settings, checkpoint)
    loop._step(tiny.engine(), albef, task_loss(albef), fit_settings, state, "test")
    state.validated({"criterion": 0.5})
    state.save()
    other = copy.deepcopy(tiny.original("albef"))
    restored = _FitState(other, other.parameters_of("all"), fit_settings, checkpoint)
    assert restored.restore(CPU)
    assert restored.step == 1
    assert (restored.best_step, restored.best_criterion) == (1, 0.5)
    assert restored.history == state.history
    assert tiny.changed(tiny.weights(albef), tiny.weights(other)) == set()
    assert tiny.changed(state.best, restored.best) == set()
    for one, two in zip(state.parameters.values(), restored.parameters.values(), strict=True):
        kept, result = state.optimiser.state[one], restored.optimiser.state[two]
        assert kept.keys() == result.keys()
        assert all(torch.equal(kept[key], result[key]) for key in kept)


@pytest.mark.parametrize("other", [{"steps": 7}, {"learning_rate": 2e-3}, {"seed": 1}, {"scope": "fusion"}])
def test_checkpoint_of_other_settings_is_refused(other: dict[str, Any], albef: Model, tmp_path: Path) -> None:
    fit_settings = {"steps": 6, "learning_rate": 1e-3, "seed": 0}
    settings = FitSettings(**fit_settings)  # type: ignore[arg-type]
    checkpoint = Checkpoint(tmp_path, asdict(settings), resume=True)
    _FitState(albef, albef.parameters_of("vision"), settings, checkpoint).save()
    other = dict(other)
    parameters = albef.parameters_of(other.pop("scope", "vision"))
    before = tiny.weights(albef)
    resuming = Engine(precision="fp32", resume=True)
    with pytest.raises(InputError, match="is the checkpoint of a run with other settings"):
        loop.fit(
            resuming,
            albef,
            parameters,
            task_loss(albef),
            FitSettings(**{**fit_settings, **other}),  # type: ignore[arg-type]
            what="test",
            training=False,
            folder=tmp_path,
        )
    assert tiny.changed(before, tiny.weights(albef)) == set()


# -- outputs that are computed once -------------------------------------------------------------------------------


def same(one: Encodings, two: Encodings) -> None:
    assert one.stage == two.stage
    np.testing.assert_array_equal(one.tokens.offsets, two.tokens.offsets)
    np.testing.assert_allclose(one.tokens.flat, two.tokens.flat, atol=1e-5, rtol=1e-5)  # type: ignore[arg-type]
    np.testing.assert_allclose(one.pooled, two.pooled, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("modality", ["vision", "text"])
@pytest.mark.parametrize("embedded", [False, True])
@torch.no_grad()
def test_encodings_are_those_of_the_model(model: Model, modality: str, embedded: bool) -> None:
    inputs = PairInputs.of(tiny.dataset(), model)
    rows = np.array([9, 2, 30, 2, 17])
    done = encode_all(tiny.engine(), model, inputs, modality, rows, embedded=embedded, batch_size=2)
    assert done.stage == ("embedded" if embedded else "encoded")
    for position, row in enumerate(rows):
        given: Any = inputs.sources[modality].take(np.array([row]))
        plain = model.embed(modality, given) if embedded else model.encode_one(modality, given)
        taken = done.take(np.array([position]))
        torch.testing.assert_close(taken.tokens, plain.tokens, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(taken.pooled, plain.pooled, atol=1e-5, rtol=1e-5)
        assert torch.equal(taken.mask, plain.mask)


@pytest.mark.usefixtures("cache_of_its_own")
@pytest.mark.parametrize("modality", ["vision", "text"])
def test_encodings_are_computed_once(model: Model, modality: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(self: Engine, model: Model, *given: Any, **options: Any) -> Encodings:
        calls.append(given)
        return encode_all(self, model, *given, **options)

    monkeypatch.setattr("multidelete.training.features.encode_all", counted)
    engine, inputs = tiny.engine(), PairInputs.of(tiny.dataset(), model)
    first = encode_once(engine, model, inputs, modality)
    result = len(calls)
    again = encode_once(Engine(precision="fp32"), copy.deepcopy(model), inputs, modality)
    assert first is not None
    assert again is not None
    assert len(calls) == result > 0
    assert isinstance(first.tokens.flat, np.memmap)
    same(first, again)
    same(first, encode_all(engine, model, inputs, modality))

    with torch.no_grad():
        next(iter(model.parameters_of(modality).values())).add_(0.5)
    other = encode_once(engine, model, inputs, modality)
    assert len(calls) > result  # other weights, another entry
    assert other is not None
    assert not np.allclose(other.tokens.flat, first.tokens.flat)


def test_encodings_that_are_too_large_are_not_kept(albef: Model) -> None:
    inputs = PairInputs.of(tiny.dataset(), albef)
    with torch.no_grad():
        albef.parameters_of("vision")["vision.embeddings.cls_token"].add_(0.1)  # nobody has computed these
    small = Engine(precision="fp32", cache_gigabytes=1e-9)
    assert encode_once(small, albef, inputs, "vision") is None
    assert frozen_inputs(small, albef, inputs, "fusion").sources["vision"] is inputs.sources["vision"]


@pytest.mark.usefixtures("cache_of_its_own")
def test_another_limit_of_text_is_another_entry(albef: Model) -> None:
    inputs = PairInputs.of(tiny.dataset(), albef)
    full = encode_once(tiny.engine(), albef, inputs, "text")
    albef.config = albef.config.model_copy(update={"max_text_tokens": 5})
    cut = encode_once(tiny.engine(), albef, PairInputs.of(tiny.dataset(), albef), "text")
    assert full is not None
    assert cut is not None
    assert np.diff(cut.tokens.offsets).max() == 5 < np.diff(full.tokens.offsets).max()


@pytest.mark.usefixtures("cache_of_its_own")
@torch.no_grad()
def test_fused_representations_are_computed_once(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, engine = tiny.dataset(), tiny.engine()
    inputs = PairInputs.of(dataset, model)
    rows = dataset.text_rows(dataset.rows("train"))
    known = fused_once(engine, model, inputs, rows, batch_size=32)
    assert isinstance(known.values, np.memmap)
    np.testing.assert_array_equal(known.rows, rows)
    for row in rows[::17]:
        plain = model.fused(inputs.batch(inputs.true_pairs(np.array([row])), CPU))
        np.testing.assert_allclose(
            known.values[np.searchsorted(known.rows, row)], plain[0].numpy(), atol=1e-5, rtol=1e-5
        )
    monkeypatch.setattr(type(model), "fuse", lambda *_: pytest.fail("computed a second time"))
    again = fused_once(engine, copy.deepcopy(model), inputs, rows)
    np.testing.assert_array_equal(again.values, known.values)


@torch.no_grad()
def test_teacher_returns_true_and_mismatched_pairs_in_order(model: Model) -> None:
    dataset, engine = tiny.dataset(), tiny.engine()
    inputs = PairInputs.of(dataset, model)
    teacher = Teacher(model, encoded_inputs(engine, model, inputs), engine)
    example = dataset.text_examples
    validation = int(dataset.text_rows(dataset.rows("validation"))[0])  # a true pair, but not of the training split
    text = np.array([0, 9, 4, 30, validation])
    image = np.array([example[0], example[4], example[4], example[1], example[validation]])
    batch = inputs.batch({"vision": image, "text": text}, CPU)
    torch.testing.assert_close(teacher.fused(batch), model.fused(batch), atol=1e-5, rtol=1e-5)
    for modality, encoding in teacher.encode(batch).items():
        torch.testing.assert_close(encoding.tokens * encoding.mask[..., None], states_of(model, batch, modality))


def states_of(model: Model, batch: Batch, modality: str) -> torch.Tensor:
    encoding = model.encode(batch)[modality]
    return encoding.tokens * encoding.mask[..., None]


@pytest.mark.parametrize("scope", ["fusion", "vision", "text"])
def test_training_on_what_was_computed_beforehand_is_training_on_the_inputs(model: Model, scope: str) -> None:
    dataset, twin = tiny.dataset(), copy.deepcopy(model)
    inputs = PairInputs.of(dataset, model)
    rows = dataset.text_rows(dataset.rows("train"))
    frozen = frozen_inputs(tiny.engine(), model, inputs, scope)
    for modality in ("vision", "text"):
        assert isinstance(frozen.sources[modality], Encodings) == (modality != scope)
    for each, given in ((model, frozen), (twin, inputs)):
        stream = TrainStream(given, rows, 24, 0)
        fit(
            each,
            FitSettings(steps=5, learning_rate=1e-3),
            scope,
            losses=lambda step, each=each, stream=stream: {"task": each.losses(stream.at(step, CPU)).mean()},
        )
    assert weights_hash(model.state_dict()) != weights_hash(tiny.original(model.name).state_dict())
    for name, weight in model.named_parameters():
        if not name.endswith("k_proj.bias"):  # softmax ignores it: its gradient is rounding, which AdamW scales up
            torch.testing.assert_close(weight, twin.get_parameter(name), atol=2e-4, rtol=1e-3, msg=name)


@pytest.mark.usefixtures("cache_of_its_own")
def test_frozen_backbone_is_computed_beforehand_and_what_follows_is_trained() -> None:
    config = tiny.albef()
    frozen = config.vision.model_copy(update={"freeze": True})
    result = [tiny.build(tiny.albef(vision=frozen, fusion=config.fusion.model_copy(update={"width": 8}))) for _ in "ab"]
    dataset = tiny.dataset()
    rows = dataset.text_rows(dataset.rows("train"))
    before = tiny.weights(result[0])
    settings = TrainSettings(epochs=1, batch_size=24, learning_rate=1e-3)
    engines = Engine(precision="fp32", cache_gigabytes=0), tiny.engine()
    for each, engine, stage in zip(result, engines, (None, "embedded"), strict=True):
        inputs = PairInputs.of(dataset, each)
        assert getattr(frozen_inputs(engine, each, inputs, "all").sources["vision"], "stage", None) == stage
        train(each, inputs, rows, settings, engine, seed=0, what="test")
    moved = tiny.changed(before, tiny.weights(result[0]))
    assert not any(name.startswith("vision.") for name in moved)
    assert "vision_adapter.0.weight" in moved
    assert "vision_projection.weight" in moved
    for name, weight in result[0].named_parameters():
        torch.testing.assert_close(weight, result[1].get_parameter(name), atol=2e-4, rtol=1e-3, msg=name)


# -- prediction ---------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_pair_logits_are_those_of_the_model_in_the_order_asked_for(model: Model) -> None:
    dataset, engine = tiny.dataset(), tiny.engine()
    inputs = PairInputs.of(dataset, model)
    images, texts = np.array([5, 0, 7, 5]), np.array([3, 40, 11, 16])
    vision, text = (encode_all(engine, model, inputs, modality) for modality in ("vision", "text"))
    result = pair_logits(engine, model, vision, text, (images, texts), batch_size=3)
    expected = [
        model.head(model.fused(inputs.batch({"vision": images[[i]], "text": texts[[i]]}, CPU)))[0].tolist()
        for i in range(4)
    ]
    np.testing.assert_allclose(result, expected, atol=1e-4)


@torch.no_grad()
def test_embeddings_are_those_of_the_model(model: Model) -> None:
    inputs = PairInputs.of(tiny.dataset(), model)
    batch = tiny.first_pairs(model, 6)
    for modality, rows in batch.rows.items():
        encodings = encode_all(tiny.engine(), model, inputs, modality, rows.numpy())
        expected = model.embedding(modality, model.encode(batch)[modality])
        result = embeddings(tiny.engine(), model, modality, encodings)
        np.testing.assert_allclose(result, expected.numpy(), atol=1e-5)


def test_prediction_leaves_grad_mode_and_model_as_they_were(albef: Model) -> None:
    data = tiny.data_for(albef, resolve(tiny.dataset(), count=5))
    flags = {name: parameter.requires_grad for name, parameter in albef.named_parameters()}
    before = tiny.weights(albef)
    data.task.predict(albef, data.inputs, data.request, tiny.engine())
    assert torch.is_grad_enabled()
    assert {name: parameter.requires_grad for name, parameter in albef.named_parameters()} == flags
    assert tiny.changed(before, tiny.weights(albef)) == set()
