"""The checks: what every method must do, and the properties that a method declares."""

from __future__ import annotations

import copy
import inspect
import re
import signal
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from multidelete.data.batches import Rows, Source
from multidelete.methods.base import Method
from multidelete.models import Model
from multidelete.models.extras import EXTRA, EXTRAS
from multidelete.models.inputs import ModalityInput, within
from multidelete.testing.case import Case, trial_for
from multidelete.training.engine import Engine
from multidelete.training.progress import ProgressReporter


def check_method(method: type[Method], *, task: str | None = None, **settings: Any) -> None:
    """Run every check of a method, and those of its properties.

    Args:
        method: Method class.
        task: Name of the task; by default the first one that provides what the method requires.
        settings: Settings of the method.

    Raises:
        CheckError: A check failed; the message says which and how.
        InputError: There is no such task, or the method refuses the trial.

    >>> from multidelete.methods import NegGrad
    >>> check_method(NegGrad, scope="fusion")
    """
    case = Case(method, trial_for(method, task), settings)
    for check in CHECKS:
        check(case)
    for property_name in method.properties:
        PROPERTIES[property_name](case)


# -- checks of every method -----------------------------------------------------------------------------------------


def check_documented(case: Case) -> None:
    """The docstring describes each setting and cites a paper; name and title exist."""
    method = case.method
    own = inspect.getdoc(method) or ""
    case.expect(bool(getattr(method, "name", "")) and bool(getattr(method, "title", "")), "it has no name or title")
    case.expect(bool(re.search(r"\.\. \[1\].*\b(19|20)\d\d\b", own, re.S)), "its docstring cites no paper as '.. [1]'")
    every = "\n".join(inspect.getdoc(each) or "" for each in method.__mro__ if issubclass(each, Method))
    for name in method.model_fields:
        case.expect(f"{name}: " in every, f"no docstring says what its setting '{name}' is")
    unknown = [property_name for property_name in method.properties if property_name not in PROPERTIES]
    case.expect(not unknown, f"it has unknown properties {unknown} (there are {', '.join(PROPERTIES)})")


def check_settings(case: Case) -> None:
    """The method can be created, is immutable, and refuses unknown settings."""
    result = case.make()
    try:
        case.make(larning_rate=1.0)
    except ValidationError as error:
        case.expect("larning_rate" in str(error), "the refusal of an unknown setting does not name it")
    else:
        case.expect(False, "it accepts an unknown setting")
    try:
        setattr(result, "scope", "text")  # noqa: B010 - a type checker knows that it cannot be done
    except ValidationError:
        return
    case.expect(False, "its settings can be changed")


def check_original(case: Case) -> None:
    """The original (weights, requires_grad, modes) and torch's global state are unchanged."""
    original = copy.deepcopy(case.trial.original).requires_grad_(True).train()
    before, modes = _weights(original), [module.training for module in original.modules()]
    state, grads = torch.get_rng_state(), torch.is_grad_enabled()
    result = case.run(original=original)
    case.expect(not _changed(before, _weights(original)), "it changed the original's weights")
    case.expect(all(each.requires_grad for each in original.parameters()), "it changed requires_grad")
    case.expect(all(each.grad is None for each in original.parameters()), "it left gradients in the original")
    case.expect([module.training for module in original.modules()] == modes, "it left the original in another mode")
    case.expect(torch.is_grad_enabled() is grads, "it changed torch.is_grad_enabled()")
    case.expect(torch.equal(torch.get_rng_state(), state), "it used torch's global random generator")
    own = {each.data_ptr() for each in result.model.parameters()}
    shared = own & {each.data_ptr() for each in original.parameters()}
    case.expect(not shared, "its model shares memory with the original")


