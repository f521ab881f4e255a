"""The `deepwell` command: one verb a file, each with `register(app)`."""

from __future__ import annotations

import importlib

import typer

__all__ = ["app", "main"]

VERBS = ("serve", "chat", "ask", "pull", "models", "doctor", "bench")

app = typer.Typer(
    name="deepwell",
    help="Run, serve and measure language models on a plain CPU.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)
for verb in VERBS:
    importlib.import_module(f"deepwell.cli.{verb}").register(app)


def main() -> None:
    """Entry point of the console script."""
    app()
