"""The world model in torch and in numpy compute the same; training learns, and goes on where it was stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from deepwell.agents.world import NAMES, WorldConfig, environment
from deepwell.agents.world.training.learner import Learner
from deepwell.agents.world.training.losses import (
    LossOptions,
    kl_balanced,
    lambda_returns,
    model_loss,
    tried,
    two_hot,
)
from deepwell.agents.world.training.network import State, WorldNetwork
from deepwell.agents.world.training.options import TrainOptions
from deepwell.agents.world.training.replay import Replay
from deepwell.agents.world.training.run import Progress, WorldTraining, train_world
from deepwell.agents.world.training.trials import Trials
from deepwell.errors import InvalidRequest

SMALL = TrainOptions(
    steps=1_000,
    streams=4,
    random_steps=200,
    steps_an_update=50,
    batch=4,
    length=8,
    horizon=4,
    starts=8,
    rehearsals=30,
    rehearsed=8,
)


def _network(name: str) -> WorldNetwork:
    world = environment(name)
    spec = world.spec
    torch.manual_seed(3)
    config = WorldConfig(
        name, len(spec.observation), spec.binary, len(spec.actions), spec.discount, memory=24, hidden=16
    )
    network = WorldNetwork(config)
    for one in network.parameters():  # heads begin with zeros, and norms with ones
        torch.nn.init.normal_(one, 0.1, 0.3)
    return network


@pytest.mark.parametrize("name", NAMES)
def test_numpy_and_torch_agree(name: str) -> None:
    network = _network(name)
    model, config = network.exported(), network.config
    rng = np.random.default_rng(0)
    memory = rng.normal(size=(5, config.memory)).astype(np.float32)
    chance = np.eye(8, dtype=np.float32)[rng.integers(8, size=(5, 8))].reshape(5, 64)
    actions = rng.integers(config.actions, size=5)
    observations = rng.random((5, config.observation), np.float32)
    from deepwell.agents.world import Latent

    latent = Latent(memory, chance)
    state = State(torch.from_numpy(memory), torch.from_numpy(chance))
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(actions), config.actions).float()
    features = state.features()
    with torch.no_grad():
        pairs = {
            "advance": (model.advance(latent, actions), network.advance(state, one_hot)),
            "policy": (model.policy(latent), network.policy(features)),
            "value": (model.value(latent), network.value(features)),
            "reward": (model.reward(latent), network.reward(features)[..., 0]),
            "goes_on": (model.goes_on(latent), network.continues(features)[..., 0].sigmoid()),
        }
        decoded = network.decoder(features)
        pairs["observation"] = (model.observation(latent), decoded.sigmoid() if config.binary else decoded)
        # Draws just below a class's cumulated probability give that class, if both compute the same distribution.
        posterior = network.mixed(
            network.posterior(torch.cat([state.memory, network.encoder(torch.from_numpy(observations))], -1))
        )
        prior = network.mixed(network.prior(state.memory))
    for one, (ours, theirs) in pairs.items():
        np.testing.assert_allclose(ours, theirs.numpy(), atol=2e-5, err_msg=one)
    for distribution, drawn in (
        (posterior.numpy(), lambda draws: model.posterior(memory, observations, draws)),
        (prior.numpy(), lambda draws: model.prior(memory, draws)),
    ):
        edges = distribution.cumsum(-1)
        for at in (0, 3, 6):
            assert (drawn(edges[..., at] - 1e-4).chance.reshape(5, 8, 8).argmax(-1) <= at).all()
            assert (drawn(edges[..., at] + 1e-4).chance.reshape(5, 8, 8).argmax(-1) > at).all()


def test_sequences_are_filtered_as_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    # With draws that take the most probable class, both ways give the same states.
    import deepwell.agents.world.training.network as module

    def most_probable(probabilities: torch.Tensor, draws: torch.Tensor | None = None) -> torch.Tensor:
        return torch.nn.functional.one_hot(probabilities.argmax(-1), probabilities.shape[-1]).float()

    monkeypatch.setattr(module, "drawn", most_probable)
    network = _network("inventory")
    torch.manual_seed(0)
    observations, first = torch.rand(3, 6, 12), torch.zeros(3, 6)
    first[:, 0] = 1
    first[1, 3] = 1
    # Sequences begin with an empty memory where they are marked, else with the one that they are given.
    first[2, 0] = 0
    given = State(torch.rand(3, network.config.memory), torch.eye(8).repeat(3, 1, 1).flatten(1))
    actions = torch.nn.functional.one_hot(torch.randint(7, (3, 6)), 7).float()
    with torch.no_grad():
        batch = {"observations": observations, "actions": actions, "first": first}
        filtered = network.filtered(batch | {"memory": given.memory, "chance": given.chance})
        state = given
        for step in range(6):
            kept = 1 - first[:, step, None]
            memory = network.advance(State(state.memory * kept, state.chance * kept), actions[:, step] * kept)
            state = network.observed(memory, observations[:, step])
            torch.testing.assert_close(filtered.state.memory[:, step], state.memory, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(filtered.state.chance[:, step], state.chance, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("futures", [1, 3])
def test_tried_actions_differ_by_what_they_do(futures: int) -> None:
    network = _network("inventory")
    begin = State(torch.rand(2, network.config.memory), torch.eye(8).repeat(2, 1, 1).flatten(1))
    found = tried(network, begin, 4, futures)
    assert found.actions.shape == (4, 2 * 7 * futures)
    assert found.actions[0].unflatten(0, (2, 7, futures))[1, :, 0].tolist() == list(range(7))
    # Where actions have no effect, the rows of a future are alike: they meet the same chance.
    with torch.no_grad():
        network.inputs.get_submodule("0").linear.weight[:, 64:] = 0
    alike = tried(network, begin, 4, futures).features[1:].unflatten(1, (2, 7, futures))
    torch.testing.assert_close(alike, alike[:, :, :1].expand_as(alike))


def test_what_is_foretold_follows_the_prior_and_stops_at_a_start(monkeypatch: pytest.MonkeyPatch) -> None:
    import deepwell.agents.world.training.network as module

    def most_probable(probabilities: torch.Tensor, draws: torch.Tensor | None = None) -> torch.Tensor:
        return torch.nn.functional.one_hot(probabilities.argmax(-1), probabilities.shape[-1]).float()

    monkeypatch.setattr(module, "drawn", most_probable)
    network = _network("cart-pole")
    state = State(torch.rand(3, network.config.memory), torch.eye(8).repeat(3, 1, 1).flatten(1))
    actions = torch.nn.functional.one_hot(torch.randint(2, (3, 6)), 2).float()
    found = network.foretold(state, actions)
    for step in range(6):
        state = network.imagined(network.advance(state, actions[:, step]))
        torch.testing.assert_close(found[:, step], state.features(), atol=1e-5, rtol=1e-5)
    batch = {
        "observations": torch.rand(3, 6, 4),
        "actions": actions,
        "rewards": torch.zeros(3, 6),
        "continues": torch.ones(3, 6),
        "first": torch.zeros(3, 6),
        "memory": torch.zeros(3, network.config.memory),
        "chance": torch.zeros(3, 64),
        "precision": torch.ones(4),
    }
    ahead = replace(LossOptions(), foretold=1.0)
    loss, _, parts = model_loss(network, batch, ahead)
    without = model_loss(network, batch, LossOptions())[0]
    torch.testing.assert_close(loss, without + ahead.precision * parts["foretold"])
    # Behind a start nothing is foretold: the episode has another beginning.
    batch["first"][:, 3] = 1
    cut = model_loss(network, batch, ahead)[2]["foretold"]
    batch["observations"][:, 3:] += 10
    assert model_loss(network, batch, ahead)[2]["foretold"] == cut < parts["foretold"]


def test_rehearsals_find_the_better_action() -> None:
    # Nothing counts but the next reward, so that the better action is known without a critic.
    config = replace(_network("inventory").config, discount=0.0)
    learner = Learner(config, replace(SMALL, futures=2, horizon=2, actor_rate=0.01))
    network = learner.network
    torch.nn.init.normal_(network.reward.get_submodule("out").weight, 0, 3.0)
    begin, alive = network.start(16), torch.ones(16)
    rewards = tried(network, begin, 1, 64).rewards[0].unflatten(0, (16, 7, 64)).mean((0, 2))
    for _ in range(60):
        learner.rehearse(begin, alive, 1.0)
    policy = network.policy(begin.features())[0]
    assert policy.max() > 0.7 and policy.argmax() == rewards.argmax()


def test_lambda_returns_are_sums_by_hand() -> None:
    rewards, discounts = torch.tensor([[1.0], [2.0], [3.0]]), torch.full((3, 1), 0.5)
    values = torch.tensor([[10.0], [20.0], [40.0]])
    all_of_it = lambda_returns(rewards, discounts, values, 1.0)[:, 0].tolist()
    assert all_of_it == pytest.approx(
        [1 + 0.5 * 2 + 0.25 * 3 + 0.125 * 40, 2 + 0.5 * 3 + 0.25 * 40, 3 + 0.5 * 40]
    )
    assert lambda_returns(rewards, discounts, values, 0.0)[:, 0].tolist() == pytest.approx([6, 12, 23])


def test_two_hot_has_the_mean_of_its_value() -> None:
    # Places as the critic's: far apart for great values. The mean is exact there too.
    places = torch.linspace(-5, 5, 41)
    places = places.sign() * places.abs().expm1()
    values = torch.tensor([-1e9, -1.0, 0.0, 0.3, 7.0, 99.0, 1e9])
    found = two_hot(values, places)
    torch.testing.assert_close(found @ places, values.clamp(places[0], places[-1]), atol=1e-3, rtol=1e-5)
    assert ((found > 0).sum(-1) <= 2).all() and torch.allclose(found.sum(-1), torch.ones(7))


def _replay(rewards: np.ndarray, ended: np.ndarray, first: np.ndarray) -> Replay:
    """A replay of one stream, whose observations are the numbers of the steps."""
    config = WorldConfig("inventory", 1, False, 2, 0.9, memory=2, groups=1, classes=2)
    replay = Replay(1, len(rewards), config)
    for at in range(len(rewards)):
        latent = State(torch.full((1, 2), float(at)), torch.eye(2)[None, at % 2])
        shown = np.full((1, 1), at, np.float32)
        replay.add(
            shown, np.array([at % 2]), rewards[at : at + 1], ended[at : at + 1], first[at : at + 1], latent
        )
    return replay


def test_events_are_ends_and_rare_rewards() -> None:
    rewards, ended, first = np.full(100, -0.01, np.float32), np.zeros(100, bool), np.zeros(100, bool)
    rewards[[30, 60]], ended[[60, 80]], first[[0, 61, 81]] = 1.0, True, True
    replay = _replay(rewards, ended, first)
    assert np.argwhere(replay.events()).tolist() == [[0, 30], [0, 60], [0, 80]]
    drawn = replay.draw(np.random.default_rng(0), 200, 5, events=1.0, carried=0.0)["observations"][
        ..., 0
    ].numpy()
    assert all(set(row) & {30, 60, 80} for row in drawn)
    # Rewards that differ at every step are no events, and without events any sequence is drawn.
    varied = _replay(np.arange(100, dtype=np.float32), np.zeros(100, bool), first)
    assert not varied.events().any()
    drawn = varied.draw(np.random.default_rng(0), 200, 5, events=1.0, carried=0.0)["observations"]
    assert len(set(drawn[:, 0, 0].tolist())) > 60


def test_what_changes_slowly_has_to_be_right_to_smaller_parts() -> None:
    config = WorldConfig("inventory", 3, False, 2, 0.9, memory=2, groups=1, classes=2)
    replay, latent = Replay(2, 50, config), State(torch.zeros(2, 2), torch.eye(2))
    rng, nothing = np.random.default_rng(0), np.zeros(2, bool)
    assert replay.precision().tolist() == [1, 1, 1]  # nothing has changed yet
    for at in range(50):
        # The first two move by 0.01 and 1 a step; a start, at which all of them leap, does not count.
        shown = np.array([[0.01 * at, at, 0.1 * at]] * 2, np.float32) + (at >= 25) * 1e4
        replay.add(shown, np.zeros(2, int), np.zeros(2, np.float32), nothing, ~nothing & (at == 25), latent)
    assert replay.precision().tolist() == pytest.approx([10, 0.1, 1], rel=0.05)
    assert torch.equal(replay.draw(rng, 2, 4, 0.0, 0.0)["precision"], replay.precision())


def test_sequences_begin_with_the_memory_as_it_was() -> None:
    nothing = np.zeros(40, bool)
    replay = _replay(np.zeros(40, np.float32), nothing, np.arange(40) == 20)
    for carried in (0.0, 1.0):
        batch = replay.draw(np.random.default_rng(0), 100, 3, events=0.0, carried=carried)
        begins = batch["observations"][:, 0, 0]
        empty = (begins == 0) | (begins == 20) if carried else torch.ones(100, dtype=torch.bool)
        assert torch.equal(batch["first"][:, 0] == 1, empty)
        assert torch.equal(batch["memory"][~empty][:, 0], begins[~empty] - 1)
        assert torch.equal(batch["chance"][~empty].argmax(-1), (begins[~empty].long() - 1) % 2)


def test_balancing_moves_the_prior_more_than_the_posterior() -> None:
    posterior = torch.tensor([[[0.7, 0.3]]]).repeat(1, 4, 1).requires_grad_()
    prior = torch.tensor([[[0.1, 0.9]]]).repeat(1, 4, 1).requires_grad_()
    found, loss = kl_balanced(posterior, prior, LossOptions())
    assert found.item() == pytest.approx(4 * (0.7 * np.log(7) + 0.3 * np.log(1 / 3)), rel=1e-5)
    loss.sum().backward()
    assert (
        prior.grad is not None
        and posterior.grad is not None
        and prior.grad.abs().sum() > posterior.grad.abs().sum()
    )
    near = kl_balanced(posterior, posterior.detach() * 0.99 + 0.005, LossOptions())[1]
    assert torch.autograd.grad(near.sum(), posterior)[0].abs().sum() == 0  # below the free nats


def test_the_model_of_the_world_gets_better() -> None:
    training = WorldTraining(environment("inventory"), replace(SMALL, steps_an_update=10))
    training.advance()
    while training.advance():
        pass
    batch = training.collector.replay.draw(np.random.default_rng(0), 16, 8, 0.0, 0.0)
    with torch.no_grad():
        trained = float(model_loss(training.learner.network, batch, LossOptions())[0])
        fresh = float(model_loss(WorldNetwork(training.config), batch, LossOptions())[0])
    assert trained < 0.5 * fresh
    assert 992 < training.collector.steps <= 1_000


def test_a_trial_ends_when_every_stream_had_a_whole_episode_and_the_best_is_returned() -> None:
    networks = [_network("cart-pole") for _ in range(4)]
    for number, one in enumerate(networks):
        for weight in one.parameters():
            torch.nn.init.constant_(weight, float(number))
    trials = Trials(networks[0], 2)

    def tick(learned: int, begun: tuple[bool, bool], over: tuple[bool, bool], *totals: float) -> None:
        trials.ticked(networks[learned], np.array(begun), np.array(over), np.array(totals))

    def number_of(network: WorldNetwork) -> float:
        return float(next(network.parameters()).detach().flatten()[0])

    tick(1, (False, False), (True, False), 90.0, 5.0)  # its episode began before the trial
    tick(1, (True, False), (False, True), 1.0, 90.0)
    assert number_of(trials.best(networks[3])) == 3.0  # none has ended
    tick(1, (False, True), (True, False), 10.0, 1.0)
    tick(1, (True, False), (True, False), 90.0, 2.0)  # a second episode of one stream does not count
    tick(1, (False, False), (False, True), 1.0, 20.0)
    assert trials.scores == [15.0] and number_of(trials.acting) == 1.0
    for learned, total in ((2, 30.0), (3, 7.0)):
        tick(learned, (True, True), (True, True), total, total)
    assert trials.scores == [15.0, 30.0, 7.0] and number_of(trials.best(networks[3])) == 1.0
    again = Trials(networks[3], 2)
    again.load(trials.state())
    assert again.scores == trials.scores and number_of(again.best(networks[3])) == 1.0


@pytest.mark.parametrize(("name", "has_trials"), [("cart-pole", True), ("inventory", False)])
def test_a_stopped_training_ends_as_one_that_was_not(tmp_path: Path, name: str, has_trials: bool) -> None:
    world, options = environment(name), replace(SMALL, trials=has_trials)

    whole = WorldTraining(world, options)
    while whole.advance():
        pass
    assert not has_trials or (whole.trials is not None and whole.trials.scores)
    folder = tmp_path / "run"
    folder.mkdir()
    first = WorldTraining(world, options)
    # It is stopped twice: before the last step, and in the rehearsals.
    for moment in (600, whole.collector.steps + 10):
        first.resume(folder)
        while first.moment < moment:
            first.advance()
        first.save(folder)
        first = WorldTraining(world, options)
        torch.manual_seed(99)  # another process has other random numbers
    told: list[Progress] = []
    model = train_world(world, folder, options, told.append)
    assert told and (told[-1].step, told[-1].rehearsals) == (whole.collector.steps, 30)
    for key, one in whole.returned.exported().weights.items():
        np.testing.assert_array_equal(model.weights[key], one)
    assert (folder / "metrics.jsonl").read_text(encoding="utf-8").count("\n") >= 1
    with pytest.raises(InvalidRequest, match="other choices"):
        train_world(world, folder, replace(options, seed=2), lambda progress: None)
