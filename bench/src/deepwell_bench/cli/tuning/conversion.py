"""Verbs of `deepwell bench` on the conversion to latent attention: its loss and healing, and the served result."""

from __future__ import annotations

from typing import Annotated

import typer

from deepwell_bench.cli.options import Json, Model, Row, Threads, measure, model_path, usable_threads

__all__ = ["convert_mla", "convert_served"]


def convert_mla(
    model: Model = None,
    windows: Annotated[int, typer.Option(min=1, help="Held-out windows of 256 tokens to measure.")] = 12,
    minutes: Annotated[float, typer.Option(min=0.1, help="Most minutes of healing.")] = 20.0,
    tokens: Annotated[int, typer.Option(min=1024, help="Most tokens of healing.")] = 99_000,
    row: Row = None,
    json: Json = False,
) -> None:
    """Measures latent attention made of grouped queries: exactness, joint and split latents, weighting, and healing."""
    from deepwell_bench.suites.tuning.compress.conversion import bench_convert_mla

    measure(
        "convert_mla",
        row,
        json,
        lambda report: bench_convert_mla(
            report, model_path(model), windows=windows, minutes=minutes, tokens=tokens
        ),
    )


def convert_served(
    model: Model = None,
    threads: Threads = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds in which both models write.")] = 5,
    context: Annotated[int, typer.Option(min=16, help="Tokens of the prompt.")] = 8000,
    tokens: Annotated[int, typer.Option(min=2, help="Tokens written behind the prompt.")] = 64,
    row: Row = None,
    json: Json = False,
) -> None:
    """Measures the cache and the decoding behind a long prompt of a converted model beside its donor."""
    from deepwell_bench.suites.tuning.compress.conversion import bench_convert_served

    measure(
        "convert_served",
        row,
        json,
        lambda report: bench_convert_served(
            report,
            model_path(model),
            threads=usable_threads(threads),
            rounds=rounds,
            context=context,
            tokens=tokens,
        ),
    )
