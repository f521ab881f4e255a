"""`deepwell data`: training data from raw files to files to train on."""

from __future__ import annotations

import typer

from deepwell.cli.data import augment, check, dedup, label, split
from deepwell.cli.usage import Verbs

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb and its actions."""
    data = typer.Typer(
        cls=Verbs,
        no_args_is_help=True,
        help="Check, clean, label, augment and split training data: OpenAI chat, ShareGPT, Alpaca and plain text.",
    )
    data.command()(check.check)
    data.command()(dedup.dedup)
    data.command()(label.label)
    data.command()(augment.augment)
    data.command()(split.split)
    app.add_typer(data, name="data")
