"""The losses of DPO and KTO beside trl's, on the same model, adapter and tokens."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from deepwell.cli.bench.report import Report
from deepwell_bench.harness.environments import CPU_TORCH, Environment, Install, PeerError, environment_python
from deepwell_bench.suites.tuning.runs import need_torch

__all__ = ["TRL", "bench_alignment_losses"]

TRL = Environment(
    name="trl",
    variable="DEEPWELL_TRL_PYTHON",
    installs=(CPU_TORCH, Install(("trl==1.16.0", "transformers==5.24.0", "peft==0.21.2"))),
    check="from trl import DPOTrainer, KTOTrainer",
    download_mb=350,
    disk_mb=1600,
    minutes=3,
)

_OURS = "deepwell_bench.workers.tuning.alignment_losses"
_THEIRS = Path(__file__).parents[2] / "workers" / "tuning" / "trl_worker.py"


def bench_alignment_losses(report: Report) -> dict[str, Any]:
    """Returns the largest differences of the losses, and of the gradients of the adapter relative to their norms.

    Raises:
        PeerError: this environment has no torch, trl cannot be built, or a worker failed.
    """
    need_torch("alignment-losses")
    python = environment_python(TRL, report.console)
    with tempfile.TemporaryDirectory() as folder:
        _run([sys.executable, "-m", _OURS, "make", folder])
        _run([str(python), str(_THEIRS), folder])
        value: dict[str, Any] = json.loads(
            _run([sys.executable, "-m", _OURS, "compare", folder]).splitlines()[-1]
        )
    losses = value.pop("losses")
    report.table(
        "Losses of Deepwell and of trl 1.16.0",
        ("case", "Deepwell", "trl"),
        [(name, f"{one['ours']:.7f}", f"{one['theirs']:.7f}") for name, one in losses.items()],
    )
    return value


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PeerError(f"{command[-2]} ended with {done.returncode}: {done.stderr[-400:]}", fix="see above")
    return done.stdout
