"""Verbs of `deepwell bench` on the speed of training, and on training by several processes."""

from __future__ import annotations

from typing import Annotated

import typer

from deepwell_bench.cli.options import Json, Model, Row, Threads, measure, model_path, usable_threads

__all__ = ["tuning_parallel", "tuning_speed"]


def tuning_speed(
    model: Model = None,
    threads: Threads = None,
    pairs: Annotated[int, typer.Option(min=1, help="Number of interleaved pairs; the median counts.")] = 5,
    precision: Annotated[
        list[str] | None,
        typer.Option(help="Format of the matrix products, bf16 or fp32; repeat it for both."),
    ] = None,
    step_rows: Annotated[int, typer.Option(min=1, help="Rows of 1,024 tokens in a step.")] = 2,
    profile: Annotated[
        bool, typer.Option("--profile", help="Print the operators that take a step's time.")
    ] = False,
    row: Row = None,
    json: Json = False,
) -> None:
    """Measures tokens a second and peak memory of a LoRA step, against peft and transformers' own Trainer."""
    from deepwell_bench.suites.tuning.speed import bench_tuning_speed

    chosen = tuple(precision or ("bf16",))
    if unknown := set(chosen) - {"bf16", "fp32"}:
        raise typer.BadParameter(f"{', '.join(sorted(unknown))} is neither bf16 nor fp32")
    measure(
        "tuning_speed",
        row,
        json,
        lambda report: bench_tuning_speed(
            report,
            model_path(model),
            threads=usable_threads(threads),
            pairs=pairs,
            precisions=chosen,
            step_rows=step_rows,
            profile=profile,
        ),
    )


def tuning_parallel(
    processes: Annotated[int, typer.Option(min=2, max=3, help="Number of processes.")] = 2,
    row: Row = None,
    json: Json = False,
) -> None:
    """Measures how far gradients of several processes are from those of one, for ddp, fsdp2 and tensor."""
    from deepwell_bench.suites.tuning.parallel import bench_tuning_parallel

    measure("tuning_parallel", row, json, lambda report: bench_tuning_parallel(report, processes=processes))
