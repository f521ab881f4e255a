"""Cuts reach a share of the sizes, take the columns that matter least, and leave weights that compute the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepwell.errors import InvalidRequest, UnsupportedModel
from deepwell.models.formats.config import ModelConfig
from deepwell.tuning.compress.columns import moments_factor, remove_inputs
from deepwell.tuning.compress.cut import cut_tensors, random_cut
from deepwell.tuning.compress.shapes import WAYS, Shape, check_prunable, parameters_of, shape_of, shapes_for

CONFIG = ModelConfig("llama", 1000, 64, 256, 12, 6, 3, 16, 256, tie_word_embeddings=True)


def test_columns_that_repeat_others_go_without_a_change() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((400, 6))
    inputs = np.concatenate([inputs, inputs[:, :2] @ np.array([[1.0, 2.0], [0.5, -1.0]])], 1)
    weight = rng.standard_normal((5, 8)).astype(np.float32)
    kept = remove_inputs(weight, moments_factor(inputs.T @ inputs / 400), 6)
    assert np.abs(inputs[:, kept.groups] @ kept.weight.T - inputs @ weight.T).max() < 0.05


def test_weights_that_stay_are_those_of_least_squares() -> None:
    rng = np.random.default_rng(1)
    inputs = rng.standard_normal((500, 12)) @ rng.standard_normal((12, 12))
    weight = rng.standard_normal((4, 12)).astype(np.float32)
    moments = inputs.T @ inputs / 500
    ridge = moments + 1e-3 * np.trace(moments) / 12 * np.eye(12)
    for size in (1, 3):
        kept = remove_inputs(weight, moments_factor(moments), 6 // size, size=size)
        stay = (kept.groups[:, None] * size + np.arange(size)).reshape(-1)
        wanted = np.linalg.solve(ridge[np.ix_(stay, stay)], ridge[stay] @ weight.T).T
        np.testing.assert_allclose(kept.weight, wanted, rtol=1e-4, atol=1e-4)


@settings(deadline=None, max_examples=40)
@given(st.floats(0.01, 0.5), st.sets(st.sampled_from(WAYS), min_size=1))
def test_shapes_leave_out_the_share(share: float, ways: set[str]) -> None:
    whole = parameters_of(CONFIG)
    try:
        shapes = shapes_for(CONFIG, share, ways)  # type: ignore[arg-type]
    except InvalidRequest:
        assert ways != set(WAYS)
        return
    for shape in shapes:
        assert parameters_of(CONFIG, shape) <= (1 - share) * whole + 1
        assert shape.layers == 12 or "depth" in ways
        assert shape.channels == 256 or "width" in ways
        assert shape.kv_heads == 3 or "heads" in ways
        if "width" in ways and shape.channels < 256:
            assert parameters_of(CONFIG, shape) > (1 - share) * whole - 3 * 64 * 32 * shape.layers


def test_head_counts_of_llama_divide_the_hidden_size() -> None:
    config = replace(CONFIG, num_attention_heads=16, num_key_value_heads=8)
    for architecture, wanted in (("llama", {8, 4}), ("qwen2", {8, 7, 6, 5, 4})):
        shapes = shapes_for(replace(config, architecture=architecture), 0.1, ("width", "heads"))
        assert {one.kv_heads for one in shapes} == wanted


def test_what_cannot_be_cut_says_so() -> None:
    assert shapes_for(CONFIG, 0, WAYS) == [shape_of(CONFIG)]
    for share, ways in ((0.9, WAYS), (-0.1, WAYS), (float("nan"), WAYS), (0.2, ()), (0.5, ("heads",))):
        with pytest.raises(InvalidRequest) as caught:
            shapes_for(CONFIG, share, ways)  # type: ignore[arg-type]
        assert caught.value.fix
    with pytest.raises(UnsupportedModel):
        check_prunable(ModelConfig("deepseek_v3", 10, 8, 8, 1, 1, 1, 8, 16))


def test_tensors_have_the_shape_of_the_smaller_configuration() -> None:
    shape = Shape(5, 96, 2)
    config = shape.applied(CONFIG)
    cut = random_cut(CONFIG, shape, 3)

    def tensor(name: str) -> np.ndarray:
        rows = {
            "gate_proj": (256, 64),
            "up_proj": (256, 64),
            "down_proj": (64, 256),
            "q_proj": (96, 64),
            "k_proj": (48, 64),
            "o_proj": (64, 96),
        }
        return np.zeros(rows[name.split(".")[-2]], np.float32)

    names = tuple(
        f"model.layers.{n}.{part}.weight"
        for n in range(12)
        for part in (
            "mlp.gate_proj",
            "mlp.down_proj",
            "self_attn.q_proj",
            "self_attn.k_proj",
            "self_attn.o_proj",
        )
    )
    found = cut_tensors(CONFIG, cut, names, tensor)
    assert len(found) == 25
    assert found["model.layers.4.mlp.down_proj.weight"].shape == (64, 96)
    assert found["model.layers.0.self_attn.q_proj.weight"].shape == (config.num_attention_heads * 16, 64)
    assert found["model.layers.0.self_attn.o_proj.weight"].shape == (64, config.num_attention_heads * 16)
    assert list(random_cut(CONFIG, shape, 3).layers) == list(cut.layers)
