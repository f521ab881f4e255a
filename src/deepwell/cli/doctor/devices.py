"""`deepwell doctor devices`: training on several devices, its environment and the speed of an all-reduce."""

from __future__ import annotations

import importlib.util
import json as jsonlib
import math
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from deepwell.cli.doctor.findings import Finding, found
from deepwell.cli.output import JsonFlag, console, print_table, reported_errors, write_json
from deepwell.errors import MissingDependency
from deepwell.messages import language, say

__all__ = ["accumulation", "devices", "environment_findings", "probe"]

_INTERFACES = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")
_LEAST_SHARED_BYTES = 512 << 20  # NCCL and data loaders pass tensors through /dev/shm; containers get 64 MB
_SIZES_MB = (1, 8, 32)
_PROBE_S = 90.0
_SHARE = 0.2  # of a step that communication may take


def environment_findings(
    environ: Mapping[str, str] = os.environ, root: Path = Path("/")
) -> Iterator[Finding]:
    """Yields what the variables of a distributed run have wrong. None of them is set on a machine that trains alone."""
    have = sorted(path.name for path in (root / "sys/class/net").glob("*"))
    for variable in _INTERFACES:
        if (value := environ.get(variable, "")) and have and not _names_one(value, have):
            yield found(
                "devices", "doctor_interface", variable=variable, value=value, interfaces=", ".join(have)
            )
    world, rank = environ.get("WORLD_SIZE", ""), environ.get("RANK", "")
    if world or rank:
        if not (world.isdigit() and rank.isdigit() and int(rank) < int(world)):
            yield found("devices", "doctor_rank", rank=rank or "unset", world=world or "unset")
        elif int(world) > 1:
            yield from _meeting(environ, root)


def _names_one(value: str, have: list[str]) -> bool:
    """Returns whether a list of interfaces leaves one. NCCL takes prefixes, exact names after `=`, and all others after `^`."""
    excluded = value.startswith("^")
    names = [name for name in value.lstrip("^=").split(",") if name]
    exact = value.lstrip("^").startswith("=")
    matched = [one for one in have if any(one == name if exact else one.startswith(name) for name in names)]
    return len(matched) < len(have) if excluded else bool(matched)


def _meeting(environ: Mapping[str, str], root: Path) -> Iterator[Finding]:
    address, port = environ.get("MASTER_ADDR", ""), environ.get("MASTER_PORT", "")
    try:
        socket.getaddrinfo(address or None, int(port))
        if not address:
            raise ValueError("MASTER_ADDR is not set")
    except (OSError, ValueError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        yield found(
            "devices", "doctor_master", address=address or "unset", port=port or "unset", reason=reason
        )
    shared = root / "dev/shm"
    if shared.is_dir() and (size := shutil.disk_usage(shared).total) < _LEAST_SHARED_BYTES:
        yield found("devices", "doctor_shared_memory", size=size >> 20, least=_LEAST_SHARED_BYTES >> 20)


def devices(
    parameters: Annotated[
        float | None,
        typer.Option(
            min=1, help="Number of trained parameters, such as 135e6, whose gradients are exchanged."
        ),
    ] = None,
    step_ms: Annotated[
        float | None, typer.Option(min=0.1, help="Milliseconds of one forward and backward pass of a batch.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Check the environment of training on several devices, time an all-reduce of two processes, advise on accumulation."""
    with reported_errors(as_json=json):
        findings = list(environment_findings())
        timings: list[dict[str, Any]] = []
        if not findings:
            timings, failure = probe()
            findings += [failure] if failure else []
        report: dict[str, Any] = {"all_reduce": timings, "problems": [one.shown() for one in findings]}
        if timings and parameters and step_ms:
            report["accumulation"] = accumulation(timings, parameters, step_ms)
        if json:
            write_json(report)
        else:
            _print(report, findings)
    if findings:
        raise typer.Exit(1)


def _print(report: dict[str, Any], findings: list[Finding]) -> None:
    out = console()
    if report["all_reduce"]:
        rows = [
            [f"{one['mb']} MB", f"{one['ms']:g}", f"{one['mb'] / one['ms']:.2f}"]
            for one in report["all_reduce"]
        ]
        print_table(["all-reduce", "ms", "GB/s"], rows)
    if advice := report.get("accumulation"):
        out.print(say("doctor_accumulation", **advice), soft_wrap=True)
    for finding in findings:
        message, fix = finding.error.said(language())
        out.print(f"problem: {message}", style="bold red", soft_wrap=True)
        out.print(f"fix:     {fix}", soft_wrap=True)


def probe(sizes_mb: tuple[int, ...] = _SIZES_MB) -> tuple[list[dict[str, Any]], Finding | None]:
    """Runs an all-reduce between two processes of this machine: NCCL where it has two GPUs, gloo elsewhere.

    Returns:
        For each size in MB the milliseconds, and the problem if the processes did not meet or did not end.

    Raises:
        MissingDependency: torch is not installed.
    """
    if importlib.util.find_spec("torch") is None:
        raise MissingDependency.of("doctor_no_torch", python=sys.executable)
    backend = "nccl" if _gpus() >= 2 else "gloo"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = str(Path(__file__).with_name("all_reduce.py"))
    # The probe measures this machine; where a run meets is checked apart.
    kept = {
        k: v for k, v in os.environ.items() if k not in ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE")
    }
    processes = [
        subprocess.Popen(
            [sys.executable, script, str(rank), "2", str(port), backend, *map(str, sizes_mb)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=kept | {"OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=_PROBE_S) for process in processes]
    except subprocess.TimeoutExpired:
        return [], found(
            "devices", "doctor_all_reduce", backend=backend, reason=f"no end within {_PROBE_S:.0f} s"
        )
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                process.kill()
            process.wait()
    if any(process.returncode for process in processes):
        lines = [line for _, err in said for line in err.splitlines() if line.strip()]
        reason = lines[-1][:300] if lines else "a process ended without a word"
        return [], found("devices", "doctor_all_reduce", backend=backend, reason=reason)
    return [jsonlib.loads(line) for line in said[0][0].splitlines() if line.startswith("{")], None


def _gpus() -> int:
    return len(list(Path("/proc/driver/nvidia/gpus").glob("*")))


def accumulation(timings: list[dict[str, Any]], parameters: float, step_ms: float) -> dict[str, Any]:
    """Returns the batches to accumulate before gradients are exchanged, so that this takes at most a fifth of the time.

    Args:
        timings: megabytes and milliseconds of all-reduces; the largest gives the bandwidth.
        parameters: number of float32 gradients.
        step_ms: forward and backward pass of one batch.
    """
    largest = timings[-1]
    exchange_ms = largest["ms"] * (parameters * 4 / 1e6) / largest["mb"]
    batches = max(1, math.ceil(exchange_ms * (1 - _SHARE) / _SHARE / step_ms))
    before = exchange_ms / (exchange_ms + step_ms)
    return {"batches": batches, "exchange_ms": round(exchange_ms, 1), "share": round(100 * before)}
