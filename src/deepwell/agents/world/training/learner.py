"""`Learner`: the network with its optimiser; one update brings down the model's errors, then those of actor and critic."""

from __future__ import annotations

import copy
from typing import Any, Final

import torch
from torch import Tensor

from deepwell.agents.world.model import WorldConfig
from deepwell.agents.world.training.losses import imagine, lambda_returns, model_loss, tried, two_hot
from deepwell.agents.world.training.network import State, WorldNetwork
from deepwell.agents.world.training.options import TrainOptions

__all__ = ["Learner"]

_MOST_GRADIENT: Final = 10.0
_RANGE_DECAY: Final = 0.99
_LEAST_GAIN: Final = 1e-3


class Learner:
    """The state of the learning: weights, their averages, the optimiser, and the range of the returns.

    Attributes:
        network: the network that learns.
        averaged: its average over the last updates, which is what a training returns: the actor swings around what is best.
    """

    def __init__(self, config: WorldConfig, options: TrainOptions) -> None:
        self.options = options
        self.network = WorldNetwork(config)
        self.averaged = copy.deepcopy(self.network)
        self._slow = copy.deepcopy(self.network.critic)
        self._model = self.network.model_parameters()
        self._choosing = [*self.network.actor.parameters(), *self.network.critic.parameters()]
        self._optimizer = torch.optim.Adam(
            [
                {"params": self._model, "lr": options.rate},
                {"params": self._choosing, "lr": options.actor_rate},
            ],
            fused=True,
        )
        self._range = torch.tensor(1.0)
        self._gain = torch.tensor(1.0)

    def update(self, batch: dict[str, Tensor], pace: float = 1.0) -> dict[str, float]:
        """Makes an update with sequences of the replay. Returns the parts of its errors.

        Args:
            batch: the sequences.
            pace: share of the learning rates that holds now.
        """
        of_actor = 1.0 if self.options.rehearsals else pace  # else it settles in the rehearsals
        self._optimizer.param_groups[0]["lr"] = self.options.rate * pace
        self._optimizer.param_groups[1]["lr"] = self.options.actor_rate * of_actor
        self._optimizer.zero_grad()
        loss, state, parts = model_loss(self.network, batch, self.options.loss)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._model, _MOST_GRADIENT)
        alive = batch["continues"].flatten()
        chosen = torch.randperm(len(alive))[: self.options.starts]
        begin = State(state.memory.flatten(0, 1)[chosen], state.chance.flatten(0, 1)[chosen])
        parts |= self._choose(begin, alive[chosen], self.options.entropy)
        self._step()
        return {name: float(one) for name, one in parts.items()}

    def rehearse(self, begin: State, alive: Tensor, pace: float) -> dict[str, float]:
        """Makes an update of actor and critic alone, in imagination. Returns the parts of its errors.

        Every action is tried in each state, with the same random numbers, and the actor is drawn to those with better returns
        than its own choice: policy iteration by rollouts (Lagoudakis and Parr, "Reinforcement learning as classification",
        2003), with a soft step (as in Danihelka et al., "Policy improvement by planning with Gumbel", 2022).

        Args:
            begin: states to imagine from.
            alive: 0 where they are ends.
            pace: share of the learning rate that holds now.
        """
        network, options = self.network, self.options
        self._optimizer.param_groups[1]["lr"] = options.actor_rate * pace
        self._optimizer.zero_grad()
        found = tried(network, begin, options.horizon, options.futures)
        discounts = network.config.discount * found.continues
        with torch.no_grad():
            values = self._slow(found.features[1:]).softmax(-1) @ network.bins
            returns = lambda_returns(found.rewards, discounts, values, options.mix)
            of_actions = returns[0].unflatten(0, (len(alive), -1, options.futures)).mean(-1)
            usual = network.policy(begin.features())
            gains = of_actions - (usual * of_actions).sum(-1, keepdim=True)
            self._gain = self._gain.lerp(gains.abs().mean(), 1 - _RANGE_DECAY)
            better = (usual.log() + gains / self._gain.clamp(min=_LEAST_GAIN)).softmax(-1)
            weights = discounts[:-1].cumprod(0)
        actor = -(alive[:, None] * better * network.policy(begin.features()).log()).sum(-1).mean()
        # The first action was not the actor's choice: the critic learns from the second state on.
        wanted = two_hot(returns[1:], network.bins)
        logs = network.critic(found.features[1:-1]).log_softmax(-1)
        critic = -(weights * (wanted * logs).sum(-1)).mean()
        (actor + critic).backward()
        torch.nn.utils.clip_grad_norm_(self._choosing, _MOST_GRADIENT)
        self._step()
        parts = {
            "actor": actor.detach(),
            "critic": critic.detach(),
            "gain": self._gain,
            "imagined_return": returns.mean(),
        }
        return {f"rehearsed_{name}": float(one) for name, one in parts.items()}

    def _step(self) -> None:
        self._optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(self._slow.parameters(), self.network.critic.parameters(), strict=True):
                slow.lerp_(fast, 1 - self.options.average)
            for slow, fast in zip(self.averaged.parameters(), self.network.parameters(), strict=True):
                slow.lerp_(fast, 1 - self.options.averaged)

    def _choose(self, begin: State, alive: Tensor, of_entropy: float) -> dict[str, Tensor]:
        """Adds the gradients of actor and critic in imagination (REINFORCE with the critic as baseline)."""
        network, options = self.network, self.options
        found = imagine(network, begin, options.horizon)
        discounts = network.config.discount * found.continues
        with torch.no_grad():
            values = self._slow(found.features).softmax(-1) @ network.bins
            returns = lambda_returns(found.rewards, discounts, values[1:], options.mix)
            spread = torch.quantile(returns, torch.tensor([0.05, 0.95]))
            self._range = self._range.lerp(spread[1] - spread[0], 1 - _RANGE_DECAY)
            advantages = (returns - values[:-1]) / self._range.clamp(min=0.5)
            weights = torch.cat([alive[None], discounts[:-1]]).cumprod(0)
        features = found.features[:-1]
        probabilities = network.policy(features)
        logs = probabilities.log()
        of_action = logs.gather(-1, found.actions[..., None])[..., 0]
        entropy = -(probabilities * logs).sum(-1)
        actor = -(weights * (of_action * advantages + of_entropy * entropy)).mean()
        wanted = two_hot(returns, network.bins)
        critic = -(weights * (wanted * network.critic(features).log_softmax(-1)).sum(-1)).mean()
        (actor + critic).backward()
        torch.nn.utils.clip_grad_norm_(self._choosing, _MOST_GRADIENT)
        return {
            "critic": critic.detach(),
            "entropy": entropy.detach().mean(),
            "imagined_return": returns.mean(),
        }

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps."""
        return {
            "network": self.network.state_dict(),
            "slow": self._slow.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "range": self._range,
            "gain": self._gain,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Takes the state of a checkpoint."""
        self.network.load_state_dict(state["network"])
        self._slow.load_state_dict(state["slow"])
        self.averaged.load_state_dict(state["averaged"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._range, self._gain = state["range"], state["gain"]
