"""Every method on every scope of several models, and the effect of each one; its contract is in test_conformance."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

import tiny
from multidelete.data.batches import PairInputs, Pixels, Ragged, Texts
from multidelete.data.requests import resolve
from multidelete.data.samplers import ForgetRetainStream, RetainBatch
from multidelete.methods import METHODS, FineTune, Method, MultiDelete, NegGrad, Retrain, Teacher, UnlearningData
from multidelete.methods.base import LossMethod
from multidelete.methods.multidelete import hard_pairs, token_drift
from multidelete.methods.teacher import MEAN_OF, undecided_mixture
from multidelete.models import Batch, Encoding, Model
from multidelete.models.image_text import similarities
from multidelete.tasks.entailment import Entailment
from multidelete.testing import Case, Trial, check_outcome, check_scope
from multidelete.training import loop
from multidelete.training.engine import Engine
from multidelete.training.features import encoded_inputs
from multidelete.training.loop import TrainingHistory
from multidelete.training.original import TrainSettings, train
from multidelete.utils.errors import InputError

CPU = torch.device("cpu")
SCOPES = ("all", "fusion", "vision", "text")
UNLEARNING = [name for name in METHODS if "labels" not in METHODS[name].requires]  # on the models and data of this page
EVERY = [
    pytest.param(method, model, scope, id=f"{method}-{model}-{scope}")
    for method in UNLEARNING
    for model in tiny.IN_DEPTH
    for scope in SCOPES
    if scope in METHODS[method].scopes
]
WITHOUT_STEPS = ("ssd", "descent_to_delete", "lcodec")  # no optimiser is made


def widest(name: str) -> str:
    """Scope ``all``, or the default of a method that has no such scope."""
    return "all" if "all" in METHODS[name].scopes else METHODS[name]().scope


def quick(name: str, scope: str, **settings: Any) -> Method:
    """A method of the table with few steps."""
    if issubclass(METHODS[name], LossMethod):
        settings = {"epochs": 1, "min_steps": 4, "batch_size": 8, "retain_ratio": 2, "evaluations": 2, **settings}
    if name == "multidelete":  # nothing is memorised here
        settings = {"stop": "lowest", **settings}
    if name == "lcodec":  # no step is taken back: there shall be one to look at
        settings = {"perturbations": 40, "batch_size": 12, "damping": 1.0, "largest_drop": 100, **settings}
    if name == "ssd":
        settings = {"alpha": 1.3, **settings}  # a fifth is deleted: no ratio is above 5
    return METHODS[name](scope=scope, **settings)


def original_of(name: str, model: str) -> Model:
    """What this method is run on."""
    return tiny.masked_for("retrieval", model, 8) if "channel_mask" in METHODS[name].requires else tiny.original(model)


def data_for(model: Model, **changes: Any) -> UnlearningData:
    short = TrainSettings(epochs=0.5, batch_size=24, learning_rate=1e-3)
    return tiny.data_for(model, **{"training": short, **changes})


# -- over the table -----------------------------------------------------------------------------------------------


def test_there_are_methods() -> None:
    assert {"retrain", "multidelete", "finetune", "neggrad"} <= set(METHODS)
    for name, method in METHODS.items():
        assert method.name == name
        assert method.title


@pytest.mark.parametrize("name", METHODS)
def test_unknown_scope_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="scope"):
        METHODS[name](scope="fusoin")  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "model", "scope"), EVERY)
def test_every_scope_of_every_model(name: str, model: str, scope: str) -> None:
    """Beyond the trial of ``test_conformance``: other architectures, and each scope."""
    original = original_of(name, model)
    data = data_for(original)
    trial = Trial(data.task, original, data.request, data.inputs, data.training)
    case = Case(METHODS[name], trial, quick(name, scope).model_dump())
    check_scope(case)
    check_outcome(case)


@pytest.mark.parametrize("name", [name for name in UNLEARNING if "fusion" in METHODS[name].scopes])
def test_optimiser_holds_only_the_students_parameters_in_scope(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = tiny.original("albef")
    held: list[int] = []
    adamw = torch.optim.AdamW

    def watching(groups: Any, **options: Any) -> torch.optim.AdamW:
        held.extend(id(parameter) for group in groups for parameter in group["params"])
        return adamw(groups, **options)

    monkeypatch.setattr(torch.optim, "AdamW", watching)
    result = quick(name, "fusion")(original, data_for(original), tiny.engine())
    in_scope = [id(parameter) for parameter in result.model.parameters_of("fusion").values()]
    assert sorted(held) == ([] if name in WITHOUT_STEPS else sorted(in_scope))


@pytest.mark.parametrize("name", [name for name in METHODS if issubclass(METHODS[name], LossMethod)])
def test_unlearning_runs_in_eval_mode(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = tiny.build(tiny.albef(dropout=0.5))
    training = []
    fit = loop.fit

    def watching(
        self: Engine, model: Model, parameters: Any, losses: Any, fit_settings: Any, **options: Any
    ) -> TrainingHistory:
        def watched(step: int) -> dict[str, Tensor]:
            training.append(any(module.training for module in model.modules()))
            return losses(step)  # type: ignore[no-any-return]

        return fit(self, model, parameters, watched, fit_settings, **options)

    monkeypatch.setattr("multidelete.methods.base.fit", watching)
    quick(name, widest(name))(original, data_for(original), tiny.engine())
    assert training
    assert not any(training)


def test_frozen_scope_is_refused_before_anything_starts() -> None:
    model = tiny.build(tiny.dual_encoder(freeze=("text",)))
    for name in UNLEARNING:
        if "text" not in METHODS[name].scopes:
            continue
        with pytest.raises(InputError, match="scope 'text' of this dual_encoder model is frozen"):
            quick(name, "text")(model, data_for(model), tiny.engine())


def test_checkpoint_is_chosen_by_utility_and_forgetting() -> None:
    original = tiny.original("albef")
    method = quick("neggrad", "all", evaluations=3, forget_weight=0.25, forget_target=40.0)
    lines = method(original, data_for(original), tiny.engine()).history.lines
    validated = [line for line in lines if "validation" in line]
    assert len(validated) == 3
    for line in validated:
        result = line["validation"]
        assert result["criterion"] == pytest.approx(result["utility"] - 0.25 * abs(result["forget_auc"] - 40))
    best = max(validated, key=lambda line: line["validation"]["criterion"])
    assert [line for line in validated if line.get("selected")] == [best]


# -- MultiDelete --------------------------------------------------------------------------------------------------


def terms_at_start(
    model: Model, scope: str = "all", student: Model | None = None, **settings: Any
) -> tuple[dict[str, Tensor], Batch, RetainBatch]:
    """The loss terms of the first step, and the batches that they are of."""
    engine, data = tiny.engine(), data_for(model)
    method = MultiDelete(scope=scope, space="fused", **settings)  # type: ignore[arg-type]
    teacher = Teacher(model, encoded_inputs(engine, model, data.inputs), engine)
    stream = ForgetRetainStream(
        data.inputs, data.forget_pairs, data.retain_pairs, 8, 3, method.mismatched_share(), data.seed
    )
    forget, retain = stream.at(0, CPU)
    student = student or copy.deepcopy(model)
    moving = student.parameters_of(scope)
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(name in moving)
    return method.losses(student, teacher, forget, retain), forget, retain


@pytest.mark.parametrize("name", tiny.IN_DEPTH)
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_multidelete_at_the_start(name: str, share: float) -> None:
    """With f' = f both retention terms are 0, and MD is the distance of deleted pairs from mismatched ones."""
    model = tiny.original(name)
    terms, forget, retain = terms_at_start(model, target="drawn", retain_mismatched=share)
    assert set(terms) == {"md", "mkr", "ukr"}
    assert float(terms["mkr"].detach()) < 1e-10
    assert float(terms["ukr"].detach()) < 1e-10
    with torch.no_grad():
        wrong = model.fused(retain.mismatched(len(forget)))
        expected = (model.fused(forget) - wrong).square().mean()
    torch.testing.assert_close(terms["md"].detach(), expected, atol=1e-6, rtol=1e-4)
    assert expected > 1e-4
    assert int((retain.examples["vision"] != retain.examples["text"]).sum()) == round(share * len(retain))


