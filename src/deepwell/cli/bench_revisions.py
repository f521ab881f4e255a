"""`deepwell bench`: this checkout beside an earlier commit of its repository."""

from __future__ import annotations

from typing import Annotated

import typer

from deepwell.cli.bench import Json, Model, Row, app
from deepwell.cli.bench import _measure as measure
from deepwell.cli.bench import _model as model_path

__all__: list[str] = []

Against = Annotated[
    str,
    typer.Option(
        help="A commit, branch or tag. Its environment is built once, in minutes; DEEPWELL_BENCH_REVISION names a "
        "checkout of it whose .venv is made already."
    ),
]
BASELINE = "99c5fe1"


@app.command()
def unchanged(
    against: Against = BASELINE,
    part: Annotated[
        list[str] | None,
        typer.Option(help="golden, tests, openapi or stored, as often as wanted; unset: all."),
    ] = None,
    model: Model = None,
    row: Row = None,
    json: Json = False,
) -> None:
    """What an earlier commit promised and this checkout no longer keeps: golden data, tests, OpenAPI document, stored data."""
    from deepwell.bench.unchanged import PARTS, bench_unchanged

    if unknown := set(part or ()) - set(PARTS):
        raise typer.BadParameter(f"{', '.join(sorted(unknown))} is none of {', '.join(PARTS)}")
    measure(
        "unchanged",
        row,
        json,
        lambda report: bench_unchanged(report, model_path(model), against=against, parts=part or ()),
    )
