"""`Learner`: the network with its optimiser; one update brings down the model's errors, then those of actor and critic."""

from __future__ import annotations

import copy
from typing import Any, Final

import torch
from torch import Tensor

from deepwell.agents.world.model import WorldConfig
from deepwell.agents.world.training.losses import imagine, lambda_returns, model_loss, two_hot
from deepwell.agents.world.training.network import State, WorldNetwork
from deepwell.agents.world.training.options import TrainOptions

__all__ = ["Learner"]

_MOST_GRADIENT: Final = 10.0
_RANGE_DECAY: Final = 0.99


class Learner:
    """The state of the learning: weights, the averaged critic, the optimiser, and the range of the returns."""

    def __init__(self, config: WorldConfig, options: TrainOptions) -> None:
        self.options = options
        self.network = WorldNetwork(config)
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

    def update(self, batch: dict[str, Tensor], pace: float = 1.0) -> dict[str, float]:
        """Makes an update with sequences of the replay. Returns the parts of its errors.

        Args:
            batch: the sequences.
            pace: share of the learning rates and of the weight of entropy that holds now.
        """
        rates = (self.options.rate, self.options.actor_rate)
        for group, rate in zip(self._optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * pace
        self._optimizer.zero_grad()
        loss, state, parts = model_loss(self.network, batch, self.options.loss)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._model, _MOST_GRADIENT)
        alive = batch["continues"].flatten()
        chosen = torch.randperm(len(alive))[: self.options.starts]
        begin = State(state.memory.flatten(0, 1)[chosen], state.chance.flatten(0, 1)[chosen])
        parts |= self._choose(begin, alive[chosen], self.options.entropy * pace)
        self._optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(self._slow.parameters(), self.network.critic.parameters(), strict=True):
                slow.lerp_(fast, 1 - self.options.average)
        return {name: float(one) for name, one in parts.items()}

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
            "optimizer": self._optimizer.state_dict(),
            "range": self._range,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Takes the state of a checkpoint."""
        self.network.load_state_dict(state["network"])
        self._slow.load_state_dict(state["slow"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._range = state["range"]
