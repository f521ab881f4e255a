"""`WorldNetwork`: the model in torch, with the names and the arithmetic of `model.py`."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from deepwell.agents.world.environments.protocol import Float
from deepwell.agents.world.model import WorldConfig, WorldModel

__all__ = ["Filtered", "State", "WorldNetwork"]

_EPSILON: Final = 1e-3


class _Layer(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.norm = nn.LayerNorm(outputs, eps=_EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        return functional.silu(self.norm(self.linear(x)))


def _mlp(inputs: int, hidden: int, outputs: int | None, layers: int = 1) -> nn.Sequential:
    parts: dict[str, nn.Module] = {}
    for number in range(layers):
        parts[str(number)] = _Layer(inputs if number == 0 else hidden, hidden)
    if outputs is not None:
        parts["out"] = nn.Linear(hidden, outputs)
    whole = nn.Sequential()
    for name, part in parts.items():
        whole.add_module(name, part)
    return whole


class State(NamedTuple):
    """Memory [..., memory] and chance [..., groups * classes], as tensors."""

    memory: Tensor
    chance: Tensor

    def features(self) -> Tensor:
        """Returns what the heads read."""
        return torch.cat(self, -1)


class Filtered(NamedTuple):
    """The states of sequences [B, T], and the distributions they were drawn from, [B, T, groups, classes]."""

    state: State
    posterior: Tensor
    prior: Tensor


class WorldNetwork(nn.Module):
    """The network. Distributions are probabilities, already mixed with the uniform one."""

    def __init__(self, config: WorldConfig) -> None:
        super().__init__()
        self.config = config
        chance, hidden = config.groups * config.classes, config.hidden
        both = config.memory + chance
        self.encoder = _mlp(config.observation, hidden, None, layers=2)
        self.inputs = _mlp(chance + config.actions, config.memory, None)
        self.gru = nn.GRUCell(config.memory, config.memory)
        self.prior = _mlp(config.memory, hidden, chance)
        self.posterior = _mlp(config.memory + hidden, hidden, chance)
        self.decoder = _mlp(both, hidden, config.observation)
        self.reward = _mlp(both, hidden, 1)
        self.continues = _mlp(both, hidden, 1)
        self.actor = _mlp(both, hidden, config.actions)
        self.critic = _mlp(both, hidden, config.bins)
        for head in (self.critic, self.reward):
            nn.init.zeros_(head.get_submodule("out").weight)
            nn.init.zeros_(head.get_submodule("out").bias)
        grid = torch.linspace(-config.farthest, config.farthest, config.bins)
        self.register_buffer("places", grid, persistent=False)
        self.register_buffer("bins", grid.sign() * grid.abs().expm1(), persistent=False)
        self.places: Tensor
        self.bins: Tensor

    def model_parameters(self) -> list[nn.Parameter]:
        """Returns the parameters of the model of the world: all but those of actor and critic."""
        return [one for name, one in self.named_parameters() if not name.startswith(("actor", "critic"))]

    def start(self, count: int) -> State:
        """Returns the state before the first observation."""
        chance = self.config.groups * self.config.classes
        return State(torch.zeros(count, self.config.memory), torch.zeros(count, chance))

    def advance(self, state: State, action: Tensor) -> Tensor:
        """Returns the memory after one-hot actions [..., actions]; all 0 before the first observation."""
        return self.gru(self.inputs(torch.cat([state.chance, action], -1)), state.memory)

    def mixed(self, logits: Tensor) -> Tensor:
        """Returns probabilities [..., groups, classes] of logits [..., groups * classes]."""
        # The softmax of torch takes five times as long over eight classes.
        grouped = logits.unflatten(-1, (self.config.groups, self.config.classes))
        raised = (grouped - grouped.detach().amax(-1, keepdim=True)).exp()
        share = self.config.uniform
        return (1 - share) * raised / raised.sum(-1, keepdim=True) + share / self.config.classes

    def policy(self, features: Tensor) -> Tensor:
        """Returns the actor's probabilities [..., actions]."""
        share = self.config.uniform
        return (1 - share) * self.actor(features).softmax(-1) + share / self.config.actions

    def imagined(self, memory: Tensor, draws: Tensor | None = None) -> State:
        """Returns states drawn from the prior, without gradients, for uniform draws [..., groups] if they are given."""
        return State(memory, drawn(self.mixed(self.prior(memory)), draws).flatten(-2))

    def observed(self, memory: Tensor, observations: Tensor) -> State:
        """Returns states drawn from the posterior, without gradients."""
        logits = self.posterior(torch.cat([memory, self.encoder(observations)], -1))
        return State(memory, drawn(self.mixed(logits)).flatten(-2))

    def filtered(self, batch: dict[str, Tensor]) -> Filtered:
        """Returns the states that sequences pass through.

        Args:
            batch: observations [B, T, observation]; actions before them, one-hot [B, T, actions]; first, 1 where an episode
                or the memory begins [B, T]; memory and chance before the first observation.
        """
        observations, actions = batch["observations"], batch["actions"]
        seen = self.encoder(observations)
        # What the observation adds to the posterior's first layer needs no memory: computed for all steps at once.
        layer = self.posterior.get_submodule("0")
        split = self.config.memory
        weight = layer.linear.weight
        of_seen = functional.linear(seen, weight[:, split:], layer.linear.bias)
        goes_on = 1 - batch["first"][..., None]
        actions = actions * goes_on
        state = State(batch["memory"], batch["chance"])
        memories, chances, posteriors = [], [], []
        for step in range(observations.shape[1]):
            kept = goes_on[:, step]
            memory = self.advance(State(state.memory * kept, state.chance * kept), actions[:, step])
            x = functional.linear(memory, weight[:, :split]) + of_seen[:, step]
            logits = self.posterior.get_submodule("out")(functional.silu(layer.norm(x)))
            posterior = self.mixed(logits)
            chance = passed(posterior).flatten(-2)
            state = State(memory, chance)
            memories.append(memory)
            chances.append(chance)
            posteriors.append(posterior)
        memory = torch.stack(memories, 1)
        prior = self.mixed(self.prior(memory))
        return Filtered(State(memory, torch.stack(chances, 1)), torch.stack(posteriors, 1), prior)

    def foretold(self, begin: State, actions: Tensor) -> Tensor:
        """Returns features [B, T, F] of what follows states [B, ...] without a look, after actions [B, T, actions]."""
        features, state = [], begin
        for step in range(actions.shape[1]):
            memory = self.advance(state, actions[:, step])
            state = State(memory, passed(self.mixed(self.prior(memory))).flatten(-2))
            features.append(state.features())
        return torch.stack(features, 1)

    def value(self, features: Tensor) -> Tensor:
        """Returns the critic's estimate [...]."""
        return self.critic(features).softmax(-1) @ self.bins

    def exported(self) -> WorldModel:
        """Returns the model in numpy."""
        weights: dict[str, Float] = {
            name: one.detach().float().numpy().copy() for name, one in self.state_dict().items()
        }
        return WorldModel(self.config, weights)

    def load(self, weights: dict[str, Float]) -> None:
        """Takes the weights of a model in numpy."""
        self.load_state_dict({name: torch.from_numpy(np.array(one)) for name, one in weights.items()})


def passed(probabilities: Tensor) -> Tensor:
    """Returns one-hot samples that pass the gradient of the probabilities on (straight-through)."""
    fixed = probabilities.detach()
    return drawn(fixed) + probabilities - fixed


def drawn(probabilities: Tensor, draws: Tensor | None = None) -> Tensor:
    """Returns one-hot samples of distributions [..., classes], for uniform draws [...] if they are given."""
    below = probabilities.cumsum(-1)
    uniform: Tensor = torch.rand(probabilities.shape[:-1]) if draws is None else draws
    chosen = (below < uniform[..., None] * below[..., -1:]).sum(-1)
    return functional.one_hot(chosen, probabilities.shape[-1]).to(probabilities.dtype)
