"""Verbs of `deepwell bench` on data of tuning: cleaning, labels and augmentation."""

from __future__ import annotations

from typing import Annotated

import typer

from deepwell_bench.cli.options import Json, Row, measure

__all__ = ["active_learning", "back_translation", "near_duplicates"]


def near_duplicates(
    records: Annotated[int, typer.Option(min=1000, help="Number of short records.")] = 1_000_000,
    no_peers: Annotated[
        bool, typer.Option("--no-peers", help="Measure Deepwell alone, without datasketch.")
    ] = False,
    row: Row = None,
    json: Json = False,
) -> None:
    """Finds near-duplicates of BBC News, natural and injected, and of many short records, beside datasketch."""
    from deepwell_bench.suites.tuning.near_duplicates import bench_near_duplicates

    measure(
        "near_duplicates",
        row,
        json,
        lambda report: bench_near_duplicates(report, records=records, peer=not no_peers),
    )


def active_learning(
    seeds: Annotated[int, typer.Option(min=1, help="Number of first draws that a curve averages.")] = 5,
    row: Row = None,
    json: Json = False,
) -> None:
    """Measures how many labels margin and entropy sampling need against random ones, on held-out texts."""
    from deepwell_bench.suites.tuning.active_learning import bench_active_learning

    measure("active_learning", row, json, lambda report: bench_active_learning(report, seeds=seeds))


def back_translation(
    model: Annotated[str, typer.Option(help="Model that translates.")] = "qwen2.5-coder-0.5b",
    seeds: Annotated[int, typer.Option(min=2, help="Number of draws of 100 labels.")] = 20,
    sentences: Annotated[int, typer.Option(min=20, help="Number of sentences to rewrite.")] = 200,
    row: Row = None,
    json: Json = False,
) -> None:
    """Measures rewritten sentences: accepted ones, distinctness, label agreement, accuracy at 100 labels."""
    from deepwell_bench.suites.tuning.back_translation import bench_back_translation

    measure(
        "back_translation",
        row,
        json,
        lambda report: bench_back_translation(report, model=model, seeds=seeds, sentences=sentences),
    )
