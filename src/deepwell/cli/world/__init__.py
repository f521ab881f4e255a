"""`deepwell world`: learns models of worlds from interaction, plans in them, and shows what they imagine."""

from __future__ import annotations

import typer

from deepwell.cli.usage import Verbs
from deepwell.cli.world.evaluating import evaluate
from deepwell.cli.world.imagining import imagine
from deepwell.cli.world.planning import plan
from deepwell.cli.world.training import train

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb and its actions."""
    world = typer.Typer(
        cls=Verbs,
        no_args_is_help=True,
        help="Learn a model of a world from interaction, plan in it, and see what it imagines.",
    )
    world.command("train")(train)
    world.command("plan")(plan)
    world.command("imagine")(imagine)
    world.command("evaluate")(evaluate)
    app.add_typer(world, name="world")
