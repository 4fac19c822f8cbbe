"""Callbacks of training loops, experiment trackers, log messages and progress bars."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import tiny
from multidelete import Callback, Engine, InputError
from multidelete.methods import METHODS
from multidelete.training.callbacks import Tracker, flat
from multidelete.training.progress import LOGGER, Bars, ProgressReporter, default_progress


class Recorder(Callback):
    def __init__(self) -> None:
        self.steps: list[Mapping[str, Any]] = []
        self.validations: list[Mapping[str, Any]] = []
        self.ends: list[tuple[str, int]] = []

    def on_step(self, what: str, line: Mapping[str, Any]) -> None:
        self.steps.append(dict(line))

    def on_validation(self, what: str, line: Mapping[str, Any]) -> None:
        self.validations.append(dict(line))

    def on_end(self, what: str, history: Any) -> None:
        self.ends.append((what, len(history.lines)))


def run(*callbacks: Callback, method: str = "multidelete", **settings: Any) -> Any:
    if method == "multidelete":
        settings = {"scope": "fusion", "epochs": 1, "min_steps": 4, "batch_size": 8, "evaluations": 2, **settings}
        settings = {"stop": "lowest", **settings}
    model = tiny.original("albef")
    engine = Engine(precision="fp32", callbacks=callbacks)
    return METHODS[method](**settings)(model, tiny.data_for(model), engine)


def test_callbacks_see_every_line_of_the_history() -> None:
    recorder = Recorder()
    lines = run(recorder).history.lines
    assert recorder.steps == [line for line in lines if "losses" in line]
    seen = [{key: value for key, value in line.items() if key != "selected"} for line in lines if "validation" in line]
    assert recorder.validations == seen
    assert recorder.ends == [("MultiDelete (fusion)", len(lines))]


@pytest.mark.parametrize("method", ["descent_to_delete", "lcodec"])
def test_a_method_with_its_own_loop_calls_them_too(method: str) -> None:
    recorder = Recorder()
    lines = run(recorder, method=method).history.lines
    assert len(recorder.steps) == len(lines) > 0


def test_tensorboard_has_losses_and_validation(tmp_path: Path) -> None:
    tracker = Tracker("tensorboard", tmp_path, {"method": {"alpha": 1.0}})
    lines = run(tracker).history.lines
    tracker.close()
    log = EventAccumulator(str(tmp_path / "multidelete"))
    log.Reload()
    tags = log.Tags()["scalars"]
    assert {
        "MultiDelete (fusion)/loss/md",
        "MultiDelete (fusion)/loss/total",
        "MultiDelete (fusion)/learning_rate",
    } <= {*tags}
    values = [event.value for event in log.Scalars("MultiDelete (fusion)/loss/total")]
    assert values == pytest.approx([line["losses"]["total"] for line in lines if "losses" in line], rel=1e-6)
    assert len(log.Scalars("MultiDelete (fusion)/validation/utility")) == 2


def test_the_command_line_has_a_tracker(terminal: Callable[[str], Any], tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        "forget = {count = 3}\nretrain = false\ntrain = {epochs = 1, batch_size = 16}\n"
        'method = {name = "neggrad", epochs = 1, min_steps = 2, evaluations = 0}\nmembership = {shadow = false}\n'
        'data = {reader = "scenes", train = 20, validation = 4, test = 4, size = 24}\n'
    )
    ended = terminal(f"unlearn {recipe} --out {tmp_path / 'run'} --tracker tensorboard")
    assert ended.code == 0, ended.err
    assert list((tmp_path / "run-tensorboard").rglob("events.out.tfevents.*"))
    assert terminal(f"verify {tmp_path / 'run'}").code == 0


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("tensorbord", "'tensorbord' is not a tracker .* did you mean 'tensorboard'"),
        ("wandb", "the tracker 'wandb' needs a package that is not installed: pip install wandb"),
    ],
)
def test_a_tracker_that_cannot_be_used_is_refused(name: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=sentence):
        Tracker(name, tmp_path, {})


def test_settings_of_a_tracker_are_flat() -> None:
    assert flat({"a": {"b": 1, "c": [1, 2]}, "d": None}) == {"a.b": 1, "a.c": "[1, 2]", "d": "None"}


def test_messages_are_logged_and_shown_only_where_asked(capsys: pytest.CaptureFixture[str]) -> None:
    logging.getLogger("multidelete.store.models").info("not shown")
    with Bars():
        logging.getLogger("multidelete.store.models").info("shown %d", 1)
        with Bars().inside():
            pass
    logging.getLogger("multidelete.store.models").info("not shown either")
    assert capsys.readouterr().err == "shown 1\n"
    assert LOGGER.handlers == []


def test_bars_are_the_default_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(default_progress()) is ProgressReporter
    assert type(Engine().progress) is ProgressReporter
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert isinstance(default_progress(), Bars)
