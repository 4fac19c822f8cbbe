"""ERM-KTP: what the mask costs and how it is learned, what the student is taught, and what is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

import tiny
from messages import logged
from multidelete.data.batches import PairInputs, Pixels, Rows, Texts
from multidelete.data.requests import Request, resolve
from multidelete.data.samplers import TrainStream
from multidelete.methods import ErmKtp, FineTune, Retrain, UnlearningData
from multidelete.methods.channel_mask import ChannelMask, ChannelMaskSettings, groups_of, mask_of
from multidelete.methods.erm_ktp import distance
from multidelete.models import MODELS, Model
from multidelete.models.image_text import ImageTextModel
from multidelete.models.inputs import Batch, Encoding
from multidelete.pipeline import run
from multidelete.recipe import load, validate
from multidelete.store.models import get_or_train_original
from multidelete.tasks import TASKS
from multidelete.training.engine import Engine
from multidelete.training.extras import check_extra
from multidelete.training.features import encoded_inputs
from multidelete.training.original import TrainSettings, train
from multidelete.training.progress import ProgressReporter
from multidelete.utils.errors import InputError

CPU = torch.device("cpu")
IMAGE_TEXT = [name for name in tiny.CONFIGS if "vision" in MODELS[name].modalities]
STATE = {"extra.open", "extra.weight"}


def original(name: str = "albef") -> ImageTextModel:
    model = tiny.masked_for("retrieval", name, 8)
    assert isinstance(model, ImageTextModel)
    return model


def trained(settings: TrainSettings, request: Request | None = None, **options: Any) -> ImageTextModel:
    """An albef with a mask, trained with it on all of the training split."""
    request = request or tiny.request_of()
    model = tiny.build(tiny.masked(tiny.CONFIGS["albef"], request))
    inputs = PairInputs.of(tiny.dataset(), model)
    rows = tiny.dataset().text_rows(tiny.dataset().rows("train"))
    options = {"engine": tiny.engine(), "seed": 0, "what": "test", "forget": request.forget, **options}
    train(model, inputs, rows, settings, **options)
    assert isinstance(model, ImageTextModel)
    return model


def batch_of(model: Model, count: int = 12) -> Batch:
    return tiny.first_pairs(model, count)  # type: ignore[no-any-return]


# -- the mask -----------------------------------------------------------------------------------------------------


def mask_with(*rows: list[float]) -> ChannelMask:
    mask = ChannelMask(len(rows), len(rows[0]))
    mask.weight.copy_(torch.tensor(rows))
    return mask


def test_penalty_by_hand() -> None:
    mask = mask_with([1.0, 0.5, 0.0, 0.2], [0.0, 1.0, 0.4, 0.0], [0.3, 0.0, 1.0, 0.0])
    # |M| = 1.7 + 1.4 + 1.3; 0.1 of 12 entries cost nothing; the products are 0.5, 0.3 and 0.4.
    assert float(mask.penalty(share=0.1, overlap=0.1)) == pytest.approx(4.4 - 1.2 + 0.1 * 1.2)
    assert float(mask.penalty(share=0.5, overlap=0.0)) == 0
    assert float(mask_with([1.0, 0.0], [0.0, 1.0]).penalty(share=0.5, overlap=7.0)) == 0
    assert ChannelMask(10, 16).weight.unique().tolist() == [0.5]


def test_penalty_against_its_formula_written_out() -> None:
    mask = ChannelMask(5, 7)
    mask.weight.copy_(torch.rand(5, 7, generator=torch.Generator().manual_seed(0)))
    rows = mask.weight.tolist()
    norm = sum(sum(row) for row in rows)
    products = sum(sum(a * b for a, b in zip(rows[i], rows[j], strict=True)) for j in range(5) for i in range(j))
    assert float(mask.penalty(0.1, 0.3)) == pytest.approx(norm - 3.5 + 0.3 * products, rel=1e-5)


def test_normalisation_by_hand() -> None:
    mask = mask_with([0.5, 0.25, -0.1], [2.0, 1.0, 0.0])
    mask.normalise_()
    torch.testing.assert_close(mask.weight, torch.tensor([[0.25, 0.25, 0.0], [1.0, 1.0, 0.0]]))


@pytest.mark.parametrize(("least", "expected"), [(0.0, [False, False, True, False]), (0.5, [False, True, True, False])])
def test_a_channel_is_of_those_who_use_it_unless_all_do(least: float, expected: list[bool]) -> None:
    mask = mask_with([1.0, 0.9, 0.0, 0.0], [0.1, 1.0, 0.6, 0.0], [0.4, 0.3, 1.0, 0.0])
    assert mask.used(1, least).tolist() == expected


def test_groups_are_the_request_and_a_hash_of_ids() -> None:
    dataset, request = tiny.dataset(), tiny.request_of()
    groups = groups_of(dataset, 4, request.forget)
    assert set(np.flatnonzero(groups == 3)) == set(request.forget)
    assert set(groups[request.retain]) == {0, 1, 2}
    kept = np.setdiff1d(np.arange(len(dataset.examples)), request.forget)
    assert (groups_of(dataset, 4)[kept] == groups[kept]).all()
    assert groups_of(dataset, 4).max() == 2


# -- training with it ---------------------------------------------------------------------------------------------


def test_training_with_a_mask_separates_the_classes() -> None:
    settings = tiny.TRAINING.model_copy(
        update={"epochs": 8.0, "extra": ChannelMaskSettings(classes=3, every=1, learning_rate=100.0)}
    )
    model = trained(settings)
    mask = mask_of(model).weight
    assert not mask.requires_grad
    assert mask.grad is None
    assert float(mask.min()) >= 0
    assert set(mask.amax(0).tolist()) == {1.0}
    unlike = [(mask[2] - mask[row]).abs().mean() for row in (0, 1)]
    assert min(unlike) > 0.02
    assert mask_of(model).used(2, 0.5).any()
    assert not mask_of(model).used(2, 0.5).all()
    assert float(mask.mean()) < 0.95
    assert bool((mask_of(model).open == 1).all())


def test_pictures_are_seen_through_the_mask_in_every_nth_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, bool]] = []
    dataset, request = tiny.dataset(), tiny.request_of()
    losses, at = ImageTextModel.losses, TrainStream.at
    groups = torch.from_numpy(groups_of(dataset, 3, request.forget))

    def numbered(self: TrainStream, step: int, device: torch.device) -> Batch:
        seen.append((self.epoch(step), False))
        return at(self, step, device)

    def watching(self: ImageTextModel, batch: Batch) -> Tensor:
        rows = mask_of(self)._rows
        seen[-1] = (seen[-1][0], rows is not None)
        if rows is not None:
            assert torch.equal(rows, groups[batch.examples["vision"]])
        return losses(self, batch)

    monkeypatch.setattr(TrainStream, "at", numbered)
    monkeypatch.setattr(ImageTextModel, "losses", watching)
    settings = tiny.TRAINING.model_copy(
        update={"epochs": 6.0, "batch_size": 40, "extra": ChannelMaskSettings(classes=3, every=3)}
    )
    trained(settings, request)
    assert [epoch for epoch, _ in seen] == [epoch for epoch in range(6) for _ in range(3)]
    assert {epoch for epoch, masked in seen if masked} == {2, 5}
    assert all(masked == (epoch in (2, 5)) for epoch, masked in seen)


@pytest.mark.parametrize("name", IMAGE_TEXT)
def test_what_the_mask_does_to_features(name: str) -> None:
    """Each image's map is multiplied by its row before the fusion; the original features are unchanged."""
    model = copy.deepcopy(original(name))
    mask_of(model).weight.copy_(torch.rand(mask_of(model).weight.shape))
    batch = batch_of(model)
    groups = torch.arange(len(batch)) % 3
    with torch.no_grad():
        mask, full = mask_of(model), model.encode(batch)
        with mask.seen_through(groups):
            masked = model.encode(batch)
        for row, group in enumerate(groups):
            expected = mask.feature_map(full["vision"])[row] * mask.weight[group]
            torch.testing.assert_close(mask.feature_map(masked["vision"])[row], expected)
        torch.testing.assert_close(masked["text"].tokens, full["text"].tokens)
        assert not torch.allclose(model.fuse(masked), model.fuse(full))


