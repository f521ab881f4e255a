"""Verbs of `deepwell bench` on deployments: the images, the whole platform by one command, the web console."""

from __future__ import annotations

from typing import Annotated

import typer

from deepwell.cli.bench.options import Json, Model, Row, measure, model_path

__all__ = ["console", "container", "fleet_ray", "fleet_ray_serve", "up"]


def container(
    image: Annotated[
        str | None,
        typer.Option(
            help="Repository of images that are built already, with the tags python, api and platform; unset: they are built."
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            help="Image to build on; unset: localhost/debian:trixie if it is there, else that of the Containerfile."
        ),
    ] = None,
    secret: Annotated[
        list[str] | None,
        typer.Option(
            help="Secret of the build: id=pip,src=FILE, id=ca,src=FILE or id=apt,src=FILE; repeatable. "
            "Unset: pip's configuration and the certificates of this machine."
        ),
    ] = None,
    model: Model = None,
    row: Row = None,
    json: Json = False,
) -> None:
    """Builds the images with podman, weighs them, and runs them with a read-only root: health, an answer, every port."""
    from deepwell.bench.suites.deploy.container import bench_container

    measure(
        "container",
        row,
        json,
        lambda report: bench_container(
            report, image=image, base=base, build_secrets=secret or (), model=model_path(model)
        ),
    )


def up(row: Row = None, json: Json = False) -> None:
    """Starts `deepwell up` in an empty home and again, kills each part, ends all, and looks for processes that are left."""
    from deepwell.bench.suites.deploy.up import bench_up

    measure("up", row, json, bench_up)


def console(row: Row = None, json: Json = False) -> None:
    """Weighs the web console in Chromium: its size, its first paint, 10,000 messages and 5,000 streamed tokens."""
    from deepwell.bench.suites.deploy.console import bench_console

    measure("console", row, json, bench_console)


def fleet_ray(
    lines: Annotated[int, typer.Option(min=100, help="Number of lines of the batch.")] = 2000,
    records: Annotated[
        int, typer.Option(min=100_000, help="Number of records of the deduplication.")
    ] = 100_000,
    row: Row = None,
    json: Json = False,
) -> None:
    """Runs a batch and a deduplication on a Ray cluster of two nodes, kills its processes and a node, and compares."""
    from deepwell.bench.suites.fleet.ray import bench_fleet_ray

    measure("fleet-ray", row, json, lambda report: bench_fleet_ray(report, lines=lines, records=records))


def fleet_ray_serve(row: Row = None, json: Json = False) -> None:
    """Measures the first token through Ray Serve against the server alone, and whether replicas follow the load."""
    from deepwell.bench.suites.fleet.ray import bench_fleet_ray_serve

    measure("fleet-ray-serve", row, json, bench_fleet_ray_serve)
