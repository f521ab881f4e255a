"""Verbs of `deepwell bench` on supervised fine-tuning: its gain, its exactness, and the command of the README."""

from __future__ import annotations

from typing import Annotated

import typer

from deepwell.cli.bench.options import Json, Model, Row, measure, model_path

__all__ = ["lora", "prune_curve", "quantisation", "tune_readme", "tuning_exactness"]


def lora(
    model: Model = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of adapters, each of another seed.")] = 3,
    examples: Annotated[int, typer.Option(min=8, help="Documents that each adapter is trained on.")] = 400,
    held_out: Annotated[int, typer.Option(min=8, max=600, help="Held-out documents to measure.")] = 200,
    row: Row = None,
    json: Json = False,
) -> None:
    """Measures the gain of LoRA on topics of BBC News, and its memory and time beside full fine-tuning."""
    from deepwell.bench.suites.tuning.lora import bench_lora

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
    from deepwell.bench.suites.tuning.exactness import bench_tuning_exactness

    measure("tuning_exactness", row, json, lambda report: bench_tuning_exactness(report, model_path(model)))


def tune_readme(model: Model = None, row: Row = None, json: Json = False) -> None:
    """Measures the minutes of `deepwell tune sft` on the 200 sample conversations, and what it changes."""
    from deepwell.bench.suites.tuning.readme import bench_tune_readme

    measure("tune_readme", row, json, lambda report: bench_tune_readme(report, model or "smollm2"))


def prune_curve(
    model: Model = None,
    windows: Annotated[int, typer.Option(min=1, help="Held-out windows of 256 tokens to measure.")] = 12,
    seeds: Annotated[int, typer.Option(min=1, help="Cuts by chance at each size.")] = 3,
    minutes: Annotated[float, typer.Option(min=0.1, help="Minutes of recovery at 20 %.")] = 5.0,
    row: Row = None,
    json: Json = False,
) -> None:
    """Measures cuts of 10, 20 and 30 % beside cuts by chance and by block influence, and what recovery brings back."""
    from deepwell.bench.suites.tuning.pruning import bench_prune_curve

    measure(
        "prune_curve",
        row,
        json,
        lambda report: bench_prune_curve(
            report, model_path(model), windows=windows, seeds=seeds, minutes=minutes
        ),
    )


def quantisation(
    model: Annotated[
        str,
        typer.Option(
            help="Model beside the tiny one: a name in the store, or a path; none: the tiny one alone."
        ),
    ] = "qwen2.5-coder-0.5b",
    learned: Annotated[
        int, typer.Option(min=4096, help="Tokens that the tiny model is trained on, once for each number.")
    ] = 2_000_000,
    tokens: Annotated[
        int, typer.Option(min=1024, help="Held-out tokens of the tiny model's perplexity.")
    ] = 120_000,
    held_out: Annotated[
        int, typer.Option(min=1024, help="Held-out tokens of the other model's perplexity.")
    ] = 6144,
    windows: Annotated[
        int,
        typer.Option(
            min=8, help="Calibration windows of the other model, of 256 tokens; half as many for 3 bits."
        ),
    ] = 40,
    row: Row = None,
    json: Json = False,
) -> None:
    """Measures the perplexity that 4 and 3 bits cost by GPTQ and AWQ beside rounding to nearest, on two models."""
    from deepwell.bench.suites.tuning.quantisation import QuantisationSizes, bench_quantisation

    sizes = QuantisationSizes(learned=learned, tiny=tokens, large=held_out, windows=windows)
    measure(
        "quantisation",
        row,
        json,
        lambda report: bench_quantisation(report, None if model == "none" else model_path(model), sizes),
    )