@pytest.mark.parametrize("name", IMAGE_TEXT)
def test_features_are_unmasked_at_inference(name: str) -> None:
    """A model with a mask says what the same weights say without one, raw or computed before."""
    model = original(name)
    plain = tiny.build(tiny.CONFIGS[name])
    plain.load_state_dict({key: value for key, value in model.state_dict().items() if key not in STATE})
    with torch.no_grad():
        assert torch.equal(plain.fused(batch_of(plain)), model.fused(batch_of(model)))
        assert torch.equal(plain.losses(batch_of(plain)), model.losses(batch_of(model)))
    inputs = encoded_inputs(tiny.engine(), model, PairInputs.of(tiny.dataset(), model))
    with torch.no_grad():
        cached = model.fused(inputs.batch(inputs.true_pairs(np.arange(12)), CPU))
        torch.testing.assert_close(cached, plain.fused(batch_of(plain)), atol=1e-5, rtol=1e-4)


def test_a_mask_that_is_never_looked_through_changes_nothing_else() -> None:
    """With weight 0 in an epoch without it, the model is bit for bit the one that is trained without a mask."""
    settings = tiny.TRAINING.model_copy(update={"epochs": 1.0})
    free = settings.model_copy(update={"extra": ChannelMaskSettings(classes=3, every=3, weight=0.0)})
    masked = tiny.weights(trained(free))
    plain = tiny.build(tiny.CONFIGS["albef"])
    rows = tiny.dataset().text_rows(tiny.dataset().rows("train"))
    train(plain, PairInputs.of(tiny.dataset(), plain), rows, settings, tiny.engine(), seed=0, what="plain")
    assert not tiny.changed(tiny.weights(plain), {key: value for key, value in masked.items() if key not in STATE})


