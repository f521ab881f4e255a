"""Verbs of `deepwell bench` on evaluation."""

from __future__ import annotations

from typing import Annotated

import typer

from deepwell_bench.cli.options import Json, Model, Row, measure

__all__ = ["evaluate_parity", "served_precision"]

Rows = Annotated[int, typer.Option(min=10, help="Number of held-out rows of each task.")]


def evaluate_parity(model: Model = None, rows: Rows = 200, row: Row = None, json: Json = False) -> None:
    """Runs task files in `deepwell evaluate` and in lm-eval, on the same model, and compares every figure."""
    from deepwell_bench.suites.tuning.evaluate_parity import bench_evaluate_parity

    measure(
        "evaluate_parity",
        row,
        json,
        lambda report: bench_evaluate_parity(report, model or "smollm2", rows=rows),
    )


def served_precision(model: Model = None, rows: Rows = 300, row: Row = None, json: Json = False) -> None:
    """Measures the gain of an adapter in int4 beside fp32, and of a prompt with examples for the base."""
    from deepwell_bench.suites.tuning.served_precision import bench_served_precision

    measure(
        "served_precision",
        row,
        json,
        lambda report: bench_served_precision(report, model or "smollm2", rows=rows),
    )
