"""Options of the benchmarks of this repository, and the way each of them runs."""

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
    usable_threads,
)
from deepwell.cli.output import reported_errors

if TYPE_CHECKING:
    from deepwell.cli.bench.report import Report

__all__ = [
    "FixedTokens",
    "Json",
    "Model",
    "NoPeers",
    "Precision",
    "PromptTokens",
    "Rate",
    "Rounds",
    "Row",
    "Seconds",
    "Threads",
    "Window",
    "known_precision",
    "measure",
    "model_path",
    "usable_threads",
]

Row = Annotated[str | None, typer.Option(help="Row of targets.toml whose bar the figures must meet.")]
NoPeers = Annotated[bool, typer.Option("--no-peers", help="Measure Deepwell alone, without llama.cpp.")]
Rate = Annotated[float, typer.Option(min=1, help="Rate of requests, a second.")]
Seconds = Annotated[float, typer.Option(min=1, help="Length of the load, in seconds.")]


def model_path(given: str | None) -> Path:
    """Returns the file of a model in the store, or of smollm2 wherever it is named."""
    from deepwell.cli.bench.options import model_path as stored
    from deepwell_bench.harness.assets import smollm2

    return stored(given) if given else smollm2()


def measure(name: str, row: str | None, as_json: bool, benchmark: Callable[[Report], dict[str, Any]]) -> None:
    """Runs one benchmark and prints its table and last line; exits with 1 where it misses the bar."""
    with reported_errors(as_json=as_json):
        from deepwell.cli.bench.report import Outcome, Report
        from deepwell_bench.harness.targets import judge

        report = Report(as_json=as_json)
        value = benchmark(report)
        outcome = judge(row, value) if row else Outcome(name, value)
        report.finish(outcome)
    if outcome.holds is False:
        raise typer.Exit(1)