def check_scope(case: Case) -> None:
    """Parameters in scope changed, no others did, all are finite, and the model is in eval mode."""
    original, result = case.trial.original, case.plain
    moved = _changed(_weights(original), _weights(result))
    allowed = set(original.parameters_of(case.make().scope))
    if case.method.requires & EXTRAS.keys():  # an extra module holds buffers, which are in no scope
        allowed |= {name for name, _ in original.named_buffers() if within(name, (EXTRA,))}
    case.expect(bool(moved), "it changed nothing")
    outside = sorted(moved - allowed)
    case.expect(not outside, f"it changed '{outside[0] if outside else ''}', which is not in its scope")
    finite = all(bool(tensor.isfinite().all()) for tensor in _weights(result).values())
    case.expect(finite, "some of its weights are not finite")
    case.expect(not any(module.training for module in result.modules()), "its model is in training mode")


def check_outcome(case: Case) -> None:
    """The history is finite, and the inputs for evaluation give what the model gives for raw inputs."""
    result = case.result
    lines = result.history.lines
    case.expect(bool(lines) or case.method.stored, "its history is empty")
    values = [value for line in lines for value in line.get("losses", {}).values()]
    case.expect(bool(np.isfinite(values).all()), "its history has losses that are not finite")
    pairs = result.inputs.true_pairs(case.trial.request.dataset.text_rows(case.trial.request.retain[:3]))
    cpu = torch.device("cpu")
    with torch.no_grad():
        prepared = result.model.fused(result.inputs.batch(pairs, cpu))
        raw = result.model.fused(case.make().reads(case.trial.inputs, result.model).batch(pairs, cpu))
    case.expect(torch.allclose(prepared, raw, atol=1e-4, rtol=1e-4), "its inputs for evaluation do not fit its model")


def check_seed(case: Case) -> None:
    """The result depends on the seed, but not on global random states."""
    first = _weights(case.plain)
    with torch.random.fork_rng():
        torch.rand(7)
        np.random.rand(7)  # noqa: NPY002 - the global generator must not matter
        again = _weights(case.run().model)
    case.expect(not _changed(first, again), "the same seed gave other weights")
    other = _changed(first, _weights(case.run(seed=1).model))
    case.expect(bool(other) is case.method.seeded, "another seed gave the same weights" if not other else _SEEDLESS)


_SEEDLESS = "another seed gave other weights, although seeded = False"


def check_resumed(case: Case) -> None:
    """Interrupted half-way and resumed, the method gives the same result."""
    work = _Work()
    uninterrupted = _weights(case.run(engine=Engine("fp32", work)).model)
    half = work.last()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            case.run(folder=folder, engine=Engine("fp32", _Work(half)))
        except KeyboardInterrupt:
            pass
        else:
            case.expect(half is None, "it continued after Ctrl-C")
        resumed = _weights(case.run(folder=folder, engine=Engine("fp32", resume=True)).model)
    case.expect(not _changed(uninterrupted, resumed), "interrupted and resumed, it ended with other weights")


def check_folder(case: Case) -> None:
    """The saved and loaded model gives the same outputs."""
    result = case.plain
    inputs = case.trial.inputs
    rows = inputs.true_pairs(case.trial.request.dataset.text_rows(case.trial.request.test[:3]))
    with tempfile.TemporaryDirectory() as name:
        result.save_pretrained(Path(name) / "model")
        read = Model.from_pretrained(Path(name) / "model")
    batch = inputs.batch(rows, torch.device("cpu"))
    with torch.no_grad():
        same = torch.equal(read.head(read.fused(batch)), result.head(result.fused(batch)))
    case.expect(same, "its model gives other outputs after saving and loading")


def check_test_split(case: Case) -> None:
    """The method never reads the test split."""
    case.expect(_ignores(case, case.trial.request.test), "it reads the test split")


CHECKS: tuple[Callable[[Case], None], ...] = (
    check_documented,
    check_settings,
    check_original,
    check_scope,
    check_seed,
    check_resumed,
    check_folder,
    check_outcome,
    check_test_split,
)


# -- checks of properties -----------------------------------------------------------------------------------------


def _never_reads_forget(case: Case) -> None:
    """No update reads D_f. (Checkpoint selection may, because it measures forgetting.)"""
    case.expect(_ignores(case, case.trial.request.forget), "it reads D_f, despite its property")


