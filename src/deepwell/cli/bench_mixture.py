"""`deepwell bench mixture`: mixtures of experts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from deepwell.cli.output import JsonFlag

if TYPE_CHECKING:
    from deepwell.bench.harness.report import Report

__all__ = ["mixture"]

Measure = Callable[[str, str | None, bool, "Callable[[Report], dict[str, Any]]"], None]


def mixture(measure: Measure, resolve_threads: Callable[[int | None], int]) -> Callable[..., None]:
    """The verb, on the shared runner of `deepwell bench`."""

    def verb(
        what: Annotated[
            Literal["dense", "roof", "peer", "load"],
            typer.Argument(
                help="Against a dense model as large; against the memory roof; against llama.cpp; loading 16 GB."
            ),
        ],
        threads: Annotated[
            int | None, typer.Option(help="Compute threads; unset: the cores this process may use.")
        ] = None,
        rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 5,
        layers: Annotated[
            int | None, typer.Option(min=2, help="Of V2-Lite's 27; unset: 8 (roof), 5 (peer), all (load).")
        ] = None,
        keep: Annotated[bool, typer.Option("--keep", help="Leave the model of `load` on disk.")] = False,
        row: Annotated[
            str | None, typer.Option(help="Hold the figures against this row of targets.toml.")
        ] = None,
        json: JsonFlag = False,
    ) -> None:
        """Mixtures of experts, random weights in V2-Lite's shape."""
        from deepwell.bench.suites.engine import mixture

        count = resolve_threads(threads)

        def run(report: Report) -> dict[str, Any]:
            if what == "dense":
                return mixture.bench_mixture_dense(report, threads=count, rounds=rounds)
            if what == "roof":
                return mixture.bench_mixture_roof(report, threads=count, rounds=rounds, layers=layers or 8)
            if what == "peer":
                return mixture.bench_mixture_peer(report, threads=count, rounds=rounds, layers=layers or 5)
            return mixture.bench_mixture_load(report, threads=count, layers=layers, keep=keep)

        measure("mixture", row, json, run)

    return verb
