"""The command line. Nothing slow is imported before a command needs it: ``--help`` answers at once."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from multidelete.cli import bench, inspect, report, run
from multidelete.utils.errors import InputError

app = typer.Typer(
    name="multidelete",
    help="Make a trained multimodal model forget chosen pairs, keep everything else, and prove it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for commands in (run, bench, report, inspect):
    app.add_typer(commands.app)


# What Ctrl-C leaves to do, where a command keeps what it did.
CONTINUES = {
    "bench": "; what was done is kept: the same command continues",
    "study": "; what was done is kept: the same command continues",
    "demo": "; what was done is kept: the same command with --resume continues",
    "unlearn": "; what was done is kept: the same command with --resume continues",
    "train": "; what was done is kept: the same command continues",
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
