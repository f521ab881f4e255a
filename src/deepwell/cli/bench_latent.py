"""`deepwell bench latent`: DeepSeek's latent attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from deepwell.cli.output import JsonFlag

if TYPE_CHECKING:
    from deepwell.bench.harness.report import Report

__all__ = ["latent"]

Measure = Callable[[str, str | None, bool, "Callable[[Report], dict[str, Any]]"], None]


def latent(measure: Measure, resolve_threads: Callable[[int | None], int]) -> Callable[..., None]:
    """The verb, on the shared runner of `deepwell bench`."""

    def verb(
        what: Annotated[
            Literal["size", "context", "sparse"],
            typer.Argument(help="Bytes of the cache; decoding at 8k; V3.2's sparse attention."),
        ],
        threads: Annotated[
            int | None, typer.Option(help="Compute threads; unset: the cores this process may use.")
        ] = None,
        rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 5,
        row: Annotated[
            str | None, typer.Option(help="Hold the figures against this row of targets.toml.")
        ] = None,
        json: JsonFlag = False,
    ) -> None:
        """Latent attention: bytes of its cache, decoding at length, sparse against dense."""
        from deepwell.bench.suites.engine.latent import (
            bench_latent_context,
            bench_latent_size,
            bench_latent_sparse,
        )

        count = resolve_threads(threads)

        def run(report: Report) -> dict[str, Any]:
            if what == "size":
                return bench_latent_size(report)
            if what == "context":
                return bench_latent_context(report, threads=count, rounds=rounds)
            return bench_latent_sparse(report, threads=count, rounds=rounds)

        measure("latent", row, json, run)

    return verb