def test_the_mask_lies_behind_a_frozen_backbone() -> None:
    config = tiny.albef(fusion=tiny.FusionConfig(layers=1, width=24, heads=2))
    config = config.model_copy(update={"vision": config.vision.model_copy(update={"freeze": True})})
    model = tiny.build(tiny.masked(config, tiny.request_of()))
    assert isinstance(model, ImageTextModel)
    before, dataset = tiny.weights(model), tiny.dataset()
    assert mask_of(model).weight.shape == (3, 24)
    rows = dataset.text_rows(dataset.rows("train"))
    train(model, PairInputs.of(dataset, model), rows, tiny.MASKED, tiny.engine(), seed=0, what="test")
    moved = tiny.changed(before, tiny.weights(model))
    assert "extra.weight" in moved
    assert not any(name.startswith("vision.") for name in moved)
    result = ErmKtp()(model, tiny.data_for(model), tiny.engine())
    moved = tiny.changed(tiny.weights(model), tiny.weights(result.model))
    assert "vision_adapter.0.weight" in moved
    assert "vision_projection.weight" not in moved


def test_only_where_vision_is_trained_the_mask_is() -> None:
    model = original()
    for scope, moves in (("fusion", False), ("text", False), ("vision", True)):
        result = Retrain(scope=scope)(model, tiny.data_for(model, training=tiny.MASKED), tiny.engine())  # type: ignore[arg-type]
        assert ("extra.weight" in tiny.changed(tiny.weights(model), tiny.weights(result.model))) is moves
    tuned = FineTune(min_steps=3, evaluations=0)(model, tiny.data_for(model), tiny.engine()).model
    assert not STATE & tiny.changed(tiny.weights(model), tiny.weights(tuned))


