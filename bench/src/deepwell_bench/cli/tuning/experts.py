"""Verb of `deepwell bench` on the conversion of MLPs to mixtures of experts."""

from __future__ import annotations

from typing import Annotated

import typer

from deepwell_bench.cli.options import Json, Model, Row, measure, model_path

__all__ = ["convert_moe"]


def convert_moe(
    model: Model = None,
    windows: Annotated[int, typer.Option(min=1, help="Held-out windows of 256 tokens to measure.")] = 12,
    fitted: Annotated[
        int, typer.Option(min=4, max=200, help="Windows of 256 tokens that the conversion sees.")
    ] = 48,
    seeds: Annotated[int, typer.Option(min=1, help="Groupings by chance of each kind.")] = 2,
    minutes: Annotated[float, typer.Option(min=0.1, help="Minutes of recovery at 25 %.")] = 15.0,
    row: Row = None,
    json: Json = False,
) -> None:
    """Measures mixtures of experts made of a dense model: exactness, loss by sparsity, groupings by chance, and recovery."""
    from deepwell_bench.suites.tuning.compress.experts import bench_convert_moe

    measure(
        "convert_moe",
        row,
        json,
        lambda report: bench_convert_moe(
            report, model_path(model), windows=windows, fitted=fitted, seeds=seeds, minutes=minutes
        ),
    )
