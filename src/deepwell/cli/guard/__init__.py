"""`deepwell guard`: what the guard says of texts, its lists of terms, its policies, and its classifier."""

from __future__ import annotations

import typer

from deepwell.cli.guard import checking, classifier, lists
from deepwell.cli.usage import Verbs, added_verbs

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb and its actions."""
    guard = typer.Typer(
        cls=Verbs,
        no_args_is_help=True,
        help="Check texts and files as the server's guard does; its lists of terms, policies and classifier.",
    )
    guard.command()(checking.check)
    guard.command()(checking.scan)
    guard.command()(checking.policy)
    guard.command("eval")(classifier.evaluate)
    for name, verb in added_verbs("deepwell.guard").items():
        guard.command(name)(verb)
    terms = typer.Typer(
        cls=Verbs, no_args_is_help=True, help="Lists of forbidden terms: what is here, and fetching more."
    )
    terms.command("list")(lists.show)
    terms.command()(lists.pull)
    guard.add_typer(terms, name="terms")
    app.add_typer(guard, name="guard")