@pytest.mark.parametrize("name", tiny.IN_DEPTH)
def test_multidelete_of_another_student_by_hand(name: str) -> None:
    model = tiny.original(name)
    student = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    terms, forget, retain = terms_at_start(model, student=student, target="drawn", alpha=0.5, beta=2.0, gamma=3.0)
    with torch.no_grad():
        wrong = model.fused(retain.mismatched(len(forget)))
        expected = {
            "md": 0.5 * F.mse_loss(student.fused(forget), wrong),
            "mkr": 2.0 * F.mse_loss(student.fused(retain), model.fused(retain)),
        }
        now, before = student.encode(forget), model.encode(forget)
        drifts = []
        for modality in ("vision", "text"):
            real = now[modality].mask.bool()
            drifts.append(F.mse_loss(now[modality].tokens[real], before[modality].tokens[real]))
        expected["ukr"] = 3.0 * (drifts[0] + drifts[1]) / 2
    assert min(drifts) > 1e-4
    for key, value in expected.items():
        torch.testing.assert_close(terms[key].detach(), value, atol=1e-6, rtol=1e-4, msg=key)


@pytest.mark.parametrize("target", ["mean", "undecided"])
def test_multidelete_towards_a_mean(target: str) -> None:
    """Of mismatched pairs of D_r; for ``undecided`` a mixture of the means of the classes that are decided for."""
    model = copy.deepcopy(tiny.original_for("entailment", "albef"))
    dataset = tiny.dataset_for("entailment")
    inputs = PairInputs.of(dataset, model)
    with torch.no_grad():  # every class shall be decided for now and then, unlike by a model that was hardly trained
        logits = model.head(model.fused(inputs.batch(inputs.true_pairs(np.arange(len(dataset.texts))), CPU)))
        model.class_head[-1].bias -= logits.mean(0)
    data = UnlearningData(resolve(dataset, count=6), inputs, Entailment())
    teacher = Teacher(model, data.inputs, tiny.engine())
    stream = ForgetRetainStream(data.inputs, data.forget_pairs, data.retain_pairs, 8, 3, 0.0, data.seed)
    method = MultiDelete(target=target, beta=0, gamma=0)  # type: ignore[arg-type]
    method.prepare(model, teacher, stream, 1)
    forget, retain = stream.at(0, CPU)
    with torch.no_grad():
        term = method.losses(copy.deepcopy(model), teacher, forget, retain)["md"]
        rows = stream.mismatched_rows(MEAN_OF, 0, "mean")
        assert (rows["vision"] != dataset.text_examples[rows["text"]]).all()
        assert not np.isin(rows["text"], data.forget_pairs).any()
        fused = torch.cat([model.fused(data.inputs.batch(each, CPU)) for each in parts(rows, 512)])
        decided = model.head(fused).argmax(1)
        assert len(decided.unique()) > 1
        mean = fused.mean(0)
        if target == "undecided":
            means = torch.stack([fused[decided == each].mean(0) for each in decided.unique()])
            mean = undecided_mixture(means, model.head)
        expected = (model.fused(forget) - mean).square().mean()
    torch.testing.assert_close(term, expected, atol=1e-6, rtol=1e-4)


