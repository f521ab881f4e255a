"""`Grid`: two rooms, a locked door between them, a key and a goal, of which only what lies within two cells is seen.

```
#########
#  k#   #
#   #  G#      the key k in the left room opens the door D; the goal G is in the right room
# @ D   #      each episode places agent, key, door and goal anew
#   #   #
#   #   #
#########
```
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepwell.agents.world.environments.protocol import Float, Integers, Spec, Step

__all__ = ["HEIGHT", "KINDS", "SIDE", "WALL", "WIDTH", "Grid"]

WIDTH: Final = 9
HEIGHT: Final = 7
WALL: Final = 4
"""Column of the wall between the rooms."""

_ROOM: Final = 15  # cells: 3 columns of 5 rows
_RADIUS: Final = 2
SIDE: Final = 2 * _RADIUS + 1
"""Cells of a side of the view, whose middle is the agent."""

KINDS: Final = ("wall", "key", "door", "goal")
"""Kinds of cells, in the order of their maps in an observation."""

_MOVES: Final = np.array([[0, -1], [0, 1], [-1, 0], [1, 0]])
_STEP, _KEY, _DOOR, _GOAL = -0.01, 0.2, 0.2, 1.0

# Columns of a state.
_X, _Y, _KEY_X, _KEY_Y, _DOOR_Y, _GOAL_X, _GOAL_Y, _HELD, _OPEN = range(9)


class Grid:
    """The environment. A key is taken by walking onto it, a door opened by walking into it with the key.

    A step costs 0.01; the key and the opened door give 0.2 each, the goal 1 and the end.
    """

    spec = Spec(
        name="grid",
        observation=(
            *(
                f"{kind} at {x - _RADIUS:+d},{y - _RADIUS:+d}"
                for kind in KINDS
                for y in range(SIDE)
                for x in range(SIDE)
            ),
            "has the key",
        ),
        binary=True,
        actions=("up", "down", "left", "right"),
        steps=60,
        start_draws=4,
        step_draws=0,
        discount=0.97,
    )

    def start(self, draws: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns states with agent and key in the left room, not on one cell, the goal in the right one."""
        agent = (draws[:, 0] * _ROOM).astype(int)
        key = (agent + 1 + (draws[:, 1] * (_ROOM - 1)).astype(int)) % _ROOM
        goal = (draws[:, 2] * _ROOM).astype(int)
        states = np.zeros((len(draws), 9))
        states[:, _X], states[:, _Y] = 1 + agent % 3, 1 + agent // 3
        states[:, _KEY_X], states[:, _KEY_Y] = 1 + key % 3, 1 + key // 3
        states[:, _DOOR_Y] = 1 + (draws[:, 3] * (HEIGHT - 2)).astype(int)
        states[:, _GOAL_X], states[:, _GOAL_Y] = WALL + 1 + goal % 3, 1 + goal // 3
        return states

    def observe(self, states: NDArray[np.float64]) -> Float:
        """Returns the cells around the agent, one map a kind, and whether it has the key."""
        maps = np.zeros((len(states), len(KINDS), HEIGHT + 2 * _RADIUS, WIDTH + 2 * _RADIUS), np.float32)
        whole = np.zeros(maps.shape[2:], np.float32)
        whole[: _RADIUS + 1] = whole[-_RADIUS - 1 :] = 1
        whole[:, : _RADIUS + 1] = whole[:, -_RADIUS - 1 :] = whole[:, WALL + _RADIUS] = 1
        maps[:, 0] = whole
        at = states.astype(int)
        rows = np.arange(len(states))
        door = at[:, _DOOR_Y] + _RADIUS
        maps[rows, 0, door, WALL + _RADIUS] = 0
        maps[rows, 1, at[:, _KEY_Y] + _RADIUS, at[:, _KEY_X] + _RADIUS] = 1 - at[:, _HELD]
        maps[rows, 2, door, WALL + _RADIUS] = 1 - at[:, _OPEN]
        maps[rows, 3, at[:, _GOAL_Y] + _RADIUS, at[:, _GOAL_X] + _RADIUS] = 1
        down = at[:, _Y, None] + np.arange(SIDE)
        right = at[:, _X, None] + np.arange(SIDE)
        seen = maps[
            rows[:, None, None, None],
            np.arange(len(KINDS))[:, None, None],
            down[:, None, :, None],
            right[:, None, None],
        ]
        return np.concatenate([seen.reshape(len(states), -1), at[:, _HELD, None].astype(np.float32)], 1)

    def step(self, states: NDArray[np.float64], actions: Integers, draws: NDArray[np.float64]) -> Step:
        """Moves each agent by one cell, unless a wall or the locked door is there."""
        del draws
        after = states.copy()
        x = states[:, _X] + _MOVES[actions, 0]
        y = states[:, _Y] + _MOVES[actions, 1]
        doorway = (x == WALL) & (y == states[:, _DOOR_Y])
        wall = (x < 1) | (x > WIDTH - 2) | (y < 1) | (y > HEIGHT - 2) | ((x == WALL) & ~doorway)
        held, opened = states[:, _HELD] == 1, states[:, _OPEN] == 1
        free = ~wall & (~doorway | opened | held)
        after[:, _X] = np.where(free, x, states[:, _X])
        after[:, _Y] = np.where(free, y, states[:, _Y])
        takes = ~held & (after[:, _X] == states[:, _KEY_X]) & (after[:, _Y] == states[:, _KEY_Y])
        opens = doorway & held & ~opened
        after[:, _HELD] = held | takes
        after[:, _OPEN] = opened | opens
        ended = (after[:, _X] == states[:, _GOAL_X]) & (after[:, _Y] == states[:, _GOAL_Y])
        return Step(after, _STEP + _KEY * takes + _DOOR * opens + _GOAL * ended, ended)
