"""Calibrated quantisation: bytes mean what was chosen, errors on the calibration inputs fall, folds change nothing."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize as gguf_dequantize

from deepwell.engine.weights.quantize import decode_q4_0, decode_q4_1, decode_q4_k, quantize
from deepwell.errors import InvalidRequest
from deepwell.models.formats.config import ModelConfig
from deepwell.models.formats.dequantize import dequantize
from deepwell.tuning.compress.quantise.awq import PLACES, fold_all, folded, search
from deepwell.tuning.compress.quantise.formats import FORMATS, format_for
from deepwell.tuning.compress.quantise.gptq import damped, gptq, objective, quantise_matrix, refined, rounded

ROWS, COLS = 24, 256
DECODERS = {"Q4_0": decode_q4_0, "Q4_1": decode_q4_1, "Q4_K": decode_q4_k}


def weights(seed: int = 0, rows: int = ROWS, cols: int = COLS) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, cols)).astype(np.float32) * np.float32(0.05)


def moments(seed: int = 0, cols: int = COLS) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((1024, cols)) @ (
        rng.standard_normal((cols, cols)) * np.arange(1, cols + 1)[:, None] ** -0.7
    )
    return mixed.T @ mixed / len(mixed)


@pytest.mark.parametrize("kind", FORMATS)
def test_bytes_hold_what_was_chosen(kind: str) -> None:
    form = format_for(kind, COLS)
    hessian = damped(moments())
    for made in (rounded(weights(), form), refined(weights(), hessian, gptq(weights(), hessian, form))):
        raw = made.encoded()
        assert raw.dtype == np.uint8 and raw.nbytes * 8 == form.bits * ROWS * COLS
        theirs = gguf_dequantize(raw, GGMLQuantizationType[form.name])
        np.testing.assert_allclose(theirs, made.values, rtol=1e-6, atol=1e-7)
        np.testing.assert_array_equal(dequantize(raw, form.name), theirs)  # type: ignore[arg-type]
        if form.name in DECODERS:  # what the engine multiplies by, without a second rounding of the integers
            ours = DECODERS[form.name](raw, COLS)
            np.testing.assert_array_equal(ours.q.astype(np.int16), made.q.astype(np.int16) - form.low)
            np.testing.assert_allclose(ours.dequantized("int4"), theirs, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("kind", FORMATS)
def test_inputs_that_say_nothing_leave_rounding_to_nearest(kind: str) -> None:
    form = format_for(kind, COLS)
    np.testing.assert_array_equal(gptq(weights(), np.eye(COLS), form).q, rounded(weights(), form).q)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("seed", range(2))
def test_the_error_on_calibration_inputs_is_never_above_rounding_to_nearest(kind: str, seed: int) -> None:
    form = format_for(kind, COLS)
    weight, hessian = weights(seed), moments(seed)
    plain = objective(weight, rounded(weight, form).values, damped(hessian))
    made = objective(weight, quantise_matrix(weight, hessian, form).values, damped(hessian))
    assert (made <= plain * (1 + 1e-4)).all()
    assert made.sum() < 0.3 * plain.sum()


def test_the_first_column_is_compensated_as_the_formula_says() -> None:
    weight, hessian = weights(3, 4, 32), damped(moments(3, 32))
    form = format_for("q8_0", 32)
    first = int(np.argmax(np.diag(hessian)))
    step = rounded(weight, form).scales.of_groups()[0][:, 0]
    made = gptq(weight, hessian, form)
    # With one column fixed, the best others are those of least squares: w_rest + e H_rest,rest^-1 H_rest,first
    rest = [at for at in range(32) if at != first]
    error = weight[:, first] - made.values[:, first]
    moved = weight[:, rest] + error[:, None] * np.linalg.solve(
        hessian[np.ix_(rest, rest)], hessian[rest, first]
    )
    second = rest[int(np.argmax(np.diag(hessian)[rest]))]
    d = made.scales.of_groups()[0][:, 0]
    np.testing.assert_array_equal(
        made.q[:, second], np.clip(np.rint(moved[:, rest.index(second)] / d), -127, 127).astype(np.int8)
    )
    assert (np.abs(d - step) <= np.abs(step) * 0.2).all()


def test_rounding_to_nearest_is_as_good_as_that_of_the_engine() -> None:
    weight = weights(5)
    ours = rounded(weight, FORMATS["q4_1"]).values
    engine = quantize(weight, "int4").dequantized("int4")
    assert np.square(ours - weight).sum() <= 1.001 * np.square(engine - weight).sum()


def test_sweeps_only_lower_the_error() -> None:
    form, hessian = FORMATS["q4_0"], damped(moments(7))
    weight = weights(7)
    made = gptq(weight, hessian, form)
    errors = [
        objective(weight, refined(weight, hessian, made, sweeps=n).values, hessian).sum() for n in range(4)
    ]
    assert all(later <= before * (1 + 1e-5) for before, later in pairwise(errors))
    assert errors[-1] < 0.97 * errors[0]


def test_a_column_of_zeros_and_a_silent_input_are_no_trouble() -> None:
    weight, hessian = weights(8), moments(8)
    weight[:, 32:64] = 0
    weight[3] = 0
    hessian[5] = hessian[:, 5] = 0
    for kind in FORMATS:
        made = quantise_matrix(weight, hessian, format_for(kind, COLS))
        assert np.isfinite(made.values).all()
        assert not made.values[3].any()


def test_widths_take_the_format_that_fits() -> None:
    assert [format_for(kind, 96).name for kind in ("q4_k", "q3_k", "q8_0")] == ["Q4_1", "Q4_0", "Q8_0"]
    assert format_for("q3_k", 512).name == "Q3_K"
    with pytest.raises(InvalidRequest, match="40 weights") as caught:
        format_for("q4_0", 40)
    assert caught.value.fix


CONFIG = ModelConfig("qwen2", 100, 64, 96, 1, 4, 2, 16, 128, attention_bias=True)


def layer_weights(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {
        "input_layernorm.weight": (64,),
        "post_attention_layernorm.weight": (64,),
        "self_attn.q_proj.weight": (64, 64),
        "self_attn.k_proj.weight": (32, 64),
        "self_attn.v_proj.weight": (32, 64),
        "self_attn.v_proj.bias": (32,),
        "self_attn.o_proj.weight": (64, 64),
        "mlp.gate_proj.weight": (96, 64),
        "mlp.up_proj.weight": (96, 64),
        "mlp.down_proj.weight": (64, 96),
    }
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def test_factors_lower_the_error_where_few_channels_are_large() -> None:
    layer = layer_weights()
    hessian = np.diag(np.where(np.arange(64) % 16 == 3, 400.0, 1.0))
    place, form = PLACES[0], FORMATS["q4_0"]
    factors = search(place, layer, hessian, CONFIG, form)
    scaled = folded(place, layer, factors, CONFIG)

    def error(found: dict[str, np.ndarray], by: np.ndarray) -> float:
        return sum(
            float(objective(layer[name], rounded(found[name], form).values / by, hessian).sum())
            for name in place.readers
        )

    assert error(scaled, factors) < 0.8 * error(layer, np.ones(64, np.float32))
    flat = search(place, layer, np.eye(64), CONFIG, form)
    np.testing.assert_array_equal(flat, np.ones(64, np.float32))


def test_folds_cancel() -> None:
    layer = layer_weights(1)
    sizes = {64: moments(1, 64), 96: moments(2, 96)}
    changed = fold_all(
        layer,
        lambda place: sizes[layer[place.readers[0]].shape[1]],
        CONFIG,
        lambda cols: format_for("q4_0", cols),
    )
    for norm, name in (
        ("input_layernorm.weight", "self_attn.k_proj.weight"),
        ("post_attention_layernorm.weight", "mlp.gate_proj.weight"),
    ):
        np.testing.assert_allclose(changed[norm] * changed[name], layer[norm] * layer[name], rtol=1e-5)
    # Attention mixes rows of values, and never channels of a head
    expand = [head // 2 * 16 + at for head in range(4) for at in range(16)]
    through = lambda one: one["self_attn.o_proj.weight"] * one["self_attn.v_proj.bias"][expand]  # noqa: E731
    np.testing.assert_allclose(through(changed), through(layer), rtol=1e-5)
    assert any(
        np.abs(changed[name] / layer[name] - 1).max() > 0.01 for name in layer if name.endswith("weight")
    )
