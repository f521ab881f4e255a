"""`deepwell bench prediction`: drafts of a multi-token prediction layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepwell.cli.output import JsonFlag

if TYPE_CHECKING:
    from deepwell.bench.harness.report import Report

__all__ = ["prediction"]

Measure = Callable[[str, str | None, bool, "Callable[[Report], dict[str, Any]]"], None]


def prediction(measure: Measure, resolve_threads: Callable[[int | None], int]) -> Callable[..., None]:
    """The verb, on the shared runner of `deepwell bench`."""

    def verb(
        threads: Annotated[
            int | None, typer.Option(help="Compute threads; unset: the cores this process may use.")
        ] = None,
        rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 5,
        tokens: Annotated[int, typer.Option(min=32, help="Tokens of an answer.")] = 96,
        row: Annotated[
            str | None, typer.Option(help="Hold the figures against this row of targets.toml.")
        ] = None,
        json: JsonFlag = False,
    ) -> None:
        """Multi-token prediction: what a draft costs, and from which share of right ones on it pays."""
        from deepwell.bench.suites.engine.prediction import bench_prediction

        count = resolve_threads(threads)
        measure(
            "prediction",
            row,
            json,
            lambda report: bench_prediction(report, threads=count, rounds=rounds, tokens=tokens),
        )

    return verb
