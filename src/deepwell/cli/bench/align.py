"""Verbs of `deepwell bench` on alignment, feedback and promotion."""

from __future__ import annotations

from typing import Annotated

import typer

from deepwell.cli.bench.options import Json, Model, Row, measure, model_path

__all__ = ["alignment_losses", "kto_votes"]


def alignment_losses(row: Row = None, json: Json = False) -> None:
    """Measures the losses and gradients of DPO and KTO beside trl's, on the same model, adapter and tokens."""
    from deepwell.bench.suites.align.alignment_losses import bench_alignment_losses

    measure("alignment_losses", row, json, bench_alignment_losses)


def kto_votes(
    model: Model = None,
    samples: Annotated[int, typer.Option(min=1, help="Answers to each held-out prompt.")] = 2,
    row: Row = None,
    json: Json = False,
) -> None:
    """Measures what KTO learns from 300 simulated votes with 10 % noise, by three rules that it does not know."""
    from deepwell.bench.suites.align.kto_votes import bench_kto_votes

    measure(
        "kto_votes", row, json, lambda report: bench_kto_votes(report, model_path(model), samples=samples)
    )
