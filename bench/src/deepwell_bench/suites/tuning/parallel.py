"""Gradients of a step that two processes compute together, against those of one process."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, Final

from deepwell.cli.bench.report import Report
from deepwell_bench.harness.environments import PeerError

__all__ = ["STRATEGIES", "bench_tuning_parallel", "gradient_differences"]

STRATEGIES: Final = ("ddp", "fsdp2", "tensor")
_PROGRAM: Final = "deepwell_bench.workers.tuning.gradients"


def bench_tuning_parallel(
    report: Report, *, processes: int = 2, strategies: Sequence[str] = STRATEGIES
) -> dict[str, Any]:
    """Returns for each strategy the largest relative difference of a parameter's gradient on a random two-layer Llama.

    Raises:
        PeerError: the processes fail.
    """
    found = gradient_differences(strategies, processes)
    report.table(
        f"Gradients of {processes} processes against one, fp32",
        ["strategy", "largest relative difference", "loss", "of one process"],
        [[name, f"{one['difference']:.1e}", one["loss"], one["single"]] for name, one in found.items()],
    )
    return {name: one["difference"] for name, one in found.items()} | {"processes": processes}


def gradient_differences(strategies: Sequence[str], processes: int = 2) -> dict[str, dict[str, float]]:
    """Runs the processes; returns `difference`, `loss` and `single`, the loss of one process, by strategy.

    Raises:
        PeerError: a process fails.
    """
    with contextlib.ExitStack() as probes:
        # A port for each strategy: a store that has just been left may not be listened on again yet.
        held = [probes.enter_context(socket.socket()) for _ in strategies]
        for probe in held:
            probe.bind(("127.0.0.1", 0))
        arguments = [f"{name}:{probe.getsockname()[1]}" for name, probe in zip(strategies, held, strict=True)]
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": str(processes)}
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", _PROGRAM, *arguments],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    try:
        outputs = [worker.communicate(timeout=200) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    if any(worker.returncode for worker in workers):
        raise PeerError(
            f"{', '.join(strategies)} failed:\n" + "\n".join(output[1][-2000:] for output in outputs)
        )
    return json.loads(outputs[0][0].splitlines()[-1])
