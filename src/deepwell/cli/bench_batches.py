"""`deepwell bench batches`: what a batch survives."""

from __future__ import annotations

from typing import Annotated

import typer

from deepwell.cli.bench import Json, Model, Row, app
from deepwell.cli.bench import _measure as measure
from deepwell.cli.bench import _model as model_path

__all__: list[str] = []


@app.command()
def batches(
    model: Model = None,
    lines: Annotated[int, typer.Option(min=1, help="Of the batch.")] = 500,
    kills: Annotated[int, typer.Option(min=0, help="SIGKILLs of the server.")] = 20,
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 6,
    row: Row = None,
    json: Json = False,
) -> None:
    """A batch whose server is killed at random moments: lines missing, lines answered twice."""
    from deepwell.bench.suites.storage.batch_kill import bench_batch_kill

    measure(
        "batches",
        row,
        json,
        lambda report: bench_batch_kill(report, model_path(model), lines=lines, kills=kills, seed=seed),
    )
