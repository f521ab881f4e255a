"""Verbs of `deepwell bench` on storage: jobs, batches, retention, one suite on both databases."""

from __future__ import annotations

from typing import Annotated

import typer

from deepwell_bench.cli.options import Json, Model, Row, measure, model_path

__all__ = ["batches", "jobs", "retention", "storage"]


def batches(
    model: Model = None,
    lines: Annotated[int, typer.Option(min=1, help="Number of lines in the batch.")] = 500,
    kills: Annotated[int, typer.Option(min=0, help="Number of times that the server is killed.")] = 20,
    seed: Annotated[int, typer.Option(help="Seed of the moments at which it is killed.")] = 6,
    row: Row = None,
    json: Json = False,
) -> None:
    """Kills the server of a batch at random moments, and counts lines missing and lines answered twice."""
    from deepwell_bench.suites.storage.batch_kill import bench_batch_kill

    measure(
        "batches",
        row,
        json,
        lambda report: bench_batch_kill(report, model_path(model), lines=lines, kills=kills, seed=seed),
    )


def jobs(
    count: Annotated[int, typer.Option(min=1, help="Number of jobs in each round.")] = 3000,
    workers: Annotated[int, typer.Option(min=2, help="Number of tasks that work on the jobs.")] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="Number of rounds, each with a new database.")] = 5,
    row: Row = None,
    json: Json = False,
) -> None:
    """Counts transitions of durable jobs a second on SQLite, each on the disk when its call returns."""
    from deepwell_bench.suites.storage.jobs import bench_jobs

    measure("jobs", row, json, lambda report: bench_jobs(report, jobs=count, workers=workers, rounds=rounds))


def retention(
    seconds: Annotated[float, typer.Option(min=1, help="Length of the load, in seconds.")] = 480.0,
    retention_s: Annotated[
        float, typer.Option(min=1, help="Age at which objects are removed, in seconds.")
    ] = 60.0,
    rate: Annotated[float, typer.Option(min=0.1, help="Rate at which objects are stored, a second.")] = 25.0,
    row: Row = None,
    json: Json = False,
) -> None:
    """Stores objects at a constant rate, removes old ones, and watches that the store stays flat."""
    from deepwell_bench.suites.storage.retention import bench_retention

    measure(
        "retention",
        row,
        json,
        lambda report: bench_retention(report, seconds=seconds, retention_s=retention_s, rate=rate),
    )


def storage(row: Row = None, json: Json = False) -> None:
    """Runs the suite of every store on SQLite and on PostgreSQL."""
    from deepwell_bench.suites.storage.storage_suite import bench_storage_suite

    measure("storage", row, json, bench_storage_suite)
