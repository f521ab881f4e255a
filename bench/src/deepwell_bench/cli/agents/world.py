"""Verbs of `deepwell bench` on world models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deepwell_bench.cli.options import Json, Row, measure

__all__ = ["world_model"]


def world_model(
    environments: Annotated[
        list[str] | None,
        typer.Option("--environment", help="Environment to measure, again for more; left out: all three."),
    ] = None,
    runs: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            envvar="DEEPWELL_BENCH_WORLD_RUNS",
            help="Folder that keeps the trainings, so that a stopped one goes on; left out: none.",
        ),
    ] = None,
    row: Row = None,
    json: Json = False,
) -> None:
    """Trains world models on 20,000 steps each and plans in them, beside planning in the true simulators."""
    from deepwell_bench.suites.agents.world_model import bench_world_model

    names = list(dict.fromkeys(environments or ("cart-pole", "grid", "inventory")))
    measure("world_model", row, json, lambda report: bench_world_model(report, names, runs))
