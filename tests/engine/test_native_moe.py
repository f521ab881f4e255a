"""The compiled mixture of experts, on every kernel table, against the numpy reference and against itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.engine import sequences
from tests.engine.backends import backend

from deepwell.engine.backends import native, reference
from deepwell.engine.backends.specs import AttentionSpec, MoeSpec
from deepwell.engine.layouts import Scheme
from deepwell.engine.weights import quantize
from deepwell.engine.weights.low_rank import LowRank

pytestmark = pytest.mark.native

HIDDEN, INNER, VOCAB, EPS = 72, 40, 50, 1e-6  # 72 is no multiple of 32, 40 none of 16
# Scores of the softmax and the sigmoid differ by a few last bits between the backends: what a choice may hang on.
V2_LITE = {"scoring": "softmax", "n_group": 1, "topk_group": 1, "norm_topk_prob": False}
V2 = {"scoring": "softmax", "n_group": 4, "topk_group": 2, "norm_topk_prob": False}
V3 = {"scoring": "sigmoid", "n_group": 4, "topk_group": 2, "norm_topk_prob": True}
QWEN3 = {"scoring": "softmax", "n_group": 1, "topk_group": 1, "norm_topk_prob": True}
# (routing, correction bias, shared expert)
FAMILIES = {
    "v2-lite": (V2_LITE, False, True),
    "v2": (V2, False, True),
    "v3": (V3, True, True),
    "qwen3": (QWEN3, False, False),
}
TOKENS: list[int] = np.random.default_rng(3).integers(0, VOCAB, 210).tolist()
# As in test_native: a last bit may move an activation to its next step, which then changes what quantisation rounds.
STEP_ERROR = 5e-2


def packed(run: Any, weights: NDArray[np.float32], scheme: Scheme) -> Any:
    return run.matrix(quantize.pack(weights, scheme), *weights.shape, scheme)


def arguments(
    run: Any, family: str, scheme: Scheme, *, experts: int = 8, top_k: int = 3, seed: int = 0
) -> dict[str, Any]:
    """What `moe` takes, by name."""
    routing, corrected, shared = FAMILIES[family]
    rng = np.random.default_rng(seed)

    def random(*shape: int) -> NDArray[np.float32]:
        return rng.standard_normal(shape, dtype=np.float32) / np.float32(4)

    inner, hidden = -(-INNER // 16) * 16, -(-HIDDEN // 32) * 32
    gate_up = [
        quantize.interleave_gate_up(random(INNER, HIDDEN), random(INNER, HIDDEN)) for _ in range(experts)
    ]
    down = np.pad(random(experts, HIDDEN, INNER), ((0, 0), (0, hidden - HIDDEN), (0, inner - INNER)))
    both = quantize.interleave_gate_up(random(2 * INNER, HIDDEN), random(2 * INNER, HIDDEN))
    return {
        "norm": 1 + random(HIDDEN),
        "router": random(experts, HIDDEN),
        "correction_bias": random(experts) if corrected else None,
        "gate_up": packed(run, np.concatenate(gate_up), scheme),
        "down": packed(run, down.reshape(-1, inner), scheme),
        "shared_gate_up": packed(run, both, scheme) if shared else None,
        "shared_down": packed(run, random(HIDDEN, 2 * INNER), scheme) if shared else None,
        "num_experts": experts,
        "top_k": top_k,
        "routed_scaling_factor": 1.5,
        "eps": EPS,
        **routing,
    }


def model_of(run: Any, layers: list[Any], *, attends: bool = True, seed: int = 1) -> Any:
    """Attention, the given layers, a head. With `attends` false attention adds nothing: the layers see embeddings."""
    rng = np.random.default_rng(seed)
    qkv, embed = (rng.standard_normal((rows, HIDDEN), np.float32) for rows in (64, VOCAB))
    o = rng.standard_normal((HIDDEN, 32), np.float32) * np.float32(attends)
    ones = np.ones(HIDDEN, np.float32)
    attention = run.attention(
        AttentionSpec(
            ones,
            packed(run, qkv, "fp32"),
            None,
            packed(run, o, "fp32"),
            num_heads=2,
            num_kv_heads=1,
            head_dim=16,
            eps=EPS,
        )
    )
    angles = np.arange(256, dtype=np.float32)[:, None] * (0.5 ** np.arange(8, dtype=np.float32))
    table = packed(run, embed, "fp32")
    return run.model(table, [attention, *layers], ones, table, np.cos(angles), np.sin(angles), eps=EPS)


def logits(run: Any, model: Any, chunk: int | None = None, tokens: list[int] = TOKENS) -> NDArray[np.float32]:
    return sequences.logits(model, run.kv_cache(1, 16, 1, 16, "fp32"), tokens, chunk)


@pytest.mark.parametrize("scheme", ["fp32", "int8", "int4"])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_the_reference(isa: str, family: str, scheme: Scheme) -> None:
    """Some 90 rows for an expert, more than are computed together; and one row at a time."""
    expected, computed = (
        logits(run, model_of(run, [run.moe(MoeSpec(**arguments(run, family, scheme)))]))
        for run in (reference, native)
    )
    difference = np.abs(computed - expected).max(axis=1)
    if scheme == "fp32":
        assert difference.max() < 1e-3
    else:
        assert difference.max() < STEP_ERROR * np.abs(expected).max()
        assert np.median(difference) < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("scheme", ["fp32", "bf16", "int8", "int4"])
@pytest.mark.parametrize("family", ["v2-lite", "v3", "qwen3"])
def test_logits_do_not_depend_on_chunks_or_threads(
    isa: str, family: str, scheme: Scheme, two_threads: None
) -> None:
    """One to three rows for themselves, few and many rows for an expert, whole and cut tiles."""
    layers = [native.moe(MoeSpec(**arguments(native, family, scheme, seed=seed))) for seed in (0, 1)]
    model = model_of(native, layers)
    whole = logits(native, model)
    for threads in (2, 1, 3):
        native.set_threads(threads)
        for chunk in (1, 2, 3, 17, 100) if threads == 2 else (1, 3, 100):
            # Threads that outnumber processors wait long for each other: a few steps of few rows tell as much as two hundred.
            tokens = TOKENS[:60] if chunk <= 3 else TOKENS
            assert np.array_equal(logits(native, model, chunk, tokens), whole[: len(tokens)])


def test_only_rows_that_are_wanted_go_on(isa: str) -> None:
    """Behind the last attention a mixture computes the output rows alone, with the same bits."""
    model = model_of(native, [native.moe(MoeSpec(**arguments(native, "v3", "int8")))])
    whole = logits(native, model)
    rows = [0, 5, 6, 100, 209]
    out = np.empty((len(rows), VOCAB), np.float32)
    step = sequences.step(TOKENS, 0, sequences.table_for(len(TOKENS)), rows)
    model.forward(step, native.kv_cache(1, 16, 1, 16, "fp32"), logits=out)
    assert np.array_equal(out, whole[rows])


@given(
    family=st.sampled_from(sorted(FAMILIES)),
    experts=st.sampled_from([8, 36, 128]),
    top_k=st.integers(1, 2),
    ties=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_routing_is_that_of_the_reference(
    isa: str, family: str, experts: int, top_k: int, ties: bool, seed: int
) -> None:
    """Which experts saw how many rows. Ties: every router row comes twice, far from its twin."""
    tokens = np.random.default_rng(seed).permutation(VOCAB).tolist()
    # One small expert repeated: only the choice is looked at.
    given = {
        run: arguments(run, family, "fp32", experts=experts, top_k=top_k, seed=seed)
        for run in (reference, native)
    }
    if ties:
        for each in given.values():
            each["router"][experts // 2 :] = each["router"][: experts // 2]
            if each["correction_bias"] is not None:
                each["correction_bias"][experts // 2 :] = each["correction_bias"][: experts // 2]
    model = model_of(native, [native.moe(MoeSpec(**given[native]))], attends=False)
    logits(native, model, tokens=tokens)
    x = np.random.default_rng(1)
    x.standard_normal((64, HIDDEN), np.float32)
    rows = x.standard_normal((VOCAB, HIDDEN), np.float32)[tokens]
    oracle = reference.moe(MoeSpec(**given[reference]))
    chosen, _ = oracle.routed(reference.rms_norm(rows, oracle.spec.norm, EPS))
    assert np.array_equal(model.expert_loads[0], np.bincount(chosen.reshape(-1), minlength=experts))


def test_loads_are_counted_by_layer(isa: str) -> None:
    layers = [native.moe(MoeSpec(**arguments(native, family, "fp32"))) for family in ("v2-lite", "qwen3")]
    model = model_of(native, layers)
    assert not model.expert_loads.any()
    logits(native, model, 50)
    assert model.expert_loads.shape == (2, 8)
    assert model.expert_loads.sum(axis=1).tolist() == [3 * len(TOKENS)] * 2
    assert (
        model.expert_reads.tolist() == [8 * -(-len(TOKENS) // 50)] * 2
    )  # every step of 50 rows meets all of them


@pytest.mark.parametrize("run", [reference, native], ids=["reference", "native"])
def test_an_adapter_cannot_name_two_matrices_at_once(run: Any) -> None:
    model = model_of(
        run, [run.moe(MoeSpec(**arguments(run, family, "fp32"))) for family in ("v2-lite", "qwen3")]
    )
    part = LowRank(np.arange(HIDDEN), np.ones((1, INNER), np.float32), np.ones((HIDDEN, 1), np.float32))
    assert model.adapter({"0.shared_down": [part]})
    with pytest.raises(ValueError, match=r"two layers|no single"):
        model.adapter({"0.experts_down": [part]})


def test_a_router_without_numbers_is_survived(isa: str) -> None:
    """NaN logits choose some expert; nothing is read out of bounds, and other layers' shapes stay whole."""
    given = arguments(native, "v3", "fp32")
    given["router"][...] = np.nan
    model = model_of(native, [native.moe(MoeSpec(**given))])
    assert logits(native, model, 7).shape == (len(TOKENS), VOCAB)
    assert model.expert_loads.sum() == 3 * len(TOKENS)


