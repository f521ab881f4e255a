"""Layers of the world model in numpy: what `training/network.py` computes with torch, on float32 arrays [..., features]."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deepwell.agents.world.environments.protocol import Float

__all__ = ["gru", "log_softmax", "mlp", "one_hot_sample", "sigmoid", "symexp", "symlog"]

_EPSILON: Final = 1e-3

Weights = Mapping[str, Float]


def sigmoid(x: NDArray[Any]) -> Float:
    """Returns 1 / (1 + exp(-x)), without overflow."""
    return (0.5 * np.tanh(0.5 * x) + 0.5).astype(np.float32, copy=False)


def log_softmax(logits: Float) -> Float:
    """Returns the logarithms of the softmax over the last axis."""
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def symlog(x: Float) -> Float:
    """Returns sign(x) log(1 + |x|) (Hafner et al., "Mastering diverse domains through world models", 2023)."""
    return np.sign(x) * np.log1p(np.abs(x))


def symexp(x: Float) -> Float:
    """Returns the inverse of `symlog`."""
    return np.sign(x) * np.expm1(np.abs(x))


def mlp(weights: Weights, name: str, x: Float) -> Float:
    """Applies a linear layer, its norm and SiLU as often as `name.N.norm` exists, then `name.out` if that exists."""
    number = 0
    while f"{name}.{number}.norm.weight" in weights:
        x = _normed(weights, f"{name}.{number}", x)
        number += 1
    if f"{name}.out.weight" in weights:
        x = x @ weights[f"{name}.out.weight"].T + weights[f"{name}.out.bias"]
    return x


def _normed(weights: Weights, name: str, x: Float) -> Float:
    x = x @ weights[f"{name}.linear.weight"].T + weights[f"{name}.linear.bias"]
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x * x).mean(-1, keepdims=True) + _EPSILON)
    x = x * weights[f"{name}.norm.weight"] + weights[f"{name}.norm.bias"]
    return x * sigmoid(x)


def gru(weights: Weights, name: str, x: Float, state: Float) -> Float:
    """Returns the next state of a gated recurrent unit, with the gates in torch's order: reset, update, new."""
    size = state.shape[-1]
    of_input = x @ weights[f"{name}.weight_ih"].T + weights[f"{name}.bias_ih"]
    of_state = state @ weights[f"{name}.weight_hh"].T + weights[f"{name}.bias_hh"]
    gates = sigmoid(of_input[..., : 2 * size] + of_state[..., : 2 * size])
    reset, update = gates[..., :size], gates[..., size:]
    new = np.tanh(of_input[..., 2 * size :] + reset * of_state[..., 2 * size :])
    return ((1 - update) * new + update * state).astype(np.float32, copy=False)


def one_hot_sample(probabilities: Float, draws: Float) -> Float:
    """Returns one-hot samples of distributions [..., classes] for uniform draws [...]."""
    below = np.cumsum(probabilities, -1)
    chosen = (below < draws[..., None] * below[..., -1:]).sum(-1)
    return np.eye(probabilities.shape[-1], dtype=np.float32)[chosen]
