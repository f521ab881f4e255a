"""Imagination lies beside reality step by step, and plans follow from situations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.agents.world.models import random_model

from deepwell.agents.world import NAMES, PlanOptions, environment, imagine_beside, make_plan, situation_schema
from deepwell.agents.world.situations import observation_of
from deepwell.errors import InvalidRequest

SITUATIONS = {
    "cart-pole": {"position": 0.1, "velocity": 0, "angle": 0.05, "angular_velocity": -0.2},
    "grid": {"view": ["#####", "#..k#", "#...#", "#...D", "#...#"], "has_key": False},
    "inventory": {
        "stock": 12,
        "ordered_yesterday": 20,
        "ordered_two_days_ago": 0,
        "ordered_three_days_ago": 5,
        "last_demand": 7,
        "weekday": 4,
    },
}


@pytest.mark.parametrize("name", NAMES)
def test_imagination_takes_the_real_actions(name: str) -> None:
    world = environment(name)
    found = imagine_beside(random_model(world), world, seed=2, seen=3, steps=6, futures=4)
    total = len(found.real)
    assert found.imagined.shape == (4, total - 3, len(world.spec.observation))
    assert len(found.actions) == len(found.real_rewards) == total - 1
    assert found.error() > 0
    again = imagine_beside(random_model(world), world, seed=2, seen=3, steps=6, futures=4)
    np.testing.assert_array_equal(found.imagined, again.imagined)


def test_the_picture_has_a_row_for_each_environment(tmp_path: Path) -> None:
    from deepwell.agents.world.picture import draw_beside

    rows = []
    for name in NAMES:
        world = environment(name)
        rows.append(imagine_beside(random_model(world), world, seed=1, seen=2, steps=5, futures=3))
    draw_beside(rows, tmp_path / "imagination.png")
    assert (tmp_path / "imagination.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", NAMES)
def test_a_plan_ranks_every_action(name: str) -> None:
    world = environment(name)
    plan = make_plan(random_model(world), world, SITUATIONS[name], PlanOptions(4, 5))
    assert sorted(one.action for one in plan.options) == sorted(world.spec.actions)
    returns = [one.mean_return for one in plan.options]
    assert returns == sorted(returns, reverse=True)
    told = plan.as_json()
    assert len(told["imagined"]) == 5 and set(told["imagined"][0]["observation"]) == set(
        world.spec.observation
    )
    assert told == make_plan(random_model(world), world, SITUATIONS[name], PlanOptions(4, 5)).as_json()


def test_a_situation_is_the_observation_of_its_state() -> None:
    inventory = environment("inventory")
    states = np.array([[12.0, 20, 0, 5, 7, 4]])
    np.testing.assert_array_equal(
        observation_of(inventory, SITUATIONS["inventory"]), inventory.observe(states)[0]
    )
    grid = environment("grid")
    states = np.array([[2.0, 2, 3, 1, 3, 7, 3, 0, 0]])
    np.testing.assert_array_equal(observation_of(grid, SITUATIONS["grid"]), grid.observe(states)[0])


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        (name, broken)
        for name in NAMES
        for broken in (None, float("nan"), 1e300, -1, "12", [], {}, True, [["#"]])
        if (name, broken) != ("cart-pole", -1)  # a position
    ],
)
def test_a_wrong_field_is_named(name: str, broken: object) -> None:
    field = next(iter(SITUATIONS[name]))
    with pytest.raises(InvalidRequest, match=field) as caught:
        observation_of(environment(name), {**SITUATIONS[name], field: broken})
    assert caught.value.fix


@pytest.mark.parametrize("name", NAMES)
def test_missing_and_unknown_fields_are_named(name: str) -> None:
    situation = SITUATIONS[name]
    field = next(iter(situation))
    with pytest.raises(InvalidRequest, match=field):
        observation_of(environment(name), {key: one for key, one in situation.items() if key != field})
    with pytest.raises(InvalidRequest, match="temper"):
        observation_of(environment(name), {**situation, "temper": 1})


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=6),
        lambda inner: st.lists(inner, max_size=5),
    )
)
def test_any_view_is_an_observation_or_an_error(view: object) -> None:
    try:
        found = observation_of(environment("grid"), {"view": view, "has_key": True})
    except InvalidRequest:
        return
    assert set(np.unique(found)) <= {0.0, 1.0}


@pytest.mark.parametrize("name", NAMES)
def test_schemas_accept_the_situations(name: str) -> None:
    import jsonschema

    schema = situation_schema(name)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(SITUATIONS[name], schema)
