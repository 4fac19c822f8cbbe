"""The command line. Nothing slow is imported before a command needs it: ``--help`` answers at once."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from multidelete.utils.errors import InputError

if TYPE_CHECKING:
    from multidelete.bench.grid import Study
    from multidelete.recipe import Recipe
    from multidelete.training.engine import Engine

app = typer.Typer(
    name="multidelete",
    help="Make a trained multimodal model forget chosen pairs, keep everything else, and prove it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)

# What Ctrl-C leaves to do, where a command keeps what it did.
CONTINUES = {
    "bench": "; what was done is kept: the same command continues",
    "study": "; what was done is kept: the same command continues",
    "demo": "; what was done is kept: the same command with --resume continues",
    "unlearn": "; what was done is kept: the same command with --resume continues",
    "train": "; what was done is kept: the same command continues",
}

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Settings over the recipe's, as `method.scope=all`."),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for results, predictions, model and report.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue a run that was stopped, where it stopped.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of weights, training, deletion set, unlearning.")]
Data = Annotated[
    Path | None,
    typer.Option("--data", help="Folder with the data: a dataset (manifest.jsonl) or a Karpathy split file."),
]
Seeds = Annotated[str | None, typer.Option(help="As `0,1,2`, the default.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Cells at a time; one a core by default.")]
Launcher = Annotated[str, typer.Option(help="processes, or submitit for a cluster.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the command of each cell, run nothing.")]
Precision = Annotated[
    str | None,
    typer.Option("--precision", help="auto, fp32 or bf16 (auto: bf16 where the device is fast at it)."),
]


def _print_version(asked: bool) -> None:
    from importlib.metadata import version

    if asked:
        typer.echo(f"multidelete {version('multidelete')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command(
    epilog="Examples:\n\n`multidelete demo`\n\n`multidelete demo --seed 1 --out runs/demo-1`\n\n"
    "`multidelete demo --task entailment method.alpha=0.5`\n\n`multidelete demo --all-tasks --out runs/tasks`"
)
def demo(
    overrides: Overrides = None,
    task: Annotated[str, typer.Option(help="retrieval, entailment, reasoning or graph_text.")] = "retrieval",
    all_tasks: Annotated[
        bool, typer.Option("--all-tasks", help="Every task, one after the other, each in its folder below --out.")
    ] = False,
    seed: Seed = None,
    out: Out = Path("runs/demo"),
    resume: Resume = False,
    precision: Precision = None,
) -> None:
    """Train a small model on generated data, delete a part of it, and write a report: the idea at work in minutes."""
    from multidelete.recipe import load

    given = {key: value for key, value in (("seed", seed), ("precision", precision)) if value is not None}
    places = {name: out / name for name in _demo_names()} if all_tasks else {task: out}
    recipes = {name: load(_demo_recipe(name), overrides or [], given) for name in places}
    for name, place in places.items():
        if not resume:
            _make_room(recipes[name], place)
        _run(recipes[name], place, resume)


@app.command(
    epilog="Examples:\n\n`multidelete train recipes/flickr8k-albef-multidelete.toml --out models/flickr8k`\n\n"
    "`multidelete train recipes/flickr8k-albef-multidelete.toml train.epochs=2 --out models/quick`"
)
def train(
    recipe: Annotated[Path, typer.Argument(help="A recipe (TOML).")],
    overrides: Overrides = None,
    out: Out = Path("runs/original"),
    seed: Seed = None,
    precision: Precision = None,
) -> None:
    """Train the original model of a recipe and write it to a folder."""
    from multidelete.recipe import load
    from multidelete.runs.record import check_writable
    from multidelete.store.models import get_or_train_original, save_model

    loaded = load(recipe, [*(overrides or []), *_given(seed=seed, precision=precision)])
    if loaded.original is not None:
        raise InputError(f"{recipe} brings a trained model ('original'); there is nothing to train")
    check_writable(out)
    if out.exists() and any(out.iterdir()):
        raise InputError(f"--out '{out}' is not empty; choose a new folder for the model")
    with _engine(loaded, resume=True) as engine:
        trained = get_or_train_original(loaded, loaded.dataset(), engine)
    save_model(trained.model, out, trained.training)
    typer.echo(f"model written to {out}")


@app.command(
    epilog="Examples:\n\n`multidelete unlearn recipes/flickr8k-albef-multidelete.toml --out runs/flickr8k`\n\n"
    "`multidelete unlearn --model models/mine --data photos --forget ids.txt --method multidelete --scope fusion`\n\n"
    "`multidelete unlearn recipes/flickr8k-albef-multidelete.toml forget.fraction=0.05 method.scope=all`"
)
def unlearn(
    recipe: Annotated[
        str | None,
        typer.Argument(metavar="RECIPE", help="A recipe (TOML); or give --model, --data, --forget."),
    ] = None,
    overrides: Overrides = None,
    model: Annotated[Path | None, typer.Option("--model", help="Folder of the trained model.")] = None,
    data: Data = None,
    reader: Annotated[str | None, typer.Option("--reader", help="Layout of the data; found by itself.")] = None,
    forget: Annotated[
        str | None,
        typer.Option("--forget", help="Text file with one id in a line; or a number of examples; or a share."),
    ] = None,
    method: Annotated[str | None, typer.Option("--method", help="See `multidelete list methods`.")] = None,
    scope: Annotated[str | None, typer.Option("--scope", help="all, fusion, vision or text.")] = None,
    retrain: Annotated[
        bool | None,
        typer.Option("--retrain/--no-retrain", help="Make Retrain, the reference of every comparison (slow)."),
    ] = None,
    seed: Seed = None,
    precision: Precision = None,
    out: Out = Path("runs/unlearn"),
    resume: Resume = False,
) -> None:
    """Make a model forget examples of its training data, and measure what was forgotten and kept."""
    from multidelete.recipe import load, merged

    words = list(overrides or [])
    path = None
    if recipe is not None and "=" in recipe and not Path(recipe).exists():
        words.insert(0, recipe)
    elif recipe is not None:
        path = Path(recipe)
    given: dict[str, Any] = {}
    if path is None:
        missing = [
            name for name, value in (("--model", model), ("--data", data), ("--forget", forget)) if value is None
        ]
        if missing and not (reader and missing == ["--data"]):
            raise InputError(f"without a recipe, {', '.join(missing)} must be given (see 'multidelete unlearn --help')")
    if model is not None:
        given["original"] = str(model)
    if data is not None or reader is not None:
        given["data"] = _data_values(data, reader)
    if forget is not None:
        given["forget"] = _forget_values(forget)
    if method is not None:
        given["method"] = {"name": method}
    if scope is not None:
        given = merged(given, {"method": {"scope": scope}})
    given |= {k: v for k, v in (("seed", seed), ("retrain", retrain), ("precision", precision)) if v is not None}
    if path is None:
        given = merged({"method": {"name": "multidelete"}}, given)
    loaded = load(path, words, options=given)
    _run(loaded, out, resume)


@app.command(
    epilog="Examples:\n\n`multidelete bench retrieval --seeds 0,1,2 --out runs/bench-scenes`\n\n"
    "`multidelete bench recipes/flickr8k-albef-multidelete.toml --dry-run`\n\n"
    "`multidelete bench recipes/flickr8k-albef-multidelete.toml --methods multidelete,neggrad --counts 100,300`\n\n"
    "`multidelete bench recipes/flickr8k-albef-multidelete.toml --launcher submitit bench.cluster.gpus_per_node=1`"
)
def bench(
    recipe: Annotated[
        str,
        typer.Argument(
            help="A recipe (TOML) or a task of the demo; the recipe's table `bench` may say what these options say."
        ),
    ] = "retrieval",
    overrides: Overrides = None,
    methods: Annotated[str | None, typer.Option(help="Names, as `multidelete,neggrad`; all by default.")] = None,
    scopes: Annotated[str | None, typer.Option(help="As `all,fusion`, the default where a method has both.")] = None,
    seeds: Seeds = None,
    counts: Annotated[str | None, typer.Option(help="Sizes of the deletion, as `100,200`.")] = None,
    fractions: Annotated[str | None, typer.Option(help="Sizes of the deletion, as `0.05,0.1`.")] = None,
    workers: Workers = None,
    launcher: Launcher = "processes",
    dry_run: DryRun = False,
    out: Out = Path("runs/bench"),
) -> None:
    """Run every method, scope, size and seed on a recipe's task, each cell a run of its own; write one table."""
    lists = {"methods": methods, "scopes": scopes, "seeds": seeds, "counts": counts, "fractions": fractions}
    if _run_cells(recipe, overrides, lists, out, workers, launcher, dry_run):
        raise typer.Exit(1)


