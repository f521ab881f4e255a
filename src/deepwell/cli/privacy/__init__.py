"""`deepwell privacy`: exports and erases one person's data in every place that keeps any."""

from __future__ import annotations

import typer

from deepwell.cli.privacy import verbs
from deepwell.cli.usage import Verbs

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb and its actions."""
    privacy = typer.Typer(
        cls=Verbs,
        no_args_is_help=True,
        help="Export and erase one person's data: those of a tenant, or of one end user.",
    )
    privacy.command()(verbs.export)
    privacy.command()(verbs.erase)
    privacy.command()(verbs.places)
    app.add_typer(privacy, name="privacy")
