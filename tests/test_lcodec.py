"""L-CODEC's effect: rows of chosen neurons move, away from the deleted pairs; a step that costs too much is undone."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

import tiny
from messages import logged
from multidelete.data.batches import PairInputs
from multidelete.data.requests import resolve
from multidelete.methods import Lcodec, lcodec
from multidelete.methods.neurons import NeuronWeights, Watch, perturb, perturbed
from multidelete.models import MODELS, Model, Tokens
from multidelete.models.inputs import Subgraphs
from multidelete.tasks import TASKS
from multidelete.training import checkpoint
from multidelete.training.engine import Engine
from multidelete.utils.errors import InputError

CPU = torch.device("cpu")
QUIET = 1e12  # an epsilon with which there is hardly any noise


def run(model: Model, engine: Engine | None = None, folder: Path | None = None, **settings: Any) -> Any:
    settings = {"perturbations": 72, "batch_size": 24, "neurons": 4, "hessian_pairs": 24, "epsilon": QUIET, **settings}
    return Lcodec(**settings)(model, tiny.data_for(model, folder=folder), engine or tiny.engine())


def rows_of(lines: list[dict[str, Any]]) -> dict[str, set[int]]:
    """Rows of each parameter that the history says were chosen."""
    result: dict[str, set[int]] = {}
    for line in lines:
        for neuron in line["neurons"]:
            layer, number = neuron.removesuffix("]").split("[")
            for kind in ("weight", "bias"):
                result.setdefault(f"{layer}.{kind}", set()).add(int(number))
    return result


@pytest.mark.parametrize("scope", ["all", "fusion", "vision", "text"])
def test_only_rows_of_chosen_neurons_move(scope: str) -> None:
    model = tiny.build(tiny.albef())
    result = run(model, scope=scope, largest_drop=100, batch_size=12, epsilon=1e4)
    rows = rows_of(result.history.lines)
    assert rows
    before, after = tiny.weights(model), tiny.weights(result.model)
    moved = tiny.changed(before, after)
    assert moved
    assert moved <= rows.keys()
    assert moved <= set(model.parameters_of(scope))
    for name in moved:
        different = (
            (before[name] != after[name]).flatten(1).any(1) if before[name].dim() > 1 else before[name] != after[name]
        )
        assert set(different.nonzero()[:, 0].tolist()) <= rows[name]


@pytest.mark.parametrize("name", tiny.IN_DEPTH)
def test_a_step_leads_away_from_the_deleted_pairs(name: str) -> None:
    # Steps so short that the gradient tells what they do, on neurons that so many copies find to matter.
    model = tiny.build(tiny.CONFIGS[name])
    result = run(model, largest_drop=100, damping=1.0, batch_size=12, neurons=8, perturbations=240)
    taken = [line["losses"] for line in result.history.lines if line["neurons"] and not line["reverted"]]
    assert taken
    assert all(each["forget_after"] > each["forget"] for each in taken)


def test_noise_goes_to_the_chosen_rows_by_the_formula() -> None:
    model = tiny.build(tiny.albef())
    plain, noisy = (run(model, largest_drop=100, neurons=20, epsilon=e) for e in (QUIET, 0.1))
    (line,) = noisy.history.lines
    assert line["neurons"] == plain.history.lines[0]["neurons"]
    n = 3 * len(tiny.request_of().dataset.rows("train"))
    assert line["noise"] == pytest.approx(0.5 / (n**2 * 1e-6) / 0.1 * (2 * np.log(125)) ** 0.5)
    before, after = tiny.weights(plain.model), tiny.weights(noisy.model)
    drawn = torch.cat([(after[name] - before[name])[list(rows)].flatten() for name, rows in rows_of([line]).items()])
    assert float(drawn.std()) == pytest.approx(line["noise"], rel=0.25)


def test_a_step_that_costs_too_much_is_reverted(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.build(tiny.albef())
    utilities = iter([80.0, 76.0, 70.9, 71.1])  # before; a drop of 4; one of 5.1; one of 4.9 from the 76 of the first
    validated = {"validation_metrics": lambda self, *given: {"utility": next(utilities), "forget_auc": 50.0}}
    task = type("Falling", (TASKS["retrieval"],), validated)()
    data = tiny.data_for(model, task=task)
    method = Lcodec(perturbations=60, neurons=4, hessian_pairs=24, batch_size=8, epsilon=QUIET)
    lines = method(model, data, tiny.engine()).history.lines
    assert [line["reverted"] for line in lines] == [False, True, False]


def test_when_all_is_reverted_nothing_has_moved() -> None:
    model = tiny.build(tiny.albef())
    engine = Engine(precision="fp32")
    utilities = iter([80.0, *[10.0] * 3])
    validated = {"validation_metrics": lambda self, *given: {"utility": next(utilities), "forget_auc": 50.0}}
    data = tiny.data_for(model, task=type("Falling", (TASKS["retrieval"],), validated)())
    with logged() as messages:
        result = Lcodec(perturbations=60, neurons=4, hessian_pairs=24, batch_size=8)(model, data, engine)
    assert all(line["reverted"] for line in result.history.lines)
    assert tiny.changed(tiny.weights(model), tiny.weights(result.model)) == set()
    assert any("0 of 3 steps were taken" in each for each in messages)


def test_killed_and_resumed_is_uninterrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.build(tiny.albef())
    full = run(model, batch_size=8)
    monkeypatch.setattr(checkpoint, "CHECKPOINT_SECONDS", -1.0)
    with pytest.raises(KeyboardInterrupt):
        run(model, Engine(precision="fp32", callbacks=[tiny.KillAfter(2)]), tmp_path, batch_size=8)
    resumed = run(model, Engine(precision="fp32", resume=True), tmp_path, batch_size=8)
    assert tiny.changed(tiny.weights(model), tiny.weights(full.model))
    assert tiny.changed(tiny.weights(full.model), tiny.weights(resumed.model)) == set()
    assert resumed.history.lines == full.history.lines


# -- parts --------------------------------------------------------------------------------------------------------


def model_of(task: str, name: str) -> tuple[Model, PairInputs]:
    data = tiny.dataset_for(task)
    config = tiny.CONFIGS[name].for_dataset(data, labelled=TASKS[task].labelled)
    model = MODELS[name].build(config, data.texts, 0)
    return model, PairInputs.of(data, model)


@pytest.mark.parametrize(("task", "name"), [each for each in tiny.EACH if each[0] != "entailment"])
@torch.no_grad()
def test_activations_are_separate_for_each_pair(task: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six pairs together say what each of them says alone: no layer's rows are mistaken for another pair's."""
    model, inputs = model_of(task, name)
    lengths = np.array([len(ids) for ids in model.tokenize(inputs.dataset.texts)])
    rows = np.flatnonzero(lengths == np.bincount(lengths).argmax())[:6]  # of one length: padding has activations too
    assert len(rows) == 6
    watch = Watch(model, "all")
    monkeypatch.setattr(lcodec, "ROWS", 4)

    def seen(pairs: Any) -> Tensor:
        return watch.columns(model, inputs.batch(inputs.true_pairs(pairs), CPU))[0]

    together = seen(rows)
    assert len(watch.seen) > 3
    assert together.std(0).max() > 0.01
    if name == "graph_text":  # neighbourhoods have no one length
        return
    torch.testing.assert_close(together, torch.cat([seen(rows[i : i + 1]) for i in range(6)]), atol=1e-5, rtol=1e-4)


