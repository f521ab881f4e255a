"""`deepwell rollout`: new versions of a model to some users first, and then to all or to none."""

from __future__ import annotations

import typer

from deepwell.cli.rollout import verbs
from deepwell.cli.usage import Verbs

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb and its actions."""
    rollout = typer.Typer(
        cls=Verbs,
        no_args_is_help=True,
        help="Roll out a new version of the model behind an alias: to some users first, then to all or to none.",
    )
    rollout.command()(verbs.start)
    rollout.command()(verbs.preview)
    rollout.command()(verbs.status)
    rollout.command()(verbs.judge)
    rollout.command()(verbs.promote)
    rollout.command()(verbs.abort)
    rollout.command()(verbs.revert)
    app.add_typer(rollout, name="rollout")
