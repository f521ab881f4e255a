"""Verbs of `deepwell bench` on texts longer than the model's context."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from deepwell_bench.cli.options import Json, Model, Rounds, Row, Threads, measure, model_path, usable_threads

if TYPE_CHECKING:
    from deepwell.cli.bench.report import Report

__all__ = [
    "context_endless",
    "context_honesty",
    "context_low_rank",
    "context_memory",
    "context_needle",
    "context_session_adapter",
    "context_time",
]

Lengths = Annotated[
    list[int] | None,
    typer.Option("--length", min=1000, help="Length of a history in tokens; may be repeated."),
]


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
    from deepwell.engine.protocol import Window
    from deepwell_bench.suites.context.endless import bench_context_endless

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
        typer.Option(help="Haystacks to ask about: those that choices are made on, or the frozen ones."),
    ] = "evaluation",
    lengths: Annotated[str, typer.Option(help="Tokens of the haystacks, with commas.")] = "4000,16000,64000",
    mechanisms: Annotated[
        str,
        typer.Option(
            help="Ways to fit a haystack, with commas: auto, auto-turns, compress, retrieve, window, truncation, full."
        ),
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
    from deepwell.settings import Settings
    from deepwell_bench.suites.context.needle import MECHANISMS, Mechanism, NeedleOptions, bench_needle

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


def context_honesty(
    model: Annotated[str, typer.Option(help="Model to serve: a name in the store.")] = "smollm2",
    count: Annotated[int, typer.Option(min=1, help="Number of random conversations.")] = 300,
    seed: Annotated[int, typer.Option(help="Seed of the conversations.")] = 1,
    row: Row = None,
    json: Json = False,
) -> None:
    """Sends random conversations to a real server under every policy, and checks its account of every token against ours."""
    from deepwell_bench.suites.context.honesty import HonestyOptions, bench_context_honesty

    options = HonestyOptions(model, count, seed=seed)
    measure("context_honesty", row, json, lambda report: bench_context_honesty(report, options))


def context_memory(
    model: Annotated[
        list[str] | None, typer.Option(help="Model in the store; may be repeated; unset: both of the row.")
    ] = None,
    length: Lengths = None,
    row: Row = None,
    json: Json = False,
) -> None:
    """Counts the bytes a token of a long history in exact pages, in a window, compressed, and kept to recall from."""
    from deepwell_bench.suites.context.memory import MemoryOptions, bench_context_memory

    default = MemoryOptions()
    options = MemoryOptions(tuple(model or default.models), tuple(length or default.lengths))
    measure("context_memory", row, json, lambda report: bench_context_memory(report, options))


def context_time(
    model: Annotated[
        list[str] | None, typer.Option(help="Model in the store; may be repeated; unset: both of the row.")
    ] = None,
    rounds: Rounds = 9,
    row: Row = None,
    json: Json = False,
) -> None:
    """Times the first token of new turns behind a history of 4k tokens and of 64k, through the real server."""
    from deepwell_bench.suites.context.turns import TurnOptions, bench_context_time

    default = TurnOptions()
    options = TurnOptions(tuple(model or default.models), rounds=rounds)
    measure("context_time", row, json, lambda report: bench_context_time(report, options))


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
    from deepwell.engine.protocol import Window
    from deepwell_bench.suites.context.low_rank import LowRankOptions, bench_low_rank, bench_low_rank_speed

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
    from deepwell_bench.suites.context.session_adapter import bench_session_adapter

    measure(
        "context_session_adapter",
        row,
        json,
        lambda report: bench_session_adapter(
            report, model_path(model), sessions=sessions, between=between, split=split
        ),
    )