@app.command(
    epilog="Examples:\n\n`multidelete study ablation retrieval --out runs/ablation`\n\n"
    "`multidelete study sizes recipes/pgr-graph-text-multidelete.toml --seeds 0,1 --fractions 0.02,0.1`\n\n"
    "`multidelete study stop recipes/nlvr-albef-multidelete.toml method.tolerance=3 --dry-run`"
)
def study(
    name: Annotated[str, typer.Argument(help="ablation, scopes, sizes, sensitivity, sequential or stop.")],
    recipe: Annotated[
        str, typer.Argument(help="A recipe (TOML) or a task of the demo, whose method is what is studied.")
    ] = "retrieval",
    overrides: Overrides = None,
    seeds: Seeds = None,
    counts: Annotated[str | None, typer.Option(help="Sizes of the deletion, of the study `sizes`.")] = None,
    fractions: Annotated[str | None, typer.Option(help="The same as shares; 0.01 to 0.15 by default.")] = None,
    workers: Workers = None,
    launcher: Launcher = "processes",
    dry_run: DryRun = False,
    out: Out = Path("runs/study"),
) -> None:
    """Vary one thing of a recipe's method, each cell a run of its own; write a page with one figure and what was found.

    **ablation**: each term of the loss left out. **scopes**: all parameters against the fusion only, along training.
    **sizes**: quality and time from 1 to 15 % deleted. **sensitivity**: each weight from a quarter to four times its
    own. **sequential**: five requests one after another against all at once. **stop**: as low as possible against
    until deleted pairs look unseen.
    """
    from multidelete.bench.studies import STUDIES
    from multidelete.utils.registry import choose

    chosen = choose(STUDIES, name, "study")
    if (counts or fractions) and chosen.fractions is None:
        raise InputError(f"--counts and --fractions are for the study 'sizes'; '{name}' takes the recipe's request")
    lists = {"seeds": seeds, "counts": counts, "fractions": fractions}
    if _run_cells(recipe, overrides, lists, out, workers, launcher, dry_run, chosen):
        raise typer.Exit(1)


