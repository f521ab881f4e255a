"""The `deepwell` command: one verb a file, each with `register(app)`.

Verbs import what they need when they run: `deepwell --help` loads neither numpy nor a web framework.
"""

from __future__ import annotations

import importlib
from typing import Annotated

import typer

from deepwell.cli.usage import Verbs

__all__ = ["app", "main"]

VERBS = ("serve", "chat", "ask", "pull", "models", "keys", "doctor", "bench")

app = typer.Typer(
    name="deepwell",
    cls=Verbs,
    help="Run, serve and measure language models on a plain CPU.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from deepwell.version import deepwell_version

        typer.echo(f"deepwell {deepwell_version()}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


for verb in (*VERBS, "aliases"):
    importlib.import_module(f"deepwell.cli.{verb}").register(app)


def main() -> None:
    """Entry point of the console script."""
    app()
