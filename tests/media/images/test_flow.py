"""Contracts of the network that draws, and of its sampler."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from deepwell.errors import InvalidModelFile
from deepwell.media.images.flow import CONFIG_FILE, WEIGHTS_FILE, FlowConfig, FlowModel
from deepwell.media.images.sample import SampleOptions, sample

CONFIG = FlowConfig(size=16, patch=4, width=32, depth=2, heads=2, condition=12, words=2)
RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def model() -> FlowModel:
    return FlowModel.random(CONFIG, 1)


def last(
    model: FlowModel, condition: np.ndarray | None, options: SampleOptions, **others: object
) -> np.ndarray:
    *_, picture = sample(model, condition, options, **others)  # type: ignore[arg-type]
    return picture


def test_a_model_is_read_as_it_was_written_but_for_16_bits(model: FlowModel, tmp_path: Path) -> None:
    model.write(tmp_path)
    read = FlowModel.read(tmp_path)
    assert read.config == CONFIG and read.parameters == model.parameters
    for name, tensor in model.weights.items():
        assert np.array_equal(read.weights[name], tensor.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize(
    "changed",
    [
        {"size": 1 << 20},
        {"patch": 0},
        {"patch": 5},
        {"width": 33},
        {"width": 1 << 20},
        {"depth": 10_000},
        {"heads": 0},
        {"condition": -1},
        {"words": 1 << 30},
        {"architecture": "other"},
        {"text_encoder": "x" * 1000},
        {"depth": 3},
        {"size": "16"},
    ],
)
def test_a_configuration_that_is_no_network_is_refused(
    model: FlowModel, tmp_path: Path, changed: dict
) -> None:
    model.write(tmp_path)
    config = json.loads((tmp_path / CONFIG_FILE).read_text()) | changed
    (tmp_path / CONFIG_FILE).write_text(json.dumps(config))
    with pytest.raises(InvalidModelFile):
        FlowModel.read(tmp_path)


def test_a_broken_file_of_weights_is_refused(model: FlowModel, tmp_path: Path) -> None:
    with pytest.raises(InvalidModelFile):
        FlowModel.read(tmp_path)
    model.write(tmp_path)
    weights = tmp_path / WEIGHTS_FILE
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InvalidModelFile):
        FlowModel.read(tmp_path)
    broken = FlowModel(CONFIG, {**model.weights, "null": np.full(12, np.nan, np.float32)})
    broken.write(tmp_path)
    with pytest.raises(InvalidModelFile, match="not finite"):
        FlowModel.read(tmp_path)


def test_equal_seeds_draw_equal_pictures(model: FlowModel) -> None:
    condition = normal(2, 12)
    first = last(model, condition, SampleOptions(steps=3, seed=7))
    assert first.shape == (2, 16, 16, 3) and np.isfinite(first).all() and abs(first).max() <= 1
    assert np.array_equal(first, last(model, condition, SampleOptions(steps=3, seed=7)))
    assert not np.array_equal(first, last(model, condition, SampleOptions(steps=3, seed=8)))


def test_each_step_tells_an_estimate(model: FlowModel) -> None:
    assert len(list(sample(model, normal(1, 12), SampleOptions(steps=5)))) == 5
    assert len(list(sample(model, None, SampleOptions(steps=4), count=3))) == 4


def test_the_text_does_not_matter_at_guidance_zero(model: FlowModel) -> None:
    drawn = [last(model, normal(1, 12), SampleOptions(steps=2, guidance=0.0)) for _ in range(2)]
    assert np.allclose(drawn[0], drawn[1], atol=1e-4)
    assert np.allclose(drawn[0], last(model, None, SampleOptions(steps=2)), atol=1e-4)


def test_what_is_kept_stays_as_it_is(model: FlowModel) -> None:
    start = RNG.uniform(-1, 1, (1, 16, 16, 3)).astype(np.float32)
    keep = np.zeros((1, 16, 16, 1), np.float32)
    keep[:, :8] = 1
    drawn = last(model, normal(1, 12), SampleOptions(steps=4), start=start, keep=keep)
    assert np.allclose(drawn[:, :8], start[:, :8], atol=1e-5)
    assert not np.allclose(drawn[:, 8:], start[:, 8:], atol=0.1)


def test_less_strength_takes_fewer_steps(model: FlowModel) -> None:
    start = RNG.uniform(-1, 1, (1, 16, 16, 3)).astype(np.float32)
    options = SampleOptions(steps=10)
    assert len(list(sample(model, None, options, start=start, strength=0.3))) == 3
    assert len(list(sample(model, None, options, start=start, strength=0.0))) == 1
