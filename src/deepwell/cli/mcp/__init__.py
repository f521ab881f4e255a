"""`deepwell mcp`: Deepwell's tools for desktop clients, and the tools of other servers at the command line."""

from __future__ import annotations

import typer

from deepwell.cli.mcp import verbs
from deepwell.cli.usage import Verbs

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb and its actions."""
    mcp = typer.Typer(
        cls=Verbs,
        no_args_is_help=True,
        help="Offer Deepwell's knowledge and models to MCP clients, and try the tools of MCP servers.",
    )
    mcp.command()(verbs.serve)
    mcp.command()(verbs.tools)
    mcp.command()(verbs.call)
    app.add_typer(mcp, name="mcp")
