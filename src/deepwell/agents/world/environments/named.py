"""Finds an environment by its name."""

from __future__ import annotations

from typing import Final, Literal, get_args

from deepwell.agents.world.environments.cart_pole import CartPole
from deepwell.agents.world.environments.grid import Grid
from deepwell.agents.world.environments.inventory import Inventory
from deepwell.agents.world.environments.protocol import Environment
from deepwell.errors import InvalidRequest

__all__ = ["NAMES", "EnvironmentName", "environment"]

EnvironmentName = Literal["cart-pole", "grid", "inventory"]
NAMES: Final[tuple[EnvironmentName, ...]] = get_args(EnvironmentName)


def environment(name: str) -> Environment:
    """Returns the environment of a name.

    Raises:
        InvalidRequest: there is none.
    """
    kinds = {"cart-pole": CartPole, "grid": Grid, "inventory": Inventory}
    if name not in kinds:
        raise InvalidRequest(f"no environment is named {name}", fix=f"name one of {', '.join(NAMES)}")
    return kinds[name]()
