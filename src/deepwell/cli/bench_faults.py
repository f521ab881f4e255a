"""`deepwell bench`: how the server stays up: faults with real signals, and minutes of real load."""

from __future__ import annotations

from typing import Annotated

import typer

from deepwell.cli.bench import Json, Model, PrecisionOption, Row, Threads, app
from deepwell.cli.bench import _measure as measure
from deepwell.cli.bench import _model as model_path
from deepwell.cli.bench import _precision as known_precision
from deepwell.cli.bench import _threads as usable_threads

__all__: list[str] = []


@app.command()
def faults(
    restarts: Annotated[int, typer.Option(min=1, help="Of the engine, in the test of leaks.")] = 100,
    row: Row = None,
    json: Json = False,
) -> None:
    """The fault tests: kills and stops of every process, slow and vanished clients, what storage can do."""
    from deepwell.bench.suites.repository.suites import bench_faults

    measure("faults", row, json, lambda report: bench_faults(report, restarts=restarts))


@app.command("tests")
def repository_tests(
    paths: Annotated[list[str], typer.Argument(help="Files, folders or ids of tests, as for pytest.")],
    row: Row = None,
    json: Json = False,
) -> None:
    """Tests of the repository: how many passed, failed and were skipped."""
    from deepwell.bench.suites.repository.suites import bench_tests

    measure("tests", row, json, lambda report: bench_tests(report, paths))


@app.command()
def soak(
    model: Model = None,
    precision: PrecisionOption = "int4",
    threads: Threads = None,
    clients: Annotated[int, typer.Option(min=1, help="Clients, each with one answer under way.")] = 64,
    minutes: Annotated[float, typer.Option(min=0.1, help="Of load.")] = 5.0,
    row: Row = None,
    json: Json = False,
) -> None:
    """Many clients for minutes, some of which hang up: what is lost, what leaks, how much of the engine's speed is left."""
    from deepwell.bench.suites.service.soak import bench_soak

    measure(
        "soak",
        row,
        json,
        lambda report: bench_soak(
            report,
            model_path(model),
            precision=known_precision(precision),
            threads=usable_threads(threads),
            clients=clients,
            minutes=minutes,
        ),
    )
