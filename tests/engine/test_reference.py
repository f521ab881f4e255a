"""The numpy backend against direct formulas: it is the specification, so it is checked against none of our code."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.engine import sequences

from deepwell.engine.architectures import build_model
from deepwell.engine.backends import reference
from deepwell.engine.backends.rope import rope_tables
from deepwell.engine.batch import Batch
from deepwell.engine.layouts import Scheme
from deepwell.engine.weights import quantize
from deepwell.engine.weights.load import load_weights
from deepwell.models.formats.config import ModelConfig, RopeScaling

rng = np.random.default_rng(0)


def packed(weights: np.ndarray, scheme: Scheme) -> reference.Matrix:
    return reference.matrix(quantize.pack(weights, scheme), *weights.shape, scheme)


@given(
    tokens=st.integers(1, 6),
    rows=st.integers(1, 70),
    cols=st.integers(1, 150),
    scheme=st.sampled_from(["int8", "int4"]),
)
def test_matmul_is_the_product_of_what_the_integers_stand_for(
    tokens: int, rows: int, cols: int, scheme: Scheme
) -> None:
    x = rng.standard_normal((tokens, cols), dtype=np.float32)
    weight = packed(rng.standard_normal((rows, cols), dtype=np.float32), scheme)
    q, scale = quantize.quantize_activations(x, scheme)
    rounded = q.reshape(tokens, -1, quantize.GROUP[scheme]) * scale[..., None].astype(np.float64)
    weights = quantize.unpack(weight.data, rows, cols, scheme).astype(np.float64)
    expected = rounded.reshape(tokens, -1)[:, :cols] @ weights.T
    assert np.allclose(reference.matmul(x, weight), expected, rtol=1e-5, atol=1e-5)


def test_matmul_fp32() -> None:
    x, weights = (
        rng.standard_normal((3, 50), dtype=np.float32),
        rng.standard_normal((40, 50), dtype=np.float32),
    )
    assert np.allclose(reference.matmul(x, packed(weights, "fp32")), x @ weights.T, atol=1e-5)


@pytest.mark.parametrize("scheme", ["fp32", "int8", "int4"])
def test_embedding_rows_are_the_dequantised_weights(scheme: Scheme) -> None:
    weight = packed(rng.standard_normal((70, 100), dtype=np.float32), scheme)
    whole = quantize.unpack(weight.data, 70, 100, scheme)
    assert all(np.array_equal(weight.row(i), whole[i]) for i in (0, 31, 32, 69))


def test_bf16_rounds_to_nearest_even() -> None:
    x = np.array([1.0, 1.0 + 2**-8, 1.0 + 3 * 2**-8, 1.0 + 2**-8 + 2**-20, -2.5, 0.0], np.float32)
    expected = np.array([1.0, 1.0, 1.0 + 2**-6, 1.0 + 2**-7, -2.5, 0.0], np.float32)
    assert np.array_equal(reference.round_bf16(x).astype(np.uint32) << 16, expected.view(np.uint32))


@given(
    values=st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=40),
    exponent=st.integers(-60, 0),
)
def test_int8_pages_err_by_half_a_step(values: list[float], exponent: int) -> None:
    x = np.ldexp(np.array(values, np.float32), exponent)
    q, scale = reference.quantize_heads(x[None])
    assert np.abs(q.astype(int)).max() <= 127
    assert scale[0] == np.abs(x).max() / np.float32(127)
    assert (np.abs(q[0] * scale[0] - x) <= np.maximum(scale[0] * 0.50002, reference.SMALLEST_PEAK)).all()


def test_rms_norm() -> None:
    x, weight = rng.standard_normal((2, 48), dtype=np.float32), rng.standard_normal(48, dtype=np.float32)
    expected = x / np.sqrt((x.astype(np.float64) ** 2).mean(axis=1, keepdims=True) + 1e-5) * weight
    assert np.allclose(reference.rms_norm(x, weight, 1e-5), expected, rtol=1e-5)


def test_silu_has_its_limits() -> None:
    values = reference.silu(np.array([-1e4, -1.0, 0.0, 1.0, 1e4], np.float32))
    assert np.allclose(values, [0, -0.26894143, 0, 0.7310586, 1e4])


def test_rope_rotates_halves() -> None:
    x = rng.standard_normal((5, 3, 8), dtype=np.float32)
    angles = rng.standard_normal((5, 4), dtype=np.float32)
    rotated = reference.apply_rope(x, np.cos(angles), np.sin(angles))
    turned = (x[..., :4] + 1j * x[..., 4:]) * np.exp(1j * angles)[:, None]
    assert np.allclose(rotated, np.concatenate([turned.real, turned.imag], axis=-1), atol=1e-6)


def small_config(scaling: RopeScaling | None = None) -> ModelConfig:
    return ModelConfig("llama", 32, 64, 64, 1, 4, 2, 16, 64, rope_scaling=scaling)


def test_longrope_divides_every_frequency_by_its_factor() -> None:
    config = small_config()
    plain, _ = rope_tables(config, 64)
    factors = (2.0,) * (config.rotary_dim // 2)
    scaling = RopeScaling("longrope", 1.0, attention_factor=0.5, factors=factors)
    slower, _ = rope_tables(small_config(scaling), 128)
    np.testing.assert_allclose(slower[::2], 0.5 * plain, atol=1e-5)


def test_rope_tables_without_scaling() -> None:
    cos, sin = rope_tables(small_config(), 64)
    angles = np.arange(64)[:, None] * 10_000.0 ** (-np.arange(0, 16, 2) / 16)
    assert cos.shape == (64, 8) and cos.dtype == np.float32
    assert np.allclose(cos, np.cos(angles), atol=1e-5) and np.allclose(sin, np.sin(angles), atol=1e-5)


def test_linear_scaling_stretches_positions() -> None:
    plain, _ = rope_tables(small_config(), 64)
    scaled, _ = rope_tables(small_config(RopeScaling("linear", 2.0)), 128)
    assert np.allclose(scaled[::2], plain, atol=1e-5)


def test_yarn_scales_by_its_attention_factor() -> None:
    cos, sin = rope_tables(small_config(RopeScaling("yarn", 4.0, 16, attention_factor=1.5)), 8)
    assert np.allclose(cos**2 + sin**2, 1.5**2, atol=1e-5)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory):
    checkpoint = sequences.golden_checkpoint("qwen2", tmp_path_factory.mktemp("qwen2"))
    return build_model(reference, load_weights(checkpoint, "int8"), checkpoint.config, 64), checkpoint.config


def test_outputs_agree_with_each_other(tiny) -> None:
    model, config = tiny
    tokens, rows = [5, 9, 2, 77, 3], [1, 2, 4]
    batch = sequences.step(tokens, 0, sequences.table_for(5), rows)
    logits, hidden = np.empty((3, 150), np.float32), np.empty((3, 64), np.float32)
    argmax, logprobs = np.empty(3, np.int32), np.empty(3, np.float32)
    targets = np.array([0, 149, 7], np.int32)
    cache = sequences.new_cache(reference, config, 5)
    model.forward(
        batch,
        cache,
        logits=logits,
        argmax=argmax,
        hidden=hidden,
        targets=targets,
        target_logprobs=logprobs,
    )
    assert np.array_equal(argmax, logits.argmax(axis=1))
    exact = logits.astype(np.float64)
    expected = exact[range(3), targets] - np.log(np.exp(exact).sum(axis=1))
    assert np.allclose(logprobs, expected, atol=1e-5)
    again = np.empty_like(hidden)
    model.forward(batch, sequences.new_cache(reference, config, 5), hidden=again)
    assert np.array_equal(again, hidden)


def test_sequences_of_a_batch_do_not_see_each_other(tiny) -> None:
    model, config = tiny
    first, second = [5, 9, 2], list(range(20, 40))
    cache = reference.kv_cache(2, 8, 2, 16, "bf16")
    together = np.empty((2, 150), np.float32)
    batch = Batch(
        np.array(first + second, np.int32),
        np.array([*range(3), *range(20)], np.int32),
        np.array([0, 3, 23], np.int32),
        np.array([[7, 0], [2, 5]], np.int32),
        np.array([2, 22], np.int32),
    )
    model.forward(batch, cache, logits=together)
    for row, tokens in enumerate((first, second)):
        alone = sequences.logits(model, sequences.new_cache(reference, config, 20, "bf16"), tokens)
        assert np.allclose(together[row], alone[-1], atol=1e-5)


def test_foreign_objects_are_refused(tiny) -> None:
    model, _ = tiny
    with pytest.raises(TypeError, match="its own"):
        model.forward(sequences.step([1], 0, sequences.table_for(1), [0]), object())


def test_matrix_of_the_wrong_size_is_refused() -> None:
    with pytest.raises(ValueError, match="bytes"):
        reference.matrix(np.zeros(100, np.uint8), 32, 64, "int8")
