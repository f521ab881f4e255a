"""`deepwell bench`: what storage promises: transitions of durable jobs, and one suite on both databases."""

from __future__ import annotations

from typing import Annotated

import typer

from deepwell.cli.bench import Json, Row, app
from deepwell.cli.bench import _measure as measure

__all__: list[str] = []


@app.command()
def jobs(
    count: Annotated[int, typer.Option(min=1, help="Jobs of a round.")] = 3000,
    workers: Annotated[int, typer.Option(min=2, help="Tasks that work on them.")] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, each with a new database.")] = 5,
    row: Row = None,
    json: Json = False,
) -> None:
    """Transitions of durable jobs a second on SQLite, each on the disk when its call returns."""
    from deepwell.bench.suites.storage.jobs import bench_jobs

    measure("jobs", row, json, lambda report: bench_jobs(report, jobs=count, workers=workers, rounds=rounds))


@app.command()
def storage(row: Row = None, json: Json = False) -> None:
    """The suite of every store on SQLite and on PostgreSQL."""
    from deepwell.bench.suites.storage.storage_suite import bench_storage_suite

    measure("storage", row, json, bench_storage_suite)
