"""`deepwell bench`: this checkout beside an earlier commit of its repository."""

from __future__ import annotations

from typing import Annotated

import typer

from deepwell.cli.bench import Json, Model, Row, Threads, app
from deepwell.cli.bench import _measure as measure
from deepwell.cli.bench import _model as model_path
from deepwell.cli.bench import _threads as usable_threads

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
    from deepwell.bench.suites.repository.unchanged import PARTS, bench_unchanged

    if unknown := set(part or ()) - set(PARTS):
        raise typer.BadParameter(f"{', '.join(sorted(unknown))} is none of {', '.join(PARTS)}")
    measure(
        "unchanged",
        row,
        json,
        lambda report: bench_unchanged(report, model_path(model), against=against, parts=part or ()),
    )


@app.command()
def regression(
    against: Against = BASELINE,
    pairs: Annotated[int, typer.Option(min=1, help="Runs of each side, one beside the other.")] = 20,
    task: Annotated[
        list[str] | None,
        typer.Option(
            help="decode_int8, decode_int4, prefill, batch16 or added_latency_ms, as often as wanted; unset: all."
        ),
    ] = None,
    model: Model = None,
    threads: Threads = None,
    row: Row = None,
    json: Json = False,
) -> None:
    """Speed beside an earlier commit's, in paired runs: decode, prefill, batch 16, and the latency that the server adds."""
    from deepwell.bench.suites.repository.regression import TASKS, bench_regression

    if unknown := set(task or ()) - set(TASKS):
        raise typer.BadParameter(f"{', '.join(sorted(unknown))} is none of {', '.join(TASKS)}")
    measure(
        "regression",
        row,
        json,
        lambda report: bench_regression(
            report,
            model_path(model),
            against=against,
            threads=usable_threads(threads),
            pairs=pairs,
            tasks=task or (),
        ),
    )
