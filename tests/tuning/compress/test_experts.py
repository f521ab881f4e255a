"""Experts divide an MLP without a change while all are computed, follow its tokens, and are chosen by a linear gate."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from deepwell.errors import InvalidRequest
from deepwell.tuning.compress.convert.experts import (
    Layout,
    activation_experts,
    expert_squares,
    layouts_for,
    mixture_tensors,
    random_experts,
    refitted_down,
)
from deepwell.tuning.compress.convert.router import (
    Router,
    active_experts,
    fit_router,
    gate_tensors,
    load_entropy,
)

Array = NDArray[np.float32]
LAYOUT = Layout(4, 1, 3, 1)


def _planted(tokens: int = 600) -> tuple[Array, Array, Array, NDArray[np.intp]]:
    """Returns inputs, inputs of the down projection, that projection, and the block of channels that each token uses.

    Channels 0 to 3 are large for every token. The others come in three blocks, mixed up, of which a token uses one; a direction
    of the inputs says which.
    """
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 3, tokens)
    inputs = 0.3 * rng.standard_normal((tokens, 8))
    inputs[np.arange(tokens), kinds] += 2
    hidden = 0.02 * rng.standard_normal((tokens, 16))
    hidden[:, :4] += 3 * rng.standard_normal((tokens, 4)) + 9
    for channel in range(4, 16):
        used = kinds == channel % 3
        hidden[used, channel] += rng.standard_normal(used.sum()) + 1.5
    down = rng.standard_normal((8, 16))
    down /= np.linalg.norm(down, axis=0)
    return inputs.astype(np.float32), hidden.astype(np.float32), down.astype(np.float32), kinds


def test_experts_are_the_channels_that_the_same_tokens_use_and_the_router_finds_them() -> None:
    inputs, hidden, down, kinds = _planted()
    experts = activation_experts(hidden, down, LAYOUT)
    assert experts.shared.tolist() == [0, 1, 2, 3]
    assert sorted(experts.routed.tolist()) == [[4, 7, 10, 13], [5, 8, 11, 14], [6, 9, 12, 15]]
    active = active_experts(fit_router(inputs, expert_squares(hidden, down, experts)), inputs, 1)
    assert (active.sum(1) == 1).all()
    used = experts.routed[active.argmax(1), 0] % 3
    assert (used == kinds).mean() > 0.97
    wanted = hidden @ down.T

    def missed(computed: NDArray[np.bool_]) -> float:
        return float(np.square(wanted - (hidden * computed) @ down.T).sum())

    others = random_experts(LAYOUT, 0, experts.shared)
    chance = active_experts(fit_router(inputs, expert_squares(hidden, down, others)), inputs, 1)
    assert missed(experts.computed(active)) < 0.1 * missed(others.computed(chance))


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 3), st.integers(2, 5), st.integers(1, 4), st.integers(0, 3))
def test_every_channel_has_one_place(width: int, routed: int, shared: int, seed: int) -> None:
    layout = Layout(width, shared, routed, 1)
    hidden = np.random.default_rng(seed).standard_normal((20, layout.channels)).astype(np.float32)
    down = np.eye(layout.channels, dtype=np.float32)
    for experts in (activation_experts(hidden, down, layout), random_experts(layout, seed)):
        assert experts.routed.shape == (routed, width) and experts.shared.shape == (shared * width,)
        every = np.concatenate([experts.shared, experts.routed.reshape(-1)])
        assert sorted(every.tolist()) == list(range(layout.channels))
        computed = experts.computed(np.eye(routed, dtype=bool))
        assert (computed.sum(1) == (shared + 1) * width).all()
        np.testing.assert_allclose(
            expert_squares(hidden, down, experts)[:, 0],
            np.square(hidden[:, experts.routed[0]]).sum(1),
            rtol=1e-4,
        )


def test_a_down_projection_takes_over_what_is_left_out() -> None:
    _, hidden, down, _ = _planted()
    rng = np.random.default_rng(1)
    hidden[:, 15] = hidden[:, 0] + 0.1 * hidden[:, 1]  # what is left out can be had from what stays
    computed = np.ones(hidden.shape, bool)
    computed[:, 15] = False
    found = refitted_down(hidden, down, computed, ridge=1e-5)
    np.testing.assert_allclose((hidden * computed) @ found.T, hidden @ down.T, atol=0.02)
    assert np.array_equal(refitted_down(hidden, down, np.ones_like(computed)), down)
    computed = rng.random(hidden.shape) < 0.7
    for ridge in (0.1, 1.0):
        found = refitted_down(hidden, down, computed, ridge)
        seen = (hidden * computed).astype(np.float64)
        pull = ridge * np.trace(seen.T @ seen) / 16
        gradient = (seen @ found.T - hidden @ down.T).T @ seen + pull * (found - down)
        assert np.abs(gradient).max() < 1e-3 * np.abs(pull)


def test_the_parts_add_up_to_the_mlp() -> None:
    rng = np.random.default_rng(2)
    gate, up = (rng.standard_normal((16, 8)).astype(np.float32) for _ in range(2))
    down, inputs = (rng.standard_normal(shape).astype(np.float32) for shape in ((8, 16), (5, 8)))
    router = Router(np.zeros((3, 8), np.float32), np.zeros(3, np.float32))
    tensors = mixture_tensors(gate, up, down, random_experts(LAYOUT, 0), router)

    def mlp(gate: Array, up: Array, down: Array) -> Array:
        gated = inputs @ gate.T
        return (gated / (1 + np.exp(-gated)) * (inputs @ up.T)) @ down.T

    names = ["mlp.shared_experts", *(f"mlp.experts.{number}" for number in range(3))]
    parts = [
        mlp(*(tensors[f"{name}.{part}_proj.weight"] for part in ("gate", "up", "down"))) for name in names
    ]
    np.testing.assert_allclose(sum(parts), mlp(gate, up, down), rtol=1e-4, atol=1e-4)
    assert tensors["mlp.gate.weight"].shape == (3, 8)


def test_the_gate_chooses_as_the_router_with_factors_of_1() -> None:
    rng = np.random.default_rng(3)
    inputs = rng.standard_normal((400, 24)).astype(np.float32)
    squares = np.exp(inputs @ rng.standard_normal((24, 6)) + rng.standard_normal(6)).astype(np.float32)
    router = fit_router(inputs, squares)
    wanted = active_experts(router, inputs, 4)
    tensors = gate_tensors(router)
    # As DeepSeek-V3 computes it, in float32.
    scores = (1 / (1 + np.exp(-(inputs @ tensors["weight"].T)))).astype(np.float32)
    chosen = np.argsort(-(scores + tensors["e_score_correction_bias"]), axis=1)[:, :4]
    found = np.zeros_like(wanted)
    np.put_along_axis(found, chosen, True, axis=1)
    assert (found == wanted).all(1).mean() > 0.85  # the others are all but ties
    factors = np.take_along_axis(scores, chosen, axis=1)
    factors *= 4 / factors.sum(1, keepdims=True)
    assert np.abs(factors - 1).max() < 2e-5 and factors.std() < 3e-6
    best = np.take_along_axis(squares, np.argsort(-squares, axis=1)[:, :1], axis=1)
    assert ((squares * found).max(1) == best[:, 0]).mean() > 0.97


def test_loads_have_an_entropy_of_1_where_they_are_equal() -> None:
    assert load_entropy(np.eye(4, dtype=bool)) == pytest.approx(1)
    assert load_entropy(np.array([[True, False], [True, False]])) == 0
    assert load_entropy(np.array([[True, False], [True, False], [False, True]])) == pytest.approx(
        0.918, abs=1e-3
    )


def test_layouts_leave_out_the_share_and_say_what_cannot_be() -> None:
    layouts = layouts_for(1536, 0.25)
    assert Layout(96, 4, 12, 8) in layouts
    for one in layouts:
        assert one.channels == 1536 and one.sparsity == 0.25
        shape = one.mixture
        assert (shape.n_routed_experts, shape.num_experts_per_tok) == (one.routed, one.active)
        assert shape.routed_scaling_factor == one.active and shape.norm_topk_prob
    assert all(one.active == one.routed for one in layouts_for(1536, 0))
    wrong = ((100, 0.25, 16), (1536, 0.3, 16), (1536, 0.9, 16), (1536, 0.5, 2), (1536, float("nan"), 16))
    for channels, sparsity, experts in wrong:
        with pytest.raises(InvalidRequest, match="experts"):
            layouts_for(channels, sparsity, experts=experts)
    assert layouts_for(768, 0.1667, experts=6) == layouts_for(768, 1 / 6, experts=6)
    with pytest.raises(InvalidRequest, match=r"0\.1667, 0\.3333") as caught:
        layouts_for(768, 0.25, experts=6)
    near = caught.value.fix.rpartition(": ")[2].split(", ")
    assert all(layouts_for(768, float(one), experts=6) for one in near)
