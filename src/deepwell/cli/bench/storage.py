"""Verbs of `deepwell bench` on storage: jobs, batches, retention, one suite on both databases."""

from __future__ import annotations

from typing import Annotated

import typer

from deepwell.cli.bench.options import Json, Model, Row, measure, model_path

__all__ = ["batches", "jobs", "retention", "storage"]


def batches(
    model: Model = None,
    lines: Annotated[int, typer.Option(min=1, help="Of the batch.")] = 500,
    kills: Annotated[int, typer.Option(min=0, help="SIGKILLs of the server.")] = 20,
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 6,
    row: Row = None,
    json: Json = False,
) -> None:
    """Kills the server of a batch at random moments, and counts lines missing and lines answered twice."""
    from deepwell.bench.suites.storage.batch_kill import bench_batch_kill

    measure(
        "batches",
        row,
        json,
        lambda report: bench_batch_kill(report, model_path(model), lines=lines, kills=kills, seed=seed),
    )


def jobs(
    count: Annotated[int, typer.Option(min=1, help="Jobs of a round.")] = 3000,
    workers: Annotated[int, typer.Option(min=2, help="Tasks that work on them.")] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, each with a new database.")] = 5,
    row: Row = None,
    json: Json = False,
) -> None:
    """Counts transitions of durable jobs a second on SQLite, each on the disk when its call returns."""
    from deepwell.bench.suites.storage.jobs import bench_jobs

    measure("jobs", row, json, lambda report: bench_jobs(report, jobs=count, workers=workers, rounds=rounds))


def retention(
    seconds: Annotated[float, typer.Option(min=1, help="How long objects are stored.")] = 480.0,
    retention_s: Annotated[
        float, typer.Option(min=1, help="Age in seconds at which they are removed.")
    ] = 60.0,
    rate: Annotated[float, typer.Option(min=0.1, help="Objects stored in a second.")] = 25.0,
    row: Row = None,
    json: Json = False,
) -> None:
    """Stores objects at a constant rate, removes old ones, and watches that the store stays flat."""
    from deepwell.bench.suites.storage.retention import bench_retention

    measure(
        "retention",
        row,
        json,
        lambda report: bench_retention(report, seconds=seconds, retention_s=retention_s, rate=rate),
    )


def storage(row: Row = None, json: Json = False) -> None:
    """Runs the suite of every store on SQLite and on PostgreSQL."""
    from deepwell.bench.suites.storage.storage_suite import bench_storage_suite

    measure("storage", row, json, bench_storage_suite)
