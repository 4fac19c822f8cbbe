"""Training loop: ``fit`` takes optimiser steps on named losses."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from multidelete.models.base import Model
from multidelete.models.inputs import within
from multidelete.training.checkpoint import Checkpoint
from multidelete.training.engine import Engine
from multidelete.utils.errors import InputError
from multidelete.utils.randomness import seeded
from multidelete.utils.signals import deferred_signals

logger = logging.getLogger(__name__)

Losses = Callable[[int], dict[str, Tensor]]


@dataclass(frozen=True)
class FitSettings:
    """Settings of ``fit``.

    Args:
        steps: Number of optimiser steps.
        learning_rate: Peak learning rate after linear warm-up.
        weight_decay: Weight decay of AdamW, for matrices only, not for norms and biases.
        warmup: Fraction of the steps.
        schedule: Schedule after the warm-up: cosine to zero, or constant.
        clip: Maximum gradient norm.
        evaluations: Number of evenly spaced checkpoints to validate; the best is kept. 0 keeps the last step.
        stop_at: Training stops early at a checkpoint whose criterion reaches this value.
        seed: Seed of dropout.
    """

    steps: int
    learning_rate: float
    weight_decay: float = 0.02
    warmup: float = 0.1
    schedule: Literal["cosine", "constant"] = "cosine"
    clip: float = 1.0
    evaluations: int = 0
    stop_at: float = math.inf
    seed: int = 0

    def lr_at(self, step: int) -> float:
        """Learning rate of a step."""
        rising = max(1, round(self.warmup * self.steps))
        if step < rising:
            return self.learning_rate * (step + 1) / rising
        if self.schedule == "constant":
            return self.learning_rate
        done = (step - rising) / max(1, self.steps - rising)
        return self.learning_rate * 0.5 * (1 + float(np.cos(np.pi * done)))

    def validation_steps(self) -> set[int]:
        """Steps after which a checkpoint is validated."""
        return {round((i + 1) * self.steps / self.evaluations) for i in range(self.evaluations)} - {0}


@dataclass
class TrainingHistory:
    """Log of one ``fit``, with a line for each step and each validated checkpoint."""

    lines: list[dict[str, Any]] = field(default_factory=list)
    update_seconds: float = 0.0
    selection_seconds: float = 0.0


def fit(
    engine: Engine,
    model: Model,
    parameters: Mapping[str, Tensor],
    losses: Losses,
    fit_settings: FitSettings,
    *,
    what: str,
    training: bool,
    validate: Callable[[], dict[str, float]] | None = None,
    start: dict[str, float] | None = None,
    folder: Path | None = None,
) -> TrainingHistory:
    """Take optimiser steps on the sum of the named losses, until ``fit_settings.steps`` or ``stop_at``.

    Args:
        engine: Device, precision, progress, callbacks, and whether to resume.
        model: Model on the engine's device, changed in place.
        parameters: Parameters of the optimiser; all others are frozen.
        losses: Function from step to named scalar loss terms, which are summed.
        fit_settings: Steps, learning rates, selection.
        what: Name for progress, callbacks and messages.
        training: Whether to use training mode (dropout, running statistics); unlearning uses eval mode.
        validate: Function that returns validation metrics, with the key ``criterion``, higher is better.
        start: The same of the model as it is, if it may be selected too; no step is taken if it needs none.
        folder: Folder of checkpoints; without it an interrupted run starts again.

    Returns:
        The history; ``model`` has the weights of the last step or the selected checkpoint.

    Raises:
        InputError: The loss is not finite, or a checkpoint belongs to another run.
    """
    _set_mode(model, parameters, training)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in parameters)
    checkpoint = Checkpoint(folder, asdict(fit_settings), resume=engine.resume)
    state = _FitState(model, parameters, fit_settings, checkpoint)
    if state.restore(engine.device):
        logger.info("%s: continues at step %d of %d", what, state.step, fit_settings.steps)
    validation_steps = fit_settings.validation_steps() if validate else set()
    if start is not None and not state.history.lines:
        state.validated(start)
    advance = engine.progress.start(what, fit_settings.steps)
    advance(state.step)
    with deferred_signals() as pending:
        while state.step < fit_settings.steps and state.best_criterion < fit_settings.stop_at:
            _step(engine, model, losses, fit_settings, state, what)
            advance(1)
            for callback in engine.callbacks:
                callback.on_step(what, state.history.lines[-1])
            if validate and state.step in validation_steps:
                _validate(validate, state, last=state.step == fit_settings.steps)
                for callback in engine.callbacks:
                    callback.on_validation(what, state.history.lines[-1])
                _set_mode(model, parameters, training)
            if checkpoint.due or pending.arrived:
                state.save()
            if pending.arrived:
                pending.deliver()
    engine.progress.finish()
    state.take_best()
    for callback in engine.callbacks:
        callback.on_end(what, state.history)
    if not all(bool(tensor.isfinite().all()) for tensor in parameters.values()):
        raise InputError(
            f"{what}: the weights are not finite after step {state.step}; "
            "a smaller learning rate or fewer epochs usually helps"
        )
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
        parameter.grad = None
    return state.history


def _step(engine: Engine, model: Model, losses: Losses, fit_settings: FitSettings, state: _FitState, what: str) -> None:
    engine.synchronise()
    began = time.perf_counter()
    rate = fit_settings.lr_at(state.step)
    for group in state.optimiser.param_groups:
        group["lr"] = rate
    with seeded(fit_settings.seed, "step", state.step), engine.autocast():
        terms = losses(state.step)
    total = torch.stack([term.float() for term in terms.values()]).sum()
    values = {name: float(term.detach()) for name, term in terms.items()}
    if not torch.isfinite(total):
        shown = ", ".join(f"{name} {value:.3g}" for name, value in values.items())
        raise InputError(
            f"{what}: the loss became {float(total.detach())} at step {state.step + 1} ({shown}); "
            "a smaller learning rate or fewer epochs usually helps"
        )
    if not total.requires_grad:
        raise InputError(f"{what}: the loss depends on no parameter of this scope; choose another scope")
    state.optimiser.zero_grad(set_to_none=True)
    total.backward()
    nn.utils.clip_grad_norm_(list(state.parameters.values()), fit_settings.clip)
    state.optimiser.step()
    engine.synchronise()
    state.step += 1
    state.history.update_seconds += time.perf_counter() - began
    values["total"] = float(total.detach())
    state.history.lines.append({"step": state.step, "losses": values, "learning_rate": rate})


def _validate(validate: Callable[[], dict[str, float]], state: _FitState, *, last: bool) -> None:
    began = time.perf_counter()
    state.model.eval()
    scores = validate()
    state.validated(scores, copy=not last)
    state.history.selection_seconds += time.perf_counter() - began


def _set_mode(model: Model, parameters: Mapping[str, Tensor], training: bool) -> None:
    """Set the mode: training only for parts that change, eval for the others."""
    model.train(training)
    modules = dict(model.named_modules())
    for parts in model.parts.values():
        if not any(within(name, parts) for name in parameters):
            for part in parts:
                if isinstance(module := modules.get(part), nn.Module):
                    module.eval()


def _optimiser(parameters: Mapping[str, Tensor], fit_settings: FitSettings) -> torch.optim.AdamW:
    every = parameters.values()
    matrices, others = [p for p in every if p.dim() > 1], [p for p in every if p.dim() <= 1]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": fit_settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    # fused avoids a slow Python loop over many small weights.
    fused = all(parameter.device.type == "cpu" for parameter in parameters.values())
    return torch.optim.AdamW(
        [g for g in groups if g["params"]], lr=fit_settings.learning_rate, betas=(0.9, 0.999), fused=fused or None
    )


class _FitState:
    """State that determines the next steps, so that a resumed run equals an uninterrupted one."""

    def __init__(
        self, model: Model, parameters: Mapping[str, Tensor], fit_settings: FitSettings, checkpoint: Checkpoint
    ) -> None:
        self.model, self.parameters, self.checkpoint = model, dict(parameters), checkpoint
        self.optimiser = _optimiser(parameters, fit_settings)
        self.step = 0
        self.history = TrainingHistory()
        self.best: dict[str, Tensor] = {}
        self.best_criterion = float("-inf")
        self.best_step = 0

    def moving(self) -> dict[str, Tensor]:
        """Trained parameters and buffers (running statistics)."""
        return {**{n: p.detach() for n, p in self.parameters.items()}, **dict(self.model.named_buffers())}

    def validated(self, scores: dict[str, float], *, copy: bool = True) -> None:
        """Log a checkpoint, and remember its weights if it is the best; after the last step the model holds them."""
        if scores["criterion"] > self.best_criterion:
            self.best_criterion, self.best_step = scores["criterion"], self.step
            self.best = {name: tensor.clone() for name, tensor in self.moving().items()} if copy else {}
        self.history.lines.append({"step": self.step, "validation": scores})

    @torch.no_grad()
    def take_best(self) -> None:
        for name, tensor in self.moving().items() if self.best else ():
            tensor.copy_(self.best[name])
        for line in self.history.lines:
            if "validation" in line and line["step"] == self.best_step:
                line["selected"] = True

    def save(self) -> None:
        """Write a checkpoint."""
        tensors = {f"model.{n}": t for n, t in self.moving().items()}
        tensors |= {f"best.{n}": t for n, t in self.best.items()}
        for name, parameter in self.parameters.items():
            for key, value in self.optimiser.state[parameter].items():
                tensors[f"optimiser.{key}.{name}"] = value
        facts = {"step": self.step, "best_criterion": self.best_criterion, "best_step": self.best_step}
        self.checkpoint.write(tensors, {**facts, "history": asdict(self.history)})

    def restore(self, device: torch.device) -> bool:
        """Resume from the checkpoint, if there is one. See :meth:`Checkpoint.read` for errors."""
        stored = self.checkpoint.read({f"model.{n}": t for n, t in self.moving().items()})
        if stored is None:
            return False
        tensors, facts = stored
        self.best = {n.removeprefix("best."): t.to(device) for n, t in tensors.items() if n.startswith("best.")}
        for name, parameter in self.parameters.items():
            keys = [k for k in ("step", "exp_avg", "exp_avg_sq") if f"optimiser.{k}.{name}" in tensors]
            if keys:
                self.optimiser.state[parameter] = {
                    k: tensors[f"optimiser.{k}.{name}"].to("cpu" if k == "step" else device) for k in keys
                }
        self.step, self.best_step = facts["step"], facts["best_step"]
        self.best_criterion = facts["best_criterion"]
        self.history = TrainingHistory(**facts["history"])
        return True
