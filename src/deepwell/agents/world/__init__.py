"""World models: environments, a recurrent state-space model of each, imagination, and plans made in it."""

from deepwell.agents.world.environments import NAMES, Environment, EnvironmentName, environment
from deepwell.agents.world.evaluate import evaluate
from deepwell.agents.world.imagine import Beside, imagine_beside
from deepwell.agents.world.model import Latent, WorldConfig, WorldModel
from deepwell.agents.world.planner import PlanOptions, rollouts
from deepwell.agents.world.planning import Plan, make_plan
from deepwell.agents.world.shipped import world_model
from deepwell.agents.world.situations import situation_schema

__all__ = [
    "NAMES",
    "Beside",
    "Environment",
    "EnvironmentName",
    "Latent",
    "Plan",
    "PlanOptions",
    "WorldConfig",
    "WorldModel",
    "environment",
    "evaluate",
    "imagine_beside",
    "make_plan",
    "rollouts",
    "situation_schema",
    "world_model",
]
