"""Options that several verbs of `deepwell bench` share, and the way each of them runs its benchmark."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepwell.cli.output import JsonFlag as Json
from deepwell.cli.output import reported_errors

if TYPE_CHECKING:
    from deepwell.bench.harness.report import Report

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
Threads = Annotated[
    int | None, typer.Option(help="Number of compute threads; unset: the cores that this process may use.")
]
Model = Annotated[
    str | None,
    typer.Option(
        help="Model to measure: a name in the store, or a GGUF file; unset: smollm2 from the store."
    ),
]
Precision = Annotated[
    str, typer.Option(help="Format of the weights: int8, int4 (8-bit head), int4-full, bf16, fp16 or fp32.")
]
Rounds = Annotated[int, typer.Option(min=1, help="Number of interleaved rounds; the median counts.")]
NoPeers = Annotated[bool, typer.Option("--no-peers", help="Measure Deepwell alone, without llama.cpp.")]
PromptTokens = Annotated[int, typer.Option(min=1, help="Length of each prompt, in tokens.")]
FixedTokens = Annotated[int, typer.Option(min=2, help="Length of the fixed text, in tokens.")]
Window = Annotated[int, typer.Option(min=2, help="Context of the perplexity, in tokens.")]
Rate = Annotated[float, typer.Option(min=1, help="Rate of requests, a second.")]
Seconds = Annotated[float, typer.Option(min=1, help="Length of the load, in seconds.")]


def usable_threads(given: int | None) -> int:
    """Returns the number of threads asked for, or the cores this process may use; no more than the kernels take."""
    from deepwell.bench.harness.machine import available_cores
    from deepwell.engine.backends.native import MAX_THREADS

    return min(given or available_cores(), MAX_THREADS)


def model_path(given: str | None) -> Path:
    """Returns the file of a model in the store, or of smollm2."""
    from deepwell.bench.harness.assets import smollm2
    from deepwell.models.store.store import ModelStore
    from deepwell.settings import Settings

    return ModelStore(Settings.load().models_dir).resolve(given).path if given else smollm2()


def known_precision(text: str) -> Any:
    """Returns the precision, if there is one of that name."""
    from deepwell.bench.peers.ours import PRECISIONS

    if text not in ("fp32", *PRECISIONS):
        raise typer.BadParameter(f"{text!r} is none of {', '.join(('fp32', *PRECISIONS))}")
    return text


def measure(name: str, row: str | None, as_json: bool, benchmark: Callable[[Report], dict[str, Any]]) -> None:
    """Runs one benchmark and prints its table and last line; exits with 1 where it misses the bar."""
    with reported_errors(as_json=as_json):
        from deepwell.bench.harness.report import Outcome, Report
        from deepwell.bench.harness.targets import judge

        report = Report(as_json=as_json)
        value = benchmark(report)
        outcome = judge(row, value) if row else Outcome(name, value)
        report.finish(outcome)
    if outcome.holds is False:
        raise typer.Exit(1)