def _never_reads_retain(case: Case) -> None:
    """No update reads D_r."""
    case.expect(_ignores(case, case.trial.request.retain), "it reads D_r, despite its property")


def _raises_forget_loss(case: Case) -> None:
    """The task's loss on D_f rises."""
    before, after = _losses(case, case.trial.request.forget)
    case.expect(after > before, f"the loss on D_f went from {before:.4f} to {after:.4f}; it should rise")


def _lowers_retain_loss(case: Case) -> None:
    """The task's loss on D_r falls."""
    before, after = _losses(case, case.trial.request.retain)
    case.expect(after < before, f"the loss on D_r went from {before:.4f} to {after:.4f}; it should fall")


PROPERTIES: dict[str, Callable[[Case], None]] = {
    "never_reads_forget": _never_reads_forget,
    "never_reads_retain": _never_reads_retain,
    "raises_forget_loss": _raises_forget_loss,
    "lowers_retain_loss": _lowers_retain_loss,
}


# -- helpers --------------------------------------------------------------------------------------------------------


def _weights(model: Model) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _changed(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> set[str]:
    """Names of tensors that are not bitwise equal."""
    return {name for name in before if not torch.equal(before[name], after[name])}


def _losses(case: Case, examples: Rows) -> tuple[float, float]:
    result = case.run(_last_checkpoint(case, min_steps=12, learning_rate=1e-3))
    return case.loss(case.trial.original, examples), case.loss(result.model, examples)


def _last_checkpoint(case: Case, **more: Any) -> Method:
    """The method without checkpoint selection, which would read D_f and validation."""
    known = {name: value for name, value in more.items() if name in case.method.model_fields}
    try:
        return case.make(**known, **({"evaluations": 0} if "evaluations" in case.method.model_fields else {}))
    except ValidationError:  # the method requires evaluations
        return case.make(**known)


def _ignores(case: Case, examples: Rows) -> bool:
    """Whether the result is the same if these examples are replaced by others."""
    trial = case.trial
    dataset = trial.request.dataset
    other = np.setdiff1d(np.arange(len(dataset.examples)), examples)
    rows = np.arange(len(dataset.examples))
    rows[examples] = np.resize(other, len(examples))
    texts = np.arange(len(dataset.texts))
    of_examples = dataset.text_rows(examples)
    texts[of_examples] = np.resize(dataset.text_rows(other), len(of_examples))
    first = trial.inputs.modalities[0]
    spoilt = replace(  # a separate hash of the data, so that no cached encodings are used
        trial.inputs.with_sources(
            {
                first: Elsewhere(trial.inputs.sources[first], rows),
                "text": Elsewhere(trial.inputs.sources["text"], texts),
            }
        ),
        blanked="spoilt",
    )
    method = _last_checkpoint(case)
    return not _changed(_weights(case.run(method).model), _weights(case.run(method, inputs=spoilt).model))


@dataclass(frozen=True)
class Elsewhere:
    """Source that returns other rows than requested.

    Args:
        inner: Source of the rows.
        rows: Replacement of each row, ``(N,)``.
    """

    inner: Source
    rows: Rows

    def take(self, rows: Rows) -> ModalityInput:
        """Inputs of the replacements of these rows."""
        return self.inner.take(self.rows[rows])


class _Work(ProgressReporter):
    """Records the progress of a run; raises Ctrl-C at a given step of a given task."""

    def __init__(self, kill: tuple[str, int] | None = None) -> None:
        self._done: dict[str, int] = {}
        self._kill = kill

    def start(self, what: str, total: int) -> Callable[[int], None]:
        """See :meth:`ProgressReporter.start`."""

        def advance(done: int) -> None:
            before = self._done.pop(what, 0)
            self._done[what] = before + done
            if self._kill and self._kill[0] == what and before < self._kill[1] <= before + done:
                signal.raise_signal(signal.SIGINT)

        return advance

    def last(self) -> tuple[str, int] | None:
        """Middle of the last task with progress; for methods with steps, of the steps."""
        return next(((what, max(1, done // 2)) for what, done in reversed(self._done.items()) if done), None)
