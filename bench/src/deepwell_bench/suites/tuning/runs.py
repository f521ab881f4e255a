"""Runs of the training worker for benchmarks: its events, its time a step and its peak memory."""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepwell_bench.harness.environments import PeerError

__all__ = ["TrainingRun", "need_torch", "train"]

_NEEDS = ("torch", "transformers", "peft")


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """A finished run.

    Attributes:
        artefact: folder of the adapter or model.
        plan: the event of the plan.
        losses: held-out loss by step.
        step_s: median seconds of a step.
        peak_bytes: most memory that the process had.
    """

    artefact: Path
    plan: Mapping[str, Any]
    losses: Mapping[int, float]
    step_s: float
    peak_bytes: int


def need_torch(verb: str) -> None:
    """Checks that this environment can train.

    Raises:
        PeerError: a package is missing.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the worker
    if missing := [name for name in _NEEDS if importlib.util.find_spec(name) is None]:
        raise PeerError(
            f"this environment has no {', '.join(missing)}",
            fix=f"run `make tune`, then .venv-tune/bin/deepwell bench {verb}",
        )


def train(config: Mapping[str, Any], folder: Path) -> TrainingRun:
    """Runs the worker on a configuration in a folder, to the end.

    Raises:
        PeerError: it ended otherwise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(dict(config)), encoding="utf-8")
    with (folder / "worker.log").open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "deepwell.tuning.train.worker", str(folder)],
            stdout=subprocess.PIPE,
            stderr=log,
        )
        assert child.stdout is not None
        events = [json.loads(line) for line in child.stdout]
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    last = events[-1] if events else {}
    if last.get("event") != "done":
        tail = (folder / "worker.log").read_text(encoding="utf-8", errors="replace")[-400:]
        raise PeerError(
            f"the training ended with {child.returncode}: {last.get('message') or tail}", fix="see above"
        )
    steps = [one["tokens"] / one["tokens_per_second"] for one in events if one["event"] == "step"]
    return TrainingRun(
        folder / last["adapter"],
        events[0],
        {one["step"]: one["loss"] for one in events if one["event"] == "validation"},
        statistics.median(steps[1:] or steps),
        usage.ru_maxrss * 1024,
    )
