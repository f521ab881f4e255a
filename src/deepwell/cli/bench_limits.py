"""`deepwell bench`: what limits, keys and caches cost, and what they save."""

from __future__ import annotations

from typing import Annotated

import typer

from deepwell.cli.bench import Json, Model, Row, app
from deepwell.cli.bench import _measure as measure
from deepwell.cli.bench import _model as model_path

__all__: list[str] = []


@app.command()
def cache(
    model: Model = None,
    seconds: Annotated[float, typer.Option(min=1, help="Of each run of wrk.")] = 5.0,
    rounds: Annotated[int, typer.Option(min=1, help="Runs at each number of connections.")] = 3,
    row: Row = None,
    json: Json = False,
) -> None:
    """Answers from the exact response cache, by wrk with keep-alive; and two tenants over every route."""
    from deepwell.bench.suites.service.exact_cache import bench_exact_cache

    measure(
        "cache",
        row,
        json,
        lambda report: bench_exact_cache(report, model_path(model), seconds=seconds, rounds=rounds),
    )
