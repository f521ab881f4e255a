"""`deepwell ray`: the server on a Ray cluster; and the option `--on`, by which other verbs work there."""

from __future__ import annotations

import typer

from deepwell.cli.ray import serving
from deepwell.cli.usage import Verbs

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb and its actions."""
    ray = typer.Typer(
        cls=Verbs,
        no_args_is_help=True,
        help="Serve models by replicas on a Ray cluster, whose number follows the load.",
    )
    ray.command()(serving.serve)
    ray.command()(serving.status)
    app.add_typer(ray, name="ray")