def test_the_undecided_mixture_lies_where_the_head_turns() -> None:
    means = torch.tensor([[0.0, 1.0], [10.0, 1.0]])

    def head(fused: torch.Tensor) -> torch.Tensor:  # turns at 8 of 10, not halfway, and says so in bends
        leaning = (fused[..., 0] - 8) * 3
        return torch.stack([-leaning, F.leaky_relu(leaning, 0.1)], -1)

    mixture = undecided_mixture(means, head)
    torch.testing.assert_close(mixture, torch.tensor([8.0, 1.0]), atol=1e-3, rtol=0)
    alone = undecided_mixture(means[:1], head)
    torch.testing.assert_close(alone, means[0])
    generator = torch.Generator().manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Linear(6, 12), torch.nn.ReLU(), torch.nn.Linear(12, 3))
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.normal_(0, 1, generator=generator)
    three = 3 * torch.randn(3, 6, generator=generator)
    with torch.no_grad():
        certainty = [
            -layers(point).log_softmax(-1).mean() for point in (undecided_mixture(three, layers), three.mean(0))
        ]
        drawn = torch.rand(2000, 3, generator=generator).log().neg()
        best = -layers((drawn / drawn.sum(1, keepdim=True)) @ three).log_softmax(-1).mean(-1).min()
    assert certainty[0] < certainty[1]
    assert certainty[0] < best + 0.01


