"""`deepwell tune`: from training files to a model or an adapter that serves."""

from __future__ import annotations

import typer

from deepwell.cli.tune import dpo, kto, merge, ppo, sft
from deepwell.cli.usage import Verbs

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb and its actions."""
    tune = typer.Typer(
        cls=Verbs,
        no_args_is_help=True,
        help="Train a model of the store on your conversations, preferences or a reward, and merge what came of it.",
    )
    tune.command()(sft.sft)
    tune.command()(dpo.dpo)
    tune.command()(kto.kto)
    tune.command()(ppo.ppo)
    tune.command()(merge.merge)
    app.add_typer(tune, name="tune")
