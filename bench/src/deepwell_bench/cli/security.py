"""Verbs of `deepwell bench` on hostile ground."""

from __future__ import annotations

from typing import Annotated

import typer

from deepwell_bench.cli.options import Json, Model, Row, measure, model_path

__all__ = ["agent_sandbox", "audit", "confinement", "erasure", "siege"]

PARTS = ("attacks", "edge", "outages", "kills", "models", "tenants", "soak")


def siege(
    part: Annotated[
        str,
        typer.Option(
            help="Kind of attack: attacks (on a server), edge (no key), outages, kills, models (hostile files), tenants "
            "or soak (all routes)."
        ),
    ] = "attacks",
    model: Model = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Number of HTTP processes of the server that is attacked.")
    ] = 1,
    only: Annotated[
        str, typer.Option(help="Names of the attacks to make, with * and commas; for --part attacks alone.")
    ] = "*",
    kinds: Annotated[
        str,
        typer.Option(
            help="Kinds of attacks to make, with * and commas: connections, requests, bodies, texts, grammars, objects."
        ),
    ] = "*",
    seconds: Annotated[
        float, typer.Option(min=0.1, help="Shortest length of each attack, in seconds.")
    ] = 2.5,
    alone: Annotated[bool, typer.Option(help="Make attacks one after another.")] = True,
    together: Annotated[bool, typer.Option(help="Make attacks five at a time.")] = True,
    kills: Annotated[int, typer.Option(min=1, help="Processes to kill; for --part kills alone.")] = 120,
    minutes: Annotated[float, typer.Option(min=0.1, help="Length of --part soak, in minutes.")] = 60.0,
    row: Row = None,
    json: Json = False,
) -> None:
    """Attacks a keyed server with two tenants beside a well-behaved client, and names each attack that breaks the bar."""
    if part not in PARTS:
        raise typer.BadParameter(f"{part!r} is none of {', '.join(PARTS)}")
    from deepwell_bench.suites.security.edge import bench_edge
    from deepwell_bench.suites.security.kills import bench_kills
    from deepwell_bench.suites.security.models import bench_models
    from deepwell_bench.suites.security.outages import bench_outages
    from deepwell_bench.suites.security.siege import bench_siege
    from deepwell_bench.suites.security.soak import bench_soak_routes
    from deepwell_bench.suites.security.tenants import bench_tenants

    path = model_path(model)
    runs = {
        "attacks": lambda report: bench_siege(
            report,
            path,
            workers=workers,
            only=only,
            kinds=kinds,
            seconds=seconds,
            alone=alone,
            together=together,
        ),
        "edge": lambda report: bench_edge(report, path, workers=workers),
        "outages": lambda report: bench_outages(report, path),
        "kills": lambda report: bench_kills(report, path, kills=kills),
        "models": bench_models,
        "soak": lambda report: bench_soak_routes(report, path, minutes=minutes),
        "tenants": lambda report: bench_tenants(report, path),
    }
    measure("siege", row, json, runs[part])


def audit(
    entries: Annotated[int, typer.Option(min=1000, help="Number of entries to verify.")] = 1_000_000,
    flips: Annotated[int, typer.Option(min=1, help="Number of bits to flip, one at a time.")] = 200,
    kills: Annotated[int, typer.Option(min=1, help="Number of times that two writers are killed.")] = 10,
    row: Row = None,
    json: Json = False,
) -> None:
    """Verifies a long audit trail, flips single bits of it, and kills its writers."""
    from deepwell_bench.suites.security.audit import bench_audit

    measure("audit", row, json, lambda report: bench_audit(report, entries=entries, flips=flips, kills=kills))


def erasure(model: Model = None, row: Row = None, json: Json = False) -> None:
    """Writes persons' data through a server's routes, erases two of them while it runs, and looks for what is left."""
    from deepwell_bench.suites.security.erasure import bench_erasure

    measure("erasure", row, json, lambda report: bench_erasure(report, model_path(model)))


def agent_sandbox(
    every: Annotated[int, typer.Option(min=1, help="Number of attempts of which one is made.")] = 1,
    row: Row = None,
    json: Json = False,
) -> None:
    """Runs programs that try to leave the sandbox, each also without one: those that succeed there must fail in it."""
    from deepwell_bench.suites.security.sandbox import bench_agent_sandbox

    measure("agent_sandbox", row, json, lambda report: bench_agent_sandbox(report, every=every))


def confinement(
    kind: Annotated[
        list[str] | None, typer.Option(help="Kind of child process; all if none is named.")
    ] = None,
    environment: Annotated[
        list[str] | None, typer.Option(help="Environment of the server; all if none is named.")
    ] = None,
    action: Annotated[list[str] | None, typer.Option(help="Action to try; all if none is named.")] = None,
    row: Row = None,
    json: Json = False,
) -> None:
    """Tries what a hostile file's code would do inside every kind of child process, as root, as a user, and in a container."""
    from deepwell_bench.suites.security.confinement import bench_confinement

    measure(
        "confinement",
        row,
        json,
        lambda report: bench_confinement(
            report, kinds=kind or (), environments=environment or (), only=action or ()
        ),
    )