@app.command(
    epilog="Examples:\n\n`multidelete evaluate models/mine --data photos`\n\n"
    "`multidelete evaluate runs/unlearn/model --data photos --forget ids.txt`"
)
def evaluate(
    model: Annotated[Path, typer.Argument(help="Folder of a model.")],
    data: Data = None,
    reader: Annotated[str | None, typer.Option("--reader", help="Layout of the data; found by itself.")] = None,
    forget: Annotated[str | None, typer.Option("--forget", help="Ids file, number or share: adds D_f metrics.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Task settings, as rerank=32.")] = None,
    precision: Precision = None,
    seed: Seed = None,
) -> None:
    """Print the metrics of one model; its folder is only read."""
    from multidelete.data.batches import PairInputs
    from multidelete.data.readers import read
    from multidelete.data.requests import resolve
    from multidelete.models.base import Model
    from multidelete.pipeline import check_splits
    from multidelete.recipe import load

    if data is None and reader is None:
        raise InputError("evaluate needs --data (a folder) or --reader scenes")
    settings: dict[str, Any] = {
        "data": _data_values(data, reader),
        "forget": _forget_values(forget or "1"),
        "original": str(model),
    }
    settings |= {k: v for k, v in (("seed", seed), ("precision", precision)) if v is not None}
    settings["task"] = {"name": load(None, options=settings).task.name}
    recipe = load(None, [f"task.{each}" for each in overrides or []], settings)
    loaded = Model.from_pretrained(model)
    dataset = read(**settings["data"])
    recipe.task.check(dataset, type(loaded))
    request = resolve(dataset, **recipe.forget.model_dump(exclude={"seed"}), seed=recipe.seed)
    check_splits(request)
    with _engine(recipe) as engine:
        loaded.to(engine.device)
        task = recipe.task.model_copy(update={"probed": 0})  # probes need an original to be held against
        metrics = task.metrics(task.predict(loaded, PairInputs.of(dataset, loaded), request, engine))
    _print_metrics(metrics, with_forget=forget is not None)


