"""Situations as a person or an agent writes them, as JSON, and the observations that they are to a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from deepwell.agents.world.environments import Environment, Float
from deepwell.agents.world.environments.grid import KINDS, SIDE
from deepwell.agents.world.environments.inventory import CAPACITY, QUANTITIES
from deepwell.errors import InvalidRequest

__all__ = ["observation_of", "situation_schema", "step_before"]

_SIGNS: Final = {"#": "wall", "k": "key", "D": "door", "G": "goal", ".": None, "@": None}


def _number(least: float, most: float, description: str) -> dict[str, Any]:
    return {"type": "number", "minimum": least, "maximum": most, "description": description}


def _integer(least: int, most: int, description: str) -> dict[str, Any]:
    return {"type": "integer", "minimum": least, "maximum": most, "description": description}


_ORDERS: Final = {"type": "integer", "enum": [int(one) for one in QUANTITIES]}
_FIELDS: Final[dict[str, dict[str, dict[str, Any]]]] = {
    "cart-pole": {
        "position": _number(-2.4, 2.4, "Metres right of the middle."),
        "velocity": _number(-10, 10, "Metres a second, to the right."),
        "angle": _number(-0.21, 0.21, "Radians from upright, to the right."),
        "angular_velocity": _number(-10, 10, "Radians a second."),
    },
    "grid": {
        "view": {
            "type": "array",
            "minItems": SIDE,
            "maxItems": SIDE,
            "items": {"type": "string", "minLength": SIDE, "maxLength": SIDE},
            "description": "Five rows of five cells around the agent: # wall, k key, D locked door, G goal, . free.",
        },
        "has_key": {"type": "boolean", "description": "Whether the agent carries the key."},
    },
    "inventory": {
        "stock": _integer(0, CAPACITY, "Units in the store."),
        "ordered_yesterday": {**_ORDERS, "description": "Units ordered one day ago that have not come yet."},
        "ordered_two_days_ago": {
            **_ORDERS,
            "description": "Units ordered two days ago that have not come yet.",
        },
        "ordered_three_days_ago": {
            **_ORDERS,
            "description": "Units ordered three days ago that have not come yet.",
        },
        "last_demand": _integer(0, 40, "Units that customers asked for yesterday."),
        "weekday": _integer(0, 6, "Day of the plan: 0 is Monday, 6 is Sunday."),
    },
}


def situation_schema(name: str) -> dict[str, Any]:
    """Returns the JSON schema of an environment's situations; every field is required."""
    fields = _FIELDS[name]
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


def observation_of(environment: Environment, situation: Mapping[str, Any]) -> Float:
    """Returns the observation [O] of a situation.

    Raises:
        InvalidRequest: a field is missing, unknown, or out of its range.
    """
    name = environment.spec.name
    fields = _FIELDS[name]
    if set(situation) != set(fields):
        missing, unknown = sorted(set(fields) - set(situation)), sorted(set(situation) - set(fields))
        raise InvalidRequest(
            f"the situation lacks {missing}" if missing else f"the situation has unknown fields {unknown}",
            fix=f"give {', '.join(fields)}",
        )
    for field, value in situation.items():
        _check(field, value, fields[field])
    if name == "grid":
        return _grid(situation)
    # The fields are the columns of a state, in their order.
    return environment.observe(np.array([[float(situation[field]) for field in fields]]))[0]


def step_before(environment: Environment, situation: Mapping[str, Any]) -> tuple[Float, int] | None:
    """Returns a guess of the step before a situation: observation and number of the action. None: it says nothing of that.

    For the inventory it is the day before, alike but for the weekday, with the order that the situation says was placed then.
    """
    if environment.spec.name != "inventory":
        return None
    before = {**situation, "weekday": (situation["weekday"] - 1) % 7}
    action = [int(one) for one in QUANTITIES].index(situation["ordered_yesterday"])
    return observation_of(environment, before), action


def _check(field: str, value: Any, schema: Mapping[str, Any]) -> None:
    kind = schema["type"]
    right: bool = {
        "number": isinstance(value, int | float) and not isinstance(value, bool),
        "integer": isinstance(value, int) and not isinstance(value, bool),
        "boolean": isinstance(value, bool),
        "array": _is_view(value),
    }[kind]
    if right and "minimum" in schema:
        right = schema["minimum"] <= value <= schema["maximum"]
    if right and "enum" in schema:
        right = value in schema["enum"]
    if not right:
        wanted = {key: one for key, one in schema.items() if key not in ("description", "items")}
        raise InvalidRequest(f"{field} is {str(value)[:80]!r}", fix=f"{schema['description']} Give {wanted}")


def _is_view(rows: Any) -> bool:
    of_size = (
        isinstance(rows, list)
        and len(rows) == SIDE
        and all(isinstance(row, str) and len(row) == SIDE for row in rows)
    )
    return of_size and all(sign in _SIGNS for row in rows for sign in row)


def _grid(situation: Mapping[str, Any]) -> Float:
    cells = [[_SIGNS[sign] for sign in row] for row in situation["view"]]
    maps = [[[cell == kind for cell in row] for row in cells] for kind in KINDS]
    return np.append(np.array(maps).reshape(-1), situation["has_key"]).astype(np.float32)
