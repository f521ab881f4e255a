"""The encoder: transformers' hidden states, the reference's bits within tolerance, and nothing of the company."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine import sequences
from tests.engine.backends import backend
from tests.parallel import every_processor

from deepwell.engine.architectures import build_encoder
from deepwell.engine.backends import native
from deepwell.engine.backends.encoder_reference import gelu, layer_norm
from deepwell.engine.layouts import Precision
from deepwell.engine.weights.load import load_weights
from deepwell.models.formats.checkpoint import Checkpoint, open_checkpoint
from deepwell.models.text.tokenizer import Tokenizer

MAX_ERROR = {"reference": 1e-4, "native": 1e-3}
GOLDEN = sequences.GOLDEN


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return sequences.golden_checkpoint("bert", tmp_path_factory.mktemp("bert"))


@pytest.fixture
def isa():
    """Sets a kernel table, and the best one again afterwards."""
    yield native.set_isa
    native.set_isa(native.available_isas()[0])


def run(model: Any, groups: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Pooled vectors and hidden states of some sequences in one step."""
    starts = np.cumsum([0, *map(len, groups)], dtype=np.int32)
    pooled = np.empty((len(groups), model.hidden_size), np.float32)
    hidden = np.empty((starts[-1], model.hidden_size), np.float32)
    model.forward(np.concatenate(groups).astype(np.int32), starts, pooled=pooled, hidden=hidden)
    return pooled, hidden


def golden_sequences() -> tuple[list[list[int]], np.ndarray]:
    arrays = sequences.golden("bert")
    starts = arrays["seq_starts"]
    groups = [arrays["tokens"][a:b].tolist() for a, b in itertools.pairwise(starts)]
    return groups, arrays["hidden"]


@pytest.mark.parametrize("engine", ["reference", "native"])
def test_hidden_states_are_those_of_transformers(engine: str, tiny: Checkpoint) -> None:
    groups, expected = golden_sequences()
    model = build_encoder(backend(engine), load_weights(tiny, "fp32"), tiny.config)

    pooled, hidden = run(model, groups)

    assert np.abs(expected).max() > 1
    assert np.abs(hidden - expected).max() < MAX_ERROR[engine]
    means = np.stack([hidden[:40].mean(0), hidden[40], hidden[41:].mean(0)])
    assert np.allclose(pooled, means / np.linalg.norm(means, axis=1, keepdims=True), atol=1e-5)


@pytest.mark.native
@pytest.mark.parametrize("precision", ["fp32", "int8", "int4-full"])
def test_every_kernel_table_computes_the_reference(precision: Precision, tiny: Checkpoint, isa: Any) -> None:
    groups, _ = golden_sequences()
    weights = load_weights(tiny, precision)
    expected, _ = run(build_encoder(backend("reference"), weights, tiny.config), groups)
    compiled = build_encoder(backend("native"), weights, tiny.config)
    for table in native.available_isas():
        isa(table)
        pooled, _ = run(compiled, groups)
        # A value on the edge between two integers may fall on the other side: a rounding step, not an error.
        least = 1 - 1e-6 if precision == "fp32" else 0.999
        assert (pooled * expected).sum(axis=1).min() > least, table


@pytest.mark.native
@pytest.mark.parametrize("precision", ["fp32", "int8"])
@settings(max_examples=15)
@given(
    lengths=st.lists(st.integers(1, 48), min_size=2, max_size=24),
    threads=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_a_vector_has_the_same_bits_in_any_company(
    precision: Precision, tiny: Checkpoint, lengths: list[int], threads: int, seed: int
) -> None:
    """Few sequences are shared among the threads, many are dealt out: both must give what each gives alone."""
    rng = np.random.default_rng(seed)
    groups = [rng.integers(0, 200, length).tolist() for length in lengths]
    model = build_encoder(backend("native"), load_weights(tiny, precision), tiny.config)
    before = native.threads()
    try:
        with every_processor():
            native.set_threads(threads)
            together, _ = run(model, groups)
        native.set_threads(1)
        alone = np.concatenate([run(model, [group])[0] for group in groups])
    finally:
        native.set_threads(before)
    assert together.tobytes() == alone.tobytes()


@pytest.mark.native
@pytest.mark.parametrize(
    ("tokens", "starts"),
    [
        ([1, 2], [0, 1]),
        ([1, 2], [0, 0, 2]),
        ([1, 2], [0, 2, 1]),
        ([1, 200], [0, 2]),
        ([-1], [0, 1]),
        ([1] * 49, [0, 49]),
        ([1, 2], [1, 2]),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(tiny: Checkpoint, tokens: list[int], starts: list[int]) -> None:
    model = build_encoder(backend("native"), load_weights(tiny, "int8"), tiny.config)
    with pytest.raises(ValueError, match="encoder"):
        model.forward(np.array(tokens, np.int32), np.array(starts, np.int32))


def test_the_first_token_can_be_the_embedding(tiny: Checkpoint) -> None:
    from dataclasses import replace

    config = replace(tiny.config, pooling="cls")
    for name in ("reference", "native"):
        pooled, hidden = run(
            build_encoder(backend(name), load_weights(tiny, "fp32"), config), [[3, 4, 5], [6]]
        )
        first = hidden[[0, 3]]
        assert np.allclose(pooled, first / np.linalg.norm(first, axis=1, keepdims=True), atol=1e-6)


def test_gelu_and_layer_norm_by_hand() -> None:
    x = np.array([[-20.0, -1.0, 0.0, 1.0, 20.0]], np.float32)
    assert np.allclose(gelu(x), [[0.0, -0.15865526, 0.0, 0.8413447, 20.0]], atol=1e-6)
    ones, zeros = np.ones(2, np.float32), np.zeros(2, np.float32)
    assert np.allclose(layer_norm(np.array([[1.0, 3.0]], np.float32), ones, zeros, 0.0), [[-1, 1]])


def test_tokens_are_those_of_transformers(minilm_path: Path) -> None:
    tokenizer = Tokenizer.load(minilm_path)
    for row in json.loads((GOLDEN / "minilm.json").read_text()):
        ours = [*tokenizer.prefix_ids, *tokenizer.encode(row["text"]), *tokenizer.suffix_ids]
        assert ours == row["tokens"], row["text"]


@pytest.mark.parametrize(("precision", "min_cosine"), [("fp32", 0.999999), ("int8", 0.995)])
def test_vectors_of_minilm_are_those_of_transformers(
    minilm_path: Path, precision: Precision, min_cosine: float
) -> None:
    checkpoint = open_checkpoint(minilm_path)
    model = build_encoder(backend("native"), load_weights(checkpoint, precision), checkpoint.config)
    rows = json.loads((GOLDEN / "minilm.json").read_text())
    expected = np.load(GOLDEN / "minilm.npz")["vectors"]

    pooled, _ = run(model, [row["tokens"] for row in rows])

    assert (pooled * expected).sum(axis=1).min() >= min_cosine