@pytest.mark.parametrize("name", IMAGE_TEXT)
def test_a_masked_model_round_trips(name: str, tmp_path: Path) -> None:
    model = copy.deepcopy(original(name))
    mask_of(model).open[:3] = 0
    model.save_pretrained(tmp_path / "model")
    read = Model.from_pretrained(tmp_path / "model")
    assert read.config.extra == model.config.extra
    assert tiny.changed(tiny.weights(model), tiny.weights(read)) == set()
    with torch.no_grad():
        assert torch.equal(read.fused(batch_of(read)), model.fused(batch_of(model)))
        assert not torch.allclose(read.fused(batch_of(read)), original(name).fused(batch_of(model)))


def test_a_mask_is_not_taken_from_the_model_that_training_starts_from() -> None:
    model = tiny.build(tiny.masked(tiny.CONFIGS["albef"], tiny.request_of(4)), seed=3)
    model.take_weights(original())
    assert model.get_buffer("extra.weight").unique().tolist() == [0.5]


# -- what a recipe says of it -------------------------------------------------------------------------------------

SETTINGS: dict[str, Any] = {
    "precision": "fp32",
    "retrain": False,
    "data": {"reader": "scenes", "train": 40, "validation": 12, "test": 12, "size": 24},
    "forget": {"count": 3},
    "train": {"epochs": 2, "batch_size": 32},
    "model": {"name": "albef", **tiny.albef().model_dump(mode="json", exclude={"extra", "labels", "images"})},
}
MASK = {"extra": {"name": "channel_mask", "classes": 3, "every": 2, "learning_rate": 300.0}}


def settings_of(**changes: Any) -> dict[str, Any]:
    return {**SETTINGS, **changes}


def masked_settings(**changes: Any) -> dict[str, Any]:
    return settings_of(train={**SETTINGS["train"], **MASK}, **changes)


def test_key_of_an_original_depends_on_the_request_only_with_a_mask() -> None:
    def key(values: dict[str, Any]) -> str:
        recipe = validate(values, "here")
        result = get_or_train_original(recipe, recipe.dataset(), tiny.engine())
        assert (result.model.config.extra is None) is (recipe.train is None or recipe.train.extra is None)
        return result.key

    plain, masked = key(settings_of()), key(masked_settings())
    assert key(settings_of(forget={"count": 4})) == plain
    assert masked != plain
    assert key(masked_settings(forget={"count": 4})) not in (plain, masked)
    assert key(masked_settings(forget={"count": 3, "seed": 9})) not in (plain, masked)
    assert key(masked_settings()) == masked


def test_without_the_table_there_is_no_mask() -> None:
    assert TrainSettings().extra is None
    assert validate({"forget": {"count": 3}}, "here").train == TrainSettings()
    assert set(tiny.weights(tiny.original("albef"))) == set(tiny.weights(original())) - STATE


def test_a_recipe_with_a_mask_runs(tmp_path: Path) -> None:
    values = masked_settings(method="erm_ktp", retrain=True, task={"name": "retrieval", "rerank": 4, "sample": 10})
    rows = run(validate(values, "here"), tmp_path / "run", tiny.engine()).rows
    assert [row["method"] for row in rows] == ["original", "retrain", "erm_ktp"]
    assert rows[2]["scope"] == "vision"
    read = Model.from_pretrained(tmp_path / "run" / "model")
    assert read.get_buffer("extra.weight").unique().tolist() == [0.5]
    # What is left behind is an original with a mask no more: its channels are closed.
    brought = settings_of(original=str(tmp_path / "run" / "model"), method="erm_ktp", forget={"count": 4})
    del brought["model"], brought["train"]
    with pytest.raises(InputError, match="was trained for another deletion than these 4 examples"):
        run(validate(brought, "here"), tmp_path / "other", tiny.engine())


