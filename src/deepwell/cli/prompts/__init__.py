"""`deepwell prompts`: prompts with variables and versions, from files into the database that servers read."""

from __future__ import annotations

import typer

from deepwell.cli.prompts import optimising, verbs
from deepwell.cli.usage import Verbs

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb and its actions."""
    prompts = typer.Typer(
        cls=Verbs,
        no_args_is_help=True,
        help="Load, list, optimise and remove stored prompts, which requests name in place of instructions.",
    )
    prompts.command()(verbs.load)
    prompts.command("list")(verbs.list_prompts)
    prompts.command()(verbs.show)
    prompts.command()(verbs.use)
    prompts.command()(verbs.remove)
    prompts.command()(verbs.packs)
    prompts.command()(optimising.optimise)
    app.add_typer(prompts, name="prompts")
