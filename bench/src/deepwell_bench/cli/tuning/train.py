"""Verbs of `deepwell bench` on supervised fine-tuning: its gain, its exactness, and the command of the README."""

from __future__ import annotations

from typing import Annotated

import typer

from deepwell_bench.cli.options import Json, Model, Row, measure, model_path

__all__ = ["lora", "tune_readme", "tuning_exactness"]


def lora(
    model: Model = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of adapters, each of another seed.")] = 3,
    examples: Annotated[int, typer.Option(min=8, help="Documents that each adapter is trained on.")] = 400,
    held_out: Annotated[int, typer.Option(min=8, max=600, help="Held-out documents to measure.")] = 200,
    row: Row = None,
    json: Json = False,
) -> None:
    """Measures the gain of LoRA on topics of BBC News, and its memory and time beside full fine-tuning."""
    from deepwell_bench.suites.tuning.lora import bench_lora

    measure(
        "lora",
        row,
        json,
        lambda report: bench_lora(
            report, model_path(model), seeds=seeds, examples=examples, held_out=held_out
        ),
    )


def tuning_exactness(model: Model = None, row: Row = None, json: Json = False) -> None:
    """Measures that accumulation, checkpointing, resuming, merging and serving leave training's results as they are."""
    from deepwell_bench.suites.tuning.exactness import bench_tuning_exactness

    measure("tuning_exactness", row, json, lambda report: bench_tuning_exactness(report, model_path(model)))


def tune_readme(model: Model = None, row: Row = None, json: Json = False) -> None:
    """Measures the minutes of `deepwell tune sft` on the 200 sample conversations, and what it changes."""
    from deepwell_bench.suites.tuning.readme import bench_tune_readme

    measure("tune_readme", row, json, lambda report: bench_tune_readme(report, model or "smollm2"))
