"""`CartPole`: a cart that is pushed left or right so that the pole on it does not fall.

Equations and constants: Barto, Sutton and Anderson, "Neuronlike adaptive elements that can solve difficult learning control
problems" (1983), in the frictionless form of Florian, "Correct equations for the dynamics of the cart-pole system" (2007).
Limits, start and 500 steps are those of CartPole-v1 of Gymnasium, which is not installed for sixty lines.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepwell.agents.world.environments.protocol import Float, Integers, Spec, Step

__all__ = ["CartPole"]

_GRAVITY: Final = 9.8  # m/s2
_CART: Final = 1.0  # kg
_POLE: Final = 0.1  # kg
_HALF_LENGTH: Final = 0.5  # m
_FORCE: Final = 10.0  # N
_SECONDS: Final = 0.02
_FARTHEST: Final = 2.4  # m
_STEEPEST: Final = 12 * np.pi / 180
_SCALE: Final = np.array([_FARTHEST, 2.0, _STEEPEST, 2.0])


class CartPole:
    """The environment. A state is position, velocity, angle, angular velocity; each step that the pole stands gives 1."""

    spec = Spec(
        name="cart-pole",
        observation=("position", "velocity", "angle", "angular velocity"),
        binary=False,
        actions=("left", "right"),
        steps=500,
        start_draws=4,
        step_draws=0,
        discount=0.99,
    )

    def start(self, draws: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns states near the upright pole: each number within 0.05 of 0."""
        return draws * 0.1 - 0.05

    def observe(self, states: NDArray[np.float64]) -> Float:
        """Returns the state, scaled so that the pole has fallen at 1."""
        return (states / _SCALE).astype(np.float32)

    def step(self, states: NDArray[np.float64], actions: Integers, draws: NDArray[np.float64]) -> Step:
        """Pushes each cart for 20 ms (Euler's method)."""
        del draws
        x, speed, angle, turn = states.T
        force = np.where(actions == 1, _FORCE, -_FORCE)
        sine, cosine, mass = np.sin(angle), np.cos(angle), _CART + _POLE
        push = (force + _POLE * _HALF_LENGTH * turn**2 * sine) / mass
        turning = (_GRAVITY * sine - cosine * push) / (_HALF_LENGTH * (4 / 3 - _POLE * cosine**2 / mass))
        pulling = push - _POLE * _HALF_LENGTH * turning * cosine / mass
        after = np.stack(
            [
                x + _SECONDS * speed,
                speed + _SECONDS * pulling,
                angle + _SECONDS * turn,
                turn + _SECONDS * turning,
            ],
            1,
        )
        ended = (np.abs(after[:, 0]) > _FARTHEST) | (np.abs(after[:, 2]) > _STEEPEST)
        return Step(after, np.ones(len(states)), ended)
