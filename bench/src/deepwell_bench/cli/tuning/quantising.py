"""Verb of `deepwell bench` on calibrated quantisation."""

from __future__ import annotations

from typing import Annotated

import typer

from deepwell_bench.cli.options import Json, Row, measure, model_path

__all__ = ["quantisation"]


def quantisation(
    model: Annotated[
        str,
        typer.Option(
            help="Model beside the tiny one: a name in the store, or a path; none: the tiny one alone."
        ),
    ] = "qwen2.5-coder-0.5b",
    learned: Annotated[
        int,
        typer.Option(
            min=0, help="Tokens that the tiny model is trained on, once for each number; 0: without it."
        ),
    ] = 2_000_000,
    tokens: Annotated[
        int, typer.Option(min=1024, help="Held-out tokens of the tiny model's perplexity.")
    ] = 120_000,
    held_out: Annotated[
        int, typer.Option(min=1024, help="Held-out tokens of the other model's perplexity.")
    ] = 6144,
    windows: Annotated[
        int,
        typer.Option(
            min=8, help="Calibration windows of the other model, of 256 tokens; half as many for 3 bits."
        ),
    ] = 40,
    row: Row = None,
    json: Json = False,
) -> None:
    """Measures the perplexity that 4 and 3 bits cost by GPTQ and AWQ beside rounding to nearest, on two models."""
    from deepwell_bench.suites.tuning.compress.quantisation import QuantisationSizes, bench_quantisation

    sizes = QuantisationSizes(learned=learned, tiny=tokens, large=held_out, windows=windows)
    measure(
        "quantisation",
        row,
        json,
        lambda report: bench_quantisation(report, None if model == "none" else model_path(model), sizes),
    )
