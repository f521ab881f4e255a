"""The semantic cache: both gates, whose answers are shared, what is kept and for how long."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from tests.server.fakes import FakeEngine, make_service

from deepwell.dialogue.completion import Choice, Question, Update
from deepwell.dialogue.model import ServedModel
from deepwell.dialogue.text import Codec
from deepwell.engine.protocol import GenerateRequest, SamplingParams
from deepwell.errors import InvalidRequest
from deepwell.server.app import create_app
from deepwell.server.caches.response_cache import AnswerKey
from deepwell.server.caches.semantic_cache import SemanticCache, Vector, shelf_of
from deepwell.server.options import SemanticOptions

KEYS = (SecretStr("key-of-one-user-0001"), SecretStr("key-of-another-0002"))
ASKED, AGAIN, OTHER = (
    "What is the capital of Peru?",
    "Tell me what the capital of Peru is",
    "What is the capital of Chile?",
)
ANSWER = (Update(0, "Lima"), Update(0, "", finish_reason="stop"))


async def alike(text: str) -> Vector | None:
    return np.eye(1, 4, dtype=np.float32)[0]


def shelf(**more: Any) -> AnswerKey:
    request = GenerateRequest("r", [1, 2, 3], SamplingParams(temperature=0, **more))
    key = shelf_of(Choice(0, request), Question(ASKED), fingerprint="f", adapter="", window=512)
    assert key is not None
    return key


async def test_both_gates_must_open() -> None:
    cache = SemanticCache(alike, SemanticOptions())
    cache.put(shelf(), ASKED, ANSWER)
    assert await cache.find(shelf(), AGAIN) == ANSWER
    assert await cache.find(shelf(), OTHER) is None  # the embedder sees no difference; its wording does

    async def unlike(text: str) -> Vector | None:
        return np.eye(4, dtype=np.float32)[len(text) % 4]

    async def blind(text: str) -> Vector | None:
        return None

    for embed in (unlike, blind):
        cache = SemanticCache(embed, SemanticOptions())
        cache.put(shelf(), ASKED, ANSWER)
        assert await cache.find(shelf(), AGAIN) is None
        assert await cache.find(shelf(), ASKED) == ANSWER


async def test_answers_get_old() -> None:
    now = [0.0]
    cache = SemanticCache(alike, SemanticOptions(ttl_s=10), clock=lambda: now[0])
    cache.put(shelf(), ASKED, ANSWER)
    now[0] = 9.0
    assert await cache.find(shelf(), AGAIN)
    now[0] = 10.0
    assert await cache.find(shelf(), AGAIN) is None
    assert len(cache) == cache.nbytes == 0


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 400)), max_size=60))
def test_it_never_holds_more_than_it_may(puts: list[tuple[int, int]]) -> None:
    cache = SemanticCache(alike, SemanticOptions(capacity_bytes=20_000))
    for number, size in puts:
        cache.put(shelf(), f"What is {number} of it?", (Update(0, "x" * size, finish_reason="stop"),))
        assert cache.nbytes <= 20_000
        assert cache.nbytes == sum(entry.nbytes for entry in cache._entries.values())


def test_what_shapes_an_answer_parts_the_shelves() -> None:
    base = shelf()
    assert shelf() == base
    assert shelf(max_tokens=7) != base
    assert shelf(stop_token_ids=(3,)) != base
    request = GenerateRequest("r", [1, 2, 3], SamplingParams(temperature=0))

    def of(question: Question, request: GenerateRequest = request, **more: Any) -> AnswerKey | None:
        facts = {"fingerprint": "f", "adapter": "", "window": 512} | more
        return shelf_of(Choice(0, request), question, **facts)

    assert of(Question(OTHER)) == base  # the text itself does not
    assert of(Question(ASKED, [{"role": "system", "content": "s"}])) != base
    assert of(Question(ASKED, (), {"think": True})) != base
    assert of(Question(ASKED), adapter="a") != base
    assert of(Question(ASKED), GenerateRequest("r", [1], SamplingParams(temperature=1))) is None
    assert of(Question(ASKED), GenerateRequest("r", [1], SamplingParams(temperature=0, logprobs=1))) is None
    # Nobody set a limit: the room that a shorter question leaves is no difference.
    longest = [
        GenerateRequest("r", [1] * n, SamplingParams(temperature=0, max_tokens=512 - n)) for n in (5, 9)
    ]
    assert of(Question(ASKED), longest[0]) == of(Question(ASKED), longest[1])


@pytest.fixture
async def asking(engine: FakeEngine, codec: Codec) -> AsyncIterator[httpx.AsyncClient]:
    service = make_service(
        engine,
        codec,
        model="toy",
        api_keys=KEYS,
        response_cache_bytes=1 << 20,
        embedder=ServedModel("small", FakeEngine(), codec, tasks=("embed",)),
        semantic=SemanticOptions(min_cosine=0.5),
    )
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(create_app(service)), base_url="http://test"
    ) as client:
        yield client


async def ask(client: httpx.AsyncClient, text: str, key: SecretStr = KEYS[0], **more: Any) -> httpx.Response:
    body = {"model": "toy", "messages": [{"role": "user", "content": text}], "temperature": 0} | more
    header = {"authorization": f"Bearer {key.get_secret_value()}"}
    answer = await client.post("/v1/chat/completions", json=body, headers=header)
    assert answer.status_code == 200
    return answer


async def test_a_question_in_other_words_gets_the_answer_and_says_so(
    asking: httpx.AsyncClient, engine: FakeEngine
) -> None:
    first = await ask(asking, ASKED)
    assert first.headers["x-deepwell-cache"] == "miss"
    again = await ask(asking, AGAIN)
    assert again.headers["x-deepwell-cache"] == "semantic"
    assert again.json()["choices"] == first.json()["choices"]
    spent, before = again.json()["usage"], first.json()["usage"]
    assert spent["prompt_tokens"] == before["prompt_tokens"] + len(AGAIN) - len(ASKED)
    assert spent["prompt_tokens_details"]["cached_tokens"] == spent["prompt_tokens"]
    assert spent["completion_tokens"] == before["completion_tokens"]
    assert len(engine.seen) == 1
    assert (await ask(asking, ASKED)).headers["x-deepwell-cache"] == "hit"
    stream = await ask(asking, AGAIN, stream=True)
    assert stream.headers["x-deepwell-cache"] == "semantic" and "capital of Peru?" not in stream.headers
    text = (
        await asking.get("/metrics", headers={"authorization": f"Bearer {KEYS[0].get_secret_value()}"})
    ).text
    assert 'deepwell_response_cache_lookups_total{result="semantic"} 2.0' in text


async def test_nothing_crosses_tenants_histories_tools_or_chance(
    asking: httpx.AsyncClient, engine: FakeEngine
) -> None:
    await ask(asking, ASKED)
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    for number, more in enumerate(
        (
            {"key": KEYS[1]},
            {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": AGAIN}]},
            {"temperature": 1},
            {"max_tokens": 3},
            {"logprobs": True},
            {"tools": [tool], "tool_choice": "none", "stop": ["x"]},
        )
    ):
        answer = await ask(asking, AGAIN, **more)
        assert answer.headers.get("x-deepwell-cache", "miss") == "miss"
        assert len(engine.seen) == number + 2


def test_it_needs_an_embedder(engine: FakeEngine, codec: Codec) -> None:
    with pytest.raises(InvalidRequest, match="--embedding-model"):
        make_service(engine, codec, model="toy", semantic=SemanticOptions())


async def test_an_answer_that_was_cut_short_is_kept_where_the_request_asked_for_that() -> None:
    async def cut() -> AsyncGenerator[Update, None]:
        yield Update(0, "Li", finish_reason="length")

    for limited in (True, False):
        cache = SemanticCache(alike, SemanticOptions())
        async for _ in cache.keeping(shelf(), ASKED, cut(), limited=limited):
            pass
        assert (await cache.find(shelf(), AGAIN) is not None) is limited
