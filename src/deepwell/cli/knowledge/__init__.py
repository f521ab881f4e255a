"""`deepwell knowledge`: knowledge bases on this machine, with no server."""

from __future__ import annotations

import typer

from deepwell.cli.knowledge import fill, find, manage
from deepwell.cli.usage import Verbs

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb and its actions."""
    knowledge = typer.Typer(
        cls=Verbs,
        no_args_is_help=True,
        help="Create knowledge bases, fill them from files, folders, the web and databases, and search them.",
    )
    knowledge.command()(manage.create)
    knowledge.command()(fill.add)
    knowledge.command()(fill.watch)
    knowledge.command()(find.search)
    knowledge.command("list")(manage.list_bases)
    knowledge.command()(manage.show)
    knowledge.command()(manage.remove)
    knowledge.command()(manage.rebuild)
    knowledge.command()(find.chunks)
    knowledge.command("eval")(find.evaluate)
    app.add_typer(knowledge, name="knowledge")
