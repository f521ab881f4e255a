"""Planning with the true simulator: the measure that planning in a learned model is held to."""

from deepwell.agents.world.simulated.best import best_policy, simulator_plan_policy
from deepwell.agents.world.simulated.dynamics import SimulatorDynamics, SimulatorPlanPolicy

__all__ = ["SimulatorDynamics", "SimulatorPlanPolicy", "best_policy", "simulator_plan_policy"]
