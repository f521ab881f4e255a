"""The compiled kernels, on every table this machine can run, against exact integers and the numpy reference."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.engine import sequences
from tests.engine.backends import backend
from tests.needs import instructions

from deepwell.engine.architectures import build_model
from deepwell.engine.backends import native, reference
from deepwell.engine.backends.specs import AttentionSpec
from deepwell.engine.batch import Batch
from deepwell.engine.layouts import GROUP, KVDtype, Precision, Scheme
from deepwell.engine.plan import kv_token_bytes
from deepwell.engine.weights import quantize
from deepwell.engine.weights.load import load_weights
from deepwell.engine.weights.quantize import Quantized
from deepwell.errors import MissingDependency
from deepwell.models.formats.config import ModelConfig

pytestmark = pytest.mark.native

SCHEMES: tuple[Scheme, ...] = get_args(Scheme)
BF16_DOT = (
    "avx512_amx",
    "avx512_bf16",
    "avx512_emulated",
)  # these round to bf16 the activations of bf16 matrices, and what meets pages of bf16 in attention

# Largest difference from the reference, as a fraction of the largest value. Float sums of fp32 differ in order. The quantised
# schemes round alike, but for a rare double rounding in the reference's emulated fused multiply-add, and for the generic
# table, which multiplies and adds in two roundings.
MATMUL_ERROR: dict[Scheme, float] = {"fp32": 2e-6, "bf16": 2e-6, "fp16": 2e-6, "int8": 2e-7, "int4": 2e-7}
UNFUSED_ERROR = 4e-6
ROUNDED_ACTIVATIONS = (
    2.0**-8
)  # half a step of bf16 is 2**-9 of a value: of the sum of all terms without their signs
LAST_BITS = 4e-6  # of the largest logit, where no activation was rounded to another integer
# A last-bit difference can move an activation to the next of its 255 steps; the noise this makes is of the kind that
# quantisation makes anyway, in rare tokens.
STEP_ERROR = 5e-2
MAX_STEPPED_SEQUENCES = 0.3


def packed(run: Any, weights: NDArray[np.float32], scheme: Scheme) -> Any:
    return run.matrix(quantize.pack(weights, scheme), *weights.shape, scheme)


@given(
    tokens=st.integers(1, 33),
    rows=st.integers(1, 100),
    cols=st.integers(1, 300),
    scheme=st.sampled_from(["int8", "int4"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_integer_products_are_bit_exact(
    isa: str, tokens: int, rows: int, cols: int, scheme: Scheme, seed: int
) -> None:
    """All scales are 1 and all sums below 2**24, so that float32 holds every intermediate result exactly."""
    rng = np.random.default_rng(seed)
    group = GROUP[scheme]
    groups = -(-cols // group)
    low, high = (-127, 128) if scheme == "int8" else (0, 16)
    q = rng.integers(low, high, (rows, groups * group)).astype(np.int8 if scheme == "int8" else np.uint8)
    d = np.ones((rows, groups), np.float16)
    m = rng.integers(-8, 9, (rows, groups)).astype(np.float16) if scheme == "int4" else d[:, :0]
    matrix = native.matrix(quantize.layout(Quantized(q, d, m), scheme), rows, cols, scheme)
    x = rng.integers(-127, 128, (tokens, cols))
    x[:, ::group] = 127  # the largest value of each group: its scale is 1

    weights = q[:, :cols].astype(np.int64)
    if scheme == "int4":
        weights += np.repeat(m.astype(np.int64), group, axis=1)[:, :cols]
    assert np.array_equal(native.matmul(x.astype(np.float32), matrix), x @ weights.T)


@pytest.mark.parametrize("tokens", [7, 8, 15, 16, 17, 31, 64, 73, 129])
def test_int8_products_have_the_same_bits_with_any_number_of_rows(isa: str, tokens: int) -> None:
    """Tiles of rows that do not divide them, and rows beyond a work item's 64."""
    rng = np.random.default_rng(tokens)
    matrix = packed(native, rng.standard_normal((70, 200), dtype=np.float32), "int8")
    x = rng.standard_normal((tokens, 200), dtype=np.float32)
    alone = np.concatenate([native.matmul(x[i : i + 1], matrix) for i in range(tokens)])
    assert np.array_equal(native.matmul(x, matrix), alone)


