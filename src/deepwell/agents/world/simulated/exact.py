"""`ExactOrders`: the best policy of the inventory, by dynamic programming over every state (Bellman, 1957).

81 stocks x 7 x 7 x 7 orders on their way x 7 weekdays are 194,481 states. The table is exact for an episode's 60 days:
a day is worth the demand's distribution times the value of the next day, which is one matrix product a weekday.
"""

from __future__ import annotations

from itertools import product
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepwell.agents.world.environments.inventory import CAPACITY, QUANTITIES, Inventory
from deepwell.agents.world.environments.protocol import Float, Integers

__all__ = ["ExactOrders", "OrderTables", "order_tables"]

OrderTables = list[NDArray[np.int8]]

_KINDS: Final = len(QUANTITIES)


class ExactOrders:
    """Orders what the table says. An instance follows one run of episodes, whose days it counts.

    Args:
        environment: the simulator.
        days: days of an episode.
        tables: what `order_tables` returned for these; None computes it, which takes some seconds.
    """

    def __init__(self, environment: Inventory, days: int, tables: OrderTables | None = None) -> None:
        self._day = 0
        self._tables = order_tables(environment, days) if tables is None else tables

    def act(self, observations: Float, states: NDArray[np.float64]) -> Integers:
        """Returns the best orders of the day."""
        at = states.astype(int)
        kinds = np.searchsorted(QUANTITIES, at[:, 1:4])
        table = self._tables[self._day]
        self._day += 1
        return table[at[:, 0], kinds[:, 0], kinds[:, 1], kinds[:, 2], at[:, 5]].astype(np.int64)


def order_tables(environment: Inventory, days: int) -> OrderTables:
    """Returns the best action of each day and state [stock, ordered today, one, two days ago, weekday]."""
    sold_to, money = _selling(environment)
    value = np.zeros((CAPACITY + 1, _KINDS, _KINDS, _KINDS, 7))
    found = []
    for _ in range(days):
        # Worth of an evening: stock before the sale, what was ordered, and what is still on its way.
        worth = np.empty((CAPACITY + 1, _KINDS, _KINDS, _KINDS, 7))
        for day in range(7):
            following = value[..., (day + 1) % 7].reshape(CAPACITY + 1, -1)
            worth[..., day] = (sold_to[day] @ following).reshape(worth.shape[:-1]) + money[day][
                :, None, None, None
            ]
        worth -= environment.order_cost()[:, None, None, None]
        choices = _deliveries(worth)
        found.append(choices.argmax(-1).astype(np.int8))
        value = choices.max(-1)
    return found[::-1]


def _selling(environment: Inventory) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns, a weekday, the distribution [stock, stock left] and the expected reward [stock] of a day's sale."""
    chances = environment.demand_chances()
    sold_to = np.zeros((7, CAPACITY + 1, CAPACITY + 1))
    money = np.zeros((7, CAPACITY + 1))
    stocks = np.arange(CAPACITY + 1, dtype=np.float64)
    for day, demand in product(range(7), range(chances.shape[1])):
        left = np.maximum(0, stocks - demand).astype(int)
        sold_to[day, stocks.astype(int), left] += chances[day, demand]
        money[day] += chances[day, demand] * environment.sale_reward(stocks, np.full_like(stocks, demand))
    return sold_to, money


def _deliveries(worth: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the worth of every action [stock, waiting..., weekday, action] before the deliveries of the day are known."""
    found = np.zeros((CAPACITY + 1, _KINDS, _KINDS, _KINDS, 7, _KINDS))
    stocks = np.arange(CAPACITY + 1)[:, None, None, None]
    first, second, third = np.ix_(range(_KINDS), range(_KINDS), range(_KINDS))
    late = Inventory.late_chances()
    for one, two in product((0, 1), (0, 1)):
        chance = (late[0] if one else 1 - late[0]) * (late[1] if two else 1 - late[1])
        comes = QUANTITIES[first] * one + QUANTITIES[second] * two + QUANTITIES[third]
        stock = np.minimum(CAPACITY, stocks + comes)
        waiting = (first * (1 - one) + 0 * stock, second * (1 - two) + 0 * stock)
        for action in range(_KINDS):
            found[..., action] += chance * worth[stock, action, waiting[0], waiting[1]]
    return found
