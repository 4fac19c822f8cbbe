"""DtD's effect: it descends on D_r, then adds noise to the weights in scope and to nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

import tiny
from multidelete.data.batches import PairInputs
from multidelete.methods import DescentToDelete
from multidelete.models import Model
from multidelete.numerics.noise import descent_sigma
from multidelete.training import checkpoint
from multidelete.training.engine import Engine
from multidelete.utils.errors import InputError

CPU = torch.device("cpu")
QUIET = 1e14  # an epsilon with which there is hardly any noise


def run(model: Model, engine: Engine | None = None, folder: Path | None = None, **settings: Any) -> Any:
    settings = {"steps": 3, "learning_rate": 0.05, "weight_decay": 1e-6, **settings}
    return DescentToDelete(**settings)(model, tiny.data_for(model, folder=folder), engine or tiny.engine())


@torch.no_grad()
def retain_loss(model: Model) -> float:
    dataset = tiny.dataset()
    inputs = PairInputs.of(dataset, model)
    rows = dataset.text_rows(tiny.request_of().retain)
    return float(model.losses(inputs.batch(inputs.true_pairs(rows), CPU)).mean())


def test_it_descends_before_it_adds_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.build(tiny.albef())
    monkeypatch.setattr(DescentToDelete, "sigma", lambda self, count: 0.0)
    result = run(model, steps=4, learning_rate=0.005)
    logged = [line["losses"]["retain"] for line in result.history.lines]
    assert len(logged) == 4
    assert logged == sorted(logged, reverse=True)
    assert logged[-1] < logged[0] - 0.05
    assert retain_loss(result.model) < retain_loss(model) - 0.05


def test_one_step_is_the_gradient_over_all_of_the_retain_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """One chunk of all pairs, where no pair is drawn and the order does not matter: CLIP's loss."""
    model = tiny.build(tiny.dual_encoder())
    monkeypatch.setattr(DescentToDelete, "sigma", lambda self, count: 0.0)
    result = run(model, steps=1, batch_size=1000, weight_decay=0.5)
    dataset = tiny.dataset()
    inputs = PairInputs.of(dataset, model)
    model.requires_grad_(True)
    model.losses(inputs.batch(inputs.true_pairs(dataset.text_rows(tiny.request_of().retain)), CPU)).mean().backward()
    after = dict(result.model.named_parameters())
    for name, parameter in model.named_parameters():
        gradient = 0 if parameter.grad is None else parameter.grad
        expected = (parameter - 0.05 * (gradient + 0.5 * parameter)).detach()
        torch.testing.assert_close(after[name], expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("scope", ["all", "fusion"])
def test_noise_reaches_every_weight_in_scope_and_nothing_else(scope: str) -> None:
    model = tiny.build(tiny.albef())
    model.register_buffer("running", torch.ones(5))
    plain, noisy = (run(model, scope=scope, epsilon=e, steps=1).model for e in (QUIET, 5.0))
    moved = tiny.changed(tiny.weights(plain), tiny.weights(noisy))
    assert moved == set(model.parameters_of(scope))
    assert tiny.changed(tiny.weights(model), tiny.weights(noisy)) == moved


def test_noise_has_the_deviation_of_the_formula() -> None:
    model = tiny.build(tiny.albef())
    plain, noisy = (run(model, weight_decay=0.02, epsilon=e) for e in (QUIET, 5.0))
    before = dict(plain.model.named_parameters())
    drawn = torch.cat([(p - before[name]).flatten() for name, p in noisy.model.named_parameters()])
    n = 3 * len(tiny.request_of().retain)
    sigma = descent_sigma(3, n, 0.02, 3.98, 1.02, 5.0, n**-2)
    assert noisy.history.lines[-1]["noise"] == sigma
    assert float(drawn.std()) == pytest.approx(sigma, rel=0.03)
    assert abs(float(drawn.mean())) < 0.05 * sigma


def test_more_steps_need_less_noise_and_defaults_are_those_of_the_protocol() -> None:
    n = 145_000
    assert DescentToDelete(steps=1).sigma(n) == pytest.approx(0.40, abs=0.005)
    assert DescentToDelete(steps=100).sigma(n) == pytest.approx(0.0024, abs=0.00005)


def test_it_never_reads_the_forget_set() -> None:
    model = tiny.build(tiny.albef())
    data = tiny.data_for(model)
    seen: list[np.ndarray[Any, Any]] = []

    class Watching(PairInputs):
        def batch(self, rows: Any, *given: Any) -> Any:
            seen.append(rows["text"])
            return super().batch(rows, *given)

    spied = tiny.data_for(model)
    object.__setattr__(spied, "inputs", Watching(**vars(data.inputs)))
    DescentToDelete(steps=2)(model, spied, tiny.engine())
    rows = np.concatenate(seen)
    assert sorted(rows) == sorted(np.tile(data.retain_pairs, 2))


def test_killed_and_resumed_is_uninterrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.build(tiny.albef())
    full = run(model)
    monkeypatch.setattr(checkpoint, "CHECKPOINT_SECONDS", -1.0)
    with pytest.raises(KeyboardInterrupt):
        run(model, Engine(precision="fp32", callbacks=[tiny.KillAfter(2)]), tmp_path)
    resumed = run(model, Engine(precision="fp32", resume=True), tmp_path)
    assert tiny.changed(tiny.weights(full.model), tiny.weights(resumed.model)) == set()
    assert resumed.history.lines == full.history.lines
    with pytest.raises(InputError, match="other settings"):
        run(model, Engine(precision="fp32", resume=True), tmp_path, steps=4)
    (tmp_path / checkpoint.CHECKPOINT_FILE).write_bytes(b"nothing of use")
    with pytest.raises(InputError, match="is damaged"):
        run(model, Engine(precision="fp32", resume=True), tmp_path)


def test_a_learning_rate_that_is_too_large_is_reported() -> None:
    with pytest.raises(InputError, match="smaller learning rate"):
        run(tiny.build(tiny.albef()), learning_rate=1e30, steps=4)


def test_a_smoothness_below_the_convexity_is_refused() -> None:
    with pytest.raises(ValidationError, match="smoothness must be larger than weight_decay"):
        DescentToDelete(smoothness=0.01)
