"""Latent attention of the compiled kernels: against the numpy reference, and bitwise against itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.engine.backends import backend
from tests.engine.latent_models import (
    VOCAB,
    Shape,
    Span,
    Weights,
    logits,
    random_tokens,
    step,
    table_for,
)
from tests.needs import instructions

from deepwell.engine.backends import native, reference
from deepwell.engine.backends.specs import LatentAttentionSpec
from deepwell.engine.layouts import KVDtype, Scheme
from deepwell.engine.weights import quantize

pytestmark = pytest.mark.native


SHAPES = {
    "one head": Shape(heads=1, nope=2, rope=2, value=3, rank=4, hidden=8),
    "ragged": Shape(heads=3, nope=12, rope=8, value=20, rank=40, q_rank=24),
    "lite": Shape(heads=16, nope=32, rope=16, value=32, rank=64),
    "ragged lanes": Shape(heads=20, nope=24, rope=8, value=40, rank=48, hidden=64),
    "halves of tiles": Shape(heads=5, nope=8, rope=40, value=8, rank=96, layers=1),
    "many heads": Shape(heads=128, nope=16, rope=8, value=16, rank=32, q_rank=48, layers=1),
}
NARROW = ["ragged", "lite", "halves of tiles"]
MAX_ERROR = 1e-3  # of fp32 logits
# bf16 and int8 pages are rounded alike by both backends, so that what is left are the queries and softmax weights that
# integer products round to 15 bits, and latents that a last-bit difference rounds the other way.
MAX_PAGE_ERROR = 2e-2


def error(shape: Shape, count: int, prompt: int, chunks: list[int], dtype: KVDtype = "fp32") -> float:
    weights, tokens = Weights(shape), random_tokens(count)
    both = [
        logits(weights.on(run), weights.cache(run, count, dtype), tokens, prompt, chunks)
        for run in (reference, native)
    ]
    return float(np.abs(both[0] - both[1]).max())


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(
    ("count", "prompt", "chunks"),
    [
        (1, 0, []),
        (21, 21, []),
        (38, 20, [7, 20]),  # the second step holds rows of both kinds
    ],
)
def test_logits_are_those_of_the_reference(
    isa: str, shape: Shape, count: int, prompt: int, chunks: list[int]
) -> None:
    assert error(shape, count, prompt, chunks) < MAX_ERROR


@pytest.mark.parametrize("prompt", [0, 300, 600])
def test_several_pieces_are_merged_as_one_softmax(isa: str, prompt: int) -> None:
    """Pieces hold 256 tokens: 600 make three, the last one in part."""
    assert error(SHAPES["ragged"], 600, prompt, [250, 290]) < MAX_ERROR


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
@pytest.mark.parametrize("shape", [SHAPES[name] for name in NARROW], ids=NARROW)
def test_narrow_pages_are_those_of_the_reference(isa: str, shape: Shape, dtype: KVDtype) -> None:
    assert error(shape, 70, 33, [20, 20], dtype) < MAX_PAGE_ERROR


def test_the_paths_agree(isa: str) -> None:
    """Absorption is algebra: a row says the same as a prompt's and as a generated one."""
    weights, tokens = Weights(SHAPES["lite"]), random_tokens(60)
    model = weights.on(native)
    expanded, absorbed = (
        logits(model, weights.cache(native, 60), tokens, prompt, [30]) for prompt in (60, 0)
    )
    assert np.abs(expanded - absorbed).max() < MAX_ERROR


@pytest.mark.parametrize(("dtype", "scheme"), [("fp32", "fp32"), ("bf16", "int8"), ("int8", "int8")])
def test_bits_do_not_depend_on_chunks(isa: str, dtype: KVDtype, scheme: Scheme) -> None:
    """Prompt and generated rows on both sides of the end of a piece."""
    weights, tokens, prompt = Weights(replace(SHAPES["ragged lanes"], layers=1)), random_tokens(272), 259
    model = weights.on(native, scheme)
    whole, small, single = (
        logits(model, weights.cache(native, 272, dtype), tokens, prompt, chunks)
        for chunks in ([], [3, 100, 17, 130, 12], [252, *[1] * 20])
    )
    assert np.array_equal(whole, small)
    assert np.array_equal(whole, single)


