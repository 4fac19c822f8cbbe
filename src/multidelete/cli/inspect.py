"""Commands that write no files: evaluate, verify, list, check, cache."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from multidelete.cli.base import (
    DATA,
    NOTHING,
    REQUEST,
    Forget,
    Given,
    Overrides,
    Precision,
    Processor,
    Seed,
    open_engine,
    options,
)
from multidelete.utils.errors import InputError

if TYPE_CHECKING:
    from multidelete.data.requests import Request
    from multidelete.utils.cache import Stored

app = typer.Typer()

DECODED = 10_000  # pictures that check decodes at most, unless all are asked for


@app.command(
    epilog="Examples:\n\n`multidelete evaluate models/mine --data photos`\n\n"
    "`multidelete evaluate runs/unlearn/model --data photos --forget ids.txt`"
)
@options(**DATA, forget=Forget)
def evaluate(
    model: Annotated[Path, typer.Argument(help="Folder of a model.")],
    given: Given = NOTHING,
    processor: Processor = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Task settings, such as rerank=32.")] = None,
    precision: Precision = None,
    seed: Seed = None,
) -> None:
    """Print the metrics of one model; its folder is not changed."""
    from multidelete import api
    from multidelete.data.readers import read
    from multidelete.recipe import load

    asked = given.forget()
    if not given.has_data:
        raise InputError("evaluate needs --data (a folder) or --reader scenes")
    settings: dict[str, Any] = {
        "data": given.data(),
        "forget": asked or {"count": 1},
        "original": str(model),
    }
    settings |= {k: v for k, v in (("seed", seed), ("precision", precision)) if v is not None}
    settings["task"] = {"name": load(None, options=settings).task.name}
    recipe = load(None, [f"task.{each}" for each in overrides or []], settings)
    dataset = read(**settings["data"])
    request: Any = recipe.forget.ids or recipe.forget.count or recipe.forget.fraction
    # Probes need the original.
    task = recipe.task.model_copy(update={"probed": 0})
    with open_engine(recipe) as engine:
        metrics = api.evaluate(
            model,
            dataset,
            request if asked is not None else None,
            task=task,
            engine=engine,
            seed=recipe.seed,
            processor=processor,
        )
    _print_metrics(metrics)


@app.command(
    epilog="Examples:\n\n`multidelete verify runs/request`\n\n"
    "`multidelete verify runs/request --digest 5d41402abc4b2a76b9719d911017c592e1b2c3d4f5a697887766554433221100`\n\n"
    "`multidelete verify runs/bench-flickr8k`"
)
def verify(
    run: Annotated[Path, typer.Argument(help="Folder of a run, or of a bench to verify all its cells.")],
    digest: Annotated[
        str | None, typer.Option(help="Digest that the run printed; detects a completely rewritten record.")
    ] = None,
) -> None:
    """Check that a record is unchanged: recompute its hashes and metrics from the stored files."""
    from multidelete.judgement.verify import verify
    from multidelete.report.pages.deletion import PAGE_CHECKS

    marks = {True: ("✓", "green"), False: ("✗", "red"), None: ("?", "yellow")}
    result = []
    for check in verify(run, digest, PAGE_CHECKS):
        mark, colour = marks[check.holds]
        typer.echo(f"{typer.style(mark, fg=colour)} {check.what}: {check.words}")
        result.append(check.holds)
    failed, open_ = result.count(False), result.count(None)
    typer.echo(f"{result.count(True)} hold, {failed} fail, {open_} could not be checked")
    if failed:
        typer.secho("the record does not match the run", fg="red")
        raise typer.Exit(1)


@app.command(name="list", epilog="Examples:\n\n`multidelete list`\n\n`multidelete list methods`")
def list_(
    what: Annotated[
        str | None, typer.Argument(help="methods, models, tasks, metrics or readers; all by default.")
    ] = None,
) -> None:
    """List methods, models, tasks, metrics and readers with their settings."""
    import inspect

    from multidelete.data.readers import READERS
    from multidelete.methods import METHODS
    from multidelete.metrics.registry import METRICS
    from multidelete.models import MODELS
    from multidelete.tasks import TASKS
    from multidelete.utils.registry import choose

    tables: dict[str, dict[str, Any]] = {
        "methods": METHODS,
        "models": MODELS,
        "tasks": TASKS,
        "metrics": METRICS,
        "readers": READERS,
    }
    chosen = tables if what is None else {what: choose(tables, what, "list")}
    for title, table in chosen.items():
        typer.secho(title, bold=True)
        width = max(12, *map(len, table)) + 2
        for name, entry in table.items():
            if title == "metrics":
                typer.echo(f"  {name:<{width}}{entry.heading}")
                continue
            fields = getattr(getattr(entry, "config_class", entry), "model_fields", None)
            settings = list(fields) if fields is not None else list(inspect.signature(entry).parameters)
            summary = (inspect.getdoc(entry) or name).splitlines()[0].split(" [1]_")[0].rstrip(".")
            typer.echo(f"  {name:<{width}}{summary}")
            typer.secho(f"  {'':<{width}}{', '.join(settings)}", dim=True)


@app.command(epilog="Examples:\n\n`multidelete cache`\n\n`multidelete cache --unused 30 --dry-run`")
def cache(
    unused: Annotated[
        float | None, typer.Option(min=0, help="Remove what was not used for this many days; 0 removes everything.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be removed.")] = False,
) -> None:
    """Show what the cache holds, or remove what was not used lately; all of it can be computed again."""
    import time

    from multidelete.utils.cache import DAY, cache_dir, contents, prune

    if dry_run and unused is None:
        raise InputError("--dry-run says what --unused DAYS would remove; expected both")
    typer.secho(f"{cache_dir()}", bold=True)
    found = contents() if unused is None else prune(unused, dry_run=dry_run)
    for kind in sorted({each.kind for each in found}):
        own = [each for each in found if each.kind == kind]
        days = (time.time() - max(each.used for each in own)) / DAY
        typer.echo(f"  {kind:<13}{len(own):>6,}  {_megabytes(own):>12}  last used {days:.0f} days ago")
    what = "in all" if unused is None else "would be removed" if dry_run else "removed"
    typer.echo(f"  {what:<13}{len(found):>6,}  {_megabytes(found):>12}")


def _megabytes(found: list[Stored]) -> str:
    return f"{sum(each.size for each in found) / 1e6:,.1f} MB"


@app.command(
    epilog="Examples:\n\n`multidelete check recipes/flickr8k-albef-multidelete.toml`\n\n"
    "`multidelete check --data photos --forget ids.txt`"
)
@options(**DATA, **REQUEST)
def check(
    recipe: Annotated[str | None, typer.Argument(metavar="RECIPE", help="A recipe (TOML).")] = None,
    overrides: Overrides = None,
    given: Given = NOTHING,
    every: Annotated[bool, typer.Option("--all", help="Decode all pictures, also of a large collection.")] = False,
) -> None:
    """Check a recipe, its data and its deletion request without running anything.

    Prints what would go: examples and pairs, kept pairs that share a picture or a text with them, copies of their
    pictures in D_r, validation and test, and pictures that look alike (never taken by themselves).
    """
    import numpy as np

    from multidelete.data.copies import look_alike_notes
    from multidelete.data.readers import read
    from multidelete.data.requests import resolve

    request: Request | None
    asked = given.forget()
    if recipe is not None:
        from multidelete.pipeline import check_splits
        from multidelete.recipe import load

        values: dict[str, Any] = {"data": given.data()} if given.has_data else {}
        if asked is not None:
            values["forget"] = asked
        loaded = load(Path(recipe), overrides or [], options=values)
        dataset = loaded.dataset()
        request = loaded.request(dataset)
        check_splits(request, loaded.methods())
        typer.echo(f"{recipe}: {loaded.task.name}, {', '.join(m.name for m in loaded.methods())}")
    elif given.has_data:
        dataset = read(**given.data())
        request = resolve(dataset, **asked) if asked is not None else None
    else:
        raise InputError("check needs a recipe, or --data")
    chosen = None
    if len(dataset) > DECODED and not every:
        rows = np.random.default_rng(0).permutation(len(dataset))[:DECODED]
        chosen = np.union1d(rows, [] if request is None else request.forget).astype(np.int64)
    dataset.check_images(chosen)
    typer.echo(repr(dataset))
    if chosen is not None:
        typer.echo(f"decoded {len(chosen):,} of {len(dataset):,} pictures; --all decodes every one")
    typer.echo(f"pairs: {dataset.pairs_hash}")
    counts = [f"{count:,} {change.replace('_', ' ')}" for change, count in dataset.image_changes().items()]
    if counts:
        typer.echo(f"images: {', '.join(counts)}")
    notes = [*dataset.notes]
    if request is not None:
        typer.echo(f"forget {_counted(request, 'forget')}, retain {_counted(request, 'retain')}")
        typer.echo(f"near misses: {len(request.near_misses):,} kept pairs share a picture or a text with deleted ones")
        notes += [*request.notes, *look_alike_notes(dataset, request.forget, dataset.fingerprints())]
    for note in notes:
        typer.echo(f"note: {note}")


def _counted(request: Request, part: str) -> str:
    pairs, examples = getattr(request, f"{part}_pairs"), getattr(request, part)
    return f"{len(pairs):,} pairs of {len(examples):,} example{'s' * (len(examples) != 1)}"


def _print_metrics(metrics: dict[str, float]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("metric", "value")
    for name, value in metrics.items():
        table.add_row(name, f"{value:.2f}")
    Console().print(table)
