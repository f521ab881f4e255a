"""`deepwell feedback`: what people say of answers, from the server or from files, made into training data."""

from __future__ import annotations

import typer

from deepwell.cli.feedback import verbs
from deepwell.cli.usage import Verbs

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb and its actions."""
    feedback = typer.Typer(
        cls=Verbs,
        no_args_is_help=True,
        help="List, import and export what people say of answers, and make training data of it.",
    )
    feedback.command("list")(verbs.list_feedback)
    feedback.command("import")(verbs.import_feedback)
    feedback.command()(verbs.export)
    feedback.command()(verbs.curate)
    app.add_typer(feedback, name="feedback")
