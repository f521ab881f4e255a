"""`deepwell bench world-model`: planning in learned models beside planning in the true simulators, on held-out episodes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deepwell.cli.bench.report import Report, rounded
from deepwell.errors import DeepwellError
from deepwell_bench.suites.tuning.runs import need_torch
from deepwell_bench.workers.tuning.world import HELD_OUT, HELD_OUT_SHA256, episodes_sha256

__all__ = ["bench_world_model"]

_BOOTSTRAPS: Final = 2_000

Returns = NDArray[np.float64]


def bench_world_model(report: Report, names: Sequence[str], folder: Path | None = None) -> dict[str, Any]:
    """Returns the share of the true simulator's gain over chance that planning in each learned model reaches.

    Args:
        report: receives tables.
        names: the environments.
        folder: folder of the trainings, where those that were stopped go on; None: a temporary one.

    Raises:
        PeerError: torch is missing.
        DeepwellError: the held-out episodes are others, or a training failed.
    """
    need_torch("world-model")
    for name in names:
        if episodes_sha256(name) != HELD_OUT_SHA256[name]:
            raise DeepwellError(f"the held-out episodes of {name} are others", fix="restore the environment")
    began, processor = time.perf_counter(), time.process_time()
    resumed = [name for name in names if folder and (folder / name / "checkpoint.pt").is_file()]
    with TemporaryDirectory(prefix="deepwell-world-") as temporary:
        found = _measured(report, names, folder or Path(temporary))
    returns = {
        name: {policy: np.array(those) for policy, those in one["returns"].items()}
        for name, one in found.items()
    }
    rows = [
        (name, policy, rounded(float(those.mean())), rounded(float(those.std(ddof=1))))
        for name, policies in returns.items()
        for policy, those in policies.items()
    ]
    report.table("Returns", ("environment", "policy", "mean", "deviation"), rows)
    worlds = {name: _shares(policies) | {"steps": found[name]["step"]} for name, policies in returns.items()}
    _table(report, worlds)
    own = time.process_time() - processor
    return {
        "environments": worlds,
        "held_out_episodes": len(HELD_OUT),
        "at_bar": sum(one["plan"] >= 0.9 for one in worlds.values()),
        "most_steps": max(one["step"] for one in found.values()),
        "training_processor_minutes": rounded(
            sum(one["training_processor_seconds"] for one in found.values()) / 60
        ),
        "processor_minutes": rounded((sum(one["processor_seconds"] for one in found.values()) + own) / 60),
        "wall_minutes": rounded((time.perf_counter() - began) / 60),
        "resumed": resumed,
    }


def _measured(report: Report, names: Sequence[str], runs: Path) -> dict[str, dict[str, Any]]:
    """Trains and measures a model for each environment, side by side, each on one thread."""
    report.note(f"{', '.join(names)}: training and held-out episodes side by side, one thread each")
    children = {
        name: subprocess.Popen(
            [sys.executable, "-m", "deepwell_bench.workers.tuning.world", name, str(runs / name)],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # an interrupt reaches this process alone, which then ends them
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        for name in names
    }
    found: dict[str, dict[str, Any]] = {}
    try:
        for name, child in children.items():
            out, _ = child.communicate()
            if child.returncode:
                raise DeepwellError(
                    f"the measurement of {name} ended with {child.returncode}", fix="see above"
                )
            found[name] = one = json.loads(out.strip().rpartition("\n")[2])
            report.note(
                f"{name}: {one['step']} steps, {one['updates']} updates, {one['rehearsals']} rehearsals, "
                f"{one['training_processor_seconds']:.0f} processor seconds, {one['processor_seconds']:.0f} with the episodes"
            )
    finally:
        for child in children.values():
            if child.poll() is None:
                child.kill()
                child.wait()
    return found


def _shares(found: Mapping[str, Returns]) -> dict[str, Any]:
    """Returns the shares of the gain over chance, with 95 % intervals of a bootstrap over the episodes."""
    reference = max(
        (name for name in ("simulator", "best") if name in found), key=lambda name: found[name].mean()
    )
    rng = np.random.default_rng(1)
    chosen = rng.integers(len(HELD_OUT), size=(_BOOTSTRAPS, len(HELD_OUT)))
    random, true = found["random"], found[reference]
    result: dict[str, Any] = {"reference": reference}
    for name in ("greedy", "actor", "plan"):
        share = (found[name].mean() - random.mean()) / (true.mean() - random.mean())
        drawn = (found[name][chosen].mean(1) - random[chosen].mean(1)) / (
            true[chosen].mean(1) - random[chosen].mean(1)
        )
        low, high = np.quantile(drawn, (0.025, 0.975))
        result |= {name: rounded(float(share)), f"{name}_95": [rounded(float(low)), rounded(float(high))]}
    return result | {f"{name}_return": rounded(float(those.mean())) for name, those in found.items()}


def _table(report: Report, worlds: Mapping[str, Mapping[str, Any]]) -> None:
    rows = [
        (
            name,
            one["plan"],
            f"{one['plan_95'][0]:.3f} to {one['plan_95'][1]:.3f}",
            one["actor"],
            one["greedy"],
        )
        for name, one in worlds.items()
    ]
    title = "Share of the true simulator's gain over chance"
    report.table(title, ("environment", "plan", "95 %", "actor alone", "greedy"), rows)
