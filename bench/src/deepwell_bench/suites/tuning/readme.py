"""The command of the README: it tunes smollm2 on the 200 sample conversations and prints what changed."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from deepwell.cli.bench.report import Report, rounded
from deepwell_bench.harness.environments import PeerError
from deepwell_bench.suites.tuning.runs import need_torch

__all__ = ["SAMPLE", "bench_tune_readme"]

SAMPLE: Final = Path(__file__).parents[5] / "examples" / "tuning" / "home.jsonl"


def bench_tune_readme(report: Report, model: str) -> dict[str, Any]:
    """Runs the command as a user does, without its table, and returns its minutes and the figures of the table.

    Raises:
        PeerError: this environment has no torch, or the command failed.
    """
    need_torch("tune-readme")
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "home"
        command = [
            sys.executable,
            "-m",
            "deepwell",
            "tune",
            "sft",
            "--model",
            model,
            "--data",
            str(SAMPLE),
        ]
        command += ["--validation", "0.15", "--output", str(output), "--json"]
        began = time.perf_counter()
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        minutes = (time.perf_counter() - began) / 60
    events = [json.loads(line) for line in found.stdout.splitlines()]
    compared = next((one for one in events if one["event"] == "compared"), None)
    if found.returncode or compared is None:
        raise PeerError(f"the command ended with {found.returncode}: {found.stderr[-400:]}", fix="see above")
    base, tuned = compared["base"], compared["tuned"]
    names = ("loss", "exact", "ended", "answer_tokens")
    report.table(
        f"200 conversations, {compared['scored']} of them held out, on the engine ({compared['precision']})",
        ["", "base", "tuned"],
        [[name, base[name], tuned[name]] for name in names],
    )
    lines = sum(1 for _ in SAMPLE.open(encoding="utf-8"))
    return {
        "lines": lines,
        "minutes": rounded(minutes, 2),
        "base_loss": base["loss"],
        "loss": tuned["loss"],
        "base_exact": base["exact"],
        "exact": tuned["exact"],
        "loss_gain": rounded(base["loss"] - tuned["loss"], 3),
    }