def parts(rows: dict[str, np.ndarray[Any, Any]], size: int) -> list[dict[str, np.ndarray[Any, Any]]]:
    count = len(rows["text"])
    return [{name: each[start : start + size] for name, each in rows.items()} for start in range(0, count, size)]


@pytest.mark.parametrize("modality", ["vision", "text"])
def test_unimodal_retention_covers_both_modalities(modality: str) -> None:
    model = tiny.original("albef")
    student = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in student.parameters_of(modality).values():
            parameter.mul_(1.1)
    terms, *_ = terms_at_start(model, student=student)
    assert float(terms["ukr"].detach()) > 1e-5
    gradients = torch.autograd.grad(terms["ukr"], list(student.parameters_of(modality).values()), allow_unused=True)
    assert any(gradient is not None and gradient.any() for gradient in gradients)


def test_unimodal_retention_ignores_padding() -> None:
    tokens = torch.zeros(2, 3, 4)
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    before = Encoding(tokens, mask, tokens[:, 0])
    padded = tokens.clone()
    padded[1, 1:] = 100.0
    assert token_drift(Encoding(padded, mask, tokens[:, 0]), before) == 0
    moved = padded.clone()
    moved[1, 0] = 2.0  # one of four real tokens, by 2: squared 4
    assert token_drift(Encoding(moved, mask, tokens[:, 0]), before) == 1


def test_fusion_scope_has_no_unimodal_term_and_weight_0_drops_a_term() -> None:
    model = tiny.original("albef")
    assert set(terms_at_start(model, "fusion")[0]) == {"md", "mkr"}
    assert set(terms_at_start(model, "vision")[0]) == {"md", "mkr", "ukr"}
    for weight, term in (("alpha", "md"), ("beta", "mkr"), ("gamma", "ukr")):
        assert set(terms_at_start(model, **{weight: 0.0})[0]) == {"md", "mkr", "ukr"} - {term}


def test_nothing_to_minimise_is_refused() -> None:
    with pytest.raises(ValidationError, match="nothing to minimise"):
        MultiDelete(alpha=0, beta=0, gamma=0)
    with pytest.raises(ValidationError, match="nothing to minimise"):
        MultiDelete(alpha=0, beta=0, scope="fusion")
    assert MultiDelete(alpha=0, beta=0).gamma == 1


# -- NegGrad, FineTune, Retrain -----------------------------------------------------------------------------------


@torch.no_grad()
def mean_loss(model: Model, examples: np.ndarray[Any, Any]) -> float:
    dataset = tiny.dataset()
    inputs = PairInputs.of(dataset, model)
    return float(model.losses(inputs.batch(inputs.true_pairs(dataset.text_rows(examples)), CPU)).mean())


