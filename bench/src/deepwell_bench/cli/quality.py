"""Verbs of `deepwell bench` on the quality of answers: perplexity, size, determinism."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepwell_bench.cli.options import FixedTokens, Json, Model, Row, Window, measure, model_path

if TYPE_CHECKING:
    from deepwell.cli.bench.report import Report

__all__ = ["determinism", "kv", "quality", "size"]


def size(model: Model = None, row: Row = None, json: Json = False) -> None:
    """Compares packed model files with fp32."""
    from deepwell_bench.suites.quality.size import bench_model_size

    measure("size", row, json, lambda report: bench_model_size(report, model_path(model)))


def quality(
    model: Model = None,
    tokens: FixedTokens = 20_480,
    window: Window = 512,
    short: Annotated[
        bool,
        typer.Option("--short", help="Measure 2,048 tokens of int8 and int4 alone, which takes seconds."),
    ] = False,
    isa: Annotated[
        str | None,
        typer.Option(help="Kernel table to measure, such as avx2; unset: the best of this machine."),
    ] = None,
    row: Row = None,
    json: Json = False,
) -> None:
    """Measures perplexity, KL divergence and top-1 agreement of int8 and int4 against fp32."""
    from deepwell.cli.bench.engine import PRECISIONS
    from deepwell.cli.bench.quality import SHORT_PRECISIONS, SHORT_TOKENS, bench_quality
    from deepwell_bench.workloads.text import text_tokens

    path = model_path(model)
    measure(
        "quality",
        row,
        json,
        lambda report: bench_quality(
            report,
            path,
            text_tokens(path)[: SHORT_TOKENS if short else tokens],
            window=window,
            precisions=SHORT_PRECISIONS if short else PRECISIONS,
            isa=isa,
        ),
    )


def kv(
    model: Model = None,
    tokens: FixedTokens = 20_480,
    window: Window = 512,
    row: Row = None,
    json: Json = False,
) -> None:
    """Measures perplexity and bytes of int8 pages of keys and values against bf16."""
    from deepwell_bench.suites.quality.kv_pages import bench_kv_pages

    measure(
        "kv",
        row,
        json,
        lambda report: bench_kv_pages(report, model_path(model), tokens=tokens, window=window),
    )


def determinism(
    model: Model = None,
    requests: Annotated[int, typer.Option(min=1, help="Number of requests to compare.")] = 200,
    deepseek: Annotated[
        bool, typer.Option("--deepseek", help="Use tiny random models of DeepSeek V2, V3 and V3.2.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the random requests.")] = 7,
    row: Row = None,
    json: Json = False,
) -> None:
    """Checks that logprobs are bitwise equal whatever runs beside a request."""

    def run(report: Report) -> dict[str, Any]:
        from deepwell_bench.suites.quality.deepseek_determinism import bench_deepseek_determinism
        from deepwell_bench.suites.quality.determinism import bench_determinism

        if deepseek:
            return bench_deepseek_determinism(report, requests=requests, seed=seed)
        return bench_determinism(report, model_path(model), requests=requests, seed=seed)

    measure("determinism", row, json, run)