# -- the student --------------------------------------------------------------------------------------------------


def with_closed(name: str, count: int = 3) -> ImageTextModel:
    """The original with a mask in which the first channels are D_f's."""
    model = copy.deepcopy(original(name))
    mask_of(model).weight.fill_(0.5)
    mask_of(model).weight[:, -1] = 1.0
    mask_of(model).weight[-1] = 0.0
    mask_of(model).weight[-1, :count] = 0.95
    return model


@pytest.mark.parametrize("name", IMAGE_TEXT)
def test_closed_channels_stay_closed_and_only_vision_moves(name: str) -> None:
    model = with_closed(name)
    data = tiny.data_for(model)
    result = ErmKtp()(model, data, tiny.engine())
    student = result.model
    assert isinstance(student, ImageTextModel)
    assert mask_of(student).open.tolist() == [0.0] * 3 + [1.0] * (len(mask_of(student).open) - 3)
    for encodings in (
        student.encode(batch_of(student)),
        result.inputs.batch(data.inputs.true_pairs(np.arange(6)), CPU),
    ):
        if isinstance(encodings, Batch):
            encodings = student.encode(encodings)
        seen = mask_of(student).feature_map(encodings["vision"])
        assert not seen[..., :3].any()
        assert seen[..., 3:].any(dim=(0, 1)).all()
    moved = tiny.changed(tiny.weights(model), tiny.weights(student)) - STATE
    assert moved
    assert moved <= set(model.parameters_of("vision"))
    assert mask_of(student).weight.unique().tolist() == [0.5]
    tuned = FineTune(min_steps=3, evaluations=0)(student, data, tiny.engine()).model  # not even later on
    assert not mask_of(model).feature_map(tuned.encode(batch_of(tuned))["vision"])[..., :3].any()


def test_the_student_starts_from_scratch_and_ends_near_the_original() -> None:
    model = with_closed("albef")
    data = tiny.data_for(model, training=tiny.TRAINING.model_copy(update={"epochs": 12.0, "learning_rate": 5e-3}))
    result = ErmKtp()(model, data, tiny.engine())
    first, last = result.history.lines[0]["losses"], result.history.lines[-1]["losses"]
    assert set(first) == {"map", "pooled", "embedding", "total"}
    assert 0.5 < first["map"] < 4
    for term in ("map", "pooled", "embedding"):
        assert last[term] < 0.4 * first[term]
    assert len(result.history.lines) == TrainStream(data.inputs, data.retain_pairs, 32, 0).steps(12)


def test_loss_terms_by_hand() -> None:
    model = with_closed("albef")
    data = tiny.data_for(model, training=tiny.TRAINING.model_copy(update={"epochs": 0.1}))
    result = ErmKtp(pooled_weight=0.5)(model, data, tiny.engine())
    raised = result.history.lines[0]["losses"]
    fresh = data.initial_model(model)
    rows = data.request.retain[np.random.default_rng(0).permutation(32)]
    assert len(rows) == len(data.request.retain)  # one batch is all of D_r, in whatever order
    images = data.inputs.sources["vision"].take(rows)
    with torch.no_grad():
        own, aim = (each.encode_one("vision", images) for each in (fresh, model))
    mask = mask_of(model).weight[torch.from_numpy(groups_of(tiny.dataset(), 3)[rows])]

    def share(one: Tensor, other: Tensor) -> float:
        return float((one - other).square().sum() / other.square().sum())

    assert raised["map"] == pytest.approx(share(own.tokens, aim.tokens), rel=1e-4)
    pooled = [each.tokens.mean(1) * mask for each in (own, aim)]
    assert raised["pooled"] == pytest.approx(0.5 * share(*pooled), rel=1e-4)
    with torch.no_grad():
        embedded = [model.embedding("vision", encoding) for encoding in (own, aim)]
    assert raised["embedding"] == pytest.approx(share(*embedded), rel=1e-4)
    assert distance(torch.ones(2), 2 * torch.ones(2)) == 0.25


