"""`deepwell bench world-model`: planning in learned models beside planning in the true simulators, on held-out episodes."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deepwell.agents.world import PlanOptions, environment, evaluate, world_model
from deepwell.agents.world.policies import ActorPolicy, GreedyPolicy, PlanPolicy, Policy, RandomPolicy
from deepwell.agents.world.simulated import best_policy, simulator_plan_policy
from deepwell.bench.harness.report import Report, rounded
from deepwell.bench.suites.tuning.runs import need_torch
from deepwell.errors import DeepwellError

__all__ = ["HELD_OUT", "HELD_OUT_SHA256", "bench_world_model", "episodes_sha256"]

HELD_OUT: Final = range(900_000, 900_040)
"""Seeds of the held-out episodes. Choices were made on other seeds."""

HELD_OUT_SHA256: Final = {
    "cart-pole": "b1cb8c3432ea15845aae137102309f3347e9b8ceddf8a0d6615193682cf7c404",
    "grid": "8370d3133ddc31a8761756759c5c94585cc90ab57823a55daa4ea14935e336a1",
    "inventory": "b0fca10ef0f3c6a538b12e7860cde8d40849bc505ed37a0a8ff8cf1bf2c357a3",
}
"""SHA-256 of the held-out episodes, of what 200 fixed actions lead to in them, as they were before any choice was made."""

_TRAINING_SEED: Final = 7
_STEPS: Final = 20_000
_BUDGET: Final = PlanOptions(futures=16, horizon=12)
_BOOTSTRAPS: Final = 2_000

Returns = NDArray[np.float64]


def bench_world_model(report: Report, names: Sequence[str], folder: Path | None = None) -> dict[str, Any]:
    """Returns the share of the true simulator's gain over chance that planning in each learned model reaches.

    Args:
        report: receives tables.
        names: the environments.
        folder: folder of the runs, where those that were stopped go on; None: a temporary one.

    Raises:
        PeerError: torch is missing.
        DeepwellError: the held-out episodes are others, or a training failed.
    """
    need_torch("world-model")
    for name in names:
        if episodes_sha256(name) != HELD_OUT_SHA256[name]:
            raise DeepwellError(f"the held-out episodes of {name} are others", fix="restore the environment")
    began, processor = time.perf_counter(), time.process_time()
    with TemporaryDirectory(prefix="deepwell-world-") as temporary:
        runs = folder or Path(temporary)
        trained = _trained(report, names, runs)
        measured = {name: _measured(report, name, runs / name) for name in names}
    evaluating = time.process_time() - processor
    rows = [
        (name, policy, rounded(float(returns.mean())), rounded(float(returns.std(ddof=1))))
        for name, found in measured.items()
        for policy, returns in found.items()
    ]
    report.table("Returns", ("environment", "policy", "mean", "deviation"), rows)
    worlds = {name: _shares(found) | {"steps": trained[name]["step"]} for name, found in measured.items()}
    _table(report, worlds)
    training = sum(one["processor_seconds"] for one in trained.values())
    return {
        "environments": worlds,
        "held_out_episodes": len(HELD_OUT),
        "at_bar": sum(one["plan"] >= 0.9 for one in worlds.values()),
        "most_steps": max(one["step"] for one in trained.values()),
        "training_processor_minutes": rounded(training / 60),
        "processor_minutes": rounded((training + evaluating) / 60),
        "wall_minutes": rounded((time.perf_counter() - began) / 60),
    }


def episodes_sha256(name: str) -> str:
    """Returns the SHA-256 of the held-out episodes: of the observations that 200 fixed actions lead to."""
    world = environment(name)
    digest = hashlib.sha256()

    class Fixed:
        """Takes actions that depend on the seed 0 alone, and keeps what it sees."""

        rng = np.random.default_rng(0)

        def act(self, observations: Any, states: Any) -> Any:
            digest.update(np.round(np.asarray(observations, np.float64), 3).tobytes())
            return self.rng.integers(len(world.spec.actions), size=len(observations))

    evaluate(world, Fixed(), HELD_OUT)
    return digest.hexdigest()


def _trained(report: Report, names: Sequence[str], runs: Path) -> dict[str, dict[str, Any]]:
    """Trains a model for each environment, side by side, each on one thread. Returns the last event of each."""
    report.note(f"training {', '.join(names)} with {_STEPS} steps of interaction each, one thread each")
    children = {
        name: subprocess.Popen(
            [
                *(sys.executable, "-m", "deepwell", "world", "train", name, "--out", str(runs / name)),
                *("--steps", str(_STEPS), "--seed", str(_TRAINING_SEED), "--json"),
            ],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # an interrupt reaches this process alone, which then ends them
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for name in names
    }
    events: dict[str, dict[str, Any]] = {}
    try:
        for name, child in children.items():
            out, _ = child.communicate()
            last = json.loads(out.strip().rpartition("\n")[2] or "{}")
            if child.returncode or last.get("event") != "end":
                raise DeepwellError(f"the training of {name} ended with {child.returncode}", fix="see above")
            events[name] = last
    finally:
        for child in children.values():
            if child.poll() is None:
                child.kill()
                child.wait()
    for name, last in events.items():
        report.note(
            f"{name}: {last['step']} steps, {last['updates']} updates, {last['processor_seconds']:.0f} processor seconds, "
            f"{last['seconds']:.0f} s on the clock"
        )
    return events


def _measured(report: Report, name: str, run: Path) -> dict[str, Returns]:
    """Returns the returns of every policy on the held-out episodes."""
    world = environment(name)
    model = world_model(world, run)
    policies: dict[str, Callable[[], Policy | None]] = {
        "random": lambda: RandomPolicy(world, 1),
        "greedy": lambda: GreedyPolicy(model, 1),
        "actor": lambda: ActorPolicy(model, 1),
        "plan": lambda: PlanPolicy(model, 1, _BUDGET),
        "simulator": lambda: simulator_plan_policy(name, 1),
        "best": lambda: best_policy(name),
    }
    found: dict[str, Returns] = {}
    for policy, make in policies.items():
        made = make()
        if made is not None:
            report.note(f"{name}: {policy}")
            found[policy] = evaluate(world, made, HELD_OUT)
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
