"""Small models with random weights."""

from __future__ import annotations

import numpy as np

from deepwell.agents.world import Environment, WorldConfig, WorldModel
from deepwell.agents.world.environments import Float


def random_model(environment: Environment, seed: int = 0) -> WorldModel:
    spec = environment.spec
    config = WorldConfig(
        spec.name,
        len(spec.observation),
        spec.binary,
        len(spec.actions),
        spec.discount,
        memory=12,
        groups=3,
        classes=4,
        hidden=10,
    )
    rng = np.random.default_rng(seed)
    weights: dict[str, Float] = {}

    def linear(name: str, inputs: int, outputs: int) -> None:
        weights[f"{name}.weight"] = rng.normal(0, 0.4, (outputs, inputs)).astype(np.float32)
        weights[f"{name}.bias"] = rng.normal(0, 0.1, outputs).astype(np.float32)

    def layer(name: str, inputs: int, outputs: int) -> None:
        linear(f"{name}.linear", inputs, outputs)
        weights[f"{name}.norm.weight"] = np.ones(outputs, np.float32)
        weights[f"{name}.norm.bias"] = np.zeros(outputs, np.float32)

    chance = config.groups * config.classes
    layer("encoder.0", config.observation, config.hidden)
    layer("encoder.1", config.hidden, config.hidden)
    layer("inputs.0", chance + config.actions, config.memory)
    for part in ("ih", "hh"):
        weights[f"gru.weight_{part}"] = rng.normal(0, 0.4, (3 * config.memory, config.memory)).astype(
            np.float32
        )
        weights[f"gru.bias_{part}"] = np.zeros(3 * config.memory, np.float32)
    for name, inputs, outputs in (
        ("prior", config.memory, chance),
        ("posterior", config.memory + config.hidden, chance),
        ("decoder", config.memory + chance, config.observation),
        ("reward", config.memory + chance, 1),
        ("continues", config.memory + chance, 1),
        ("actor", config.memory + chance, config.actions),
        ("critic", config.memory + chance, config.bins),
    ):
        layer(f"{name}.0", inputs, config.hidden)
        linear(f"{name}.out", config.hidden, outputs)
    return WorldModel(config, weights)
