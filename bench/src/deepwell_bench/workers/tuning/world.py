"""Trains one world model and measures its policies: `python -m deepwell_bench.workers.tuning.world ENVIRONMENT FOLDER`.

It prints one line of JSON: the returns of each policy on the held-out episodes, the steps, and the processor seconds.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from deepwell.agents.world import PlanOptions, environment, evaluate
from deepwell.agents.world.policies import ActorPolicy, GreedyPolicy, PlanPolicy, Policy, RandomPolicy
from deepwell.agents.world.simulated import best_policy, simulator_plan_policy

__all__ = ["HELD_OUT", "HELD_OUT_SHA256", "episodes_sha256", "measured"]

HELD_OUT: Final = range(900_000, 900_040)
"""Seeds of the held-out episodes. Choices were made on other seeds."""

HELD_OUT_SHA256: Final = {
    "cart-pole": "b1cb8c3432ea15845aae137102309f3347e9b8ceddf8a0d6615193682cf7c404",
    "grid": "8370d3133ddc31a8761756759c5c94585cc90ab57823a55daa4ea14935e336a1",
    "inventory": "b0fca10ef0f3c6a538b12e7860cde8d40849bc505ed37a0a8ff8cf1bf2c357a3",
}
"""SHA-256 of the held-out episodes, of what fixed actions lead to in them, as they were before any choice was made."""

_TRAINING_SEED: Final = 7
_STEPS: Final = 20_000
_BUDGET: Final = PlanOptions(futures=16, horizon=12)


def episodes_sha256(name: str) -> str:
    """Returns the SHA-256 of the held-out episodes: of the observations that fixed actions lead to."""
    world = environment(name)
    digest = hashlib.sha256()

    class Fixed:
        """Takes actions that follow from the seed 0 alone, and keeps what it sees."""

        rng = np.random.default_rng(0)

        def act(self, observations: Any, states: Any) -> Any:
            digest.update(np.round(np.asarray(observations, np.float64), 3).tobytes())
            return self.rng.integers(len(world.spec.actions), size=len(observations))

    evaluate(world, Fixed(), HELD_OUT)
    return digest.hexdigest()


def measured(name: str, folder: Path) -> dict[str, Any]:
    """Trains a model, or goes on with the training of a folder, and returns what the policies reach."""
    from deepwell.agents.world.training.options import usual_options
    from deepwell.agents.world.training.run import Progress, train_world

    world, last = environment(name), list[Progress]()
    options = replace(usual_options(name), steps=_STEPS, seed=_TRAINING_SEED)
    before = time.process_time()  # what it took to start counts too
    model = train_world(world, folder, options, lambda progress: last.__setitem__(slice(None), [progress]))
    began = time.process_time()
    policies: dict[str, Callable[[], Policy | None]] = {
        "random": lambda: RandomPolicy(world, 1),
        "greedy": lambda: GreedyPolicy(model, 1),
        "actor": lambda: ActorPolicy(model, 1),
        "plan": lambda: PlanPolicy(model, 1, _BUDGET),
        "simulator": lambda: simulator_plan_policy(name, 1),
        "best": lambda: best_policy(name),
    }
    returns: dict[str, list[float]] = {}
    for policy, make in policies.items():
        made = make()
        if made is not None:
            returns[policy] = evaluate(world, made, HELD_OUT).tolist()
    training = last[-1].processor_seconds
    return {
        "returns": returns,
        "step": last[-1].step,
        "updates": last[-1].updates,
        "rehearsals": last[-1].rehearsals,
        "training_processor_seconds": training,
        "processor_seconds": training + before + time.process_time() - began,
    }


if __name__ == "__main__":
    print(json.dumps(measured(sys.argv[1], Path(sys.argv[2]))), flush=True)
