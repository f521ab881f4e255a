"""Verbs of `deepwell bench` on deployments: the images, the whole platform by one command, the web console."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from deepwell_bench.cli.options import Json, Model, Rate, Row, Seconds, measure, model_path

if TYPE_CHECKING:
    from deepwell_bench.suites.fleet.gpu import Setup

__all__ = [
    "console",
    "container",
    "fleet_blobs",
    "fleet_compose",
    "fleet_dashboard",
    "fleet_faults_containers",
    "fleet_faults_machine",
    "fleet_faults_state",
    "fleet_latency_containers",
    "fleet_latency_machine",
    "fleet_ray",
    "fleet_ray_client",
    "fleet_ray_serve",
    "fleet_scaling",
    "fleet_switch_containers",
    "fleet_switch_machine",
    "gpu",
    "gpu_setup",
    "simulator",
    "up",
    "vllm",
]


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
    from deepwell_bench.suites.deploy.container import bench_container

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
    from deepwell_bench.suites.deploy.up import bench_up

    measure("up", row, json, bench_up)


def console(row: Row = None, json: Json = False) -> None:
    """Weighs the web console in Chromium: its size, its first paint, 10,000 messages and 5,000 streamed tokens."""
    from deepwell_bench.suites.deploy.console import bench_console

    measure("console", row, json, bench_console)


def fleet_switch_machine(
    rate: Rate = 100.0,
    hold: Annotated[float, typer.Option(help="Seconds that each step of the canary is held.")] = 6.0,
    no_real: Annotated[
        bool, typer.Option("--no-real", help="Leave out the switch of a real model at its limit.")
    ] = False,
    model: Model = None,
    row: Row = None,
    json: Json = False,
) -> None:
    """Switches a deployment under load: canary, blue-green, a real model, and versions that have to be aborted."""
    from deepwell_bench.suites.fleet.switch import bench_switch

    path = model_path(model)
    measure(
        "fleet_switch_machine",
        row,
        json,
        lambda report: bench_switch(report, path, rate=rate, hold=hold, real=not no_real),
    )


def fleet_switch_containers(
    rate: Rate = 100.0,
    hold: Annotated[float, typer.Option(help="Seconds that each step of the canary is held.")] = 6.0,
    model: Model = None,
    row: Row = None,
    json: Json = False,
) -> None:
    """Switches a deployment in containers under load: canary, blue-green, and versions that have to be aborted."""
    from deepwell_bench.suites.fleet.switch import bench_switch

    path = model_path(model)
    measure(
        "fleet_switch_containers",
        row,
        json,
        lambda report: bench_switch(report, path, grade="containers", rate=rate, hold=hold, real=False),
    )


def fleet_latency_machine(
    rate: Rate = 10.0, seconds: Seconds = 60.0, model: Model = None, row: Row = None, json: Json = False
) -> None:
    """Measures what the front and the server of a deployment add to the first token of the bare engine."""
    from deepwell_bench.suites.fleet.latency import bench_latency

    path = model_path(model)
    measure(
        "fleet_latency_machine",
        row,
        json,
        lambda report: bench_latency(report, path, rate=rate, seconds=seconds),
    )


def fleet_latency_containers(
    rate: Rate = 10.0, seconds: Seconds = 60.0, model: Model = None, row: Row = None, json: Json = False
) -> None:
    """Measures what a deployment in containers adds to the first token of the bare engine."""
    from deepwell_bench.suites.fleet.latency import bench_latency

    path = model_path(model)
    measure(
        "fleet_latency_containers",
        row,
        json,
        lambda report: bench_latency(report, path, grade="containers", rate=rate, seconds=seconds),
    )


def fleet_dashboard(model: Model = None, row: Row = None, json: Json = False) -> None:
    """Asks each query of the dashboard of a Prometheus that scrapes a deployment in containers."""
    from deepwell_bench.suites.fleet.monitoring import bench_dashboard

    path = model_path(model)
    measure("fleet_dashboard", row, json, lambda report: bench_dashboard(report, path))


def fleet_compose(model: Model = None, row: Row = None, json: Json = False) -> None:
    """Plays the compose file of a fleet by podman-compose: answers, state of all replicas, a kill, and nothing left."""
    from deepwell_bench.suites.fleet.compose import bench_fleet_compose

    path = model_path(model)
    measure("fleet_compose", row, json, lambda report: bench_fleet_compose(report, path))


def fleet_blobs(
    files: Annotated[int, typer.Option(min=3, help="Files that each of two rounds sends.")] = 40,
    seed: Annotated[int, typer.Option(help="Seed of the files and of the moments of kills.")] = 24,
    model: Model = None,
    row: Row = None,
    json: Json = False,
) -> None:
    """Keeps files of two servers in a bucket of an emulated S3: kills within uploads, an outage, a batch taken over."""
    from deepwell_bench.suites.fleet.blobs import bench_fleet_blobs

    path = model_path(model)
    measure("fleet_blobs", row, json, lambda report: bench_fleet_blobs(report, path, files=files, seed=seed))


def fleet_scaling(seconds: Seconds = 15.0, model: Model = None, row: Row = None, json: Json = False) -> None:
    """Measures answers a second of 1, 2 and 4 replicas, and prefix caches under prefix-aware and round-robin routing."""
    from deepwell_bench.suites.fleet.scaling import bench_scaling

    path = model_path(model)
    measure("fleet_scaling", row, json, lambda report: bench_scaling(report, path, seconds=seconds))


def fleet_faults_machine(rate: Rate = 30.0, model: Model = None, row: Row = None, json: Json = False) -> None:
    """Kills replicas and the front of a deployment under load, and looks for requests, batches and responses that are lost."""
    from deepwell_bench.suites.fleet.faults.kills import bench_faults

    path = model_path(model)
    measure("fleet_faults_machine", row, json, lambda report: bench_faults(report, path, rate=rate))


def fleet_faults_containers(
    rate: Rate = 30.0, model: Model = None, row: Row = None, json: Json = False
) -> None:
    """Kills replicas, front, PostgreSQL and Valkey of a deployment in containers, and looks for what is lost."""
    from deepwell_bench.suites.fleet.faults.kills import bench_faults

    path = model_path(model)
    measure(
        "fleet_faults_containers",
        row,
        json,
        lambda report: bench_faults(report, path, grade="containers", rate=rate),
    )


def fleet_faults_state(model: Model = None, row: Row = None, json: Json = False) -> None:
    """Promotes a standby of PostgreSQL, sets clocks wrong, fills a disk under servers that write, and counts what is lost."""
    from deepwell_bench.suites.fleet.faults.state import bench_faults_state

    path = model_path(model)
    measure("fleet_faults_state", row, json, lambda report: bench_faults_state(report, path))


def simulator(model: Model = None, seconds: Seconds = 30, row: Row = None, json: Json = False) -> None:
    """Compares the simulator with 1 to 4 paced replicas and with one server of a real model, at loads it was not fitted to."""
    from deepwell_bench.suites.fleet.simulator import bench_simulator

    measure(
        "simulator", row, json, lambda report: bench_simulator(report, model_path(model), seconds=seconds)
    )


def vllm(model: Model = None, row: Row = None, json: Json = False) -> None:
    """Serves a model by vLLM behind Deepwell: the conformance suite, and one client program against both engines."""
    from deepwell_bench.suites.fleet.remote_engines import bench_vllm

    measure("vllm", row, json, lambda report: bench_vllm(report, model_path(model)))


def gpu_setup(model: Path | None = None, vllm_python: Path | None = None) -> Setup:
    """Returns what this machine has for the row `gpu_vllm`: its GPUs, the Python that has vLLM, and the model."""
    from deepwell.cli.engines.gpus import count_nvidia
    from deepwell.cli.engines.vllm import find_vllm
    from deepwell.settings import Settings
    from deepwell_bench.suites.fleet.gpu import Setup

    named = os.environ.get("DEEPWELL_BENCH_GPU_MODEL")
    folder = model or (Path(named) if named else None)
    return Setup(count_nvidia(), vllm_python or find_vllm(Settings.load()), folder)


def gpu(
    model: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a DeepSeek-class model as safetensors, on disk; unset: DEEPWELL_BENCH_GPU_MODEL."
        ),
    ] = None,
    vllm_python: Annotated[
        Path | None,
        typer.Option(
            help="Interpreter of the environment that has vLLM; unset: the setting vllm_python, this one, or that of PATH."
        ),
    ] = None,
    precision: Annotated[
        Literal["auto", "bf16", "fp16", "fp32"], typer.Option(help="Format of the weights in vLLM.")
    ] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Sequences that vLLM works on at once.")] = 32,
    context: Annotated[int, typer.Option(min=512, help="Tokens of prompt and answer.")] = 4096,
    tokens: Annotated[int, typer.Option(min=16, help="Length of each answer, in tokens.")] = 256,
    row: Row = None,
    json: Json = False,
) -> None:
    """Streams 1, 8 and 32 answers of vLLM on one NVIDIA GPU behind Deepwell, beside the expected 120 to 380 tokens/s."""
    from deepwell_bench.suites.fleet.gpu import bench_gpu

    measure(
        "gpu",
        row,
        json,
        lambda report: bench_gpu(
            report,
            replace(
                gpu_setup(model, vllm_python),
                precision=precision,
                batch_size=batch_size,
                context=context,
                tokens=tokens,
            ),
        ),
    )


def fleet_ray(
    lines: Annotated[int, typer.Option(min=100, help="Number of lines of the batch.")] = 2000,
    records: Annotated[
        int, typer.Option(min=100_000, help="Number of records of the deduplication.")
    ] = 100_000,
    row: Row = None,
    json: Json = False,
) -> None:
    """Runs a batch and a deduplication on a Ray cluster of two nodes, kills its processes and a node, and compares."""
    from deepwell_bench.suites.fleet.ray.work import bench_fleet_ray

    measure("fleet-ray", row, json, lambda report: bench_fleet_ray(report, lines=lines, records=records))


def fleet_ray_client(row: Row = None, json: Json = False) -> None:
    """Runs an evaluation, a deduplication by meaning and a knowledge base by Ray's client, kills processes, and compares."""
    from deepwell_bench.suites.fleet.ray.client import bench_fleet_ray_client

    measure("fleet-ray-client", row, json, bench_fleet_ray_client)


def fleet_ray_serve(row: Row = None, json: Json = False) -> None:
    """Measures the first token through Ray Serve against the server alone, and whether replicas follow the load."""
    from deepwell_bench.suites.fleet.ray.serve import bench_fleet_ray_serve

    measure("fleet-ray-serve", row, json, bench_fleet_ray_serve)
