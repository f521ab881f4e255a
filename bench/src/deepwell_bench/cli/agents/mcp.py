"""`deepwell bench mcp`."""

from __future__ import annotations

from typing import Annotated

import typer

from deepwell_bench.cli.options import Json, Model, Row, measure, model_path

__all__ = ["mcp"]


def mcp(
    model: Model = None,
    sessions: Annotated[
        int, typer.Option(min=40, help="Number of sessions that are closed, abandoned and killed.")
    ] = 10_000,
    row: Row = None,
    json: Json = False,
) -> None:
    """Lists and calls every tool with an official client, and looks for what thousands of sessions leave behind."""
    from deepwell_bench.suites.agents.mcp import bench_mcp

    measure("mcp", row, json, lambda report: bench_mcp(report, model_path(model), sessions=sessions))
