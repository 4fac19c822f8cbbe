"""Commands that run many cells: bench, study."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from multidelete.cli.base import DryRun, Launcher, Out, Overrides, Seeds, Workers, demo_names, demo_recipe
from multidelete.cli.report import show_bench, show_study
from multidelete.utils.errors import InputError

if TYPE_CHECKING:
    from multidelete.bench.grid import Study

app = typer.Typer()


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
            help="Recipe (TOML) or task of the demo; the recipe's table `bench` can also set these options."
        ),
    ] = "retrieval",
    overrides: Overrides = None,
    methods: Annotated[str | None, typer.Option(help="Such as `multidelete,neggrad`; all by default.")] = None,
    scopes: Annotated[str | None, typer.Option(help="Such as `all,fusion`, the default for methods with both.")] = None,
    seeds: Seeds = None,
    counts: Annotated[str | None, typer.Option(help="Sizes of D_f, such as `100,200`.")] = None,
    fractions: Annotated[str | None, typer.Option(help="Sizes of D_f as fractions, such as `0.05,0.1`.")] = None,
    workers: Workers = None,
    launcher: Launcher = "processes",
    dry_run: DryRun = False,
    out: Out = Path("runs/bench"),
) -> None:
    """Run every method, scope, size and seed on a recipe's task, each as a separate run, and write one table."""
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
        str, typer.Argument(help="Recipe (TOML) or task of the demo, whose method is varied.")
    ] = "retrieval",
    overrides: Overrides = None,
    seeds: Seeds = None,
    counts: Annotated[str | None, typer.Option(help="Sizes of D_f, for the study `sizes`.")] = None,
    fractions: Annotated[str | None, typer.Option(help="The same as fractions; 0.01 to 0.15 by default.")] = None,
    workers: Workers = None,
    launcher: Launcher = "processes",
    dry_run: DryRun = False,
    out: Out = Path("runs/study"),
) -> None:
    """Vary one aspect of a recipe's method, each variant as a separate run; write a page with figure and findings.

    **ablation**: loss without each of its terms. **scopes**: all parameters or only the fusion, during training.
    **sizes**: quality and time for 1 to 15 % deleted. **sensitivity**: each weight times 1/4 to 4. **sequential**: five
    sequential requests or all at once. **stop**: stop at the lowest scores, or when deleted pairs look unseen.
    """
    from multidelete.bench.studies import STUDIES
    from multidelete.utils.registry import choose

    chosen = choose(STUDIES, name, "study")
    if (counts or fractions) and chosen.fractions is None:
        raise InputError(f"--counts and --fractions are for the study 'sizes'; '{name}' takes the recipe's request")
    lists = {"seeds": seeds, "counts": counts, "fractions": fractions}
    if _run_cells(recipe, overrides, lists, out, workers, launcher, dry_run, chosen):
        raise typer.Exit(1)


def _listed(text: str) -> list[Any]:
    """Parse ``a,b`` or ``1,2``; entries are validated with the recipe."""
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
    """Run a bench or a study of a recipe or demo task and show it, or print its commands.

    Returns:
        Whether a cell failed.
    """
    from multidelete.bench.grid import grid

    if launcher not in ("processes", "submitit"):
        raise InputError(f"--launcher must be processes or submitit, not '{launcher}'")
    given = {key: _listed(text) for key, text in lists.items() if text is not None}
    path = demo_recipe(recipe) if recipe in demo_names() else Path(recipe)
    result = grid(path, overrides or [], {"bench": given} if given else {}, out, study)
    for note in result.notes:
        typer.echo(note, err=True)
    if dry_run:
        for cell in result.cells:
            typer.echo(cell.command + ("  # finished" if cell.finished else ""))
        return False
    from multidelete.bench.work import run_grid

    failed = run_grid(result, out, workers=workers, launcher=launcher)
    show_bench([out], out) if study is None else show_study(out, out)
    return bool(failed)