@pytest.fixture
def fresh_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], None]:
    """Nothing that was computed of other data with the same hash is found after a call."""
    count = iter(range(100))
    return lambda: monkeypatch.setenv("MULTIDELETE_CACHE", str(tmp_path / str(next(count))))


def spoilt_pictures(inputs: PairInputs, examples: Rows) -> PairInputs:
    pixels = inputs.sources["vision"]
    assert isinstance(pixels, Pixels)
    images = pixels.images.copy()
    images[examples] = 255 - images[examples]
    return inputs.with_sources({"vision": Pixels(images)})


def test_d_f_is_never_read(fresh_cache: Callable[[], None]) -> None:
    model = with_closed("albef")
    data = tiny.data_for(model)

    def weights(inputs: PairInputs) -> dict[str, Tensor]:
        fresh_cache()
        return tiny.weights(ErmKtp()(model, replace(data, inputs=inputs), tiny.engine()).model)

    plain = weights(data.inputs)
    for examples, matters in ((data.request.forget, False), (data.request.test, False), (data.request.retain, True)):
        assert bool(tiny.changed(plain, weights(spoilt_pictures(data.inputs, examples)))) is matters


def test_labels_and_texts_are_never_read(fresh_cache: Callable[[], None]) -> None:
    model = tiny.masked_for("entailment", "albef", 6)
    dataset = tiny.dataset_for("entailment")
    data = UnlearningData(
        resolve(dataset, count=6), PairInputs.of(dataset, model), TASKS["entailment"](), tiny.TRAINING
    )
    texts = data.inputs.sources["text"]
    assert isinstance(texts, Texts)
    spoilt = copy.copy(dataset)
    assert dataset.labels is not None
    spoilt.labels = (dataset.labels + 1) % 3
    words = replace(texts, ids=replace(texts.ids, flat=np.full_like(texts.ids.flat, 4)))

    def weights(method: Any, request: Request, inputs: PairInputs) -> dict[str, Tensor]:
        fresh_cache()
        return tiny.weights(method(model, replace(data, request=request, inputs=inputs), tiny.engine()).model)

    poisoned = replace(data.inputs, dataset=spoilt).with_sources({"text": words})
    other = replace(data.request, dataset=spoilt)
    for method, matters in ((ErmKtp(), False), (Retrain(scope="vision"), True)):
        plain = weights(method, data.request, data.inputs)
        assert bool(tiny.changed(plain, weights(method, other, poisoned))) is matters


def test_same_seed_same_weights() -> None:
    model = with_closed("albef")

    def weights(**data: Any) -> dict[str, Tensor]:
        torch.rand(3)
        return tiny.weights(ErmKtp()(model, tiny.data_for(model, **data), tiny.engine()).model)

    assert not tiny.changed(weights(), weights())
    assert tiny.changed(weights(), weights(seed=1))
    assert tiny.changed(weights(), weights(initial_seed=1))


class KilledError(Exception):
    """What ends a run in the middle."""


class KillsAt(ProgressReporter):
    """Presses Ctrl-C, as it were, once so many steps are taken."""

    def __init__(self, step: int) -> None:
        self._step, self._taken = step, 0

    def start(self, what: str, total: int) -> Callable[[int], None]:
        def advance(done: int) -> None:
            self._taken += done
            if self._taken == self._step:
                raise KilledError

        return advance


