"""The planner finds the better action where dynamics are known, and the exact policies of the simulators are the best."""

from __future__ import annotations

import numpy as np
import pytest
from tests.agents.world.models import random_model

from deepwell.agents.world import NAMES, PlanOptions, environment, evaluate, rollouts
from deepwell.agents.world.environments import Grid, Inventory
from deepwell.agents.world.planner import LearnedDynamics
from deepwell.agents.world.policies import ActorPolicy, GreedyPolicy, PlanPolicy, Policy, RandomPolicy
from deepwell.agents.world.simulated import SimulatorDynamics, simulator_plan_policy
from deepwell.agents.world.simulated.exact import ExactOrders, OrderTables, order_tables
from deepwell.agents.world.simulated.shortest import ShortestPaths


@pytest.fixture(scope="module")
def tables() -> OrderTables:
    return order_tables(Inventory(), 60)


def test_the_true_simulator_balances_the_pole_for_longer_than_chance() -> None:
    world, seeds = environment("cart-pole"), range(4)
    planned = evaluate(world, simulator_plan_policy("cart-pole", 1, PlanOptions(8, 20)), seeds)
    assert planned.min() > 60 > evaluate(world, RandomPolicy(world, 1), seeds).max() - 40


def test_the_planner_improves_on_its_base_policy() -> None:
    world, seeds = Grid(), range(6)
    base = ShortestPaths()
    noisy = SimulatorDynamics(world, lambda states, draws: np.where(draws < 0.3, 0, base.moves(states, None)))

    class Noisy:
        rng = np.random.default_rng(0)

        def act(self, observations: object, states: np.ndarray) -> np.ndarray:
            return np.where(self.rng.random(len(states)) < 0.3, 0, base.moves(states, None))

    class Planned:
        rng = np.random.default_rng(0)

        def act(self, observations: object, states: np.ndarray) -> np.ndarray:
            return rollouts(noisy, states, len(states), self.rng, PlanOptions(16, 25)).returns().argmax(-1)

    assert evaluate(world, Planned(), seeds).mean() > evaluate(world, Noisy(), seeds).mean()


def test_shortest_paths_solve_every_grid() -> None:
    returns = evaluate(Grid(), ShortestPaths(), range(200))
    assert returns.min() > 1.0 and returns.max() < 1.4


def test_exact_orders_are_better_than_what_they_are_compared_with(tables: OrderTables) -> None:
    world, seeds = Inventory(), range(50)
    exact = ExactOrders(world, 60, tables)

    class UpTo:
        """Orders up to a level, the usual rule of inventories, with the best level on these very episodes."""

        def __init__(self, level: int) -> None:
            self.level = level

        def act(self, observations: object, states: np.ndarray) -> np.ndarray:
            missing = self.level - states[:, :4].sum(1)
            quantities = np.array([0, 5, 10, 15, 20, 30, 40])
            return np.searchsorted(quantities, np.maximum(0, missing), side="right") - 1

    best = max(evaluate(world, UpTo(level), seeds).mean() for level in range(10, 60, 5))
    assert evaluate(world, exact, seeds).mean() > best > evaluate(world, RandomPolicy(world, 0), seeds).mean()


def test_the_last_orders_of_an_episode_are_none(tables: OrderTables) -> None:
    # The last day's best action orders nothing: what it would bring comes after the end.
    exact = ExactOrders(Inventory(), 60, tables)
    states = np.array([[20.0, 5, 0, 10, 4, 3]])
    actions = [int(exact.act(np.zeros((1, 12)), states)[0]) for _ in range(60)]
    assert actions[-1] == 0 and max(actions) > 0


@pytest.mark.parametrize("name", NAMES)
def test_policies_of_a_model_are_reproducible(name: str) -> None:
    world = environment(name)
    model = random_model(world)
    makers = (
        lambda: ActorPolicy(model, 3),
        lambda: GreedyPolicy(model, 3),
        lambda: PlanPolicy(model, 3, PlanOptions(2, 3)),
    )
    for make in makers:
        first: Policy = make()
        np.testing.assert_array_equal(evaluate(world, first, range(3)), evaluate(world, make(), range(3)))


def test_every_action_meets_the_same_chance() -> None:
    class Luck:
        """Rewards that are luck alone: no action is better than another."""

        actions, discount, draws = 4, 0.9, 1

        def spread(self, states: np.ndarray, copies: int) -> np.ndarray:
            return states.repeat(copies)

        def move(self, states: np.ndarray, actions: np.ndarray, draws: np.ndarray) -> tuple:
            return states, draws[:, 0], np.ones(len(states))

        def choose(self, states: np.ndarray, draws: np.ndarray) -> np.ndarray:
            return np.zeros(len(states), int)

        def value(self, states: np.ndarray) -> np.ndarray:
            return np.zeros(len(states))

    returns = rollouts(Luck(), np.zeros(3), 3, np.random.default_rng(0), PlanOptions(5, 6)).returns()
    assert (returns == returns[:, :1]).all() and len(set(returns[:, 0])) == 3


def test_learned_dynamics_keep_episodes_apart() -> None:
    world = environment("inventory")
    dynamics, rng = LearnedDynamics(random_model(world)), np.random.default_rng(0)
    rows = dynamics.spread(dynamics.model.start(2), 3)
    assert rows.memory.shape == (6, 12)
    moved = dynamics.move(rows, np.arange(6), rng.random((6, dynamics.draws)))
    assert moved.rewards.shape == (6,) and ((moved.goes_on >= 0) & (moved.goes_on <= 1)).all()
    assert set(dynamics.choose(moved.states, rng.random((6, dynamics.draws)))) <= set(range(7))
