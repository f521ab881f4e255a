"""A model in numpy: distributions are distributions, files are read back, and broken files are refused with a fix."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from tests.agents.world.models import random_model

from deepwell.agents.world import NAMES, WorldModel, environment, world_model
from deepwell.agents.world.layers import one_hot_sample, symexp, symlog
from deepwell.errors import DeepwellError, InvalidModelFile, InvalidRequest


@pytest.mark.parametrize("name", NAMES)
def test_a_model_follows_an_episode(name: str) -> None:
    world = environment(name)
    model, rng = random_model(world), np.random.default_rng(0)
    latent = model.start(5)
    actions = np.full(5, -1)
    states = world.start(rng.random((5, world.spec.start_draws)))
    for _ in range(4):
        memory = model.advance(latent, actions)
        latent = model.posterior(memory, world.observe(states), rng.random((5, 3), np.float32))
        assert latent.chance.reshape(5, 3, 4).sum(-1).tolist() == [[1.0] * 3] * 5
        np.testing.assert_allclose(model.policy(latent).sum(-1), 1, atol=1e-5)
        assert ((model.goes_on(latent) >= 0) & (model.goes_on(latent) <= 1)).all()
        assert model.reward(latent).shape == model.value(latent).shape == (5,)
        assert model.observation(latent).shape == (5, len(world.spec.observation))
        actions = rng.integers(len(world.spec.actions), size=5)
        states = world.step(states, actions, rng.random((5, max(1, world.spec.step_draws)))).states


def test_a_state_does_not_depend_on_its_neighbours() -> None:
    world = environment("inventory")
    model, rng = random_model(world), np.random.default_rng(0)
    observations = rng.random((7, 12), np.float32)
    draws = rng.random((7, 3), np.float32)
    memory = model.advance(model.start(7), np.full(7, -1))
    together = model.posterior(memory, observations, draws)
    for row in range(7):
        alone = model.posterior(memory[row : row + 1], observations[row : row + 1], draws[row : row + 1])
        np.testing.assert_array_equal(alone.chance[0], together.chance[row])


@given(st.floats(-1e6, 1e6))
def test_symexp_undoes_symlog(value: float) -> None:
    assert float(symexp(symlog(np.array([value])))[0]) == pytest.approx(value, rel=1e-6, abs=1e-6)


def test_samples_have_the_frequencies_of_their_distribution() -> None:
    wanted = np.array([0.5, 0.3, 0.0, 0.2], np.float32)
    draws = np.random.default_rng(0).random(40_000, np.float32)
    found = one_hot_sample(np.broadcast_to(wanted, (40_000, 4)), draws).mean(0)
    np.testing.assert_allclose(found, wanted, atol=0.01)
    edges = one_hot_sample(
        np.broadcast_to(wanted, (2, 4)), np.array([0.0, np.nextafter(np.float32(1), np.float32(0))])
    )
    assert edges.sum(-1).tolist() == [1.0, 1.0] and edges[:, 2].sum() == 0


def test_a_file_holds_the_model(tmp_path: Path) -> None:
    world = environment("grid")
    model = random_model(world)
    model.write(tmp_path / "world.safetensors")
    for path in (tmp_path, tmp_path / "world.safetensors"):
        read = world_model(world, path)
        assert read.config == model.config
        for name, one in model.weights.items():
            np.testing.assert_array_equal(read.weights[name], one.astype(np.float16).astype(np.float32))
    with pytest.raises(InvalidRequest, match="models grid, not inventory"):
        world_model(environment("inventory"), tmp_path)


def test_broken_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "world.safetensors"
    with pytest.raises(InvalidModelFile, match="missing"):
        WorldModel.read(path)
    random_model(environment("grid")).write(path)
    whole = path.read_bytes()
    for broken in (b"", b"x" * 40, whole[:-5], whole + b"more", whole.replace(b"config", b"connnn")):
        path.write_bytes(broken)
        with pytest.raises(DeepwellError):
            WorldModel.read(path)


@pytest.mark.parametrize(
    "change",
    [
        {"groups": "a"},
        {"memory": 12.0},
        {"farthest": 1e9},
        {"uniform": 5},
        {"environment": [1]},
        {"discount": "x"},
    ],
    ids=str,
)
def test_a_configuration_that_does_not_fit_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    model, path = random_model(environment("grid")), tmp_path / "world.safetensors"
    save_file(dict(model.weights), path, {"config": json.dumps({**asdict(model.config), **change})})
    with pytest.raises(InvalidModelFile):
        WorldModel.read(path)


@pytest.mark.parametrize("config", ["[" * 100_000, "[1]", "null", ""], ids=["deep", "list", "null", "empty"])
def test_a_file_without_a_configuration_is_refused(tmp_path: Path, config: str) -> None:
    model, path = random_model(environment("grid")), tmp_path / "world.safetensors"
    save_file(dict(model.weights), path, {"config": config})
    with pytest.raises(InvalidModelFile):
        WorldModel.read(path)


@pytest.mark.parametrize(
    "missing", ["encoder.0.linear.bias", "gru.bias_ih", "reward.out.bias", "actor.0.norm.bias"]
)
def test_a_part_that_cannot_be_run_is_refused(tmp_path: Path, missing: str) -> None:
    model, path = random_model(environment("grid")), tmp_path / "world.safetensors"
    assert missing in model.weights
    for weights in (
        {name: one for name, one in model.weights.items() if name != missing},
        {**model.weights, missing: np.full_like(model.weights[missing], np.nan)},
    ):
        save_file(weights, path, {"config": json.dumps(asdict(model.config))})
        with pytest.raises(InvalidModelFile):
            WorldModel.read(path)


def test_tensors_of_a_type_that_numpy_does_not_know_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "world.safetensors"
    for kind, size in (("BF16", 2), ("F8_E4M3", 4)):
        header = json.dumps({"a": {"dtype": kind, "shape": [size], "data_offsets": [0, 4]}}).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
        with pytest.raises(InvalidModelFile):
            WorldModel.read(path)


def test_a_shape_that_does_not_fit_is_refused() -> None:
    model = random_model(environment("cart-pole"))
    with pytest.raises(InvalidModelFile, match=r"gru\.weight_ih of shape \(36, 12\), not \(39, 13\)"):
        WorldModel(
            replace(model.config, memory=13), {**model.weights, "inputs.0.linear.weight": np.zeros((13, 14))}
        )
    without = {name: one for name, one in model.weights.items() if name != "critic.out.weight"}
    with pytest.raises(InvalidModelFile, match=r"critic\.out\.weight of shape None"):
        WorldModel(model.config, without)
