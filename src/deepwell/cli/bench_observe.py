"""`deepwell bench`: what is seen of a server, and what its semantic cache takes for the same question."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deepwell.cli.bench import Json, Model, Row, Threads, app
from deepwell.cli.bench import _measure as measure
from deepwell.cli.bench import _model as model_path
from deepwell.cli.bench import _threads as usable_threads

__all__: list[str] = []


@app.command()
def metrics(
    model: Model = None,
    rate: Annotated[float, typer.Option(min=1, help="Requests a second.")] = 100.0,
    seconds: Annotated[float, typer.Option(min=1, help="How long.")] = 60.0,
    row: Row = None,
    json: Json = False,
) -> None:
    """How long /metrics takes under load, and how late the event loop is."""
    from deepwell.bench.suites.service.scrape import bench_metrics

    measure(
        "metrics",
        row,
        json,
        lambda report: bench_metrics(report, model_path(model), rate=rate, seconds=seconds),
    )


@app.command()
def semantic(
    embedder: Annotated[str | None, typer.Option(help="An embedding model; unset: minilm.")] = None,
    each: Annotated[int, typer.Option(min=1, help="Swaps of every family.")] = 80,
    seed: Annotated[int, typer.Option(help="Of the swaps.")] = 0,
    min_cosine: Annotated[float, typer.Option(min=0, max=1, help="How alike for the embedder.")] = 0.8,
    threads: Threads = None,
    row: Row = None,
    json: Json = False,
) -> None:
    """False hits of the semantic cache on swaps of what counts, and hits on paraphrases; in English and Chinese."""
    from deepwell.bench.suites.service.semantic import bench_semantic
    from deepwell.server.options import SemanticOptions

    measure(
        "semantic",
        row,
        json,
        lambda report: bench_semantic(
            report,
            _embedder(embedder),
            threads=usable_threads(threads),
            each=each,
            seed=seed,
            options=SemanticOptions(min_cosine=min_cosine),
        ),
    )


def _embedder(given: str | None) -> Path:
    from deepwell.bench.harness.assets import minilm

    return model_path(given) if given else minilm()
