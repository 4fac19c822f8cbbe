"""Every method on every task that it declares, with every model of that task; and what tasks refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tiny
from multidelete.data.batches import Constant, PairInputs
from multidelete.data.requests import resolve
from multidelete.data.synthetic.genes import genes
from multidelete.methods import METHODS, Method, Unimodal, UnlearningData
from multidelete.metrics.classification import accuracy, f1, true_label_log_odds
from multidelete.metrics.forgetting import forget_auc
from multidelete.models import MODELS, Model
from multidelete.tasks import TASKS, Task
from multidelete.training.features import encoded_inputs
from multidelete.utils.errors import InputError

CPU = torch.device("cpu")
SETTINGS = {
    "retrain": {},
    "unimodal": {"modality": "text"},
    "descent_to_delete": {"steps": 2},
    "lcodec": {"perturbations": 40, "batch_size": 9, "damping": 1.0, "largest_drop": 100},
    "erm_ktp": {},
    "multidelete": {"stop": "lowest", "epochs": 1, "evaluations": 1, "min_steps": 2},
    "finetune": {"epochs": 1, "evaluations": 1, "min_steps": 2},
    "neggrad": {"epochs": 1, "evaluations": 1, "min_steps": 2},
    "knowledge_unlearning": {"epochs": 1, "evaluations": 1, "min_steps": 2},
    "neggrad_plus": {"epochs": 1, "evaluations": 1, "min_steps": 2},
    "scrub": {"epochs": 1, "evaluations": 1, "min_steps": 2},
    "bad_teacher": {"epochs": 1, "evaluations": 1, "min_steps": 2},
    "salun": {"epochs": 1, "evaluations": 1, "min_steps": 2},
    "ssd": {"samples": 40, "alpha": 1.3},
    "npo": {"epochs": 1, "evaluations": 1, "min_steps": 2},
    "l1_sparse": {"epochs": 1, "evaluations": 1, "min_steps": 2},
    "random_label": {"epochs": 1, "evaluations": 1, "min_steps": 2},
}
CASES = [
    (task, model, method)
    for task, model in tiny.EACH
    for method in METHODS
    if METHODS[method].requires - {"channel_mask"} <= TASKS[task].provides()
]


def task_of(name: str) -> Task:
    return TASKS[name](**({"rerank": 4, "sample": 10} if name == "retrieval" else {}))


def data_of(task: str, model: Model) -> UnlearningData:
    dataset = tiny.dataset_for(task)
    return UnlearningData(
        resolve(dataset, count=6),
        PairInputs.of(dataset, model),
        task_of(task),
        tiny.TRAINING.model_copy(update={"epochs": 1}),
    )


def method_of(name: str, **changes: object) -> Method:
    return METHODS[name](**{**SETTINGS[name], **changes})


def test_the_sweep_covers_every_task_model_and_method() -> None:
    assert {task for task, _, _ in CASES} == set(TASKS)
    assert {model for _, model, _ in CASES} == set(MODELS) == set(tiny.CONFIGS)
    assert {method for _, _, method in CASES} == set(METHODS) == set(SETTINGS)
    assert len(CASES) > 40


@pytest.mark.parametrize(("task", "model", "method"), CASES)
def test_every_method_on_every_task_with_every_model(task: str, model: str, method: str) -> None:
    original = (
        tiny.masked_for(task, model, 6)
        if "channel_mask" in METHODS[method].requires
        else tiny.original_for(task, model)
    )
    before = tiny.weights(original)
    data = data_of(task, original)
    result = method_of(method)(original, data, tiny.engine())
    assert not tiny.changed(before, original.state_dict())
    assert tiny.changed(before, result.model.state_dict())
    assert all(bool(tensor.isfinite().all()) for tensor in result.model.state_dict().values())
    predictions = data.task.predict(result.model, result.inputs, data.request, tiny.engine())
    metrics = data.task.metrics(predictions)
    assert all(np.isfinite(value) for value in metrics.values())
    assert all(value >= 0 or name == "forget_cosine" for name, value in metrics.items())
    scores = {"test_score", "valid_score", "retain_score", "forget_score", "forget_auc", "forget_test_auc"}
    assert scores <= metrics.keys()
    assert all(0 <= metrics[name] <= 100 for name in scores)
    for split, rows in data.request.splits().items():
        assert all(len(predictions[split][name]) == len(rows) for name in ("example", "text", "score"))


@pytest.mark.parametrize(("task", "model"), [each for each in tiny.EACH if each[0] != "retrieval"])
def test_predictions_are_what_the_model_says_one_by_one(task: str, model: str) -> None:
    original = tiny.original_for(task, model)
    data = data_of(task, original)
    dataset = data.request.dataset
    assert dataset.labels is not None
    result = data.task.predict(original, data.inputs, data.request, tiny.engine())
    rows = dataset.text_rows(data.request.test)
    assert result["test"]["label"].tolist() == dataset.labels[rows].tolist()
    assert result["test"]["example"].tolist() == [
        dataset.examples[example].id for example in dataset.text_examples[rows]
    ]
    for position in (0, 1, len(rows) - 1):
        batch = data.inputs.batch(data.inputs.true_pairs(rows[[position]]), CPU)
        with torch.no_grad():
            logits = original.head(original.fused(batch)).float()
        np.testing.assert_allclose(result["test"]["logits"][position], logits[0], atol=1e-4)
        own = logits.softmax(-1)[0, dataset.labels[rows[position]]]
        odds = torch.tensor(result["test"]["score"][position])
        torch.testing.assert_close(odds.sigmoid(), own, atol=1e-5, rtol=1e-4)
    right = result["test"]["logits"].argmax(1) == result["test"]["label"]
    assert data.task.metrics(result)["test_score"] == pytest.approx(100 * right.mean())
    assert data.task.metrics(result)["forget_auc"] == forget_auc(result["forget"]["score"], result["retain"]["score"])
    validated = data.task.validation_metrics(original, data.inputs, data.request, tiny.engine())
    assert validated["utility"] == pytest.approx(data.task.metrics(result)["valid_score"])


@pytest.mark.parametrize(("task", "model"), tiny.EACH)
def test_losses_and_parts(task: str, model: str) -> None:
    original = tiny.original_for(task, model)
    inputs = data_of(task, original).inputs
    batch = inputs.batch(inputs.true_pairs(np.arange(6)), CPU)
    losses = original.losses(batch)
    assert losses.shape == (6,)
    if TASKS[task].labelled:
        assert batch.labels is not None
        expected = torch.nn.functional.cross_entropy(
            original.head(original.fused(batch)), batch.labels, reduction="none"
        )
        torch.testing.assert_close(losses, expected)
    of_parts = [set(original.parameters_of(part)) for part in original.parts]
    unused = set(original.frozen_parameters())  # projections of a model whose head is of ours
    assert set().union(*of_parts) == set(dict(original.named_parameters())) - unused
    assert not unused or (model, bool(original.config.labels)) == ("blip", True)
    assert sum(map(len, of_parts)) == len(set().union(*of_parts))


@pytest.mark.parametrize(("task", "model"), tiny.EACH)
def test_models_round_trip(task: str, model: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    original = tiny.original_for(task, model)
    folder = tmp_path_factory.mktemp("model") / "saved"
    original.save_pretrained(folder)
    loaded = Model.from_pretrained(folder)
    inputs = data_of(task, original).inputs
    batch = inputs.batch(inputs.true_pairs(np.arange(4)), CPU)
    with torch.no_grad():
        assert torch.equal(loaded.head(loaded.fused(batch)), original.head(original.fused(batch)))


# -- one modality alone -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("task", "model"), [each for each in tiny.EACH if each[0] != "retrieval"])
def test_a_blanked_modality_says_nothing(task: str, model: str) -> None:
    original = tiny.original_for(task, model)
    data = data_of(task, original)
    first = data.inputs.modalities[0]
    for seen in data.inputs.modalities:
        inputs = Unimodal(modality=seen).reads(data.inputs, original)
        other = "text" if seen == first else first
        assert isinstance(inputs.sources[other], Constant)
        assert inputs.sources[seen] is data.inputs.sources[seen]
        assert inputs.hash != data.inputs.hash
        rows = data.request.dataset.text_rows(data.request.test)[:5]
        pairs = inputs.true_pairs(rows)
        alone = original.fused(inputs.batch(pairs, CPU))
        swapped = {**pairs, other: pairs[other][::-1].copy()}
        torch.testing.assert_close(original.fused(inputs.batch(swapped, CPU)), alone)
        # What was computed once is the same as what is computed each time.
        encoded = encoded_inputs(tiny.engine(), original, inputs)
        torch.testing.assert_close(original.fused(encoded.batch(pairs, CPU)), alone, atol=1e-5, rtol=1e-4)


def test_unimodal_refuses_what_is_not_there() -> None:
    original = tiny.original_for("entailment", "albef")
    with pytest.raises(InputError, match="there is no modality 'graph' here, only vision and text"):
        Unimodal(modality="graph")(original, data_of("entailment", original), tiny.engine())
    with pytest.raises(ValueError, match="unimodal trains all parameters"):
        Unimodal(scope="fusion")


# -- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "dataset", "model", "message"),
    [
        (
            "entailment",
            "retrieval",
            None,
            "needs the labels contradiction, entailment, neutral; dataset 'scenes' has none",
        ),
        ("reasoning", "entailment", None, "needs the labels false, true; dataset 'premises' has contradiction"),
        ("graph_text", "reasoning", None, "is about graph and text, but dataset 'statements' holds vision and text"),
        ("retrieval", "graph_text", None, "is about vision and text, but dataset 'genes' holds graph and text"),
        ("retrieval", "reasoning", None, "is about single images; dataset 'statements' has 2 in an example"),
        (
            "entailment",
            "entailment",
            "dual_encoder",
            "a model of kind 'dual_encoder' does not support the task 'entailment'",
        ),
    ],
)
def test_tasks_refuse_other_data_and_models(task: str, dataset: str, model: str | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        task_of(task).check(tiny.dataset_for(dataset), MODELS[model] if model else None)


def test_models_refuse_other_data() -> None:
    with pytest.raises(InputError, match="reads graph and text, but dataset 'premises' has vision and text"):
        PairInputs.of(tiny.dataset_for("entailment"), tiny.original_for("graph_text", "graph_text"))
    with pytest.raises(InputError, match="needs 1 images per example, but dataset 'statements' has 2"):
        PairInputs.of(tiny.dataset_for("reasoning"), tiny.original_for("entailment", "albef"))
    with pytest.raises(InputError, match="classifies contradiction, entailment, neutral, but dataset 'scenes' has no"):
        PairInputs.of(tiny.dataset_for("retrieval"), tiny.original_for("entailment", "albef"))
    with pytest.raises(InputError, match="another graph than the one that this graph_text model was trained on"):
        PairInputs.of(genes(train=40, validation=12, test=12, seed=1), tiny.original_for("graph_text", "graph_text"))


# -- metrics ----------------------------------------------------------------------------------------------------


def test_log_odds_of_the_true_label_against_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, label = 5 * torch.randn(50, 3, generator=generator), torch.randint(3, (50,), generator=generator)
    probability = logits.softmax(-1)[torch.arange(50), label]
    result = true_label_log_odds(logits.numpy(), label.numpy())
    np.testing.assert_allclose(1 / (1 + np.exp(-result.astype(np.float64))), probability, rtol=1e-4)
    shifted = true_label_log_odds(logits.numpy() + 100, label.numpy())
    np.testing.assert_allclose(shifted, result, atol=1e-4)
    assert accuracy(logits.numpy(), label.numpy()) == pytest.approx(
        100 * float((logits.argmax(1) == label).float().mean())
    )


def test_accuracy_counts_ties_and_nan_against_the_model() -> None:
    assert accuracy(np.zeros((4, 3)), np.array([0, 1, 2, 0])) == 0
    assert accuracy(np.full((4, 3), np.nan), np.array([0, 1, 2, 0])) == 0


def test_f1_by_hand() -> None:
    logits = np.array([[0.0, 1.0]] * 3 + [[1.0, 0.0]] * 3)
    assert f1(logits, np.array([1, 1, 0, 1, 0, 0]), positive=1) == pytest.approx(100 * 2 / 3)
    assert f1(logits, np.array([0, 0, 0, 0, 0, 0]), positive=1) == 0