@pytest.mark.parametrize("name", tiny.IN_DEPTH)
@pytest.mark.parametrize("scope", ["all", "fusion"])
def test_neggrad_raises_the_loss_on_the_forget_set(name: str, scope: str) -> None:
    original, forget = tiny.original(name), tiny.request_of().forget
    method = NegGrad(scope=scope, min_steps=10, learning_rate=5e-3, evaluations=0)  # type: ignore[arg-type]
    result = method(original, data_for(original), tiny.engine())
    assert mean_loss(result.model, forget) > mean_loss(original, forget) + 0.05
    terms = [line["losses"] for line in result.history.lines]
    assert all(set(line) == {"forget", "total"} and line["forget"] < 0 for line in terms)


def poisoned(inputs: PairInputs, examples: np.ndarray[Any, Any]) -> PairInputs:
    """The inputs with garbage for these examples: other pixels, other words."""
    pixels, texts = inputs.sources["vision"], inputs.sources["text"]
    assert isinstance(pixels, Pixels)
    assert isinstance(texts, Texts)
    images = pixels.images.copy()
    images[examples] = np.random.default_rng(0).integers(0, 256, images[examples].shape, dtype=np.uint8)
    ids = texts.ids.flat.copy()
    for row in inputs.dataset.text_rows(examples):
        ids[texts.ids.offsets[row] + 1 : texts.ids.offsets[row + 1] - 1] = 4
    return inputs.with_sources({"vision": Pixels(images), "text": Texts(Ragged(ids, texts.ids.offsets), texts.padding)})


@pytest.mark.parametrize(("method", "never_read"), [("retrain", True), ("finetune", True), ("neggrad", False)])
@pytest.mark.parametrize("name", tiny.IN_DEPTH)
def test_who_never_reads_the_forget_set(method: str, never_read: bool, name: str) -> None:
    """Garbage in the place of D_f changes not one bit; NegGrad shows that it would be seen."""
    original = tiny.original(name)
    settings = {} if method == "retrain" else {"evaluations": 0}
    data = data_for(original)
    spoilt = data_for(original)
    spoilt = UnlearningData(**{**vars(spoilt), "inputs": poisoned(spoilt.inputs, spoilt.request.forget)})
    plain, other = (quick(method, "all", **settings)(original, given, tiny.engine()).model for given in (data, spoilt))
    assert (tiny.changed(tiny.weights(plain), tiny.weights(other)) == set()) is never_read


def test_finetune_lowers_the_loss_on_the_retain_set() -> None:
    original = tiny.original("albef")
    data = tiny.data_for(original)
    result = FineTune(min_steps=100, evaluations=0, rate_factor=2.5)(original, data, tiny.engine())
    assert mean_loss(result.model, data.request.retain) < mean_loss(original, data.request.retain) - 0.1
    peak = max(line["learning_rate"] for line in result.history.lines)
    assert peak == pytest.approx(2.5 * tiny.TRAINING.learning_rate)


def started_from(method: Retrain, original: Model, monkeypatch: pytest.MonkeyPatch, **data: Any) -> dict[str, Tensor]:
    """The weights with which retraining begins."""
    begun: list[dict[str, Tensor]] = []
    fit = loop.fit

    def watching(self: Engine, model: Model, *given: Any, **options: Any) -> TrainingHistory:
        begun.append(tiny.weights(model))
        assert options["training"]
        return fit(self, model, *given, **options)

    with monkeypatch.context() as patch:
        patch.setattr("multidelete.training.original.fit", watching)
        method(original, data_for(original, **data), tiny.engine())
    (only,) = begun
    return only