def test_an_expert_may_be_alone(isa: str) -> None:
    """A mixture of one expert that is always chosen is that expert, scaled."""
    given = {run: arguments(run, "v2-lite", "fp32", experts=1, top_k=1) for run in (reference, native)}
    expected, computed = (
        logits(run, model_of(run, [run.moe(MoeSpec(**each))])) for run, each in given.items()
    )
    assert np.allclose(computed, expected, atol=1e-3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_experts": 0}, "num_experts"),
        ({"num_experts": 2000}, "num_experts"),
        ({"num_experts": 16}, "correction_bias"),
        ({"top_k": 0}, "top_k"),
        ({"top_k": 5}, "top_k"),
        ({"n_group": 3}, "n_group"),
        ({"topk_group": 5}, "topk_group"),
        ({"topk_group": 0}, "topk_group"),
        ({"n_group": 8, "topk_group": 4}, "two best"),
        ({"scoring": "relu"}, "scoring"),
        ({"norm": np.ones(HIDDEN - 1, np.float32)}, "norm"),
        ({"correction_bias": np.ones(7, np.float32)}, "correction_bias"),
        ({"router": np.ones((8, HIDDEN + 1), np.float32)}, "router"),
        ({"shared_down": None}, "come together"),
        ({"gate_up": (8 * 96 + 32, HIDDEN)}, "gate_up"),
        ({"gate_up": (8 * 48, HIDDEN)}, "gate_up"),
        ({"gate_up": (8 * 64, HIDDEN)}, "down"),
        ({"down": (8 * 64, 48)}, "down"),
        ({"down": (8 * 96, 64)}, "down"),
        ({"shared_gate_up": (160, HIDDEN + 1)}, "shared_gate_up"),
        ({"shared_down": (HIDDEN, 112)}, "shared_down"),
    ],
)
def test_what_does_not_fit_is_refused(wrong: dict[str, Any], message: str) -> None:
    backend("native")
    wrong = {
        name: packed(native, np.zeros(value, np.float32), "fp32") if isinstance(value, tuple) else value
        for name, value in wrong.items()
    }
    with pytest.raises(ValueError, match=message):
        native.moe(MoeSpec(**{**arguments(native, "v3", "fp32"), **wrong}))


def test_a_model_of_another_width_refuses_it() -> None:
    backend("native")
    given = arguments(native, "qwen3", "fp32")
    embed = packed(native, np.zeros((8, 32), np.float32), "fp32")
    tables = np.zeros((4, 8), np.float32)
    with pytest.raises(ValueError, match="mixture has another hidden size"):
        native.model(
            embed, [native.moe(MoeSpec(**given))], np.ones(32, np.float32), embed, tables, tables, eps=EPS
        )