def test_columns_are_named_by_layer_and_neuron() -> None:
    model, inputs = model_of("retrieval", "albef")
    watch = Watch(model, "fusion")
    with torch.no_grad():
        columns, encoded = watch.columns(model, inputs.batch(inputs.true_pairs(np.arange(3)), CPU))
    assert columns.shape == (3, sum(watch.widths))
    assert watch.neuron(0) == (watch.seen[0], 0)
    assert watch.neuron(watch.widths[0]) == (watch.seen[1], 0)
    assert watch.neuron(columns.shape[1] - 1) == (watch.seen[-1], watch.widths[-1] - 1)
    with torch.no_grad():
        logits = model.head(model.fuse(encoded))
    torch.testing.assert_close(columns[:, -2:], logits)  # the matching head stands last
    assert all(not module._forward_hooks for module in model.modules())


def test_copies_are_compared_with_copies_of_the_same_pair() -> None:
    model, inputs = model_of("retrieval", "albef")
    watch = Watch(model, "all")
    columns, losses = perturbed(model, inputs, np.arange(5), watch, 28, 0.1, (0, 0), CPU)
    assert columns.shape == (30, sum(watch.widths))  # 28 is no multiple of 5
    assert losses.shape == (30,)
    assert float(columns.view(6, 5, -1).mean(0).abs().max()) < 1e-5
    assert float(losses.view(6, 5).mean(0).abs().max()) < 1e-5
    assert float(losses.std()) > 1e-4
    again = perturbed(model, inputs, np.arange(5), Watch(model, "all"), 28, 0.1, (0, 0), CPU)
    assert torch.equal(again[0], columns)
    assert not torch.equal(perturbed(model, inputs, np.arange(5), watch, 28, 0.1, (1, 0), CPU)[1], losses)


