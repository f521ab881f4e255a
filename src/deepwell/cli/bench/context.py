"""Verbs of `deepwell bench` on texts longer than the model's context."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepwell.cli.bench.options import Json, Model, Row, Threads, measure, model_path, usable_threads

if TYPE_CHECKING:
    from deepwell.bench.harness.report import Report

__all__ = ["context_endless", "context_low_rank"]


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


def context_low_rank(
    model: Model = None,
    ranks: Annotated[
        list[int] | None,
        typer.Option("--rank", help="Rank of the factors, once each; unset: 16, 32, 48, 64."),
    ] = None,
    length: Annotated[int, typer.Option(min=5000, help="Length of a haystack, in tokens.")] = 16_000,
    recent: Annotated[int, typer.Option(min=256, help="Most recent tokens that stay exact.")] = 1024,
    haystacks: Annotated[
        list[str] | None, typer.Option("--haystack", help="Haystack to ask, once each; unset: all four.")
    ] = None,
    development: Annotated[
        bool, typer.Option("--development", help="Ask the questions that choices are made on.")
    ] = False,
    full: Annotated[bool, typer.Option(help="Measure exact keys of the whole text, too.")] = True,
    speed: Annotated[
        bool, typer.Option("--speed", help="Time decoding behind 32,768 tokens instead.")
    ] = False,
    threads: Threads = None,
    picture: Annotated[Path | None, typer.Option(help="PNG file that gets the curve.")] = None,
    row: Row = None,
    json: Json = False,
) -> None:
    """Measures low-rank memory of a window against its rank: bytes, perplexity and needles, or its speed."""
    from deepwell.bench.suites.context.low_rank import LowRankOptions, bench_low_rank, bench_low_rank_speed
    from deepwell.engine.protocol import Window

    chosen = LowRankOptions()
    options = replace(
        chosen,
        ranks=tuple(ranks or chosen.ranks),
        window=Window(64, recent),
        length=length,
        split="development" if development else "evaluation",
        haystacks=tuple(haystacks or chosen.haystacks),
        full=full,
    )
    path = model_path(model)

    def run(report: Report) -> dict[str, Any]:
        if speed:
            return bench_low_rank_speed(
                report, path, ranks=options.ranks, threads=usable_threads(threads), window=options.window
            )
        return bench_low_rank(report, path, options, picture)

    measure("context_low_rank_speed" if speed else "context_low_rank", row, json, run)
