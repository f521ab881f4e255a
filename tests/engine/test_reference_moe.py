"""The mixture of experts of the numpy backend: choice and sum against direct formulas."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepwell.engine.backends import reference
from deepwell.engine.backends.reference_moe import Moe, route
from deepwell.engine.backends.reference_ops import Adapters
from deepwell.engine.backends.specs import MoeSpec, Scoring
from deepwell.engine.weights import quantize

HIDDEN, INNER, EXPERTS, EPS = 40, 24, 8, 1e-6  # 24 is no multiple of 16, 40 none of 32
rng = np.random.default_rng(0)


def random(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32) / np.float32(4)


GATE, UP, DOWN = (
    random(EXPERTS, INNER, HIDDEN),
    random(EXPERTS, INNER, HIDDEN),
    random(EXPERTS, HIDDEN, INNER),
)
SHARED = random(2 * INNER, HIDDEN), random(2 * INNER, HIDDEN), random(HIDDEN, 2 * INNER)
ROUTER, NORM = random(EXPERTS, HIDDEN), 1 + random(HIDDEN)
CORRECTION = random(EXPERTS)


def packed(weights: np.ndarray) -> reference.Matrix:
    return reference.matrix(quantize.pack(weights, "fp32"), *weights.shape, "fp32")


def layer(
    bias: np.ndarray | None, scoring: Scoring, *, shared: bool = True, groups: int = 4, norm: bool = False
) -> Moe:
    inner, hidden = -(-INNER // 16) * 16, -(-HIDDEN // 32) * 32
    gate_up = np.concatenate([quantize.interleave_gate_up(g, u) for g, u in zip(GATE, UP, strict=True)])
    down = np.pad(DOWN, ((0, 0), (0, hidden - HIDDEN), (0, inner - INNER))).reshape(-1, inner)
    return reference.moe(
        MoeSpec(
            NORM,
            ROUTER,
            bias,
            packed(gate_up),
            packed(down),
            packed(quantize.interleave_gate_up(SHARED[0], SHARED[1])) if shared else None,
            packed(SHARED[2]) if shared else None,
            num_experts=EXPERTS,
            top_k=3,
            scoring=scoring,
            n_group=groups,
            topk_group=2 if groups > 1 else 1,
            norm_topk_prob=norm,
            routed_scaling_factor=1.5,
            eps=EPS,
        )
    )


def mlp(h: np.ndarray, gate: np.ndarray, up: np.ndarray, down: np.ndarray) -> np.ndarray:
    inner = gate @ h
    return down @ (inner / (1 + np.exp(-inner)) * (up @ h))


def direct(
    x: np.ndarray, bias: np.ndarray | None, scoring: str, shared: bool, groups: int, norm: bool
) -> np.ndarray:
    """One token by the formulas of the papers, in float64."""
    h = x / np.sqrt((x**2).mean() + EPS) * NORM
    logits = ROUTER.astype(np.float64) @ h
    scores = 1 / (1 + np.exp(-logits)) if scoring == "sigmoid" else np.exp(logits) / np.exp(logits).sum()
    corrected = scores + (0 if bias is None else bias)
    size = EXPERTS // groups
    best = 1 if bias is None else 2
    worth = [sum(sorted(corrected[g * size : (g + 1) * size])[-best:]) for g in range(groups)]
    kept = sorted(range(groups), key=lambda g: -worth[g])[: 2 if groups > 1 else 1]
    allowed = [e for e in range(EXPERTS) if e // size in kept]
    chosen = sorted(allowed, key=lambda e: -corrected[e])[:3]
    total = sum(scores[e] for e in chosen) if norm else 1.0
    out = sum(1.5 * scores[e] / total * mlp(h, GATE[e], UP[e], DOWN[e]) for e in chosen)
    return x + out + (mlp(h, *SHARED) if shared else 0)


@pytest.mark.parametrize("scoring", ["softmax", "sigmoid"])
@pytest.mark.parametrize("bias", [None, CORRECTION], ids=["uncorrected", "corrected"])
@pytest.mark.parametrize(("shared", "groups", "norm"), [(True, 4, False), (False, 1, True), (True, 2, True)])
def test_the_layer_is_its_formula(
    scoring: Scoring, bias: np.ndarray | None, shared: bool, groups: int, norm: bool
) -> None:
    x = random(9, HIDDEN) * 4
    moe = layer(bias, scoring, shared=shared, groups=groups, norm=norm)
    out = moe.forward(x, _no_adapters())
    for row, expected in zip(out, x.astype(np.float64), strict=True):
        assert np.abs(row - direct(expected, bias, scoring, shared, groups, norm)).max() < 1e-4


def _no_adapters() -> Adapters:
    from deepwell.engine.batch import Batch

    none = np.zeros(0, np.int32)
    return Adapters(Batch(none, none, none, none, none))


def test_company_does_not_change_a_row() -> None:
    x = random(9, HIDDEN) * 4
    moe = layer(CORRECTION, "sigmoid")
    together = moe.forward(x, _no_adapters())
    alone = np.concatenate([moe.forward(row[None], _no_adapters()) for row in x])
    assert np.allclose(together, alone, atol=1e-5)


@given(logits=st.lists(st.integers(-2, 2), min_size=8, max_size=8), groups=st.sampled_from([1, 2, 4]))
def test_ties_go_to_the_lower_index(logits: list[int], groups: int) -> None:
    experts, weights = route(
        np.array([logits], np.float32),
        None,
        top_k=2,
        scoring="softmax",
        n_group=groups,
        topk_group=1,
        norm_topk_prob=True,
        routed_scaling_factor=1.0,
    )
    size = 8 // groups
    group = min(range(groups), key=lambda g: (-max(logits[g * size : (g + 1) * size]), g))
    members = range(group * size, (group + 1) * size)
    assert experts[0].tolist() == sorted(members, key=lambda e: (-logits[e], e))[:2]
    assert abs(weights.sum() - 1) < 1e-6
