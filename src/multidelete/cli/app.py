"""The command line. Slow imports happen only in the commands that need them, so that ``--help`` is fast."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from multidelete.cli import bench, inspect, report, run
from multidelete.utils.errors import InputError
from multidelete.utils.signals import STOPPED, TERMINATED, exit_on_terminate

app = typer.Typer(
    name="multidelete",
    help="Make a trained multimodal model forget chosen pairs, keep everything else, and verify it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for commands in (run, bench, report, inspect):
    app.add_typer(commands.app)


# Messages after Ctrl-C or SIGTERM, for commands that save their progress.
CONTINUES = {
    "bench": "; progress is saved: the same command continues",
    "study": "; progress is saved: the same command continues",
    "demo": "; progress is saved: the same command with --resume continues",
    "unlearn": "; progress is saved: the same command with --resume continues",
    "train": "; progress is saved: the same command continues",
}


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


def main() -> None:
    """Run the command line; errors that the user can correct are shown without a traceback."""
    exit_on_terminate()
    try:
        app(prog_name="multidelete")
    except InputError as error:
        for line in str(error).splitlines():
            typer.secho(f"error: {line}", fg="red", err=True)
        sys.exit(2)
    except SystemExit as end:
        if end.code in (STOPPED, TERMINATED):
            typer.secho(f"stopped{CONTINUES.get(sys.argv[1] if sys.argv[1:] else '', '')}", fg="yellow", err=True)
        raise
