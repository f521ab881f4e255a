"""Verbs of `deepwell bench` on texts longer than the model's context."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from deepwell.cli.bench.options import Json, Model, Row, measure, model_path

__all__ = ["context_endless", "context_session_adapter"]


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


def context_session_adapter(
    model: Model = None,
    sessions: Annotated[int, typer.Option(min=1, max=20, help="Number of conversations.")] = 20,
    between: Annotated[
        int, typer.Option(min=1000, help="Tokens of other text between the facts and the questions.")
    ] = 16_000,
    split: Annotated[
        Literal["development", "evaluation"],
        typer.Option(help="Conversations to ask about: those that choices are made on, or the frozen ones."),
    ] = "evaluation",
    row: Row = None,
    json: Json = False,
) -> None:
    """Measures what an adapter that was trained on a conversation recalls of it, when no prompt holds its history."""
    from deepwell.bench.suites.context.session_adapter import bench_session_adapter

    measure(
        "context_session_adapter",
        row,
        json,
        lambda report: bench_session_adapter(
            report, model_path(model), sessions=sessions, between=between, split=split
        ),
    )