@app.command(
    epilog="Examples:\n\n`multidelete report runs/demo`\n\n"
    "`multidelete report runs/demo-0 runs/demo-1 runs/demo-2 --out runs/seeds`\n\n"
    "`multidelete report runs/bench-flickr8k runs/bench-pgr --out runs/tables`\n\n"
    "`multidelete report runs/bench-flickr8k --public --out docs/flickr8k`"
)
def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Folders of runs, or of benches; runs that differ by seed are averaged.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder or .html file; the first run's by default.")
    ] = None,
    format: Annotated[str, typer.Option(help="Table on the terminal: text, markdown or csv.")] = "text",
    public: Annotated[
        bool, typer.Option("--public", help="Markdown, figures and CSV, without pictures and texts of the data.")
    ] = False,
) -> None:
    """Write the page of one or several runs, or the joint table of several benches, and print their table."""
    from multidelete.report.deletion import write_deletion
    from multidelete.report.page import write_report
    from multidelete.report.tables import Run, to_csv, to_markdown, to_text
    from multidelete.runs.bench_folder import is_bench, study_of
    from multidelete.runs.groups import summary
    from multidelete.runs.record import check_writable

    printers: dict[str, Callable[..., str]] = {"text": to_text, "markdown": to_markdown, "csv": to_csv}
    if format not in printers:
        raise InputError(f"--format must be {', '.join(printers)}, not '{format}'")
    if out is not None:
        check_writable(out.parent if out.suffix == ".html" else out)
    if out is not None and out.suffix == ".html" and out.is_dir():
        raise InputError(f"--out '{out}' is a folder; expected an .html file, or a folder of another name")
    if public and (out is None or out.suffix == ".html"):
        raise InputError("--public writes a folder of its own: say which with --out")
    studies = [folder for folder in runs if study_of(folder)]
    if studies and len(runs) > 1:
        raise InputError(f"{studies[0]} is a study, which is shown by itself; give one study, or runs and benches")
    if public:
        assert out is not None
        _publish(runs, out)
        return
    if studies:
        _show_study(runs[0], out or runs[0])
        return
    if is_bench(runs[0]):
        if out is None and len(runs) > 1:
            raise InputError("several benches are joined in a table of their own: say where with --out")
        _show_bench(runs, out or runs[0], printers.get(format) if format != "text" else None)
        return
    loaded = Run.load_all(runs)
    page = write_report(loaded, out or runs[0])
    record = write_deletion(runs[0]) if out is None and len(runs) == 1 else None
    typer.echo(printers[format](summary(loaded)))
    typer.echo(f"report: {page}" + (f"\nrecord: {record}" if record else ""), err=True)


@app.command(
    epilog="Examples:\n\n`multidelete verify runs/request`\n\n"
    "`multidelete verify runs/request --digest 5d41402abc4b2a76b9719d911017c592e1b2c3d4f5a697887766554433221100`\n\n"
    "`multidelete verify runs/bench-flickr8k`"
)
def verify(
    run: Annotated[Path, typer.Argument(help="Folder of a run, or of a bench: each of its cells.")],
    digest: Annotated[
        str | None, typer.Option(help="The line that the run printed: tells a record that was made anew as a whole.")
    ] = None,
) -> None:
    """Say whether a record is what was run: compute its hashes and metrics again from what the run stored."""
    from multidelete.judgement.verify import verify
    from multidelete.report.deletion import PAGE_CHECKS

    marks = {True: ("✓", "green"), False: ("✗", "red"), None: ("?", "yellow")}
    result = []
    for check in verify(run, digest, PAGE_CHECKS):
        mark, colour = marks[check.holds]
        typer.echo(f"{typer.style(mark, fg=colour)} {check.what}: {check.words}")
        result.append(check.holds)
    failed, open_ = result.count(False), result.count(None)
    typer.echo(f"{result.count(True)} hold, {failed} fail, {open_} could not be checked")
    if failed:
        typer.secho("this is not the record of what was run", fg="red")
        raise typer.Exit(1)


@app.command(name="list", epilog="Examples:\n\n`multidelete list`\n\n`multidelete list methods`")
def list_(
    what: Annotated[str | None, typer.Argument(help="methods, models, tasks or readers; all by default.")] = None,
) -> None:
    """Say what there is: methods, models, tasks, readers, each with its settings."""
    import inspect

    from multidelete.data.readers import READERS
    from multidelete.methods import METHODS
    from multidelete.models import MODELS
    from multidelete.tasks import TASKS
    from multidelete.utils.registry import choose

    tables: dict[str, dict[str, Any]] = {
        "methods": METHODS,
        "models": MODELS,
        "tasks": TASKS,
        "readers": READERS,
    }
    chosen = tables if what is None else {what: choose(tables, what, "list")}
    for title, table in chosen.items():
        typer.secho(title, bold=True)
        width = max(12, *map(len, table)) + 2
        for name, entry in table.items():
            fields = getattr(getattr(entry, "config_class", entry), "model_fields", None)
            settings = list(fields) if fields is not None else list(inspect.signature(entry).parameters)
            summary = (inspect.getdoc(entry) or "").splitlines()[0].split(" [1]_")[0].rstrip(".")
            typer.echo(f"  {name:<{width}}{summary}")
            typer.secho(f"  {'':<{width}}{', '.join(settings)}", dim=True)