@pytest.mark.parametrize("name", tiny.IN_DEPTH)
def test_retrain_starts_from_the_originals_initial_weights(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = tiny.original(name)
    fresh = tiny.weights(tiny.build(tiny.CONFIGS[name], seed=0))
    assert tiny.changed(fresh, tiny.weights(original))
    assert tiny.changed(fresh, started_from(Retrain(), original, monkeypatch, seed=5)) == set()
    other = tiny.weights(tiny.build(tiny.CONFIGS[name], seed=2))
    assert tiny.changed(other, started_from(Retrain(), original, monkeypatch, initial_seed=2)) == set()


def test_retrain_of_a_part_keeps_the_rest_of_the_original(monkeypatch: pytest.MonkeyPatch) -> None:
    original = tiny.original("albef")
    begun = started_from(Retrain(scope="fusion"), original, monkeypatch)
    fresh = tiny.weights(tiny.build(tiny.CONFIGS["albef"], seed=0))
    inside = set(original.parameters_of("fusion"))
    for name, weight in tiny.weights(original).items():
        assert torch.equal(begun[name], fresh[name] if name in inside else weight), name


def test_retrain_is_the_originals_recipe_on_the_retain_set() -> None:
    original = tiny.original("albef")
    data = tiny.data_for(original)
    result = Retrain()(original, data, tiny.engine()).model
    by_hand = tiny.build(tiny.CONFIGS["albef"])
    rows = data.retain_pairs
    train(by_hand, PairInputs.of(tiny.dataset(), by_hand), rows, tiny.TRAINING, tiny.engine(), seed=0, what="by hand")
    assert tiny.changed(tiny.weights(by_hand), tiny.weights(result)) == set()
    assert tiny.changed(tiny.weights(original), tiny.weights(result))


# -- effect on a model that has learned its training pairs --------------------------------------------------------


@cache
def learned() -> Model:
    model = tiny.build(tiny.albef(width=32))
    dataset = tiny.dataset()
    settings = TrainSettings(epochs=150, batch_size=12, learning_rate=1e-3)
    rows = dataset.text_rows(dataset.rows("train"))
    train(model, PairInputs.of(dataset, model), rows, settings, tiny.engine(), seed=0, what="original")
    return model


def test_the_similarity_of_deleted_pairs_becomes_that_of_mismatched_ones() -> None:
    model = learned()
    data = tiny.data_for(model)

    def cosines(each: Model, pairs: Any) -> torch.Tensor:
        with torch.no_grad():
            return similarities(
                each, each.encode(data.inputs.batch(data.inputs.true_pairs(pairs), torch.device("cpu")))
            )

    settings = {"min_steps": 150, "learning_rate": 2e-3, "batch_size": 12, "evaluations": 0, "stop": "lowest"}
    ends = {
        space: MultiDelete(space=space, **settings)(model, data, tiny.engine()).model  # type: ignore[arg-type]
        for space in ("fused", "similarity", "both")
    }
    before = cosines(model, data.retain_pairs)
    matched = float(cosines(model, data.forget_pairs).diagonal().mean())
    assert matched > 0.5
    for space in ("similarity", "both"):
        assert float(cosines(ends[space], data.forget_pairs).diagonal().mean()) < matched - 0.3
        assert float((cosines(ends[space], data.retain_pairs) - before).square().mean().sqrt()) < 0.2
    untouched = cosines(ends["fused"], data.forget_pairs).diagonal()
    assert float(untouched.mean()) == pytest.approx(matched, abs=0.1), "no term of the paper asks for it"


def test_terms_of_each_space() -> None:
    model, clip = tiny.original("albef"), tiny.original("dual_encoder")
    for each, space, terms in (
        (model, "both", {"md", "mkr", "mkr_hard", "md_similarity", "mkr_similarity"}),
        (model, "fused", {"md", "mkr"}),
        (model, "similarity", {"md_similarity", "mkr_similarity"}),
        (clip, "both", {"md_similarity", "mkr_similarity"}),  # similarities are all there is
        (clip, "fused", {"md", "mkr"}),
    ):
        method = MultiDelete(scope="fusion", space=space, min_steps=2, evaluations=0)  # type: ignore[arg-type]
        result = method(each, tiny.data_for(each), tiny.engine())
        assert result.history.lines[0]["losses"].keys() - {"total"} == terms
        if "mkr_similarity" in terms:
            moved = tiny.changed(tiny.weights(each), tiny.weights(result.model))
            assert any(name.endswith("text_projection.weight") for name in moved)


def test_hard_pairs_are_wrong_and_those_that_the_original_finds_most_similar() -> None:
    model = tiny.original("albef")
    batch = replace(tiny.first_pairs(model, 12), generator=None)
    cosines = similarities(model, model.encode(batch))
    found = hard_pairs(model, cosines, batch)
    examples = {modality: batch.examples[modality][rows] for modality, rows in found.items()}
    assert len(found["text"]) == 12
    assert bool((examples["vision"] != examples["text"]).all())
    wrong = batch.examples["vision"][:, None] != batch.examples["text"][None, :]
    for row in range(6):
        assert cosines[row][wrong[row]].max() == cosines[found["vision"][row], found["text"][row]]
        assert cosines[:, row][wrong[:, row]].max() == cosines[found["vision"][6 + row], found["text"][6 + row]]
    alone = tiny.first_pairs(model, 2)
    assert len(set(alone.examples["vision"].tolist())) == 1
    assert hard_pairs(model, similarities(model, model.encode(alone)), alone) == {}


def test_similarity_where_there_is_none_or_it_does_not_move() -> None:
    adapted = tiny.freezing("albef")  # with an adapter to another width, which the embeddings do not read
    adapted = tiny.build(adapted.model_copy(update={"fusion": adapted.fusion.model_copy(update={"width": 8})}))
    with pytest.raises(InputError, match=r"'vision' does not move the contrastive embeddings"):
        MultiDelete(scope="vision", space="similarity", stop="lowest")(adapted, tiny.data_for(adapted), tiny.engine())
    vilt = tiny.original("vilt")
    with pytest.raises(InputError, match=r"contrastive embeddings, which this vilt model does not have; leave it out"):
        MultiDelete(space="similarity")(vilt, tiny.data_for(vilt), tiny.engine())


@pytest.mark.slow
def test_multidelete_lowers_forget_auc_and_without_decoupling_it_does_not() -> None:
    model = learned()
    data = tiny.data_for(model)

    def metrics(each: Model) -> dict[str, float]:
        return data.task.metrics(data.task.predict(each, data.inputs, data.request, tiny.engine()))

    def after(alpha: float) -> dict[str, float]:
        method = MultiDelete(
            scope="fusion",
            stop="lowest",
            alpha=alpha,
            min_steps=80,
            learning_rate=1e-3,
            retain_mismatched=0.25,
            evaluations=0,
        )
        return metrics(method(model, data, tiny.engine()).model)

    before, forgotten, control = metrics(model), after(1.0), after(0.0)
    assert before["forget_test_auc"] > 80  # the model has learned its pairs
    assert forgotten["forget_auc"] < before["forget_auc"] - 20
    assert forgotten["forget_score"] < before["forget_score"] - 20
    assert forgotten["retain_score"] > before["retain_score"] - 15
    assert abs(control["forget_auc"] - before["forget_auc"]) < 5
    assert abs(control["retain_score"] - before["retain_score"]) < 5


def test_teacher_computes_no_mismatched_pair_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.build(tiny.albef())
    data = tiny.data_for(model)
    engine = tiny.engine()
    stream = ForgetRetainStream(data.inputs, data.forget_pairs, data.retain_pairs, 8, 2, 0.5, seed=0)
    plain = Teacher(model, data.inputs, engine)
    teacher = Teacher(model, data.inputs, engine)
    MultiDelete(target="drawn", retain_mismatched=0.5).prepare(model, teacher, stream, 3)
    monkeypatch.setattr(teacher, "_compute", lambda rows: pytest.fail("computed again"))
    for step in range(3):
        forget, retain = stream.at(step, engine.device)
        for batch in (forget, retain, retain.mismatched(len(forget))):
            torch.testing.assert_close(teacher.fused(batch), plain.fused(batch), rtol=1e-5, atol=1e-6)
