"""`deepwell compliance`: runs checks of law and standards, and keeps the answers of people."""

from __future__ import annotations

import typer

from deepwell.cli.compliance import verbs
from deepwell.cli.usage import Verbs

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb and its actions."""
    compliance = typer.Typer(
        cls=Verbs,
        no_args_is_help=True,
        help="Check the configuration against law and standards, and keep answers to what no machine can check.",
    )
    compliance.command()(verbs.check)
    compliance.command()(verbs.answer)
    app.add_typer(compliance, name="compliance")
