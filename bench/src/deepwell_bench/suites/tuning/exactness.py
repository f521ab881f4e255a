"""Exactness of training on the real model: what must change nothing changes nothing, in float32."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from deepwell.cli.bench.report import Report
from deepwell_bench.harness.environments import PeerError
from deepwell_bench.suites.tuning.readme import SAMPLE
from deepwell_bench.suites.tuning.runs import need_torch

__all__ = ["bench_tuning_exactness"]

_WORKER = "deepwell_bench.workers.tuning.exactness"


def bench_tuning_exactness(report: Report, model: Path) -> dict[str, Any]:
    """Compares gradients, resumed runs, merged weights and served logits.

    Returns the largest differences: of a gradient relative to the largest value of its matrix, and of logits in absolute terms.

    Raises:
        PeerError: this environment has no torch, or the worker failed.
    """
    need_torch("tuning-exactness")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", _WORKER, str(model), str(SAMPLE), folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PeerError(f"the worker ended with {done.returncode}: {done.stderr[-400:]}", fix="see above")
    value: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    report.table(
        "Largest differences, in float32",
        ["of", "difference"],
        [
            ["gradients: 1 x 8 conversations and 8 x 1", value["accumulation"]],
            ["gradients: activations kept and computed again", value["checkpointing"]],
            ["bytes of adapters: stopped twice and uninterrupted", value["resume_differs"]],
            ["logits: merged and apart, both served", value["merged"]],
            ["logits: merged and apart, in float64", value["merged_float64"]],
            ["logits: trained and served", value["served"]],
        ],
    )
    return value
