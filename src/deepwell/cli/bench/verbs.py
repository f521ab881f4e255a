"""The verbs of `deepwell bench` that need nothing but a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepwell.cli.bench.options import (
    FixedTokens,
    Json,
    Model,
    Precision,
    PromptTokens,
    Rounds,
    Threads,
    Window,
    known_precision,
    model_path,
    usable_threads,
)
from deepwell.cli.output import reported_errors

if TYPE_CHECKING:
    from deepwell.cli.bench.report import Report

__all__ = ["batch", "decode", "load", "prefill", "profile", "quality", "roofline"]


def roofline(
    threads: Threads = None,
    phases: Annotated[
        bool, typer.Option("--phases", help="Hold the phases of real decode steps and a prompt against them.")
    ] = False,
    model: Model = None,
    json: Json = False,
) -> None:
    """Measures the memory and arithmetic peaks of this machine, beside what its manual promises."""
    from deepwell.cli.bench.roofline import bench_roofline

    _measured(
        "roofline",
        json,
        lambda report: bench_roofline(
            report, threads=usable_threads(threads), phases_of=model_path(model) if phases else None
        ),
    )


def decode(
    precision: Precision = "int8",
    model: Model = None,
    threads: Threads = None,
    rounds: Rounds = 7,
    prompt_tokens: PromptTokens = 128,
    tokens: Annotated[int, typer.Option(min=2, help="Length of each answer, in tokens.")] = 128,
    json: Json = False,
) -> None:
    """Measures tokens a second of one sequence, against the memory roof, and what a token costs.

    A token costs processor seconds of all threads, bytes of weights and cache that are read, and joules of the processor
    packages where the kernel lets them be read; `deepwell doctor` says whether it does.
    """
    from deepwell.cli.bench.measures import measure_decode

    _measured(
        "decode",
        json,
        lambda report: measure_decode(
            report,
            model_path(model),
            precision=known_precision(precision),
            threads=usable_threads(threads),
            rounds=rounds,
            prompt_tokens=prompt_tokens,
            tokens=tokens,
        ),
    )


def prefill(
    precision: Precision = "int8",
    model: Model = None,
    threads: Threads = None,
    rounds: Rounds = 7,
    prompt_tokens: PromptTokens = 512,
    json: Json = False,
) -> None:
    """Measures tokens of a prompt a second, against the arithmetic roof."""
    from deepwell.cli.bench.measures import measure_prefill

    _measured(
        "prefill",
        json,
        lambda report: measure_prefill(
            report,
            model_path(model),
            precision=known_precision(precision),
            threads=usable_threads(threads),
            rounds=rounds,
            prompt_tokens=prompt_tokens,
        ),
    )


def batch(
    sequences: Annotated[
        int, typer.Option(min=1, help="Number of sequences that are decoded together.")
    ] = 16,
    precision: Precision = "int8",
    model: Model = None,
    threads: Threads = None,
    rounds: Rounds = 5,
    prompt_tokens: PromptTokens = 128,
    tokens: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Length of each answer, in tokens. Unless given, twice the sequences, at least 64: steps count once all"
            " prompts have joined, one in a step.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Measures tokens a second of many sequences together, and how many times those of one sequence they are."""
    from deepwell.cli.bench.measures import measure_batch

    _measured(
        "batch",
        json,
        lambda report: measure_batch(
            report,
            model_path(model),
            precision=known_precision(precision),
            threads=usable_threads(threads),
            sequences=sequences,
            rounds=rounds,
            prompt_tokens=prompt_tokens,
            tokens=tokens,
        ),
    )


def profile(
    precision: Precision = "int4",
    model: Model = None,
    threads: Threads = None,
    rows: Annotated[int, typer.Option(min=1, help="Number of sequences that are decoded together.")] = 1,
    prefill: Annotated[
        int | None,
        typer.Option(
            min=1, help="Length of a prompt, in tokens, whose reading is profiled in place of decoding."
        ),
    ] = None,
    rounds: Rounds = 5,
    prompt_tokens: PromptTokens = 128,
    tokens: Annotated[int, typer.Option(min=3, help="Length of each answer, in tokens.")] = 64,
    json: Json = False,
) -> None:
    """Splits the milliseconds of a decode step, or of a prompt, into phases."""
    from deepwell.cli.bench.phases import bench_profile

    _measured(
        "profile",
        json,
        lambda report: bench_profile(
            report,
            model_path(model),
            precision=known_precision(precision),
            threads=usable_threads(threads),
            rows=rows,
            prefill=prefill,
            rounds=rounds,
            prompt_tokens=prompt_tokens,
            tokens=tokens,
        ),
    )


def load(
    precision: Precision = "int4",
    model: Model = None,
    threads: Threads = None,
    rounds: Rounds = 3,
    requests: Annotated[int, typer.Option(min=1, help="Number of requests in each round.")] = 64,
    clients: Annotated[
        int, typer.Option(min=1, help="Number of clients, each with one request at a time.")
    ] = 16,
    json: Json = False,
) -> None:
    """Measures throughput and latency of a server of its own under a mixed load over HTTP."""
    from deepwell.cli.bench.load import measure_load

    _measured(
        "load",
        json,
        lambda report: measure_load(
            report,
            model_path(model),
            precision=known_precision(precision),
            threads=usable_threads(threads),
            rounds=rounds,
            requests=requests,
            clients=clients,
        ),
    )


def quality(
    model: Model = None,
    text: Annotated[
        Path | None,
        typer.Option(help="File of text to predict; unset: the pages of `deepwell learn`.", dir_okay=False),
    ] = None,
    tokens: FixedTokens = 20_480,
    window: Window = 512,
    short: Annotated[
        bool,
        typer.Option("--short", help="Measure 2,048 tokens of int8 and int4 alone, which takes seconds."),
    ] = False,
    json: Json = False,
) -> None:
    """Measures perplexity, KL divergence and top-1 agreement of int8 and int4 against fp32."""

    def run(report: Report) -> dict[str, Any]:
        from deepwell.cli.bench.engine import PRECISIONS
        from deepwell.cli.bench.quality import SHORT_PRECISIONS, SHORT_TOKENS, bench_quality
        from deepwell.cli.bench.text import text_tokens

        path = model_path(model)
        return bench_quality(
            report,
            path,
            text_tokens(path, text)[: SHORT_TOKENS if short else tokens],
            window=window,
            precisions=SHORT_PRECISIONS if short else PRECISIONS,
        )

    _measured("quality", json, run)


def _measured(name: str, as_json: bool, measure: Callable[[Report], dict[str, Any]]) -> None:
    """Runs a measurement and prints its tables, and its figures as a last line of JSON."""
    with reported_errors(as_json=as_json):
        from deepwell.cli.bench.report import Outcome, Report

        report = Report(as_json=as_json)
        report.finish(Outcome(name, measure(report)))