def test_killed_and_resumed_is_bit_equal_to_uninterrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_cache: Callable[[], None]
) -> None:
    """Both halves: the training with a mask, whose steps end in the next, and the student's."""
    monkeypatch.setattr("multidelete.training.checkpoint.CHECKPOINT_SECONDS", -1.0)
    model = with_closed("albef")
    encoded_inputs(tiny.engine(), model, tiny.data_for(model).inputs)

    def masked(engine: Engine, folder: Path | None) -> Model:
        settings = tiny.MASKED.model_copy(
            update={"extra": ChannelMaskSettings(classes=3, every=1, learning_rate=100.0)}
        )
        return trained(settings, engine=engine, folder=folder)

    def taught(engine: Engine, folder: Path | None) -> Model:
        return ErmKtp()(model, tiny.data_for(model, folder=folder), engine).model

    for number, make in enumerate((masked, taught)):
        full = make(Engine("fp32"), None)
        folder = tmp_path / f"work{number}"
        with pytest.raises(KilledError):
            make(Engine("fp32", KillsAt(9)), folder)
        assert (folder / "checkpoint.safetensors").is_file()
        with logged() as messages:
            resumed = make(Engine("fp32", resume=True), folder)
        assert any("continues at step 8" in sentence for sentence in messages)
        assert not tiny.changed(tiny.weights(full), tiny.weights(resumed))


def test_it_says_how_many_channels_are_closed() -> None:
    model = with_closed("albef", 5)
    with logged() as messages:
        ErmKtp()(model, tiny.data_for(model), Engine("fp32"))
    assert "ERM-KTP: 5 of 16 visual channels belong to D_f" in messages


def test_a_mask_that_closes_every_channel_is_refused() -> None:
    model = with_closed("albef", 16)
    mask_of(model).weight[:-1] = 0.5
    with pytest.raises(InputError, match="D_f uses every visual channel"):
        ErmKtp()(model, tiny.data_for(model), Engine("fp32"))


# -- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["all", "fusion", "text", "graph"])
def test_other_scopes_are_refused(scope: str) -> None:
    with pytest.raises(ValidationError, match=f"has the scopes vision, not '{scope}'"):
        ErmKtp(scope=scope)
    assert ErmKtp().scope == "vision"
    with pytest.raises(InputError, match="has the scopes vision, not 'fusion'"):
        validate(masked_settings(method={"name": "erm_ktp", "scope": "fusion"}), "here")


