"""`deepwell evaluate`: measures models and adapters on the engine that serves them, and compares any two."""

from __future__ import annotations

from typing import Any

import typer

from deepwell.cli.evaluate import measuring, pairs
from deepwell.cli.usage import Verbs

__all__ = ["register"]

_DEFAULT = "run"


class _Evaluate(Verbs):
    """A group whose first word may be a model: that is the action `default`."""

    default = _DEFAULT

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Puts the default action in front of arguments that begin with neither an action nor a request for help."""
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = [self.default, *args]
        return super().parse_args(ctx, args)


def register(app: typer.Typer) -> None:
    """Add the verb and its actions."""
    evaluate = typer.Typer(
        cls=_Evaluate,
        no_args_is_help=True,
        help="Measure models and adapters, and compare any two: evaluate MODEL[:ADAPTER] --against OTHER --task FILE.",
    )
    evaluate.command(_DEFAULT)(measuring.run)
    evaluate.command("pairs")(pairs.pairs)
    evaluate.command("ratings")(pairs.ratings)
    app.add_typer(evaluate, name="evaluate")