@pytest.mark.needs(instructions("avx512_bf16"))
@given(
    tokens=st.integers(1, 40),
    rows=st.integers(1, 70),
    cols=st.integers(1, 200),
    scheme=st.sampled_from(SCHEMES),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_emulation_computes_what_the_processor_does(
    tokens: int, rows: int, cols: int, scheme: Scheme, seed: int
) -> None:
    """Bit for bit, so that its results on machines without AVX512 are those of machines with it."""
    rng = np.random.default_rng(seed)
    matrix = packed(native, rng.standard_normal((rows, cols), dtype=np.float32), scheme)
    x = rng.standard_normal((tokens, cols), dtype=np.float32)
    before, results = native.isa(), []
    try:
        for table in ("avx512_bf16", "avx512_emulated"):
            native.set_isa(table)
            results.append(native.matmul(x, matrix))
    finally:
        native.set_isa(before)
    assert np.array_equal(*results)


@given(
    tokens=st.integers(1, 33),
    rows=st.integers(1, 100),
    cols=st.integers(1, 300),
    scheme=st.sampled_from(SCHEMES),
    seed=st.integers(0, 2**32 - 1),
)
def test_products_are_those_of_the_reference(
    isa: str, tokens: int, rows: int, cols: int, scheme: Scheme, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal((rows, cols), dtype=np.float32)
    x = rng.standard_normal((tokens, cols), dtype=np.float32)
    expected = reference.matmul(x, packed(reference, weights, scheme))
    error = np.abs(native.matmul(x, packed(native, weights, scheme)) - expected).max()
    tolerance = UNFUSED_ERROR if isa == "generic" else MATMUL_ERROR[scheme]
    summands = (
        np.abs(x) @ np.abs(weights).T
    ).max()  # rounding grows with them, and a sum may be their small rest
    allowed = tolerance * max(1.0, np.abs(expected).max(), summands / 16)
    if scheme == "bf16" and isa in BF16_DOT:
        allowed = ROUNDED_ACTIVATIONS * summands
    assert error <= allowed


@given(
    tokens=st.integers(1, 13),
    rows=st.integers(1, 100),
    cols=st.integers(1, 300),
    scheme=st.sampled_from(["bf16", "fp16"]),
    exponent=st.integers(-20, 10),
    seed=st.integers(0, 2**32 - 1),
)
def test_products_of_16_bit_weights_are_those_of_the_same_weights_in_fp32(
    isa: str, tokens: int, rows: int, cols: int, scheme: Scheme, exponent: int, seed: int
) -> None:
    """Bit for bit: widening is exact and the order of the sums is the same. Subnormal float16 are among the weights."""
    rng = np.random.default_rng(seed)
    half = quantize.pack(np.ldexp(rng.standard_normal((rows, cols), np.float32), exponent), scheme)
    x = rng.standard_normal((tokens, cols), dtype=np.float32)
    computed = native.matmul(x, native.matrix(half, rows, cols, scheme))
    weights = quantize.unpack(half, rows, cols, scheme)
    if scheme == "bf16" and isa in BF16_DOT:
        x = (quantize.round_bf16(x).astype(np.uint32) << 16).view(np.float32)
        expected = np.zeros((tokens, rows), np.float32)
        for start in range(0, cols, 2):  # the odd column of each pair first; its products are exact
            for column in range(min(start + 1, cols - 1), start - 1, -1):
                expected += x[:, column, None] * weights[:, column]
        assert np.array_equal(computed, expected)
    else:
        assert np.array_equal(computed, native.matmul(x, packed(native, weights, "fp32")))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_row_does_not_depend_on_its_companions(isa: str, scheme: Scheme) -> None:
    rng = np.random.default_rng(0)
    matrix = packed(native, rng.standard_normal((97, 200), dtype=np.float32), scheme)
    x = rng.standard_normal((33, 200), dtype=np.float32)
    together = native.matmul(x, matrix)
    for count in (*range(1, 9), *range(15, 21), 32):
        assert np.array_equal(native.matmul(x[:count], matrix), together[:count])
        assert np.array_equal(native.matmul(x[-count:], matrix), together[-count:])


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_extreme_activations(isa: str, scheme: Scheme) -> None:
    """Zeros, subnormal and huge values, and both ends of the integer range."""
    weights = np.random.default_rng(1).standard_normal((40, 128), dtype=np.float32)
    x = np.zeros((5, 128), np.float32)
    x[1, 3], x[2], x[3, :64] = 1e-30, 1e30, -127.0
    x[4] = np.where(np.arange(128) % 2, 127.0, -127.0)
    expected = reference.matmul(x, packed(reference, weights, scheme))
    computed = native.matmul(x, packed(native, weights, scheme))
    assert not computed[0].any()
    assert (np.abs(computed - expected) <= 1e-6 * np.abs(expected).max(axis=1, keepdims=True)).all()


@pytest.mark.parametrize("kv_dtype", get_args(KVDtype))
@pytest.mark.parametrize("precision", get_args(Precision))
@pytest.mark.parametrize("name", ["llama-yarn", "qwen2", "qwen3"])
def test_logits_are_those_of_the_reference(
    isa: str, name: str, precision: Precision, kv_dtype: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    checkpoint = sequences.golden_checkpoint(name, tmp_path_factory.mktemp(name))
    weights = load_weights(checkpoint, precision)
    tokens = sequences.golden(name)["tokens"].reshape(-1, 4)
    models = [(run, build_model(run, weights, checkpoint.config, 64)) for run in (reference, native)]
    differences: list[float] = []
    for sequence in tokens.tolist():
        expected, computed = (
            sequences.logits(model, sequences.new_cache(run, checkpoint.config, 4, kv_dtype), sequence)
            for run, model in models
        )
        differences.append(float(np.abs(computed - expected).max() / np.abs(expected).max()))
    stepped = [difference for difference in differences if difference > LAST_BITS]
    if (precision, kv_dtype) in (("fp32", "fp32"), ("fp16", "fp32")):
        assert not stepped
    rounds = isa in BF16_DOT and "bf16" in (precision, kv_dtype)
    if not rounds:
        assert len(stepped) <= MAX_STEPPED_SEQUENCES * len(differences)
    assert max(differences) < STEP_ERROR


@pytest.fixture(scope="module", params=get_args(Scheme))
def tiny(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, ModelConfig, list[int]]:
    """A native model, its configuration and 40 tokens (beyond two cache blocks)."""
    backend("native")
    checkpoint = sequences.golden_checkpoint("llama-llama3", tmp_path_factory.mktemp("tiny"))
    model = build_model(native, load_weights(checkpoint, request.param), checkpoint.config, 64)
    return model, checkpoint.config, sequences.golden("llama-llama3")["tokens"].tolist()


@pytest.mark.parametrize("kv_dtype", get_args(KVDtype))
def test_logits_do_not_depend_on_chunking(isa: str, tiny: Any, kv_dtype: str, two_threads: None) -> None:
    model, config, tokens = tiny

    def run(chunk: int | None) -> NDArray[np.float32]:
        return sequences.logits(
            model, sequences.new_cache(native, config, len(tokens), kv_dtype), tokens, chunk
        )

    whole = run(None)
    assert all(np.array_equal(run(chunk), whole) for chunk in (1, 7, 16))
    native.set_threads(1)
    assert np.array_equal(run(None), whole) and np.array_equal(run(1), whole)


def test_logits_do_not_depend_on_batch_mates(isa: str, tiny: Any) -> None:
    model, config, tokens = tiny
    lengths = (1, 16, 40, 23)
    tables = np.array([[9, 0, 0], [3, 0, 0], [7, 1, 2], [8, 4, 0]], np.int32)
    cache = native.kv_cache(2, 10, config.num_key_value_heads, config.head_dim, "bf16")
    starts = np.cumsum([0, *lengths], dtype=np.int32)
    parts = [tokens[-length:] for length in lengths]
    batch = Batch(
        np.concatenate(parts).astype(np.int32),
        np.concatenate([np.arange(length) for length in lengths]).astype(np.int32),
        starts,
        tables,
        starts[1:] - 1,
    )
    together = np.empty((4, model.vocab_size), np.float32)
    model.forward(batch, cache, logits=together)
    for row, part in enumerate(parts):
        alone = sequences.logits(model, sequences.new_cache(native, config, 40, "bf16"), part)
        assert np.array_equal(together[row], alone[-1])


LONG = ModelConfig("llama", 40, 32, 32, 1, 2, 1, 32, 1024)
LONG_TOKENS: list[int] = np.random.default_rng(3).integers(0, LONG.vocab_size, 600).tolist()


def long_model(run: Any, scheme: Scheme) -> Any:
    """One attention layer for contexts beyond 256 tokens, where attention runs in pieces."""
    rng = np.random.default_rng(0)
    qkv, o, embed = (
        packed(run, rng.standard_normal(shape, np.float32), scheme)
        for shape in ((4 * LONG.head_dim, 32), (32, 2 * LONG.head_dim), (LONG.vocab_size, 32))
    )
    ones = np.ones(32, np.float32)
    attention = run.attention(
        AttentionSpec(ones, qkv, None, o, num_heads=2, num_kv_heads=1, head_dim=LONG.head_dim, eps=1e-5)
    )
    angles = np.arange(1024, dtype=np.float32)[:, None] * (
        0.5 ** np.arange(LONG.head_dim // 2, dtype=np.float32)
    )
    return run.model(embed, [attention], ones, embed, np.cos(angles), np.sin(angles), eps=1e-5)


def test_long_contexts_merge_softmax_pieces(isa: str) -> None:
    expected, computed = (
        sequences.logits(long_model(run, "fp32"), sequences.new_cache(run, LONG, 600), LONG_TOKENS)
        for run in (reference, native)
    )
    assert np.allclose(computed, expected, atol=1e-3)


@pytest.mark.needs(instructions("avx512_amx"))
@pytest.mark.parametrize("chunk", [None, 3], ids=["many vectors", "few vectors"])
def test_the_emulation_attends_as_the_processor_does(chunk: int | None) -> None:
    """Bit for bit, with tiles and with the vectors that keep their order."""
    before, results = native.isa(), []
    try:
        for table in ("avx512_amx", "avx512_emulated"):
            native.set_isa(table)
            cache = sequences.new_cache(native, LONG, 600, "bf16")
            results.append(sequences.logits(long_model(native, "int8"), cache, LONG_TOKENS[:300], chunk))
    finally:
        native.set_isa(before)
    assert np.array_equal(*results)


@pytest.mark.parametrize("kv_dtype", get_args(KVDtype))
@pytest.mark.parametrize("scheme", SCHEMES)
def test_long_contexts_do_not_depend_on_chunks_mates_or_threads(
    isa: str, scheme: Scheme, kv_dtype: KVDtype, two_threads: None
) -> None:
    """Two sequences of three and two pieces: alone at once, in chunks, and decoding side by side with a prefill."""
    model = long_model(native, scheme)
    prompts = [LONG_TOKENS[:590], LONG_TOKENS[100:400], LONG_TOKENS[200:270]]
    tables = np.arange(111, dtype=np.int32).reshape(3, 37)[::-1].copy()

    def alone(prompt: list[int], chunk: int | None = None) -> NDArray[np.float32]:
        return sequences.logits(model, sequences.new_cache(native, LONG, 590, kv_dtype), prompt, chunk)

    def together(cache: Any, spans: list[tuple[int, int]]) -> list[NDArray[np.float32]]:
        """Logits of rows begin..end of each sequence, all in one step; empty spans take no part."""
        live = [(i, begin, end) for i, (begin, end) in enumerate(spans) if begin < end]
        starts = np.cumsum([0, *(end - begin for _, begin, end in live)], dtype=np.int32)
        out = np.empty((starts[-1], LONG.vocab_size), np.float32)
        batch = Batch(
            np.concatenate([prompts[i][begin:end] for i, begin, end in live]).astype(np.int32),
            np.concatenate([np.arange(begin, end, dtype=np.int32) for _, begin, end in live]),
            starts,
            tables[[i for i, _, _ in live]],
            np.arange(starts[-1], dtype=np.int32),
        )
        model.forward(batch, cache, logits=out)
        return np.split(out, starts[1:-1])

    wholes = [alone(prompt) for prompt in prompts]
    assert all(np.array_equal(alone(prompts[0], chunk), wholes[0]) for chunk in (100, 256))
    for threads in (2, 1):
        native.set_threads(threads)
        cache = native.kv_cache(1, 111, 1, LONG.head_dim, kv_dtype)
        first = together(cache, [(0, 587), (0, 297), (0, 0)])
        decoded = together(cache, [(587, 588), (297, 298), (0, 0)])
        mixed = together(cache, [(588, 589), (298, 299), (0, 70)])
        last = together(cache, [(589, 590), (299, 300), (0, 0)])
        for i, whole in enumerate(wholes[:2]):
            assert np.array_equal(np.concatenate([first[i], decoded[i], mixed[i], last[i]]), whole)
        assert np.array_equal(mixed[2], wholes[2])


@pytest.mark.parametrize("kv_dtype", get_args(KVDtype))
@pytest.mark.parametrize(("group", "head_dim"), [(1, 32), (7, 16), (13, 16), (13, 64), (96, 32)])
def test_groups_of_any_size(isa: str, group: int, head_dim: int, kv_dtype: KVDtype) -> None:
    """Groups are cut into tiles of even size; a step of one row gives the bits of a chunk."""
    rng = np.random.default_rng(group)
    weights = rng.standard_normal(((group + 2) * head_dim, 32), np.float32)
    o, embed = (rng.standard_normal(shape, np.float32) for shape in ((32, group * head_dim), (40, 32)))
    ones, head_norm = np.ones(32, np.float32), 1 + rng.standard_normal(head_dim, np.float32) / 4
    angles = np.arange(64, dtype=np.float32)[:, None] * (0.5 ** np.arange(head_dim // 2, dtype=np.float32))

    def logits(run: Any, chunk: int) -> NDArray[np.float32]:
        attention = run.attention(
            AttentionSpec(
                ones,
                packed(run, weights, "fp32"),
                None,
                packed(run, o, "fp32"),
                num_heads=group,
                num_kv_heads=1,
                head_dim=head_dim,
                eps=1e-5,
                q_norm=head_norm,
                k_norm=head_norm[::-1].copy(),
            )
        )
        both = packed(run, embed, "fp32")
        model = run.model(both, [attention], ones, both, np.cos(angles), np.sin(angles), eps=1e-5)
        return sequences.logits(model, run.kv_cache(1, 5, 1, head_dim, kv_dtype), LONG_TOKENS[:50], chunk)

    whole = logits(native, 50)
    assert np.array_equal(logits(native, 1), whole) and np.array_equal(logits(native, 9), whole)
    # A rounding of the cache may fall to the other side where its input differs in the last bit.
    atol = {"fp32": 1e-4, "bf16": 0.1, "int8": 0.1}[kv_dtype]
    assert np.allclose(whole, logits(reference, 50), atol=atol)


def test_pages_have_the_bytes_of_the_plan(isa: str) -> None:
    for kv_dtype in get_args(KVDtype):
        sizes = {
            run.kv_cache(LONG.num_hidden_layers, 3, LONG.num_key_value_heads, LONG.head_dim, kv_dtype).nbytes
            for run in (native, reference)
        }
        assert sizes == {3 * 16 * kv_token_bytes(LONG, kv_dtype)}


@pytest.mark.parametrize("kv_dtype", get_args(KVDtype))
def test_a_few_rows_have_the_bits_of_one_row_at_a_time(
    isa: str, kv_dtype: KVDtype, two_threads: None
) -> None:
    """As in speculation: 2 to 9 rows of one and of several sequences, across the ends of blocks and pieces."""
    model = long_model(native, "int4")
    prompts = [LONG_TOKENS[:517], LONG_TOKENS[100:380], LONG_TOKENS[200:459], LONG_TOKENS[7:19]]
    ends = [len(prompt) for prompt in prompts]
    tables = np.arange(4 * 34, dtype=np.int32).reshape(4, 34)[::-1].copy()
    out = np.empty((40, LONG.vocab_size), np.float32)

    def rows(cache: Any, spans: dict[int, tuple[int, int]]) -> list[NDArray[np.float32]]:
        starts = np.cumsum([0, *(end - begin for begin, end in spans.values())], dtype=np.int32)
        batch = Batch(
            np.concatenate([prompts[i][begin:end] for i, (begin, end) in spans.items()]).astype(np.int32),
            np.concatenate([np.arange(begin, end, dtype=np.int32) for begin, end in spans.values()]),
            starts,
            tables[list(spans)],
            np.arange(starts[-1], dtype=np.int32),
        )
        model.forward(batch, cache, logits=out[: starts[-1]])
        return [part.copy() for part in np.split(out[: starts[-1]], starts[1:-1])]

    def filled() -> Any:
        cache = native.kv_cache(1, 136, 1, LONG.head_dim, kv_dtype)
        for i, end in enumerate(ends):
            for begin in range(0, end - 10, 40):
                rows(cache, {i: (begin, min(begin + 40, end - 10))})
        return cache

    cache = filled()
    singly = [
        np.concatenate([rows(cache, {i: (at, at + 1)})[0] for at in range(end - 10, end)])
        for i, end in enumerate(ends)
    ]
    cache = filled()
    for threads in (2, 1):
        native.set_threads(threads)
        for count in range(2, 10):
            for i, end in enumerate(ends):
                together = rows(cache, {i: (end - 10, end - 10 + count)})[0]
                assert np.array_equal(together, singly[i][:count])
            spans = {i: (end - 10, end - 10 + max(1, count - i)) for i, end in enumerate(ends)}
            for i, part in enumerate(rows(cache, spans)):
                assert np.array_equal(part, singly[i][: len(part)])


def test_outputs_agree_with_each_other(isa: str, tiny: Any) -> None:
    model, config, tokens = tiny
    rows, vocab = [0, 7, 39], model.vocab_size
    batch = sequences.step(tokens, 0, sequences.table_for(40), rows)
    logits, hidden = np.empty((3, vocab), np.float32), np.empty((3, model.hidden_size), np.float32)
    argmax, logprobs = np.empty(3, np.int32), np.empty(3, np.float32)
    targets = np.array([0, vocab - 1, 7], np.int32)
    model.forward(
        batch,
        sequences.new_cache(native, config, 40),
        logits=logits,
        argmax=argmax,
        hidden=hidden,
        targets=targets,
        target_logprobs=logprobs,
    )
    whole = sequences.logits(model, sequences.new_cache(native, config, 40), tokens)
    assert np.array_equal(logits, whole[rows])
    assert np.array_equal(argmax, logits.argmax(axis=1))
    exact = logits.astype(np.float64)
    top = exact.max(axis=1, keepdims=True)
    expected = (exact - top)[range(3), targets] - np.log(np.exp(exact - top).sum(axis=1))
    assert np.allclose(logprobs, expected, atol=1e-4)
    for name, shape in (("hidden", hidden), ("argmax", argmax)):  # alone, the head may take another path
        alone = np.empty_like(shape)
        model.forward(batch, sequences.new_cache(native, config, 40), **{name: alone})
        assert np.array_equal(alone, shape)


def test_a_profile_counts_steps_by_kind_and_changes_no_result(isa: str, tiny: Any) -> None:
    model, config, tokens = tiny
    expected = sequences.logits(model, sequences.new_cache(native, config, 40), tokens)
    native.switch_profile(True)
    cache = sequences.new_cache(native, config, 40)
    profiled = [sequences.logits(model, cache, tokens[:38])]
    batches = [sequences.step(tokens[at : at + 1], at, sequences.table_for(40), [0]) for at in (38, 39)]
    for batch in batches:
        profiled.append(np.empty((1, model.vocab_size), np.float32))
        model.forward(batch, cache, logits=profiled[-1])
    decode, other = native.switch_profile(False)
    assert np.array_equal(np.concatenate(profiled), expected)
    assert (decode.steps, other.steps) == (2, 1)
    assert tuple(decode.seconds) == native.PHASES
    assert all(spent > 0 for spent in decode.seconds.values())
    assert other.seconds["between"] == 0
    model.forward(batches[-1], cache, logits=profiled[-1])
    assert [kind.steps for kind in native.switch_profile(False)] == [0, 0]


def test_a_profile_of_decoding_counts_the_steps_with_most_sequences(isa: str, tiny: Any) -> None:
    model, config, tokens = tiny
    native.switch_profile(True)
    for prompts, count in ((1, 1), (3, 2), (2, 1)):  # each group's first step reads prompts of two tokens
        group = [tokens[:2]] * prompts
        sequences.greedy(model, sequences.new_cache(native, config, 40 * prompts), group, count + 1)
    decode, other = native.switch_profile(False)
    assert (decode.steps, other.steps) == (2, 3)


def test_argmax_takes_the_lowest_id_of_a_tie(isa: str) -> None:
    ones = np.ones(32, np.float32)
    weights = np.random.default_rng(0).standard_normal((96, 32), dtype=np.float32)
    attention = native.attention(
        AttentionSpec(
            ones,
            packed(native, weights[:64], "fp32"),
            None,
            packed(native, weights[64:], "fp32"),
            num_heads=2,
            num_kv_heads=1,
            head_dim=16,
            eps=1e-5,
        )
    )
    embed, head = packed(native, np.ones((500, 32), np.float32), "int8"), np.zeros((500, 32), np.float32)
    tables = np.ones((4, 8), np.float32), np.zeros((4, 8), np.float32)
    best = np.full(1, -1, np.int32)
    batch = sequences.step([3], 0, np.zeros((1, 1), np.int32), [0])
    for value, expected in ((0.0, 0), (1.0, 77)):
        hidden = np.empty((1, 32), np.float32)
        model = native.model(embed, [attention], ones, embed, *tables, eps=1e-5)
        model.forward(batch, native.kv_cache(1, 1, 1, 16, "fp32"), hidden=hidden)
        head[[77, 78, 499]] = value * np.sign(hidden)  # equal rows, all of positive logit
        model = native.model(embed, [attention], ones, packed(native, head, "int8"), *tables, eps=1e-5)
        model.forward(batch, native.kv_cache(1, 1, 1, 16, "fp32"), argmax=best)
        assert best[0] == expected


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"tokens": np.array([150], np.int32)}, id="token outside the vocabulary"),
        pytest.param({"tokens": np.array([-1], np.int32)}, id="negative token"),
        pytest.param({"positions": np.array([64], np.int32)}, id="position beyond the tables"),
        pytest.param({"positions": np.array([16], np.int32)}, id="block table too short"),
        pytest.param({"block_tables": np.array([[2]], np.int32)}, id="block outside the cache"),
        pytest.param({"output_rows": np.array([1], np.int32)}, id="output row outside the batch"),
        pytest.param({"seq_starts": np.array([0, 2], np.int32)}, id="rows that are not there"),
    ],
)
def test_a_batch_that_would_leave_its_arrays_is_refused(tiny: Any, change: dict[str, Any]) -> None:
    model, config, _ = tiny
    arrays: dict[str, Any] = {
        "tokens": np.array([1], np.int32),
        "positions": np.array([0], np.int32),
        "seq_starts": np.array([0, 1], np.int32),
        "block_tables": np.array([[1]], np.int32),
        "output_rows": np.array([0], np.int32),
    }
    cache = native.kv_cache(2, 2, config.num_key_value_heads, config.head_dim, "fp32")
    model.forward(Batch(**arrays), cache)
    with pytest.raises(ValueError, match="forward"):
        model.forward(Batch(**arrays | change), cache)


def test_shapes_are_checked_at_construction() -> None:
    backend("native")
    with pytest.raises(ValueError, match="bytes"):
        native.matrix(np.zeros(2111, np.uint8), 32, 64, "int8")
    with pytest.raises(ValueError, match="width"):
        native.matmul(np.zeros((1, 65), np.float32), native.matrix(np.zeros(2112, np.uint8), 32, 64, "int8"))


def test_the_environment_chooses_the_kernel_table(monkeypatch: pytest.MonkeyPatch) -> None:
    backend("native")
    before = native.isa()
    monkeypatch.setenv("DEEPWELL_ISA", "generic")
    try:
        assert native.select_backend().name == "native"
        assert native.isa() == "generic"
    finally:
        native.set_isa(before)
    monkeypatch.setenv("DEEPWELL_ISA", "avx9000")
    with pytest.raises(MissingDependency, match="generic"):
        native.select_backend()


def test_without_the_extension_the_fallback_is_loud(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(native, "_native", None)
    assert native.select_backend("auto").name == "reference"
    assert "make" in caplog.text and "g++" in caplog.text
    with pytest.raises(MissingDependency, match="g\\+\\+"):
        native.select_backend("native")
    assert native.select_backend("reference") is reference
