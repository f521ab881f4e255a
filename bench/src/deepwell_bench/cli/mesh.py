"""Verbs of `deepwell bench` on the mesh grade: its manifests, and its data plane."""

from __future__ import annotations

from typing import Annotated

import typer

from deepwell_bench.cli.options import Json, Model, Row, measure, model_path

__all__ = ["fleet_faults_mesh", "fleet_manifests", "fleet_mesh", "fleet_switch_mesh"]


def fleet_manifests(
    image: Annotated[
        str, typer.Option(help="Image of the pod that podman plays; it has to be there.")
    ] = "localhost/deepwell:api",
    model: Model = None,
    row: Row = None,
    json: Json = False,
) -> None:
    """Builds, checks and lints the Kubernetes manifests, spoils one field of each kind, and plays a pod by podman."""
    from deepwell_bench.suites.fleet.manifests import bench_fleet_manifests

    measure(
        "fleet_manifests",
        row,
        json,
        lambda report: bench_fleet_manifests(report, model=model_path(model), image=image),
    )


def fleet_mesh(
    users: Annotated[int, typer.Option(min=100, help="Users that ask once for every share.")] = 1000,
    rate: Annotated[float, typer.Option(min=1, help="Requests a second of the load.")] = 10.0,
    seconds: Annotated[float, typer.Option(min=2, help="Seconds of the load through the mesh.")] = 40.0,
    model: Model = None,
    row: Row = None,
    json: Json = False,
) -> None:
    """Runs a mesh of Envoys in network namespaces: identities, headers, shares, deaths, and what it adds to a first token."""
    from deepwell_bench.suites.fleet.mesh import bench_fleet_mesh

    measure(
        "fleet_mesh",
        row,
        json,
        lambda report: bench_fleet_mesh(report, model_path(model), users=users, rate=rate, seconds=seconds),
    )


def fleet_switch_mesh(
    rate: Annotated[float, typer.Option(min=20, help="Requests a second of all users.")] = 100.0,
    hold: Annotated[float, typer.Option(min=1, help="Seconds for which each share is held.")] = 4.0,
    model: Model = None,
    row: Row = None,
    json: Json = False,
) -> None:
    """Switches releases in a mesh of Envoys while requests come: all users at once, back, and in five steps."""
    from deepwell_bench.suites.fleet.mesh_switch import bench_fleet_switch_mesh

    measure(
        "fleet_switch_mesh",
        row,
        json,
        lambda report: bench_fleet_switch_mesh(report, model_path(model), rate=rate, hold=hold),
    )


def fleet_faults_mesh(
    rate: Annotated[float, typer.Option(min=1, help="Requests a second of the load.")] = 20.0,
    model: Model = None,
    row: Row = None,
    json: Json = False,
) -> None:
    """Kills Envoys of a mesh and cuts a machine off from the network, and looks for requests, jobs and data that are lost."""
    from deepwell_bench.suites.fleet.faults.mesh import bench_faults_mesh

    path = model_path(model)
    measure("fleet_faults_mesh", row, json, lambda report: bench_faults_mesh(report, path, rate=rate))
