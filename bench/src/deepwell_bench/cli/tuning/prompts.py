"""The verb of `deepwell bench` on prompts that are tuned."""

from __future__ import annotations

from typing import Annotated

import typer

from deepwell_bench.cli.options import Json, Row, measure

__all__ = ["prompts_optimise"]


def prompts_optimise(
    model: Annotated[
        str, typer.Option(help="Model whose prompts are tuned: a name in the store, or a path.")
    ] = "smollm2",
    calls: Annotated[int, typer.Option(min=100, help="Questions that each search may ask.")] = 2000,
    held_out: Annotated[int, typer.Option(min=20, help="Most held-out rows of each task.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the searches.")] = 0,
    row: Row = None,
    json: Json = False,
) -> None:
    """Searches for better prompts of two tasks, and measures their gain over hand-written ones on held-out rows, once."""
    from deepwell_bench.suites.tuning.prompt_search import bench_prompts_optimise

    measure(
        "prompts_optimise",
        row,
        json,
        lambda report: bench_prompts_optimise(report, model, calls=calls, held_out=held_out, seed=seed),
    )
