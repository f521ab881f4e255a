"""The environments obey their published equations and rules, and an episode follows from its draws alone."""

from __future__ import annotations

import numpy as np
import pytest

from deepwell.agents.world import NAMES, environment
from deepwell.agents.world.environments import CartPole, Grid, Inventory
from deepwell.agents.world.environments.inventory import CAPACITY, QUANTITIES
from deepwell.errors import InvalidRequest


@pytest.mark.parametrize("name", NAMES)
def test_episodes_side_by_side_are_the_episodes_alone(name: str) -> None:
    world = environment(name)
    spec, rng = world.spec, np.random.default_rng(1)
    states = world.start(rng.random((6, spec.start_draws)))
    for _ in range(20):
        actions = rng.integers(len(spec.actions), size=6)
        draws = rng.random((6, max(1, spec.step_draws)))
        together = world.step(states, actions, draws)
        for row in range(6):
            alone = world.step(states[row : row + 1], actions[row : row + 1], draws[row : row + 1])
            np.testing.assert_array_equal(alone.states[0], together.states[row])
            assert alone.rewards[0] == together.rewards[row] and alone.ended[0] == together.ended[row]
        observed = world.observe(together.states)
        assert observed.shape == (6, len(spec.observation)) and observed.dtype == np.float32
        if spec.binary:
            assert set(np.unique(observed)) <= {0.0, 1.0}
        states = together.states


def test_an_unknown_environment_names_the_known_ones() -> None:
    with pytest.raises(InvalidRequest) as caught:
        environment("chess")
    assert all(name in caught.value.fix for name in NAMES)


def test_a_push_moves_the_cart_as_gymnasium_has_it() -> None:
    # CartPole-v1 of Gymnasium 1.4.0 steps from this state, by a push to the right, to these numbers.
    after = CartPole().step(np.array([[0.01, -0.02, 0.03, 0.04]]), np.array([1]), np.zeros((1, 1))).states[0]
    np.testing.assert_allclose(after, [0.0096, 0.1746792, 0.0308, -0.24306872], atol=1e-8)


def test_the_pole_that_falls_ends_the_episode() -> None:
    world, states, steps = CartPole(), np.zeros((1, 4)), 0
    while not (stepped := world.step(states, np.array([1]), np.zeros((1, 1)))).ended[0]:
        states, steps = stepped.states, steps + 1
    assert 7 <= steps <= 10  # pushed to one side alone


def _grid_state() -> np.ndarray:
    #     agent x, y   key x, y   door y   goal x, y   held  open
    return np.array([[3.0, 3.0, 2.0, 3.0, 3.0, 5.0, 3.0, 0.0, 0.0]])


def _walk(moves: str) -> tuple[np.ndarray, list[float], bool]:
    world, states, rewards, ended = Grid(), _grid_state(), list[float](), False
    for move in moves:
        stepped = world.step(states, np.array(["udlr".index(move)]), np.zeros((1, 1)))
        states, ended = stepped.states, bool(stepped.ended[0])
        rewards.append(float(stepped.rewards[0]))
    return states[0], rewards, ended


def test_the_door_opens_with_the_key_alone() -> None:
    state, rewards, ended = _walk("r")
    assert tuple(state[:2]) == (3, 3) and rewards == [pytest.approx(-0.01)] and not ended
    state, rewards, ended = _walk("lrrr")
    assert rewards == pytest.approx([0.19, -0.01, 0.19, 0.99]) and ended


def test_a_wall_stops_the_agent() -> None:
    state, _, _ = _walk("uuuuuu")
    assert tuple(state[:2]) == (3, 1)


def test_the_agent_sees_two_cells_far() -> None:
    world = Grid()
    seen = world.observe(_grid_state())[0]
    assert dict(zip(world.spec.observation, seen, strict=True))["key at -1,+0"] == 1
    assert dict(zip(world.spec.observation, seen, strict=True))["door at +1,+0"] == 1
    assert dict(zip(world.spec.observation, seen, strict=True))["goal at +2,+0"] == 1
    far = _grid_state()
    far[0, 5] = 7
    assert not any(
        value
        for name, value in zip(world.spec.observation, world.observe(far)[0], strict=True)
        if "goal" in name
    )


def test_units_are_neither_made_nor_lost_but_at_the_door_of_a_full_store() -> None:
    world, rng = Inventory(), np.random.default_rng(3)
    states = world.start(rng.random((200, 2)))
    for _ in range(40):
        actions, draws = rng.integers(len(QUANTITIES), size=200), rng.random((200, 4))
        after = world.step(states, actions, draws).states
        arrived = states[:, 1:4].sum(1) - after[:, 2:4].sum(1)
        sold = np.minimum(np.minimum(CAPACITY, states[:, 0] + arrived), after[:, 4])
        np.testing.assert_array_equal(after[:, 0], np.minimum(CAPACITY, states[:, 0] + arrived) - sold)
        np.testing.assert_array_equal(after[:, 1], QUANTITIES[actions])
        states = after


def test_demand_has_the_mean_of_its_weekday() -> None:
    world, rng = Inventory(), np.random.default_rng(4)
    states = np.zeros((20_000, 6))
    states[:, 5] = 5
    demand = world.step(states, np.zeros(20_000, int), rng.random((20_000, 4))).states[:, 4]
    assert abs(demand.mean() - 13) < 4 * np.sqrt(13 / 20_000)
    np.testing.assert_allclose(world.demand_chances().sum(1), 1, atol=1e-6)
