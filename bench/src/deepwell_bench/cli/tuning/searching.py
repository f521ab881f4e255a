"""Verb of `deepwell bench` on the architecture search."""

from __future__ import annotations

from typing import Annotated

import typer

from deepwell_bench.cli.options import Json, Model, Row, measure, model_path

__all__ = ["compress_search"]


def compress_search(
    model: Model = None,
    windows: Annotated[int, typer.Option(min=1, help="Held-out windows of 256 tokens to measure.")] = 12,
    rounds: Annotated[int, typer.Option(min=1, help="Models to run for each budget of the search.")] = 8,
    minutes: Annotated[
        float, typer.Option(min=0.05, help="Minutes of recovery of each point that is timed.")
    ] = 3.0,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the engine; unset: all.")] = None,
    row: Row = None,
    json: Json = False,
) -> None:
    """Searches smaller models, beside every uniform cut of 10 and 20 %, and recovers and times those for two speeds."""
    from deepwell_bench.suites.tuning.compress.searching import bench_compress_search

    measure(
        "compress_search",
        row,
        json,
        lambda report: bench_compress_search(
            report, model_path(model), windows=windows, rounds=rounds, minutes=minutes, threads=threads
        ),
    )
