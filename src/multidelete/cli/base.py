"""Options and values shared by several commands."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from multidelete.utils.errors import InputError

if TYPE_CHECKING:
    from multidelete.recipe import Recipe
    from multidelete.training.engine import Engine


Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Settings that override the recipe, such as `method.scope=all`."),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for results, predictions, model and report.")]
Resume = Annotated[bool, typer.Option("--resume", help="Resume an interrupted run.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of weights, training, deletion set and unlearning.")]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="A table (CSV, JSON, parquet ...), a folder in a known layout, or a data set of the hub; "
        "see `multidelete list readers`.",
    ),
]
Reader = Annotated[str | None, typer.Option("--reader", help="Layout of the data; detected by default.")]
Validation = Annotated[Path | None, typer.Option("--validation", help="Other data: the validation split.")]
Test = Annotated[Path | None, typer.Option("--test", help="Other data: the test split.")]
Unseen = Annotated[
    Path | None,
    typer.Option("--unseen", help="Other data that the model was not trained on: half validation, half test."),
]
SplitColumn = Annotated[str | None, typer.Option("--split-column", help="Column of a table that has the split.")]
Forget = Annotated[
    str | None,
    typer.Option(
        "--forget",
        help="File of names (text, CSV, JSON), or names (an id, file name, path, or NAME#2 for one text), "
        "or a number of examples, or a fraction.",
    ),
]
ForgetGroup = Annotated[
    list[str] | None, typer.Option("--forget-group", help="All pairs with this metadata: person=P17.")
]
ForgetWhere = Annotated[
    str | None, typer.Option("--forget-where", help="""All pairs that fulfil a condition: 'year < 2015'.""")
]
ForgetRows = Annotated[
    Path | None, typer.Option("--forget-rows", help="File of numbers of training pairs, as MU-Bench publishes.")
]
ForgetCount = Annotated[int | None, typer.Option("--forget-count", min=1, help="Sample of this many examples.")]
ForgetFraction = Annotated[float | None, typer.Option("--forget-fraction", help="Sample of this share of examples.")]
ForgetPairs = Annotated[
    int | None, typer.Option("--forget-pairs", min=1, help="Sample of single pairs, each of another example.")
]
Processor = Annotated[
    Path | None,
    typer.Option("--processor", help="Folder or hub id of the image processor and tokenizer, if --model has none."),
]
Seeds = Annotated[str | None, typer.Option(help="Comma-separated; `0,1,2` by default.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Number of parallel cells; one per core by default.")]
Launcher = Annotated[str, typer.Option(help="processes, or submitit for a cluster.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only print the command of each cell.")]
Precision = Annotated[
    str | None,
    typer.Option("--precision", help="auto, fp32 or bf16 (auto: bf16 if the device is fast with it)."),
]


Tracker = Annotated[
    str | None,
    typer.Option("--tracker", help="Log losses and validation to tensorboard, wandb, mlflow, trackio, ..."),
]


@contextlib.contextmanager
def open_engine(
    recipe: Recipe, resume: bool = False, tracker: str | None = None, out: Path | None = None
) -> Iterator[Engine]:
    """Context with an engine that has progress bars, log messages on standard error, and an experiment tracker.

    Args:
        recipe: Recipe, for the precision and the tracker.
        resume: Resume from existing checkpoints.
        tracker: Name of the tracker; none by default.
        out: Folder of the run; trackers that write files use a folder next to it.
    """
    from multidelete.recipe import as_values
    from multidelete.training.callbacks import Tracker
    from multidelete.training.engine import Engine
    from multidelete.training.progress import Bars

    with contextlib.ExitStack() as stack:
        bars = stack.enter_context(Bars())
        callbacks = []
        if tracker is not None:
            assert out is not None
            callbacks.append(Tracker(tracker, out.with_name(f"{out.name}-{tracker}"), as_values(recipe)))
            stack.callback(callbacks[0].close)
        yield Engine(recipe.precision, bars, resume, callbacks=callbacks)


def demo_names() -> list[str]:
    """Tasks of the demo; retrieval first, because others start from its model."""
    from importlib.resources import files

    names = (entry.name for entry in (files("multidelete") / "demos").iterdir())
    result = (name.removesuffix(".toml") for name in names if name.endswith(".toml"))
    return sorted(result, key=lambda name: (name != "retrieval", name))


def demo_recipe(task: str) -> Path:
    """Path of a demo recipe.

    Raises:
        InputError: There is no demo of this task.
    """
    from importlib.resources import files

    names = demo_names()
    if task not in names:
        from multidelete.utils.registry import unknown

        raise InputError(unknown(task, names, "task of the demo"))
    return Path(str(files("multidelete") / "demos" / f"{task}.toml"))


def data_values(data: Path | None, reader: str | None, **further: Path | str | None) -> dict[str, Any]:
    """Recipe table ``data`` for ``--data`` and ``--reader``.

    Args:
        data: Folder, file or hub id.
        reader: Name of the reader; found by default.
        further: Further options of the reader that were given.
    """
    from multidelete.data.readers import located

    given = {name: str(value) for name, value in further.items() if value is not None}
    if data is None:
        return {"reader": reader, **given}
    return {**(located(data) if reader is None else {"reader": reader, "root": str(data)}), **given}


def forget_values(text: str | None, **ways: Any) -> dict[str, Any] | None:
    """Recipe table ``forget`` for ``--forget`` (``ids.txt``, ``300`` or ``0.05``) and its further options.

    Args:
        text: Value of ``--forget``.
        ways: Values of the further options; at most one of these and ``text`` is given.

    Returns:
        The table; None if no option is given.

    Raises:
        InputError: Several ways are given.
    """
    given = {name: value for name, value in ways.items() if value}
    options = [*(["--forget"] if text is not None else []), *(f"--forget-{name}" for name in given)]
    if len(options) > 1 and set(given) != {"rows", "count"}:
        raise InputError(f"{' and '.join(options)} are different requests; give one of them")
    if text is None:
        return given or None
    if Path(text).exists():
        return {"ids": text}
    try:
        return {"count": int(text), "bare": text}
    except ValueError:
        pass
    try:
        return {"fraction": float(text), "bare": text}
    except ValueError:
        return {"ids": text}


def set_values(**values: Any) -> list[str]:
    """Recipe overrides ``key=value`` for the options that are set."""
    return [f"{key}={value}" for key, value in values.items() if value is not None]
