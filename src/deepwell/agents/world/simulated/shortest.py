"""`ShortestPaths`: the best policy of the grid for one who sees all of it: the shortest way to the key, the door, the goal."""

from __future__ import annotations

from collections import deque
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepwell.agents.world.environments.grid import HEIGHT, WALL, WIDTH
from deepwell.agents.world.environments.protocol import Float, Integers

__all__ = ["ShortestPaths"]

_MOVES = ((0, -1), (0, 1), (-1, 0), (1, 0))


class ShortestPaths:
    """Moves along shortest ways, found by breadth-first search."""

    def act(self, observations: Float, states: NDArray[np.float64]) -> Integers:
        """Returns the next move of each agent."""
        return self.moves(states, None)

    def moves(self, states: NDArray[np.float64], draws: Any) -> Integers:
        """Returns the same, as the base policy of a planner."""
        return np.array([_move(tuple(state)) for state in states.astype(int).tolist()])


@lru_cache(maxsize=65_536)
def _move(state: tuple[int, ...]) -> int:
    x, y, key_x, key_y, door, goal_x, goal_y, held, opened = state
    target = (goal_x, goal_y) if held or opened else (key_x, key_y)
    # From the target outwards: the distance of each cell.
    distances, waiting = {target: 0}, deque([target])
    while waiting:
        at = waiting.popleft()
        for right, down in _MOVES:
            cell = (at[0] + right, at[1] + down)
            inside = 1 <= cell[0] <= WIDTH - 2 and 1 <= cell[1] <= HEIGHT - 2
            if inside and cell not in distances and (cell[0] != WALL or (cell[1] == door and held)):
                distances[cell] = distances[at] + 1
                waiting.append(cell)
    return min(range(4), key=lambda move: distances.get((x + _MOVES[move][0], y + _MOVES[move][1]), 99))