def frozen(name: str) -> dict[str, Any]:
    return {"name": name, **tiny.freezing(name).model_dump(mode="json", exclude={"extra", "labels", "images"})}


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            settings_of(method="erm_ktp"),
            r"method 'erm_ktp' needs an original that was trained with 'channel_mask'; add a table \[train.extra\]",
        ),
        (
            settings_of(compare=["erm_ktp"]),
            r"method 'erm_ktp' needs an original that was trained with 'channel_mask'; add a table \[train.extra\]",
        ),
        (
            settings_of(method="erm_ktp", task="graph_text", data="genes", model="graph_text"),
            "method 'erm_ktp' does not apply to the task 'graph_text': it needs vision",
        ),
        (
            masked_settings(task="graph_text", data="genes", model="graph_text"),
            "'train.extra': channel_mask needs vision, which a graph_text model lacks; remove it",
        ),
        (
            settings_of(train={"epochs": 2, "extra": "channel_mask"}),
            "'train': the mask is applied in one epoch of 3, but there are 2; set extra.every to fewer",
        ),
        (
            settings_of(train={"extra": {"name": "channel_mask", "class": 3}}),
            "extra module 'channel_mask' has no setting 'class'; did you mean 'classes'",
        ),
    ],
)
def test_a_recipe_is_refused(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as raised:
        validate(values, "here")
    assert len(str(raised.value).splitlines()) == 1


def test_a_brought_original_without_a_mask_is_refused(tmp_path: Path) -> None:
    tiny.original("albef").save_pretrained(tmp_path / "plain")
    original().save_pretrained(tmp_path / "masked")
    values = {"forget": {"count": 3}, "method": "erm_ktp", "original": str(tmp_path / "plain")}
    with pytest.raises(InputError, match=r"train one by a recipe: add a table \[train.extra\]"):
        validate(values, "here")
    with pytest.raises(InputError, match=r"'original' was trained without 'channel_mask'; remove 'train.extra'"):
        validate({**values, "method": "neggrad", "train": MASK}, "here")
    validate({**values, "original": str(tmp_path / "masked")}, "here")
    validate({**values, "original": str(tmp_path / "nowhere")}, "here")  # is refused when it is to be read
    recipe = validate(
        {**values, "original": str(tmp_path / "masked"), "train": {"extra": {"name": "channel_mask", "classes": 5}}},
        "here",
    )
    with pytest.raises(InputError, match=r"train.extra.classes = 5, but this albef model has 3; set it to 3"):
        get_or_train_original(recipe, tiny.dataset(), tiny.engine())


def test_check_on_the_command_line(terminal: Callable[[str], Any], tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(
        'forget = {count = 3}\nmethod = "erm_ktp"\n[data]\nreader = "scenes"\ntrain = 20\nvalidation = 4\ntest = 4\n'
    )
    ended = terminal(f"check {path}")
    assert ended.code != 0
    assert "needs an original that was trained with 'channel_mask'; add a table [train.extra]" in ended.err
    assert terminal(f"check {path} train.extra.name=channel_mask train.extra.classes=4").code == 0
    assert load(path, ["train.extra.name=channel_mask", "train.extra.classes=4"]).train == TrainSettings(
        extra=ChannelMaskSettings(classes=4)
    )


def test_a_model_is_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, masked = tiny.original("albef"), original()
    for slow in ("methods.erm_ktp.fit", "methods.erm_ktp.encode_once", "training.original.fit"):
        monkeypatch.setattr(f"multidelete.{slow}", lambda *_, **__: pytest.fail("something slow started"))
    with pytest.raises(InputError, match=r"this albef model was not; train it with a table \[train.extra\]"):
        ErmKtp()(plain, tiny.data_for(plain), tiny.engine())
    with pytest.raises(InputError, match="another deletion than these 4 examples"):
        ErmKtp()(masked, tiny.data_for(masked, tiny.request_of(4)), tiny.engine())
    graph = MODELS["graph_text"].build(
        tiny.CONFIGS["graph_text"].for_dataset(tiny.dataset_for("graph_text"), labelled=True),
        tiny.dataset_for("graph_text").texts,
        0,
    )
    with pytest.raises(InputError, match="'vision' is not a scope of a model of kind 'graph_text'"):
        ErmKtp().check(graph)
    with pytest.raises(InputError, match="this albef model was trained without 'channel_mask'; remove the table"):
        check_extra(plain, ChannelMaskSettings())
    with pytest.raises(InputError, match=r"train.extra: this albef model was trained without 'channel_mask'"):
        train(plain, tiny.data_for(plain).inputs, np.arange(3), tiny.MASKED, tiny.engine(), seed=0, what="test")


@pytest.mark.parametrize("name", ["albef", "dual_encoder"])
def test_a_frozen_feature_map_is_refused(name: str) -> None:
    """Backbone and adapter; the tiny albef has equal widths and thus no adapter."""
    model = tiny.build(tiny.masked(tiny.freezing(name), tiny.request_of()))
    with pytest.raises(InputError, match="scope 'vision' of this"):
        ErmKtp()(model, tiny.data_for(model), tiny.engine())


def test_an_encoding_is_what_the_mask_lies_on() -> None:
    model = original("dual_encoder")
    vision = Encoding(torch.ones(2, 3, 16), torch.ones(2, 3), torch.ones(2, 16))
    gated = mask_of(model).gated(vision, torch.arange(16.0))
    assert torch.equal(gated.pooled[1], torch.arange(16.0))
    assert mask_of(model).feature_map(gated).shape == (2, 1, 16)
