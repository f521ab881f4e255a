"""The strongest policies that know the simulator: the planner with true dynamics, and the exact best where there is one."""

from __future__ import annotations

from typing import Final

from deepwell.agents.world.environments import Grid, Inventory, environment
from deepwell.agents.world.planner import PlanOptions
from deepwell.agents.world.policies import Policy
from deepwell.agents.world.simulated.dynamics import SimulatorDynamics, SimulatorPlanPolicy
from deepwell.agents.world.simulated.exact import ExactOrders
from deepwell.agents.world.simulated.shortest import ShortestPaths

__all__ = ["best_policy", "simulator_plan_policy"]

_BUDGET: Final = PlanOptions(futures=64, horizon=50)


def simulator_plan_policy(name: str, seed: int, options: PlanOptions = _BUDGET) -> Policy:
    """Returns the planner with the true dynamics, whose base policy chooses at random."""
    return SimulatorPlanPolicy(SimulatorDynamics(environment(name)), seed, options)


def best_policy(name: str) -> Policy | None:
    """Returns the exact best policy of an environment, or None: it has none that can be computed."""
    world = environment(name)
    if isinstance(world, Inventory):
        return ExactOrders(world, world.spec.steps)
    return ShortestPaths() if isinstance(world, Grid) else None
