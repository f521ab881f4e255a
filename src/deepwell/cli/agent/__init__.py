"""`deepwell agent`: models that call tools until a task is done."""

from __future__ import annotations

import typer

from deepwell.cli.agent import manage, running
from deepwell.cli.usage import Verbs

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb and its actions."""
    agent = typer.Typer(
        cls=Verbs,
        no_args_is_help=True,
        help="Give a model a task and tools; approve its calls, and look at its runs step by step.",
    )
    agent.command("run")(running.run)
    agent.command()(running.approve)
    agent.command()(running.deny)
    agent.command()(running.resume)
    agent.command()(manage.cancel)
    agent.command("list")(manage.list_runs)
    agent.command()(manage.show)
    agent.command()(manage.replay)
    agent.command()(manage.tools)
    app.add_typer(agent, name="agent")