@pytest.mark.needs(instructions("avx512_amx"))
@pytest.mark.parametrize("dtype", ["bf16", "int8"])
@pytest.mark.parametrize("shape", [SHAPES[name] for name in NARROW], ids=NARROW)
def test_the_emulation_attends_as_the_processor_does(shape: Shape, dtype: KVDtype) -> None:
    weights, tokens, before, results = Weights(shape), random_tokens(70), native.isa(), []
    try:
        for table in ("avx512_amx", "avx512_emulated"):
            native.set_isa(table)
            cache = weights.cache(native, 70, dtype)
            results.append(logits(weights.on(native, "int8"), cache, tokens, 33, [20, 20]))
    finally:
        native.set_isa(before)
    assert np.array_equal(*results)


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "int8"])
def test_bits_do_not_depend_on_threads_and_mates(isa: str, two_threads: None, dtype: KVDtype) -> None:
    """Alone on one thread; on two; beside sequences in prefill and decode, so many that pieces are not split."""
    weights, count, prompt = Weights(replace(SHAPES["lite"], layers=1)), 276, 271
    tokens, model = random_tokens(count), weights.on(native, "int8")
    native.set_threads(1)
    alone = logits(model, weights.cache(native, count, dtype), tokens, prompt, [prompt])
    native.set_threads(2)
    cache = weights.cache(native, 20 * count, dtype)
    blocks = len(table_for(count))
    mates = [(random_tokens(count, seed), 5 + 20 * seed) for seed in range(1, 14)]
    for at in range(prompt, count):
        spans = [Span(tokens[at : at + 1], at, table_for(count), prompt)]
        if at == prompt:
            spans = [Span(tokens[: at + 1], 0, table_for(count), prompt)]
        for index, (others, length) in enumerate(mates):
            table = table_for(count, (index + 1) * blocks)
            first = 0 if at == prompt else length + at - prompt
            end = length + at - prompt + 1
            spans.insert(index % 2, Span(others[first:end], first, table, length if index % 3 else 0))
        mine = next(i for i, span in enumerate(spans) if np.array_equal(span.table, table_for(count)))
        rows = sum(len(span.tokens) for span in spans)
        out = np.empty((rows, VOCAB), np.float32)
        model.forward(step(spans), cache, logits=out)
        start = sum(len(span.tokens) for span in spans[:mine])
        expected = alone[: at + 1] if at == prompt else alone[at : at + 1]
        assert np.array_equal(out[start : start + len(expected)], expected)


SPARSE = replace(SHAPES["ragged"], top_k=20)


@pytest.mark.parametrize("shape", [SPARSE, replace(SPARSE, heads=20, index_heads=40)], ids=["small", "lanes"])
@pytest.mark.parametrize(("count", "prompt", "chunks"), [(30, 30, [9, 15]), (30, 12, [9, 15]), (60, 0, [])])
def test_sparse_attention_is_that_of_the_reference(
    isa: str, shape: Shape, count: int, prompt: int, chunks: list[int]
) -> None:
    """Rows up to position 19 see everything, later ones 20 tokens, in prompts and after them."""
    assert error(shape, count, prompt, chunks) < MAX_ERROR


def test_sparse_attention_chooses_among_several_pieces(isa: str) -> None:
    assert error(replace(SPARSE, top_k=270), 600, 580, [300, 270]) < MAX_ERROR


@pytest.mark.parametrize("top_k", [64, 65, 1000])
def test_an_indexer_that_leaves_nothing_out_changes_no_bit(isa: str, top_k: int) -> None:
    tokens, sparse = random_tokens(64), Weights(replace(SPARSE, top_k=top_k))
    chosen = logits(sparse.on(native), sparse.cache(native, 64), tokens, 40, [40])
    dense = Weights(SPARSE)
    dense.shape = replace(SPARSE, top_k=0)
    assert np.array_equal(logits(dense.on(native), dense.cache(native, 64), tokens, 40, [40]), chosen)


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "int8"])
def test_bits_of_sparse_attention_do_not_depend_on_chunks(isa: str, dtype: KVDtype) -> None:
    weights, tokens, prompt = Weights(SPARSE), random_tokens(80), 60
    model = weights.on(native, "int8")
    whole, parts = (
        logits(model, weights.cache(native, 80, dtype), tokens, prompt, chunks)
        for chunks in ([], [3, 30, 17, *[1] * 20])
    )
    assert np.array_equal(whole, parts)


def test_equal_index_scores_take_the_earlier_token(isa: str) -> None:
    """Weights of zero make every score zero: the first `top_k` tokens are taken, by both backends."""
    weights, tokens = Weights(SPARSE), random_tokens(50)
    for layer in weights.layers:
        layer["index_weights"] = np.zeros_like(layer["index_weights"])
    both = [logits(weights.on(run), weights.cache(run, 50), tokens, 40, [25]) for run in (reference, native)]
    assert np.abs(both[0] - both[1]).max() < MAX_ERROR


def test_rows_nobody_reads_are_left_out(isa: str) -> None:
    """The last layer computes rows whose logits are wanted alone; their bits stay."""
    weights, tokens = Weights(SHAPES["ragged"]), random_tokens(40)
    model = weights.on(native)
    whole = logits(model, weights.cache(native, 40), tokens, 30)
    out = np.empty((2, VOCAB), np.float32)
    batch = step([Span(tokens, 0, table_for(40), 30)], [11, 35])
    model.forward(batch, weights.cache(native, 40), logits=out)
    assert np.array_equal(out, whole[[11, 35]])


def test_a_cache_costs_what_its_dtype_says() -> None:
    """DeepSeek's own dimensions are not padded: bytes a token are those of the latent, k_pe and a scale."""
    run = backend("native")
    for dtype, token_bytes in (("fp32", 4 * 576), ("bf16", 2 * 576), ("int8", 512 + 2 * 64 + 4)):
        assert run.latent_cache(3, 5, 512, 64, dtype).nbytes == 3 * 5 * 16 * token_bytes


