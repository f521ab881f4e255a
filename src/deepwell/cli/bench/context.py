"""Verbs of `deepwell bench` on texts longer than the model's context."""

from __future__ import annotations

from typing import Annotated

import typer

from deepwell.cli.bench.options import Json, Model, Row, measure, model_path

__all__ = ["context_endless"]


def context_endless(
    model: Model = None,
    tokens: Annotated[
        int, typer.Option(min=20_000, help="Length of the text to read, in tokens.")
    ] = 1_000_000,
    generated: Annotated[int, typer.Option(min=1000, help="Tokens to write behind it.")] = 100_000,
    sinks: Annotated[int, typer.Option(min=0, help="First tokens that stay in the window.")] = 64,
    recent: Annotated[int, typer.Option(min=16, help="Most recent tokens that stay in the window.")] = 960,
    row: Row = None,
    json: Json = False,
) -> None:
    """Reads and writes one endless sequence in a window: pool, memory, speed and perplexity from its start to its end."""
    from deepwell.bench.suites.context.endless import bench_context_endless
    from deepwell.engine.protocol import Window

    measure(
        "context_endless",
        row,
        json,
        lambda report: bench_context_endless(
            report, model_path(model), tokens=tokens, generated=generated, window=Window(sinks, recent)
        ),
    )