@app.command(
    epilog="Examples:\n\n`multidelete check recipes/flickr8k-albef-multidelete.toml`\n\n"
    "`multidelete check --data photos --forget ids.txt`"
)
def check(
    recipe: Annotated[str | None, typer.Argument(metavar="RECIPE", help="A recipe (TOML).")] = None,
    overrides: Overrides = None,
    data: Data = None,
    reader: Annotated[str | None, typer.Option("--reader", help="Layout of the data; found by itself.")] = None,
    forget: Annotated[str | None, typer.Option("--forget", help="Ids file, number or share.")] = None,
) -> None:
    """Check a recipe, its data and its deletion request without running anything."""
    from multidelete.data.readers import read
    from multidelete.data.requests import Request, resolve
    from multidelete.pipeline import check_splits
    from multidelete.recipe import load

    request: Request | None
    if recipe is not None:
        given: dict[str, Any] = {}
        if data is not None or reader is not None:
            given["data"] = _data_values(data, reader)
        if forget is not None:
            given["forget"] = _forget_values(forget)
        loaded = load(Path(recipe), overrides or [], options=given)
        dataset = loaded.dataset()
        request = loaded.request(dataset)
        check_splits(request, loaded.methods())
        typer.echo(f"{recipe}: {loaded.task.name}, {', '.join(m.name for m in loaded.methods())}")
    elif data is not None or reader is not None:
        dataset = read(**_data_values(data, reader))
        request = resolve(dataset, **_forget_values(forget)) if forget is not None else None
    else:
        raise InputError("check needs a recipe, or --data")
    typer.echo(repr(dataset))
    if request is not None:
        typer.echo(f"forget {len(request.forget):,} examples, retain {len(request.retain):,}")


def main() -> None:
    """Run the command line; what the user can mend is one sentence, without a traceback."""
    try:
        app(prog_name="multidelete")
    except InputError as error:
        for line in str(error).splitlines():
            typer.secho(f"error: {line}", fg="red", err=True)
        sys.exit(2)
    except SystemExit as end:
        if end.code == 130:  # what typer makes of Ctrl-C
            typer.secho(f"stopped{CONTINUES.get(sys.argv[1], '')}", fg="yellow", err=True)
        raise


def _run(recipe: Recipe, out: Path, resume: bool) -> None:
    from rich.console import Console

    from multidelete.pipeline import run
    from multidelete.report.deletion import DELETION_PAGE, write_deletion
    from multidelete.report.page import write_report
    from multidelete.report.tables import Run, rows_table
    from multidelete.runs.record import check_out
    from multidelete.runs.seal import digest_of

    check_out(out, resume=resume)  # before torch, models and data are waited for
    with _engine(recipe, resume=resume) as engine:
        run(recipe, out, engine, resume=resume)
    write_report([Run.load(out)], out)
    write_deletion(out)
    Console().print(rows_table(Run.load(out)))
    typer.echo(f"results: {out / 'results.json'}\nreport:  {out / 'report.html'}")
    if (out / DELETION_PAGE).is_file():
        typer.echo(f"record:  {out / DELETION_PAGE}")
    typer.echo(f"digest:  {digest_of(out)}  (write it down: multidelete verify {shlex.quote(str(out))} --digest ...)")


@contextlib.contextmanager
def _engine(recipe: Recipe, resume: bool = False) -> Iterator[Engine]:
    from multidelete.training.engine import Engine
    from multidelete.training.progress import Bars

    bars = Bars()
    try:
        yield Engine(recipe.precision, bars, resume)
    finally:
        bars.close()


def _demo_names() -> list[str]:
    """Tasks of the demo, retrieval first: others start from its model."""
    from importlib.resources import files

    names = (entry.name for entry in (files("multidelete") / "demos").iterdir())
    result = (name.removesuffix(".toml") for name in names if name.endswith(".toml"))
    return sorted(result, key=lambda name: (name != "retrieval", name))


def _demo_recipe(task: str) -> Path:
    from importlib.resources import files

    names = _demo_names()
    if task not in names:
        from multidelete.utils.registry import unknown

        raise InputError(unknown(task, names, "task of the demo"))
    return Path(str(files("multidelete") / "demos" / f"{task}.toml"))