def arguments(**changes: Any) -> dict[str, Any]:
    """What `native.latent_attention` takes for a small layer, some of it changed."""

    def matrix(rows: int, cols: int) -> Any:
        return native.matrix(quantize.pack(np.zeros((rows, cols), np.float32), "fp32"), rows, cols, "fp32")

    given = {
        "norm": np.ones(16, np.float32),
        "a": matrix(8 + 12 + 4, 16),
        "q_norm": np.ones(8, np.float32),
        "q_b": matrix(2 * (6 + 4), 8),
        "kv_norm": np.ones(12, np.float32),
        "k_up": matrix(64, 12),
        "k_absorb": matrix(64, 6),
        "v_up": matrix(64, 12),
        "o": matrix(16, 2 * 5),
        "num_heads": 2,
        "qk_nope_head_dim": 6,
        "qk_rope_head_dim": 4,
        "v_head_dim": 5,
        "kv_lora_rank": 12,
        "scale": 0.3,
        "eps": 1e-6,
    }
    named = {name: matrix(*value) if isinstance(value, tuple) else value for name, value in changes.items()}
    return given | named


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm": np.ones(15, np.float32)}, "norm"),
        ({"kv_norm": np.ones(11, np.float32)}, "kv_norm"),
        ({"q_norm": None}, "come together"),
        ({"q_b": None}, "come together"),
        ({"q_norm": None, "q_b": None}, "a rows"),
        ({"q_norm": np.ones(9, np.float32)}, "q_norm"),
        ({"q_b": (19, 8)}, "q_b rows"),
        ({"a": (23, 16)}, "a rows"),
        ({"k_up": (32, 12)}, "k_up"),
        ({"k_up": (64, 11)}, "k_up"),
        ({"k_absorb": (63, 6)}, "k_absorb"),
        ({"v_up": (96, 12)}, "v_up"),
        ({"o": (16, 11)}, "o has"),
        ({"num_heads": 0}, "num_heads"),
        ({"num_heads": -2}, "num_heads"),
        ({"num_heads": 2**31 - 1}, "num_heads"),
        ({"qk_rope_head_dim": 3}, "qk_rope_head_dim"),
        ({"qk_nope_head_dim": 10**6}, "qk_nope_head_dim"),
        ({"kv_lora_rank": 0}, "kv_lora_rank"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    run = backend("native")
    run.latent_attention(LatentAttentionSpec(**arguments()))
    with pytest.raises(ValueError, match=message):
        run.latent_attention(LatentAttentionSpec(**arguments(**changes)))


def test_indexers_that_do_not_fit_are_refused() -> None:
    run = backend("native")
    weights = Weights(SPARSE)
    weights.on(run)
    for key, value in (
        ("index_q", np.zeros((7, 24), np.float32)),
        ("index_q", np.zeros((60, 23), np.float32)),
        ("index_k", np.zeros((11, 48), np.float32)),
        ("index_k", np.zeros((12, 47), np.float32)),
        ("index_norm", np.zeros(11, np.float32)),
        ("index_shift", np.zeros(13, np.float32)),
        ("index_weights", np.zeros((5, 47), np.float32)),
    ):
        broken = Weights(SPARSE)
        broken.layers[0][key] = value
        with pytest.raises(ValueError, match="indexer"):
            broken.on(run)
    for shape in (replace(SPARSE, top_k=-1), replace(SPARSE, index_dim=4)):
        with pytest.raises(ValueError, match="indexer"):
            Weights(shape).on(run)


def test_steps_that_do_not_fit_are_refused() -> None:
    run = backend("native")
    weights, tokens = Weights(SHAPES["ragged"]), random_tokens(4)
    model, out = weights.on(run), np.empty((4, VOCAB), np.float32)
    batch = step([Span(tokens, 0, table_for(4), 4)])
    for cache in (
        run.latent_cache(2, 2, 24, 8, "fp32"),
        run.latent_cache(1, 2, 40, 8, "fp32"),
        run.kv_cache(2, 2, 1, 8, "fp32"),
    ):
        with pytest.raises(ValueError, match="another model"):
            model.forward(batch, cache, logits=out)
    with pytest.raises(ValueError, match="prompt length"):
        model.forward(replace(batch, prompt_lengths=np.zeros(2, np.int32)), weights.cache(run, 4), logits=out)


def test_caches_of_impossible_shape_are_refused() -> None:
    run = backend("native")
    for shape in (
        (0, 1, 8, 2),
        (1, 0, 8, 2),
        (1, 1, 0, 2),
        (1, 1, 8, 0),
        (1, 1, 10**6, 2),
        (1, 1, 8, 2000),
        (-1, 1, 8, 2),
    ):
        with pytest.raises(ValueError, match="latent_cache"):
            run.latent_cache(*shape, "fp32")
    with pytest.raises(ValueError, match="dtype"):
        run.latent_cache(1, 1, 8, 2, "int4")
