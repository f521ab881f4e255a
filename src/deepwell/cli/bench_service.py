"""`deepwell bench`: the server as its users see it: official SDKs, its own OpenAPI document, added latency."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from deepwell.cli.bench import Json, Model, Row, app
from deepwell.cli.bench import _measure as measure
from deepwell.cli.bench import _model as model_path

__all__: list[str] = []


@app.command()
def sdk(model: Model = None, row: Row = None, json: Json = False) -> None:
    """Every method of the served families through the official SDKs, with strict validation."""

    def run(report: Any) -> dict[str, Any]:
        from deepwell.bench.harness.served import serve_command, served
        from deepwell.bench.workloads.tour import take_tour

        with served(serve_command(path := model_path(model))) as port:
            done = take_tour(f"http://127.0.0.1:{port}", served_name(port))
        rows = [[client, len(calls), len(set(calls))] for client, calls in done.items()]
        report.table(f"Official SDKs against {path.stem}", ["client", "calls", "methods and forms"], rows)
        return {"failures": 0, "calls": sum(map(len, done.values())), "clients": len(done)}

    measure("sdk", row, json, run)


def served_name(port: int) -> str:
    """What the server calls its model."""
    import json
    import urllib.request

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=30) as answer:
        return json.load(answer)["data"][0]["id"]


@app.command()
def fuzz(
    model: Model = None,
    minutes: Annotated[float, typer.Option(min=0.1, help="How long requests are made.")] = 5.0,
    seed: Annotated[int, typer.Option(help="Of the requests.")] = 1,
    row: Row = None,
    json: Json = False,
) -> None:
    """Schemathesis against the server's own OpenAPI document, in an environment of its own."""
    from deepwell.bench.suites.service.fuzz import bench_fuzz

    measure(
        "fuzz", row, json, lambda report: bench_fuzz(report, model_path(model), minutes=minutes, seed=seed)
    )


@app.command()
def latency(
    model: Model = None,
    rate: Annotated[float, typer.Option(min=1, help="Requests a second.")] = 100.0,
    seconds: Annotated[float, typer.Option(min=1, help="How long.")] = 60.0,
    full: Annotated[bool, typer.Option("--full", help="With keys, limits and the access log.")] = False,
    row: Row = None,
    json: Json = False,
) -> None:
    """What the server adds to the time to the first token, over an engine that keeps exact time."""
    from deepwell.bench.suites.service.latency import bench_latency

    measure(
        "latency",
        row,
        json,
        lambda report: bench_latency(report, model_path(model), rate=rate, seconds=seconds, full=full),
    )