def _make_room(recipe: Recipe, out: Path) -> None:
    """Remove the finished demo in ``out``, which is asked for again and again; any other folder is left alone."""
    import shutil

    from multidelete.pipeline import check_splits
    from multidelete.runs.record import finished_command

    if (finished_command(out) or "").split()[1:2] != ["demo"]:
        return
    # A demo that cannot run must not cost the last one.
    check_splits(recipe.request(recipe.dataset()), recipe.methods())
    typer.echo(f"replacing the finished demo in {out}")
    shutil.rmtree(out)


def _data_values(data: Path | None, reader: str | None) -> dict[str, Any]:
    from multidelete.data.readers import detect

    if data is None:
        return {"reader": reader}
    return {"reader": reader or detect(data), "root": str(data)}


def _forget_values(text: str) -> dict[str, Any]:
    """``ids.txt``, ``300`` or ``0.05``."""
    if Path(text).exists():
        return {"ids": text}
    try:
        return {"count": int(text)}
    except ValueError:
        pass
    try:
        return {"fraction": float(text)}
    except ValueError:
        return {"ids": text}


def _listed(text: str) -> list[Any]:
    """``a,b`` or ``1,2``; what is wrong with an entry is told where recipes are checked."""
    entries: list[Any] = []
    for entry in filter(None, map(str.strip, text.split(","))):
        for kind in (int, float, str):
            with contextlib.suppress(ValueError):
                entries.append(kind(entry))
                break
    return entries


def _run_cells(
    recipe: str,
    overrides: list[str] | None,
    lists: Mapping[str, str | None],
    out: Path,
    workers: int | None,
    launcher: str,
    dry_run: bool,
    study: Study | None = None,
) -> bool:
    """Run a bench or a study of a recipe, or of a task of the demo, and show it, or print its commands.

    Returns:
        Whether a cell failed.
    """
    from multidelete.bench.grid import grid

    if launcher not in ("processes", "submitit"):
        raise InputError(f"--launcher must be processes or submitit, not '{launcher}'")
    given = {key: _listed(text) for key, text in lists.items() if text is not None}
    path = _demo_recipe(recipe) if recipe in _demo_names() else Path(recipe)
    result = grid(path, overrides or [], {"bench": given} if given else {}, out, study)
    for note in result.notes:
        typer.echo(note, err=True)
    if dry_run:
        for cell in result.cells:
            typer.echo(cell.command + ("  # finished" if cell.finished else ""))
        return False
    from multidelete.bench.work import run_grid

    failed = run_grid(result, out, workers=workers, launcher=launcher)
    _show_bench([out], out) if study is None else _show_study(out, out)
    return bool(failed)


def _show_study(folder: Path, out: Path) -> None:
    from multidelete.report.studies import to_text, write_study
    from multidelete.report.study import read_study

    result = read_study(folder)
    written = write_study(result, out)
    typer.echo(to_text(result))
    typer.echo(f"written: {', '.join(map(str, written))}", err=True)


def _publish(folders: list[Path], out: Path) -> None:
    """Write what can be shown to anybody: of a study, of benches, or of runs."""
    from multidelete.report.bench import Bench
    from multidelete.report.public import write_public, write_public_study
    from multidelete.report.study import read_study
    from multidelete.runs.bench_folder import is_bench, study_of
    from multidelete.runs.reader import Run

    if study_of(folders[0]):
        written = write_public_study(read_study(folders[0]), out)
    elif is_bench(folders[0]):
        bench = Bench.load(folders)
        written = write_public(bench.runs, out, bench.notes, bench.commands)
    else:
        written = write_public(Run.load_all(folders), out)
    typer.echo(f"written: {', '.join(map(str, written))}", err=True)


def _show_bench(folders: list[Path], out: Path, printer: Callable[..., str] | None = None) -> None:
    from multidelete.report.bench import Bench, to_text, write_bench

    result = Bench.load(folders)
    written = write_bench(result, out)
    typer.echo(printer(result.groups) if printer else to_text(result))
    typer.echo(f"written: {', '.join(map(str, written))}", err=True)


def _given(**values: Any) -> list[str]:
    return [f"{key}={value}" for key, value in values.items() if value is not None]


def _print_metrics(metrics: dict[str, float], *, with_forget: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("metric", "value")
    for name, value in metrics.items():
        if with_forget or not name.startswith(("forget", "retain")):
            table.add_row(name, f"{value:.2f}")
    Console().print(table)
