"""Environments to learn a world model from: a physical one, one with a hidden part, and one of a business."""

from deepwell.agents.world.environments.cart_pole import CartPole
from deepwell.agents.world.environments.grid import Grid
from deepwell.agents.world.environments.inventory import Inventory
from deepwell.agents.world.environments.named import NAMES, EnvironmentName, environment
from deepwell.agents.world.environments.protocol import Environment, Float, Integers, Spec, Step

__all__ = [
    "NAMES",
    "CartPole",
    "Environment",
    "EnvironmentName",
    "Float",
    "Grid",
    "Integers",
    "Inventory",
    "Spec",
    "Step",
    "environment",
]
