"""`WorldModel`: a recurrent state-space model in numpy, as it runs wherever a plan is made; training has its twin in torch.

A state has two parts: `memory` h, which a gated recurrent unit carries on, and `chance` z, groups of one-hot classes. The prior
p(z | h) says what may come, the posterior q(z | h, o) what the observation showed. Heads read [h, z]: observation, reward,
whether the episode goes on, the actor's choice and the critic's value (Hafner et al., DreamerV2 2020 and DreamerV3 2023).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from deepwell.agents.world.environments.protocol import Float, Integers
from deepwell.agents.world.layers import gru, log_softmax, mlp, one_hot_sample, sigmoid, symexp
from deepwell.errors import InvalidModelFile
from deepwell.models.formats.safetensors import read_safetensors_header

__all__ = ["Latent", "WorldConfig", "WorldModel"]

_MOST_BYTES: Final = 64 << 20
_FARTHEST: Final = 20.0  # in symlog: half a thousand million
_FIX: Final = "name a file that `deepwell world train` wrote"


@dataclass(frozen=True, slots=True)
class WorldConfig:
    """The shape of a world model.

    Attributes:
        environment: name of the environment that it models.
        observation: numbers of an observation.
        binary: whether these are 0 or 1.
        actions: number of actions.
        discount: weight of the next step's reward.
        memory: size of h.
        groups: one-hot variables of z.
        classes: classes of each.
        hidden: width of the layers between.
        bins: classes of the critic, evenly spaced in symlog.
        farthest: the outermost of them, in symlog.
        uniform: share of the uniform distribution in z and in the actor.
    """

    environment: str
    observation: int
    binary: bool
    actions: int
    discount: float
    memory: int = 96
    groups: int = 8
    classes: int = 8
    hidden: int = 64
    bins: int = 41
    farthest: float = 5.0
    uniform: float = 0.01


class Latent(NamedTuple):
    """States of episodes: memory [..., memory] and chance [..., groups * classes]."""

    memory: Float
    chance: Float

    def features(self) -> Float:
        """Returns what the heads read."""
        return np.concatenate(self, -1)

    def take(self, rows: Integers) -> Latent:
        """Returns the states of some episodes."""
        return Latent(self.memory[rows], self.chance[rows])


class WorldModel:
    """A model.

    Raises:
        InvalidModelFile: a tensor is missing, or has another shape than the configuration says.
    """

    def __init__(self, config: WorldConfig, weights: Mapping[str, Float]) -> None:
        self.config = config
        self.weights = {name: np.asarray(one, np.float32) for name, one in weights.items()}
        _check(config, self.weights)
        self._bins = symexp(np.linspace(-config.farthest, config.farthest, config.bins, dtype=np.float32))

    def start(self, count: int) -> Latent:
        """Returns the state before the first observation."""
        config = self.config
        return Latent(
            np.zeros((count, config.memory), np.float32),
            np.zeros((count, config.groups * config.classes), np.float32),
        )

    def advance(self, latent: Latent, actions: Integers) -> Float:
        """Returns the memory after actions [...]; -1 is the action before the first observation."""
        chosen = np.eye(self.config.actions + 1, dtype=np.float32)[actions][..., :-1]
        x = mlp(self.weights, "inputs", np.concatenate([latent.chance, chosen], -1))
        return gru(self.weights, "gru", x, latent.memory)

    def prior(self, memory: Float, draws: Float) -> Latent:
        """Returns states as the model expects them, for uniform draws [..., groups]."""
        return self._drawn(memory, mlp(self.weights, "prior", memory), draws)

    def posterior(self, memory: Float, observation: Float, draws: Float) -> Latent:
        """Returns states as observations [..., observation] show them."""
        seen = mlp(self.weights, "encoder", observation)
        logits = mlp(self.weights, "posterior", np.concatenate([memory, seen], -1))
        return self._drawn(memory, logits, draws)

    def _drawn(self, memory: Float, logits: Float, draws: Float) -> Latent:
        config = self.config
        grouped = logits.reshape(*logits.shape[:-1], config.groups, config.classes)
        mixed = _mixed(grouped, config.uniform)
        return Latent(memory, one_hot_sample(mixed, draws).reshape(logits.shape))

    def observation(self, latent: Latent) -> Float:
        """Returns the expected observation."""
        decoded = mlp(self.weights, "decoder", latent.features())
        return sigmoid(decoded) if self.config.binary else decoded

    def reward(self, latent: Latent) -> Float:
        """Returns the expected reward [...] of the step that led to each state."""
        return mlp(self.weights, "reward", latent.features())[..., 0]

    def goes_on(self, latent: Latent) -> Float:
        """Returns the probability [...] that the episode has not ended in each state."""
        return sigmoid(mlp(self.weights, "continues", latent.features())[..., 0])

    def policy(self, latent: Latent) -> Float:
        """Returns the actor's probabilities [..., actions]."""
        return _mixed(mlp(self.weights, "actor", latent.features()), self.config.uniform)

    def value(self, latent: Latent) -> Float:
        """Returns the critic's estimate [...] of discounted rewards from each state on."""
        logits = mlp(self.weights, "critic", latent.features())
        return np.exp(log_softmax(logits)) @ self._bins

    def write(self, path: Path, **about: str) -> None:
        """Writes the model in 16 bits, as safetensors with its configuration in the header."""
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {name: one.astype(np.float16) for name, one in self.weights.items()}
        partial = path.with_name(path.name + ".partial")
        save_file(tensors, partial, {"config": json.dumps(asdict(self.config)), **about})
        partial.replace(path)

    @classmethod
    def read(cls, path: Path) -> WorldModel:
        """Returns the model of a file.

        Raises:
            InvalidModelFile: the file is missing, is no safetensors file, or is no world model.
        """
        if not path.is_file():
            raise InvalidModelFile(f"{path} is missing", fix=_FIX)
        if path.stat().st_size > _MOST_BYTES:
            raise InvalidModelFile(f"{path} is larger than a world model, {_MOST_BYTES >> 20} MiB", fix=_FIX)
        read_safetensors_header(path)
        try:
            with safe_open(path, "np") as file:
                said = (file.metadata() or {}).get("config", "")
                weights = {name: file.get_tensor(name).astype(np.float32) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, TypeError, AttributeError) as error:  # of types that numpy does not know
            raise InvalidModelFile(f"{path} cannot be read as a world model: {error}", fix=_FIX) from error
        try:
            config = msgspec.json.decode(said, type=WorldConfig)
        except (ValueError, RecursionError) as error:
            raise InvalidModelFile(f"{path} does not say which world it models", fix=_FIX) from error
        model = cls(config, weights)
        _check_runs(model)
        return model


