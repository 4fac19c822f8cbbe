"""Options and values shared by several commands."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
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
DATA: dict[str, Any] = {
    "data": Data,
    "reader": Reader,
    "split_column": SplitColumn,
    "validation": Validation,
    "test": Test,
    "unseen": Unseen,
}
OTHER_DATA = ("validation", "test", "unseen")
REQUEST: dict[str, Any] = {
    "forget": Forget,
    "forget_group": ForgetGroup,
    "forget_where": ForgetWhere,
    "forget_rows": ForgetRows,
    "forget_count": ForgetCount,
    "forget_fraction": ForgetFraction,
    "forget_pairs": ForgetPairs,
}
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


@dataclass(frozen=True)
class Given:
    """Options about the data and the request, as they were given on the command line.

    Args:
        values: Value of each option by the name of its parameter.
    """

    values: Mapping[str, Any]

    @property
    def has_data(self) -> bool:
        """Whether the data are named."""
        return self.values["data"] is not None or self.values["reader"] is not None

    def data(self) -> dict[str, Any]:
        """Recipe table ``data``, for data that are named."""
        data, reader = self.values["data"], self.values["reader"]
        others = {"split": self.values["split_column"], **{name: self.values[name] for name in OTHER_DATA}}
        given = {name: str(value) for name, value in others.items() if value is not None}
        if data is None:
            return {"reader": reader, **given}
        if reader is not None:
            return {"reader": reader, "root": str(data), **given}
        from multidelete.data.readers import located

        return {**located(data), **given}

    def forget(self) -> dict[str, Any] | None:
        """Recipe table ``forget``; None if there is no request.

        Raises:
            InputError: Several requests are given.
        """
        ways = {name.removeprefix("forget_"): value for name, value in self.values.items() if name in REQUEST and value}
        text = ways.pop("forget", None)
        options = [*(["--forget"] if text is not None else []), *(f"--forget-{name}" for name in ways)]
        if len(options) > 1 and set(ways) != {"rows", "count"}:
            raise InputError(f"{' and '.join(options)} are different requests; give one of them")
        if text is not None:
            return forget_values(text)
        return {name: str(value) if isinstance(value, Path) else value for name, value in ways.items()} or None


NOTHING = Given({})  # in the place of options that are attached to a command


def forget_values(text: str) -> dict[str, Any]:
    """Recipe table ``forget`` for ``ids.txt``, ``300`` or ``0.05``."""
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


def options(**shared: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command options that several commands have, in place of its parameter ``given``.

    Args:
        shared: Annotation of each option by its parameter; all have the default None.
    """

    def attach(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        new = [
            inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=each)
            for name, each in shared.items()
        ]
        own = list(signature.parameters.values())
        at = next(index for index, each in enumerate(own) if each.name == "given")

        @functools.wraps(command)
        def called(**values: Any) -> None:
            command(given=Given({name: values.pop(name) for name in shared}), **values)

        parameters = [*own[:at], *new, *own[at + 1 :]]
        vars(called)["__signature__"] = signature.replace(parameters=parameters)
        called.__annotations__ = {each.name: each.annotation for each in parameters} | {"return": None}
        return called

    return attach


def set_values(**values: Any) -> list[str]:
    """Recipe overrides ``key=value`` for the options that are set."""
    return [f"{key}={value}" for key, value in values.items() if value is not None]
