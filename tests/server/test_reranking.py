"""Searches that a served model reranks: through the official SDK, for one tenant, and when the model fails."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from numpy.typing import NDArray
from openai import OpenAI
from tests.server.conftest import Live, start
from tests.server.fakes import FakeEngine, make_service
from tests.server.knowledge import use_hash_embedder

from deepwell.cli.loading import load_models
from deepwell.dialogue.text import Codec
from deepwell.engine.protocol import Window
from deepwell.errors import DeepwellError, InvalidRequest
from deepwell.server.access.quota import RateLimits
from deepwell.server.options import KnowledgeOptions, LimitsConfig
from deepwell.settings import Settings
from deepwell.storage.database import Database, Tenant
from deepwell.storage.keys import KeyStore

QUERY = "When does the ferry leave?"
TEXTS = [
    "When does the ferry leave? At nine.",
    "When the ferry leaves is on the board.",
    "The ferry and its harbour: a marked page.",
    "The harbour of kestrels and puffins.",
]
MARKED = TEXTS[2]


@dataclass
class Judge(FakeEngine):
    """Finds any question likely after the marked passage. A broken one fails."""

    broken: bool = False
    scored: list[str] = field(default_factory=list[str])

    async def score(
        self, tokens: Sequence[int], *, adapter: str = "", start: int = 1, window: Window | None = None
    ) -> NDArray[np.float32]:
        if self.broken:
            raise DeepwellError("the model broke")
        text = bytes(token for token in tokens if token < 256).decode()
        self.scored.append(text)
        return np.full(len(tokens) - start, -0.1 if "marked" in text else -5.0, np.float32)


@pytest.fixture
def judge() -> Judge:
    return Judge(max_model_len=4096)


@pytest.fixture(autouse=True)
def _embedder() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        use_hash_embedder(patch)
        yield


def serving(judge: Judge, codec: Codec, reranker: str = "toy", **more: Any) -> Live:
    knowledge = KnowledgeOptions(reranker=reranker)
    return start(make_service(judge, codec, model="toy", knowledge=knowledge, **more), judge)


def client_of(running: Live, key: str = "none") -> OpenAI:
    return OpenAI(base_url=f"{running.url}/v1", api_key=key, max_retries=0, _strict_response_validation=True)


@pytest.fixture
def running(judge: Judge, codec: Codec) -> Iterator[Live]:
    running = serving(judge, codec)
    yield running
    running.stop()


@pytest.fixture
def client(running: Live) -> Iterator[OpenAI]:
    with client_of(running) as client:
        yield client


def filled(client: OpenAI) -> str:
    store = client.vector_stores.create(name="harbour").id
    for number, text in enumerate(TEXTS):
        client.vector_stores.files.upload_and_poll(
            vector_store_id=store, file=(f"{number}.txt", text.encode()), poll_interval_ms=20
        )
    return store


def searched(client: OpenAI, store: str, **ranking: Any) -> list[Any]:
    more: Any = {"ranking_options": ranking} if ranking else {}
    return client.vector_stores.search(store, query=QUERY, **more).data


def texts(found: Sequence[Any]) -> list[str]:
    return [one.content[0].text for one in found]


def test_the_ranker_of_a_request_decides(client: OpenAI, judge: Judge) -> None:
    store = filled(client)
    plain = searched(client, store, ranker="none")
    assert texts(plain)[0] == TEXTS[0] and judge.scored == []
    for ranking in ({}, {"ranker": "auto"}, {"ranker": "default-2024-11-15"}):
        judge.scored.clear()
        found = searched(client, store, **ranking)
        assert texts(found).index(MARKED) < texts(plain).index(MARKED)
        assert sorted(texts(found)) == sorted(texts(plain)) and len(judge.scored) == len(TEXTS)
        assert [one.score for one in found] == [one.score for one in plain]
        assert all(0 <= one.score <= 1 for one in found)
    assert all(one.endswith(f"Question: {QUERY}") for one in judge.scored)


def test_an_explained_order_tells_the_search_from_the_reranker(client: OpenAI) -> None:
    store = filled(client)

    def explained(**ranking: Any) -> list[Any]:
        asked: Any = {"explain": True, "ranking_options": ranking} if ranking else {"explain": True}
        return client.vector_stores.search(store, query=QUERY, extra_body=asked).model_dump()["data"]

    plain, reranked = explained(ranker="none"), explained()
    assert [one["scores"]["fused"] for one in plain] == [one["score"] for one in plain]
    assert all(one["scores"]["rerank"] is None for one in plain)
    for one in reranked:
        (before,) = (other for other in plain if other["content"] == one["content"])
        likely = -0.1 if one["content"][0]["text"] == MARKED else -5.0
        assert one["scores"] == before["scores"] | {"rerank": pytest.approx(likely)}


def test_more_is_reranked_than_is_returned_but_nothing_below_the_threshold(client: OpenAI) -> None:
    store = filled(client)
    plain = searched(client, store, ranker="none")
    best = client.vector_stores.search(store, query=QUERY, max_num_results=2)
    assert MARKED in texts(best.data)
    least = (plain[0].score + plain[1].score) / 2
    assert texts(searched(client, store, score_threshold=least)) == [TEXTS[0]]


def test_file_search_has_the_same_order(client: OpenAI) -> None:
    store = filled(client)

    def results(**ranking: Any) -> list[str]:
        tool: Any = {"type": "file_search", "vector_store_ids": [store], **ranking}
        answer = client.responses.create(
            model="toy", input=QUERY, tools=[tool], include=["file_search_call.results"]
        )
        (call,) = [item for item in answer.output if item.type == "file_search_call"]
        return [one.text or "" for one in call.results or []]

    found = results()
    assert found == texts(searched(client, store)) != texts(searched(client, store, ranker="none"))
    for ranker in ("auto", "default-2024-11-15"):
        assert results(ranking_options={"ranker": ranker}) == found


def test_the_passages_of_a_grounded_answer_are_reranked_too(judge: Judge, codec: Codec) -> None:
    knowledge = KnowledgeOptions(reranker="toy", ground="harbour")
    running = start(make_service(judge, codec, model="toy", knowledge=knowledge), judge)
    try:
        with client_of(running) as client:
            filled(client)
            answer = client.chat.completions.create(
                model="toy", messages=[{"role": "user", "content": QUERY}]
            )
            assert answer.choices[0].finish_reason == "stop"
        assert len(judge.scored) == len(TEXTS)
    finally:
        running.stop()


def test_several_queries_share_the_tokens_of_one_search(client: OpenAI, judge: Judge) -> None:
    store = filled(client)
    found = client.vector_stores.search(store, query=[QUERY, "puffins and the harbour"])
    assert len(judge.scored) == 2 * len(TEXTS)
    assert [one.score for one in found.data] == sorted((one.score for one in found.data), reverse=True)


def test_a_model_that_fails_leaves_the_order_of_the_search(
    client: OpenAI, running: Live, judge: Judge, caplog: pytest.LogCaptureFixture
) -> None:
    store = filled(client)
    plain = texts(searched(client, store, ranker="none"))
    judge.broken = True
    assert texts(searched(client, store)) == plain
    assert "not reranked: the model broke" in caplog.text
    judge.broken = False
    assert texts(searched(client, store)) != plain
    counted = httpx.get(f"{running.url}/metrics").text
    for outcome in ("failed", "reranked"):
        assert f'deepwell_knowledge_reranks_total{{outcome="{outcome}"}} 1.0' in counted


def test_a_model_that_is_not_there_leaves_it_too(
    judge: Judge, codec: Codec, caplog: pytest.LogCaptureFixture
) -> None:
    running = serving(judge, codec, reranker="gone")
    try:
        with client_of(running) as client:
            store = filled(client)
            assert texts(searched(client, store)) == texts(searched(client, store, ranker="none"))
        assert "not reranked: " in caplog.text and "gone" in caplog.text
    finally:
        running.stop()


def test_a_tenant_pays_for_its_own_passages_alone(judge: Judge, codec: Codec, tmp_path: Path) -> None:
    database = Database.open(tmp_path / "deepwell.db")
    keys = [KeyStore(database).create(Tenant(name), name, ["files"])[1] for name in ("a", "b")]
    limits = LimitsConfig(rates=RateLimits(0, 1000))
    running = serving(judge, codec, database=database, limits=limits)
    try:
        with client_of(running, keys[0]) as a, client_of(running, keys[1]) as b:
            store = filled(a)
            plain = texts(searched(a, store, ranker="none"))
            with pytest.raises(openai.NotFoundError):
                searched(b, store)
            own = filled(b)
            assert judge.scored == []
            assert texts(searched(a, store)) != plain
            assert texts(searched(a, store)) == plain  # its tokens are used up
            assert texts(searched(b, own)) != plain  # those of another are not
    finally:
        running.stop()


@pytest.mark.parametrize("named", ["gone", "minilm"])
def test_a_server_refuses_a_reranker_that_it_does_not_serve(
    smollm2_path: Path, minilm_path: Path, named: str, tmp_path: Path
) -> None:
    settings = Settings(
        model=str(smollm2_path),
        embedding_model=str(minilm_path),
        knowledge_reranker=named,
        data_dir=tmp_path,
    )
    with pytest.raises(InvalidRequest, match="none of this server's models"):
        load_models(settings, {}, demo=False, as_json=True)
