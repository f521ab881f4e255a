"""`deepwell compress`: makes a model smaller or gives it another shape, with the loss on the table."""

from __future__ import annotations

import typer

from deepwell.cli.compress.conversion import convert
from deepwell.cli.compress.pruning import prune
from deepwell.cli.compress.quantising import quantise
from deepwell.cli.compress.searching import search
from deepwell.cli.usage import Verbs

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb and its actions."""
    compress = typer.Typer(
        cls=Verbs,
        no_args_is_help=True,
        help="Make a smaller model of one in the store, or one of DeepSeek's shape, and see what it loses.",
    )
    compress.command("prune")(prune)
    compress.command("search")(search)
    compress.command("convert")(convert)
    compress.command("quantise")(quantise)
    app.add_typer(compress, name="compress")
