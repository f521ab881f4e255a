"""Packed layouts and the arithmetic of rounding."""

from __future__ import annotations

from typing import get_args

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from deepwell.engine.layouts import Scheme
from deepwell.engine.weights import quantize
from deepwell.engine.weights.quantize import Quantized

SCHEMES: tuple[Scheme, ...] = get_args(Scheme)
shapes = st.tuples(st.integers(1, 100), st.integers(1, 200))


def bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def float16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    return bits.view(np.float16).astype(np.float32)


def normal(rows: int, cols: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((rows, cols), dtype=np.float32)


@given(shape=shapes, scheme=st.sampled_from(SCHEMES), seed=st.integers(0, 9))
def test_layout_loses_nothing(shape: tuple[int, int], scheme: Scheme, seed: int) -> None:
    quantized = quantize.quantize(normal(*shape, seed), scheme)
    packed = quantize.layout(quantized, scheme)
    back = quantize.unlayout(packed, *shape, scheme)
    assert packed.nbytes == quantize.packed_nbytes(*shape, scheme)
    assert packed.nbytes % 64 == 0
    assert np.array_equal(back.q, quantized.q)
    assert np.array_equal(back.d, quantized.d)
    assert np.array_equal(back.m, quantized.m)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_layout_is_the_documented_one(scheme: Scheme) -> None:
    """Every element read back from the address that docs/explanation/weights.md gives it."""
    rows, cols = 40, 130
    packed = quantize.pack(normal(rows, cols), scheme)
    weights = quantize.unpack(packed, rows, cols, scheme)
    group = quantize.GROUP[scheme]
    block_bytes = {"fp32": 128, "bf16": 128, "fp16": 64, "int8": 2112, "int4": 640}[scheme]
    groups = -(-cols // group)
    for row in range(rows):
        for col in range(cols):
            start = ((row // 32) * groups + col // group) * block_bytes
            block, r, c = packed[start : start + block_bytes], row % 32, col % group
            if scheme == "fp32":
                expected = block.view("<f4")[r]
            elif scheme == "fp16":
                expected = block.view("<f2")[r].astype(np.float32)
            elif scheme == "bf16":
                bits = block.view("<u2").reshape(32, 2)[r, c]
                expected = (bits.astype(np.uint32) << 16).view(np.float32)
            elif scheme == "int8":
                q = block[64:].view(np.int8).reshape(16, 32, 4)[c // 4, r, c % 4]
                expected = np.float32(block[:64].view("<f2")[r]) * np.float32(q)
            else:
                byte = block[128:].reshape(4, 32, 4)[c // 8, r, c % 4]
                q = byte >> 4 if c % 8 >= 4 else byte & 15
                d, m = block[:128].view("<f2").reshape(2, 32)[:, r].astype(np.float32)
                expected = d * np.float32(q) + m
            assert weights[row, col] == expected


@pytest.mark.parametrize(("scheme", "dtype"), [("bf16", bfloat16), ("fp16", float16)])
def test_16_bit_floats_are_rounded_once_to_nearest(scheme: Scheme, dtype) -> None:
    """Every 16-bit pattern stays itself, its neighbours' middle goes to the even one."""
    patterns = np.arange(1 << 16, dtype=np.uint16)
    values = dtype(patterns)
    back = quantize.unpack(quantize.pack(values.reshape(256, 256), scheme), 256, 256, scheme).reshape(-1)
    assert np.array_equal(back, values, equal_nan=True)
    finite = np.isfinite(values)
    assert np.array_equal(back.view(np.uint32)[finite], values.view(np.uint32)[finite]), (
        "with the sign of zero"
    )
    lower, upper = values[:100:2], values[1:101:2]
    middle = ((lower.astype(np.float64) + upper) / 2).astype(np.float32)
    assert np.array_equal(quantize.unpack(quantize.pack(middle[None], scheme), 1, 50, scheme)[0], lower)


def test_fp32_is_exact() -> None:
    weights = normal(45, 70)
    assert np.array_equal(quantize.unpack(quantize.pack(weights, "fp32"), 45, 70, "fp32"), weights)


@pytest.mark.parametrize(("scheme", "min_sqnr_db"), [("int8", 44.0), ("int4", 22.7)])
def test_noise_on_normal_weights(scheme: Scheme, min_sqnr_db: float) -> None:
    """int4 without the least-squares fit reaches 22.1 dB."""
    weights = normal(256, 512)
    back = quantize.unpack(quantize.pack(weights, scheme), 256, 512, scheme)
    assert quantize.quantization_report(weights, back).sqnr_db > min_sqnr_db


@given(shape=shapes, seed=st.integers(0, 99), exponent=st.integers(-28, 8))
def test_int8_error_is_at_most_half_a_step(shape: tuple[int, int], seed: int, exponent: int) -> None:
    weights = np.ldexp(normal(*shape, seed), exponent)
    packed = quantize.pack(weights, "int8")
    error = np.abs(quantize.unpack(packed, *shape, "int8") - weights)
    d = quantize.unlayout(packed, *shape, "int8").d.astype(np.float32)
    step = np.repeat(d, 64, axis=1)[:, : shape[1]]
    assert (error <= step * 0.50001).all()
    # The step is what 127 of them need, but for the rounding of a float16: also below its normal range.
    widest = np.pad(np.abs(weights), ((0, 0), (0, -shape[1] % 64))).reshape(len(d), -1, 64).max(axis=2)
    assert (np.abs(d - widest / 127) <= np.maximum(d * 2.0**-11, 2.0**-24)).all()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_constant_and_zero_groups(scheme: Scheme) -> None:
    weights = np.zeros((2, 64), np.float32)
    weights[1] = 0.25
    assert np.allclose(quantize.unpack(quantize.pack(weights, scheme), 2, 64, scheme), weights, rtol=1e-3)


@pytest.mark.parametrize("scheme", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("poison", [np.nan, -np.nan, np.inf, 3.4e38])
def test_not_finite_floats_are_told(scheme: Scheme, poison: float) -> None:
    """So is what becomes infinite by rounding: 3.4e38 is float32's, and too large for the other two."""
    weights = normal(3, 64)
    assert quantize.quantize(weights, scheme).is_finite(scheme)
    weights[1, 5] = poison
    weights[2, 7] = np.array(0xFFFFFFFF, np.uint32).view(np.float32) if np.isnan(poison) else poison
    assert quantize.quantize(weights, scheme).is_finite(scheme) == (scheme == "fp32" and np.isfinite(poison))


@pytest.mark.parametrize("scheme", ["int8", "int4"])
@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_not_finite_weights_show_in_the_scales(scheme: Scheme, poison: float) -> None:
    weights = normal(3, 64)
    weights[1, 5] = poison
    quantized = quantize.quantize(weights, scheme)
    finite = np.isfinite(quantized.d).all(axis=1)
    if scheme == "int4":
        finite &= np.isfinite(quantized.m).all(axis=1)
    assert finite.tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("kind", "decode", "pack"),
    [
        (GGMLQuantizationType.Q4_1, quantize.decode_q4_1, quantize.pack_q4_1),
        (GGMLQuantizationType.Q4_0, quantize.decode_q4_0, quantize.pack_q4_0),
    ],
)
def test_gguf_blocks_are_not_rounded_again(kind: GGMLQuantizationType, decode, pack) -> None:
    rows, cols = 50, 160
    raw = gguf.quantize(normal(rows, cols), kind)
    expected = gguf.dequantize(raw, kind)
    packed = pack(raw, cols)
    d, m = decode(raw, cols).d, decode(raw, cols).m
    stored = quantize.unlayout(packed, rows, cols, "int4")
    assert np.array_equal(stored.d, d) and np.array_equal(stored.m, m)
    assert np.array_equal(quantize.unpack(packed, rows, cols, "int4"), expected)


def test_q4_k_keeps_its_integers() -> None:
    """Only the products of its two levels of scales are rounded, to float16."""
    rows, cols = 5, 512
    raw = np.random.default_rng(0).integers(0, 256, (rows, cols // 256, 144), dtype=np.uint8)
    raw[..., :4] = np.array([0.01, 0.02], "<f2").view(np.uint8)
    raw = raw.reshape(rows, -1)
    expected = gguf.dequantize(raw, GGMLQuantizationType.Q4_K)
    quantized = quantize.decode_q4_k(raw, cols)
    assert quantized.q.max() == 15 and quantized.d.shape == (rows, cols // 32)
    # d <= 0.01 * 63 and m <= 0.02 * 63 move by at most 2**-11 of themselves.
    assert np.abs(quantized.dequantized("int4") - expected).max() < (15 * 0.63 + 1.26) * 2**-11
    with pytest.raises(ValueError, match="columns"):
        quantize.decode_q4_k(raw, 256)


def test_gguf_rows_of_another_width_are_refused() -> None:
    raw = gguf.quantize(normal(4, 64), GGMLQuantizationType.Q4_1)
    with pytest.raises(ValueError, match="columns"):
        quantize.pack_q4_1(raw, 96)


def test_truncated_data_is_refused() -> None:
    with pytest.raises(ValueError, match="packs into"):
        quantize.unpack(np.zeros(2111, np.uint8), 32, 64, "int8")


@pytest.mark.parametrize("rows", [16, 32, 40, 1])
def test_gate_and_up_alternate_by_sixteen(rows: int) -> None:
    gate = np.arange(rows * 3).reshape(rows, 3) + 1
    up = -gate
    both = quantize.interleave_gate_up(gate, up)
    assert both.shape == (2 * (-(-rows // 16) * 16), 3)
    for row in range(rows):
        at = row // 16 * 32 + row % 16
        assert np.array_equal(both[at], gate[row])
        assert np.array_equal(both[at + 16], up[row])
    assert np.count_nonzero(both) == 2 * gate.size


@given(
    tokens=st.integers(1, 5),
    cols=st.integers(1, 150),
    scheme=st.sampled_from(["int8", "int4"]),
    seed=st.integers(0, 9),
)
def test_activations_round_per_row_and_group(tokens: int, cols: int, scheme: Scheme, seed: int) -> None:
    group = quantize.GROUP[scheme]
    x = normal(tokens, cols, seed)
    q, scale = quantize.quantize_activations(x, scheme)
    assert q.shape == (tokens, scale.shape[1] * group)
    assert not q[:, cols:].any()
    back = (q.reshape(tokens, -1, group) * scale[..., None]).reshape(tokens, -1)[:, :cols]
    steps = np.repeat(scale, group, axis=1)[:, :cols]
    assert (np.abs(back - x) <= steps * 0.5001).all()
    assert np.abs(q.reshape(tokens, -1, group)).max(axis=2).tolist() == np.full(scale.shape, 127).tolist()


def test_activations_of_zero() -> None:
    q, scale = quantize.quantize_activations(np.zeros((2, 64), np.float32), "int8")
    assert not q.any() and not scale.any()


def test_report_of_exact_weights() -> None:
    weights = normal(2, 2)
    assert quantize.quantization_report(weights, weights.copy()) == quantize.QuantizationReport(np.inf, 0.0)


def test_dequantized_is_a_copy() -> None:
    weights = normal(2, 3)
    quantized = quantize.quantize(weights, "fp32")
    assert isinstance(quantized, Quantized)
    assert not np.shares_memory(quantized.dequantized("fp32"), weights)
