"""`deepwell bench`: what the API promises: parsing of tool calls, structured output, other projects' clients."""

from __future__ import annotations

from typing import Annotated

import typer

from deepwell.cli.bench import Json, Model, Row, Threads, app
from deepwell.cli.bench import _measure as measure
from deepwell.cli.bench import _model as model_path
from deepwell.cli.bench import _threads as usable_threads

__all__: list[str] = []


@app.command()
def parsing(
    streams: Annotated[int, typer.Option(min=1, help="Random streams.")] = 100_000,
    seed: Annotated[int, typer.Option(help="Of the random streams.")] = 0,
    row: Row = None,
    json: Json = False,
) -> None:
    """Golden transcripts of tool calls, cut everywhere, and random streams."""
    from deepwell.bench.suites.service.parsing import bench_parsing

    measure("parsing", row, json, lambda report: bench_parsing(report, streams=streams, seed=seed))


@app.command()
def grammar(
    model: Model = None,
    threads: Threads = None,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds of the timing.")] = 5,
    count: Annotated[int, typer.Option(min=1, help="Schemas to answer.")] = 200,
    row: Row = None,
    json: Json = False,
) -> None:
    """Structured output: what masks cost a decode step, and whether answers fit their schemas."""
    from deepwell.bench.suites.service.grammar import bench_grammar

    measure(
        "grammar",
        row,
        json,
        lambda report: bench_grammar(
            report, model_path(model), threads=usable_threads(threads), rounds=rounds, count=count
        ),
    )


@app.command()
def clients(model: Model = None, threads: Threads = None, row: Row = None, json: Json = False) -> None:
    """LangChain, pydantic-ai and instructor against the server, in an environment of their own."""
    from deepwell.bench.suites.service.clients import bench_clients

    measure(
        "clients",
        row,
        json,
        lambda report: bench_clients(report, model_path(model), threads=usable_threads(threads)),
    )
