"""Verbs of `deepwell bench` on texts longer than the model's context."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from deepwell.cli.bench.options import Json, Model, Row, measure, model_path

__all__ = ["context_endless", "context_needle"]


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


def context_needle(
    model: Model = None,
    split: Annotated[
        Literal["development", "evaluation"],
        typer.Option(help="development, on which choices are made, or the frozen evaluation."),
    ] = "evaluation",
    lengths: Annotated[str, typer.Option(help="Tokens of the haystacks, with commas.")] = "4000,16000,64000",
    mechanisms: Annotated[
        str, typer.Option(help="auto, auto-turns, compress, retrieve, window, truncation, full; with commas.")
    ] = "auto,auto-turns,compress,retrieve,truncation,full,window",
    every: Annotated[int, typer.Option(min=1, help="Asks every n-th question alone.")] = 1,
    window_every: Annotated[
        int,
        typer.Option(
            min=1, help="Asks every n-th of those of a window, which reads the whole text for each."
        ),
    ] = 7,
    context: Annotated[int, typer.Option(min=1024, help="Tokens that a haystack is fitted to.")] = 4096,
    row: Row = None,
    json: Json = False,
) -> None:
    """Asks a language model for facts in texts of 4k to 64k tokens, by each way to fit them and by none."""
    from deepwell.bench.suites.context.needle import MECHANISMS, Mechanism, NeedleOptions, bench_needle
    from deepwell.settings import Settings

    chosen: tuple[Mechanism, ...] = tuple(one for one in MECHANISMS if one in mechanisms.split(","))
    if len(chosen) != len(mechanisms.split(",")):
        raise typer.BadParameter(f"choose from {', '.join(MECHANISMS)}", param_hint="--mechanisms")
    options = NeedleOptions(
        split, tuple(int(one) for one in lengths.split(",")), chosen, every, window_every, context
    )
    measure(
        "context_needle",
        row,
        json,
        lambda report: bench_needle(report, model or Settings.load().model, options),
    )
