"""The embedder and the writer that models of this process are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from deepwell import AsyncLLM
from deepwell.errors import ContextLengthExceeded, InvalidRequest
from deepwell.knowledge.models import LLMEmbedder, LLMReranker, LLMWriter

CHAT = [{"role": "user", "content": "Is Paris the capital of France? Answer yes or no."}]


@pytest.fixture
async def e5(e5_path: Path) -> AsyncIterator[AsyncLLM]:
    async with AsyncLLM(e5_path) as opened:
        yield opened


@pytest.fixture
async def chat(smollm2_path: Path) -> AsyncIterator[AsyncLLM]:
    async with AsyncLLM(smollm2_path, context=512) as opened:
        yield opened


async def test_an_embedder_puts_its_prompts_in_front(e5: AsyncLLM) -> None:
    embedder = LLMEmbedder(e5)
    texts = ["Margins are set under Format - Page.", "页边距在“格式 - 页面”中设置。"]
    vectors = await embedder.embed(texts, "passage")
    assert vectors.shape == (2, embedder.dimensions)
    assert vectors.dtype == np.float32
    assert np.allclose(vectors, await e5.embed(texts, input_type="passage"), atol=1e-6)
    queries = await embedder.embed(texts, "query")
    assert np.allclose(queries, await e5.embed(texts, input_type="query"), atol=1e-6)
    assert not np.allclose(vectors, queries, atol=1e-3)
    plain = await embedder.embed([f"query: {text}" for text in texts], "plain")
    assert np.allclose(plain, queries, atol=1e-6) and np.allclose(
        plain, await e5.embed([f"query: {t}" for t in texts])
    )
    assert (await embedder.embed([], "query")).shape == (0, embedder.dimensions)


async def test_a_long_passage_is_the_mean_of_its_windows(e5: AsyncLLM) -> None:
    embedder = LLMEmbedder(e5)
    # Two windows of the same tokens have the vector of one of them.
    window = "word " * embedder.max_tokens
    assert embedder.count([window, window * 2]) == [embedder.max_tokens, 2 * embedder.max_tokens]
    once, many = await embedder.embed([window, window * 2], "passage")
    assert np.linalg.norm(many) == pytest.approx(1, abs=1e-5)
    assert float(once @ many) > 0.999
    left, right = "apples and pears. " * 120, "tax law of the city. " * 120
    parts = await embedder.embed([left, right, left + right], "passage")
    assert min(float(parts[2] @ parts[0]), float(parts[2] @ parts[1])) > float(parts[0] @ parts[1])


async def test_the_hash_is_of_the_model(e5: AsyncLLM, minilm_path: Path) -> None:
    assert LLMEmbedder(e5).hash == LLMEmbedder(e5).hash
    async with AsyncLLM(minilm_path) as minilm:
        other = LLMEmbedder(minilm)
        assert other.hash != LLMEmbedder(e5).hash
        assert other.count(["a b c", ""]) == [3, 0]


async def test_a_writer_writes_streams_and_is_constrained(chat: AsyncLLM) -> None:
    writer = LLMWriter(chat)
    whole = await writer.write(CHAT, max_tokens=12)
    assert "".join([piece async for piece in writer.stream(CHAT, max_tokens=12)]) == whole
    assert await writer.write(CHAT, max_tokens=12, regex="(maybe|perhaps)") in ("maybe", "perhaps")
    assert writer.count("") == 0
    assert writer.count("one two three") == 3
    assert writer.context_tokens == 512


async def test_choices_have_their_likelihoods(chat: AsyncLLM) -> None:
    writer = LLMWriter(chat)
    prompt = await chat.tokenize(CHAT)
    short = await writer.choose(CHAT, ["Yes", "No"])
    assert short == pytest.approx(
        [one.sum for one in await chat.score([(prompt, "Yes"), (prompt, "No")])], abs=0.02
    )
    long = await writer.choose(CHAT, ["Yes, it is the capital.", "purple monkey dishwasher"])
    assert long[0] > long[1]


async def test_a_reranker_prefers_the_passage_that_answers(chat: AsyncLLM) -> None:
    reranker = LLMReranker(chat)
    passages = [
        "Our office is open Monday to Friday from nine to five.",
        "The warranty covers defects in materials for two years after purchase.",
        "Orders above fifty euros are shipped free of charge within the country.",
    ]
    scores = await reranker.rerank("How long is the guarantee?", passages)
    assert max(range(3), key=scores.__getitem__) == 1
    assert all(one < 0 for one in scores)
    alone = await reranker.rerank("How long is the guarantee?", passages[:2])
    assert alone == scores[:2]


async def test_a_reranker_takes_whole_passages_as_far_as_they_fit(chat: AsyncLLM) -> None:
    reranker = LLMReranker(chat)
    long = "word " * 600
    assert len(await reranker.rerank("What?", ["One.", "Two.", long, "Four."])) == 2
    with pytest.raises(ContextLengthExceeded, match="512 tokens"):
        await reranker.rerank("What?", [long, "Two."])


async def test_roles_are_checked(e5: AsyncLLM, chat: AsyncLLM) -> None:
    with pytest.raises(InvalidRequest, match="no embedding model"):
        LLMEmbedder(chat)
    with pytest.raises(InvalidRequest, match="is an encoder"):
        LLMWriter(e5)
    with pytest.raises(InvalidRequest, match="no likelihoods"):
        LLMReranker(e5)
