"""`deepwell deploy`: one declaration, and the replicas, the front and the roll-outs that it asks for."""

from __future__ import annotations

import typer

from deepwell.cli.deploy import render, verbs
from deepwell.cli.deploy.images import images
from deepwell.cli.usage import Verbs

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb and its actions."""
    deploy = typer.Typer(
        cls=Verbs,
        no_args_is_help=True,
        help="Deploy a model from one declaration: replicas behind a front, and roll-outs from one release to the next.",
    )
    deploy.command()(verbs.apply)
    deploy.command()(verbs.plan)
    deploy.command()(verbs.status)
    deploy.command()(verbs.down)
    render.register(deploy)
    deploy.command()(images)
    app.add_typer(deploy, name="deploy")
