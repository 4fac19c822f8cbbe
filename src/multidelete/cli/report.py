"""Command that writes pages and tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from multidelete.utils.errors import InputError

app = typer.Typer()


@app.command(
    epilog="Examples:\n\n`multidelete report runs/demo`\n\n"
    "`multidelete report runs/demo-0 runs/demo-1 runs/demo-2 --out runs/seeds`\n\n"
    "`multidelete report runs/bench-flickr8k runs/bench-pgr --out runs/tables`\n\n"
    "`multidelete report runs/bench-flickr8k --public --out docs/flickr8k`"
)
def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Folders of runs or benches; runs that differ only in seeds are averaged.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder or .html file; the first run's by default.")
    ] = None,
    format: Annotated[str, typer.Option(help="Format of the printed table: text, markdown or csv.")] = "text",
    public: Annotated[
        bool, typer.Option("--public", help="Markdown, figures and CSV, without images and texts of the data.")
    ] = False,
) -> None:
    """Write the page of one or several runs, or the joint table of several benches, and print the table."""
    from multidelete.report.pages.deletion import write_deletion
    from multidelete.report.pages.run import write_report
    from multidelete.report.tables.groups import to_csv, to_markdown, to_text
    from multidelete.runs.bench_folder import is_bench, study_of
    from multidelete.runs.groups import summary
    from multidelete.runs.reader import Run
    from multidelete.runs.record import check_writable

    printers: dict[str, Callable[..., str]] = {"text": to_text, "markdown": to_markdown, "csv": to_csv}
    if format not in printers:
        raise InputError(f"--format must be {', '.join(printers)}, not '{format}'")
    if out is not None:
        check_writable(out.parent if out.suffix == ".html" else out)
    if out is not None and out.suffix == ".html" and out.is_dir():
        raise InputError(f"--out '{out}' is a folder; expected an .html file, or a folder of another name")
    if public and (out is None or out.suffix == ".html"):
        raise InputError("--public writes a separate folder: choose it with --out")
    studies = [folder for folder in runs if study_of(folder)]
    if studies and len(runs) > 1:
        raise InputError(f"{studies[0]} is a study, which has a separate page; give one study, or runs and benches")
    if public:
        assert out is not None
        _publish(runs, out)
        return
    if studies:
        show_study(runs[0], out or runs[0])
        return
    if is_bench(runs[0]):
        if out is None and len(runs) > 1:
            raise InputError("several benches are joined in a separate table: choose its folder with --out")
        show_bench(runs, out or runs[0], printers.get(format) if format != "text" else None)
        return
    loaded = Run.load_all(runs)
    page = write_report(loaded, out or runs[0])
    record = write_deletion(runs[0]) if out is None and len(runs) == 1 else None
    typer.echo(printers[format](summary(loaded)))
    typer.echo(f"report: {page}" + (f"\nrecord: {record}" if record else ""), err=True)


def show_study(folder: Path, out: Path) -> None:
    """Write the page of a study and print its findings."""
    from multidelete.report.pages.study import to_text, write_study
    from multidelete.report.studies.results import read_study

    result = read_study(folder)
    written = write_study(result, out)
    typer.echo(to_text(result))
    typer.echo(f"written: {', '.join(map(str, written))}", err=True)


def _publish(folders: list[Path], out: Path) -> None:
    """Write public pages (without data) of a study, benches or runs."""
    from multidelete.report.pages.bench import Bench
    from multidelete.report.pages.public import write_public, write_public_study
    from multidelete.report.studies.results import read_study
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


def show_bench(folders: list[Path], out: Path, printer: Callable[..., str] | None = None) -> None:
    """Write the page of one or several benches and print their table."""
    from multidelete.report.pages.bench import Bench, to_text, write_bench

    result = Bench.load(folders)
    written = write_bench(result, out)
    typer.echo(printer(result.groups) if printer else to_text(result))
    typer.echo(f"written: {', '.join(map(str, written))}", err=True)
