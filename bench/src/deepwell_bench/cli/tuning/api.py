"""Verbs of `deepwell bench` on fine-tuning over the API."""

from __future__ import annotations

from typing import Annotated

import typer

from deepwell_bench.cli.options import Json, Model, Row, measure, model_path

__all__ = ["fine_tuning_sdk", "fine_tuning_served"]


def fine_tuning_sdk(
    model: Model = None,
    kills: Annotated[int, typer.Option(min=1, max=10, help="Number of times that the job is killed.")] = 5,
    row: Row = None,
    json: Json = False,
) -> None:
    """Calls every method of fine-tuning and evals through the official SDK, and kills a job at random steps."""
    from deepwell_bench.suites.tuning.api import bench_fine_tuning_sdk

    path = model_path(model)
    measure("fine_tuning_sdk", row, json, lambda report: bench_fine_tuning_sdk(report, path, kills=kills))


def fine_tuning_served(
    model: Model = None,
    steps: Annotated[int, typer.Option(min=2, help="Number of training steps.")] = 40,
    tokens: Annotated[int, typer.Option(min=8, help="Number of tokens of each stream.")] = 160,
    row: Row = None,
    json: Json = False,
) -> None:
    """Measures eight streams beside a fine-tuning job, and the first answer of its model once it has ended."""
    from deepwell_bench.suites.tuning.served import bench_fine_tuning_served

    path = model_path(model)
    measure(
        "fine_tuning_served",
        row,
        json,
        lambda report: bench_fine_tuning_served(report, path, steps=steps, tokens=tokens),
    )