def _mixed(logits: Float, uniform: float) -> Float:
    """Returns the softmax over the last axis, mixed with the uniform distribution."""
    mixed = (1 - uniform) * np.exp(log_softmax(logits)) + uniform / logits.shape[-1]
    return mixed.astype(np.float32, copy=False)


def _check_runs(model: WorldModel) -> None:
    """Runs each part once, so that a file of a stranger fails here and not in the middle of a plan.

    Raises:
        InvalidModelFile: a tensor is missing or of another shape, or a result is no number.
    """
    config = model.config
    draws = np.full((1, config.groups), 0.5, np.float32)
    try:
        with np.errstate(all="ignore"):
            memory = model.advance(model.start(1), np.array([-1]))
            model.prior(memory, draws)
            latent = model.posterior(memory, np.zeros((1, config.observation), np.float32), draws)
            found = (
                model.observation(latent),
                model.reward(latent),
                model.goes_on(latent),
                model.policy(latent),
                model.value(latent),
            )
    except (KeyError, ValueError, IndexError) as error:
        raise InvalidModelFile(f"the world model cannot be run: {error}", fix=_FIX) from error
    found = (*found, *model.weights.values())  # one-hot classes hide what is no number
    wanted = [(1, config.observation), (1,), (1,), (1, config.actions), (1,)]
    if [one.shape for one in found[: len(wanted)]] != wanted or not all(
        np.isfinite(one).all() for one in found
    ):
        raise InvalidModelFile("the world model gives results that are no numbers", fix=_FIX)


def _check(config: WorldConfig, weights: Mapping[str, Float]) -> None:
    if not (0 < config.farthest <= _FARTHEST and 0 <= config.uniform < 1 and 0 <= config.discount <= 1):
        raise InvalidModelFile("a number of the world model's configuration is out of range", fix=_FIX)
    chance, both = config.groups * config.classes, config.memory + config.groups * config.classes
    wanted = {
        "encoder.0.linear.weight": (config.hidden, config.observation),
        "encoder.1.linear.weight": (config.hidden, config.hidden),
        "inputs.0.linear.weight": (config.memory, chance + config.actions),
        "gru.weight_ih": (3 * config.memory, config.memory),
        "gru.weight_hh": (3 * config.memory, config.memory),
        "prior.out.weight": (chance, config.hidden),
        "posterior.0.linear.weight": (config.hidden, config.memory + config.hidden),
        "posterior.out.weight": (chance, config.hidden),
        "decoder.out.weight": (config.observation, config.hidden),
        "reward.out.weight": (1, config.hidden),
        "continues.out.weight": (1, config.hidden),
        "actor.0.linear.weight": (config.hidden, both),
        "actor.out.weight": (config.actions, config.hidden),
        "critic.out.weight": (config.bins, config.hidden),
    }
    for name, shape in wanted.items():
        found = weights[name].shape if name in weights else None
        if found != shape:
            raise InvalidModelFile(f"the world model has {name} of shape {found}, not {shape}", fix=_FIX)
