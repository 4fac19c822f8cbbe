"""Ctrl-C and SIGTERM: a method finishes its step, writes a checkpoint, and ends; it resumes there."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import tiny
from multidelete.methods import DescentToDelete, Lcodec, Method, NegGrad
from multidelete.training.checkpoint import CHECKPOINT_FILE
from multidelete.training.engine import Engine
from multidelete.utils.signals import TERMINATED, deferred_signals, exit_on_terminate

METHODS = (
    DescentToDelete(steps=3, learning_rate=1e-2),
    Lcodec(batch_size=8),
    NegGrad(min_steps=4, epochs=1, evaluations=0),
)
ENDS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: SystemExit}


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    exit_on_terminate()
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
@pytest.mark.parametrize("number", ENDS)
def test_a_signal_waits_for_the_checkpoint_and_the_method_resumes(
    number: signal.Signals, method: Method, tmp_path: Path
) -> None:
    model = tiny.build(tiny.albef())
    full = method(model, tiny.data_for(model), Engine(precision="fp32"))
    data = tiny.data_for(model, folder=tmp_path)
    with pytest.raises(ENDS[number]) as ended:
        method(model, data, Engine(precision="fp32", callbacks=[tiny.SignalAfter(2, number)]))
    assert getattr(ended.value, "code", TERMINATED) == TERMINATED
    assert (tmp_path / CHECKPOINT_FILE).is_file()
    resumed = method(model, data, Engine(precision="fp32", resume=True))
    assert resumed.history.lines == full.history.lines
    assert tiny.changed(tiny.weights(full.model), tiny.weights(resumed.model)) == set()


def test_a_second_signal_does_not_wait() -> None:
    with deferred_signals() as pending:
        signal.raise_signal(signal.SIGTERM)
        assert pending.arrived == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_handler_of_the_caller_that_returns_lets_the_steps_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    handler = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    model = tiny.build(tiny.albef())
    engine = Engine(precision="fp32", callbacks=[tiny.SignalAfter(2, signal.SIGTERM)])
    result = METHODS[0](model, tiny.data_for(model), engine)
    signal.signal(signal.SIGTERM, handler)
    assert seen == [signal.SIGTERM]
    assert len(result.history.lines) == 3
