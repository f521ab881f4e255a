"""Verbs of `deepwell bench` on agents that solve tasks with real tools."""

from __future__ import annotations

from typing import Annotated

import typer

from deepwell_bench.cli.options import Json, Row, measure

__all__ = ["agents_scripted", "agents_small_model"]


def agents_scripted(row: Row = None, json: Json = False) -> None:
    """Solves 120 tasks by a script with real tools, also where a fifth of the calls fails, and feeds 1,000 hostile results."""
    from deepwell_bench.suites.agents.scripted import bench_agents_scripted

    measure("agents_scripted", row, json, bench_agents_scripted)


def agents_small_model(
    development: Annotated[
        bool,
        typer.Option("--development", help="Run the 30 development tasks in place of the held-out ones."),
    ] = False,
    row: Row = None,
    json: Json = False,
) -> None:
    """Gives 60 tasks of 1 to 3 calls to qwen2.5-coder-0.5b: without the loop's checks, with them, and with faults of tools."""
    from deepwell_bench.suites.agents.small_model import bench_agents_small_model

    measure(
        "agents_small_model",
        row,
        json,
        lambda report: bench_agents_small_model(report, development=development),
    )
