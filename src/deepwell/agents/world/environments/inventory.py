"""`Inventory`: a product whose demand follows the weekday and chance, from a supplier who needs one to three days."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepwell.agents.world.environments.protocol import Float, Integers, Spec, Step

__all__ = ["CAPACITY", "QUANTITIES", "Inventory"]

QUANTITIES: Final = np.array([0, 5, 10, 15, 20, 30, 40])
"""Units that each action orders."""

CAPACITY: Final = 80
"""Units that the store holds. What comes above them is sent back and not refunded."""

_MEANS: Final = (4.0, 4.0, 5.0, 6.0, 9.0, 13.0, 8.0)  # units asked for, Monday to Sunday
_MOST: Final = 40  # of a Poisson variable of mean 13, 1e-9 lies above
_LATE: Final = (0.5, 0.6, 1.0)  # chance that an order of yesterday, of two and of three days ago comes today
_PRICE, _UNIT, _HOLDING, _LOST, _ORDER = 5.0, 2.0, 0.1, 2.0, 8.0  # money
_SCALE: Final = 20.0  # money of one unit of reward

# Columns of a state.
_STOCK, _FIRST, _SECOND, _THIRD, _DEMAND, _DAY = range(6)


def _distribution() -> NDArray[np.float64]:
    """Returns the cumulative Poisson distributions of the weekdays, [7, most + 1]."""
    table = [[mean**k * math.exp(-mean) / math.factorial(k) for k in range(_MOST + 1)] for mean in _MEANS]
    return np.cumsum(table, 1)


class Inventory:
    """The environment. A step is a day: an order is placed, deliveries come, customers buy what there is.

    Its reward is income minus the costs of units, orders, storage and lost sales, in units of 20. Deliveries take a random
    time: what was ordered yesterday comes today with chance 0.5, else the next day with chance 0.6, else the day after.
    """

    spec = Spec(
        name="inventory",
        observation=(
            "stock",
            "ordered yesterday",
            "ordered two days ago",
            "ordered three days ago",
            "last demand",
            *(f"weekday {day}" for day in range(7)),
        ),
        binary=False,
        actions=tuple(f"order {quantity}" for quantity in QUANTITIES),
        steps=60,
        start_draws=2,
        step_draws=4,
        discount=0.95,
    )

    def __init__(self) -> None:
        self._below = _distribution()

    def start(self, draws: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns states with 0 to 29 units in stock, nothing on order, and any weekday."""
        states = np.zeros((len(draws), 6))
        states[:, _STOCK] = np.floor(draws[:, 0] * 30)
        states[:, _DAY] = np.floor(draws[:, 1] * 7)
        return states

    def observe(self, states: NDArray[np.float64]) -> Float:
        """Returns stock, orders on their way, the last demand (each over 20), and the weekday, one number a day."""
        days = np.eye(7)[states[:, _DAY].astype(int)]
        return np.concatenate([states[:, :_DAY] / 20, days], 1).astype(np.float32)

    def step(self, states: NDArray[np.float64], actions: Integers, draws: NDArray[np.float64]) -> Step:
        """Runs a day. Draws: three for the deliveries of the orders on their way, one for the demand."""
        stock, day = states[:, _STOCK], states[:, _DAY].astype(int)
        waiting = states[:, [_FIRST, _SECOND, _THIRD]]
        comes = draws[:, :3] < np.array(_LATE)
        stock = np.minimum(CAPACITY, stock + (waiting * comes).sum(1))
        left = waiting * ~comes
        demand = (self._below[day] < draws[:, 3, None]).sum(1)
        sold = np.minimum(stock, demand)
        ordered = QUANTITIES[actions]
        after = np.stack([stock - sold, ordered, left[:, 0], left[:, 1], demand, (day + 1) % 7], 1).astype(
            np.float64
        )
        rewards = self.sale_reward(stock, demand) - self.order_cost()[actions]
        return Step(after, rewards, np.zeros(len(states), bool))

    def sale_reward(self, stock: NDArray[np.float64], demand: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns the rewards of a day's sales, with the costs of what was missing and of what stays overnight."""
        sold = np.minimum(stock, demand)
        return (_PRICE * sold - _LOST * (demand - sold) - _HOLDING * (stock - sold)) / _SCALE

    def order_cost(self) -> NDArray[np.float64]:
        """Returns the cost of each action, in units of reward."""
        return (_UNIT * QUANTITIES + _ORDER * (QUANTITIES > 0)) / _SCALE

    def demand_chances(self) -> NDArray[np.float64]:
        """Returns the distribution of the demand of each weekday, [7, units]."""
        return np.diff(self._below, axis=1, prepend=0)

    @staticmethod
    def late_chances() -> tuple[float, float, float]:
        """Returns the chances that an order comes on its first, second and third day."""
        return _LATE
