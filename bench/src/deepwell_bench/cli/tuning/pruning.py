"""Verbs of `deepwell bench` on pruning: the curve of loss over size, and reloading in other engines."""

from __future__ import annotations

from typing import Annotated

import typer

from deepwell_bench.cli.options import Json, Model, Row, measure, model_path

__all__ = ["prune_curve", "prune_reload"]


def prune_curve(
    model: Model = None,
    windows: Annotated[int, typer.Option(min=1, help="Held-out windows of 256 tokens to measure.")] = 12,
    seeds: Annotated[int, typer.Option(min=1, help="Cuts by chance at each size.")] = 3,
    minutes: Annotated[float, typer.Option(min=0.1, help="Minutes of recovery at 20 %.")] = 5.0,
    row: Row = None,
    json: Json = False,
) -> None:
    """Measures cuts of 10, 20 and 30 % beside cuts by chance and by block influence, and what recovery brings back."""
    from deepwell_bench.suites.tuning.compress.pruning import bench_prune_curve

    measure(
        "prune_curve",
        row,
        json,
        lambda report: bench_prune_curve(
            report, model_path(model), windows=windows, seeds=seeds, minutes=minutes
        ),
    )


def prune_reload(model: Model = None, row: Row = None, json: Json = False) -> None:
    """Measures that pruned folders load in transformers, llama.cpp and Deepwell, and continue texts alike.

    The model has to be a GGUF file. llama.cpp is built on first use, which takes ten minutes.
    """
    from deepwell_bench.suites.tuning.compress.reload import bench_prune_reload

    measure("prune_reload", row, json, lambda report: bench_prune_reload(report, model_path(model)))
