"""Verbs of `deepwell bench` on training data."""

from __future__ import annotations

from typing import Annotated

import typer

from deepwell.cli.bench.options import Json, Row, measure

__all__ = ["near_duplicates"]


def near_duplicates(
    records: Annotated[int, typer.Option(min=1000, help="Number of short records.")] = 1_000_000,
    no_peers: Annotated[
        bool, typer.Option("--no-peers", help="Measure Deepwell alone, without datasketch.")
    ] = False,
    row: Row = None,
    json: Json = False,
) -> None:
    """Finds near-duplicates of BBC News, natural and injected, and of many short records, beside datasketch."""
    from deepwell.bench.suites.tuning.near_duplicates import bench_near_duplicates

    measure(
        "near_duplicates",
        row,
        json,
        lambda report: bench_near_duplicates(report, records=records, peer=not no_peers),
    )