def test_perturbed_inputs() -> None:
    model, inputs = model_of("retrieval", "albef")
    batch = inputs.batch(inputs.true_pairs(np.arange(20)), CPU)
    generator = torch.Generator().manual_seed(0)
    pixels = batch.inputs["vision"]
    assert isinstance(pixels, Tensor)
    noise = (perturb(pixels, model, 0.1, generator) - pixels.float()) / 255 / 0.5  # type: ignore[operator]
    assert float(noise.std()) == pytest.approx(0.1, rel=0.02)
    before, after = batch.inputs["text"], perturb(batch.inputs["text"], model, 0.1, generator)
    assert isinstance(before, Tokens)
    assert isinstance(after, Tokens)
    changed = before.ids != after.ids
    assert (changed.sum(1) == 1).all()
    special = torch.tensor(model.tokenizer.all_special_ids)
    for tokens in (before, after):
        assert not torch.isin(tokens.ids[changed], special).any()


def test_perturbed_graph() -> None:
    model, inputs = model_of("graph_text", "graph_text")
    before = inputs.batch(inputs.true_pairs(np.arange(8)), CPU).inputs["graph"]
    after = perturb(before, model, 0.1, torch.Generator().manual_seed(0))
    assert isinstance(before, Subgraphs)
    assert isinstance(after, Subgraphs)
    noise = after.features - before.features
    assert float(noise[before.mask.bool()].std()) == pytest.approx(0.1, rel=0.1)
    assert not noise[~before.mask.bool()].any()
    assert after.adjacency is before.adjacency


def test_neuron_weights_are_rows_and_biases() -> None:
    model = copy.deepcopy(tiny.build(tiny.albef()))
    layer = model.matching_head
    assert isinstance(layer, nn.Linear)
    weights = NeuronWeights(model, [("matching_head", 1), ("text_projection", 2)])
    assert torch.equal(weights.get()[:17], torch.cat([layer.weight[1], layer.bias[1:2]]).detach())
    before = tiny.weights(model)
    weights.set(weights.get() + 1)
    after = tiny.weights(model)
    names = {f"{layer}.{kind}" for layer in ("matching_head", "text_projection") for kind in ("weight", "bias")}
    assert tiny.changed(before, after) == names
    torch.testing.assert_close(
        after["matching_head.weight"] - before["matching_head.weight"], torch.eye(2)[:, 1:].expand(2, 16)
    )


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(ValidationError, match="perturbations must be at least 40, or batch_size at most 15"):
        Lcodec(perturbations=30, batch_size=20)
    model = tiny.build(tiny.albef())
    without = tiny.scenes(train=10, validation=0, test=4, size=tiny.PIXELS)
    data = tiny.data_for(model, resolve(without, count=2))
    with pytest.raises(InputError, match="largest_drop=100"):
        Lcodec()(model, data, tiny.engine())
