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
from deepwell.engine.weights.load import load_weights, resolve_precision
from deepwell.models.formats.checkpoint import Checkpoint, open_checkpoint
from deepwell.models.text.tokenizer import Tokenizer

MAX_ERROR = {"reference": 1e-4, "native": 1e-3}
GOLDEN = sequences.GOLDEN


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return sequences.golden_checkpoint("bert", tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def tiny_models(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    xlm_roberta = sequences.golden_checkpoint("xlm-roberta", tmp_path_factory.mktemp("xlm-roberta"))
    return {"bert": tiny, "xlm-roberta": xlm_roberta}


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


def golden_sequences(name: str = "bert") -> tuple[list[list[int]], np.ndarray]:
    arrays = sequences.golden(name)
    starts = arrays["seq_starts"]
    groups = [arrays["tokens"][a:b].tolist() for a, b in itertools.pairwise(starts)]
    return groups, arrays["hidden"]


@pytest.mark.parametrize("name", ["bert", "xlm-roberta"])
@pytest.mark.parametrize("engine", ["reference", "native"])
def test_hidden_states_are_those_of_transformers(
    engine: str, name: str, tiny_models: dict[str, Checkpoint]
) -> None:
    groups, expected = golden_sequences(name)
    tiny = tiny_models[name]
    model = build_encoder(backend(engine), load_weights(tiny, "fp32"), tiny.config)

    pooled, hidden = run(model, groups)

    assert np.abs(expected).max() > 1
    assert np.abs(hidden - expected).max() < MAX_ERROR[engine]
    means = np.stack([hidden[:40].mean(0), hidden[40], hidden[41:].mean(0)])
    assert np.allclose(pooled, means / np.linalg.norm(means, axis=1, keepdims=True), atol=1e-5)


@pytest.mark.native
@pytest.mark.parametrize("name", ["bert", "xlm-roberta"])
@pytest.mark.parametrize("precision", ["fp32", "int8", "int4-full"])
def test_every_kernel_table_computes_the_reference(
    precision: Precision, name: str, tiny_models: dict[str, Checkpoint], isa: Any
) -> None:
    groups, _ = golden_sequences(name)
    tiny = tiny_models[name]
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


def golden_e5() -> tuple[list[dict[str, Any]], np.ndarray]:
    return json.loads((GOLDEN / "e5.json").read_text()), np.load(GOLDEN / "e5.npz")["vectors"]


def test_unigram_tokens_are_those_of_sentencepiece(e5_path: Path) -> None:
    tokenizer = Tokenizer.load(e5_path)
    for row in golden_e5()[0]:
        ours = [*tokenizer.prefix_ids, *tokenizer.encode(row["text"]), *tokenizer.suffix_ids]
        assert ours == row["tokens"], row["text"]


@pytest.mark.parametrize(
    ("precision", "min_cosine"), [("fp32", 0.999999), ("int4-full", 0.999), ("int8", 0.999)]
)
def test_vectors_of_e5_are_those_of_transformers(
    e5_path: Path, precision: Precision, min_cosine: float
) -> None:
    """The golden vectors are of the same 4-bit weights in float32, so only activations and a second rounding differ."""
    checkpoint = open_checkpoint(e5_path)
    model = build_encoder(backend("native"), load_weights(checkpoint, precision), checkpoint.config)
    rows, expected = golden_e5()

    pooled, _ = run(model, [row["tokens"] for row in rows])

    assert (pooled * expected).sum(axis=1).min() >= min_cosine


def test_e5_is_loaded_without_a_second_rounding(e5_path: Path) -> None:
    checkpoint = open_checkpoint(e5_path)
    precision, _ = resolve_precision("auto", checkpoint)
    weights = load_weights(checkpoint, precision)
    assert precision == "int4-full"
    assert all(report.sqnr_db == float("inf") for report in weights.report.values())


CHINESE = (
    "申请发明或者实用新型专利的，应当提交请求书、说明书及其摘要和权利要求书等文件。",
    "点击“忘记密码”链接，即可重新设置您的登录密码。",
    "北京今天晴，最高气温二十五度，夜间有微风。",
    "高血压患者应当减少食盐的摄入，并定期测量血压。",
    "开往上海的列车七点半从四号站台发车。",
)
ENGLISH = (
    "An application for a patent consists of a request, a description, an abstract and claims.",
    "Follow the link 'Forgot password' to choose a new one.",
    "Beijing will be sunny today, with a high of 25 degrees and a light breeze at night.",
    "People with high blood pressure should eat less salt and measure it regularly.",
    "The train to Shanghai leaves at half past seven from platform four.",
)
QUESTIONS = (  # in the order of the passages
    ("如何申请专利？", "which documents does a patent application need"),
    ("忘记了登录密码怎么办", "how do I reset my password"),
    ("今天天气怎么样", "what is the weather like today"),
    ("血压高的人饮食要注意什么", "diet advice for hypertension"),
    ("去上海的火车几点发车？", "when does the train to Shanghai depart"),
)


def test_e5_ranks_in_chinese_in_english_and_across(e5_path: Path) -> None:
    checkpoint = open_checkpoint(e5_path)
    model = build_encoder(backend("native"), load_weights(checkpoint, "int4-full"), checkpoint.config)
    tokenizer = Tokenizer.load(e5_path)

    def vectors(texts: list[str]) -> np.ndarray:
        ids = [[*tokenizer.prefix_ids, *tokenizer.encode(one), *tokenizer.suffix_ids] for one in texts]
        return run(model, ids)[0]

    for passages in (CHINESE, ENGLISH):
        against = vectors([f"passage: {one}" for one in passages])
        for asked in zip(*QUESTIONS, strict=True):
            scores = vectors([f"query: {one}" for one in asked]) @ against.T
            assert scores.argmax(axis=1).tolist() == [0, 1, 2, 3, 4], (asked, passages)
