"""Verbs of `deepwell bench` on servers with several models."""

from __future__ import annotations

from typing import Annotated

import typer

from deepwell_bench.cli.options import Json, Rounds, Row, measure

__all__ = ["on_demand", "several_models"]


def on_demand(
    rounds: Annotated[
        int, typer.Option(min=1, help="Number of loads that are timed; the median counts.")
    ] = 9,
    requests: Annotated[
        int, typer.Option(min=1, help="Number of random requests in room for two models.")
    ] = 500,
    seed: Annotated[int, typer.Option(help="Seed of the random requests.")] = 15,
    row: Row = None,
    json: Json = False,
) -> None:
    """Times the first token of a model that is loaded on demand, and sends random requests for five models in room for two."""
    from deepwell_bench.suites.service.on_demand import bench_on_demand

    measure(
        "on_demand",
        row,
        json,
        lambda report: bench_on_demand(report, rounds=rounds, requests=requests, seed=seed),
    )


def several_models(rounds: Rounds = 5, row: Row = None, json: Json = False) -> None:
    """Serves smollm2, qwen2.5-coder-0.5b and minilm at once: answers, throughput, idle engines, memory, loads."""
    from deepwell_bench.suites.service.several_models import bench_several_models

    measure("several-models", row, json, lambda report: bench_several_models(report, rounds=rounds))
