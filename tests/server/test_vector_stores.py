"""Vector stores through the official SDK, synchronous and not, which refuses a response that is not as documented."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import openai
import pytest
import sqlalchemy as sa
from openai import AsyncOpenAI, OpenAI
from tests.server.conftest import Live, start
from tests.server.fakes import FakeEngine, make_service
from tests.server.knowledge import use_hash_embedder

from deepwell.dialogue.text import Codec
from deepwell.storage.database import LOCAL
from deepwell.storage.tables import vector_stores

WHALE = "The blue whale is the largest animal. It eats krill in cold seas."
OAK = "An oak tree grows slowly from an acorn, and it can live for a thousand years."
FAST: dict[str, Any] = {"poll_interval_ms": 20}


@pytest.fixture(scope="module")
def running(codec: Codec) -> Iterator[Live]:
    with pytest.MonkeyPatch.context() as patch:
        use_hash_embedder(patch)
        engine = FakeEngine(max_model_len=4096)
        running = start(make_service(engine, codec, model="toy"), engine)
        yield running
        running.stop()


@pytest.fixture(scope="module")
def client(running: Live) -> Iterator[OpenAI]:
    with OpenAI(
        base_url=f"{running.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


@pytest.fixture
async def aclient(running: Live) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(
        base_url=f"{running.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


def uploaded(client: OpenAI, name: str, text: str | bytes) -> str:
    data = text.encode() if isinstance(text, str) else text
    return client.files.create(file=(name, data), purpose="assistants").id


def refused(status: int, call: Any, *arguments: Any, **named: Any) -> str:
    with pytest.raises(openai.APIStatusError) as error:
        call(*arguments, **named)
    assert error.value.status_code == status, error.value
    return error.value.message


def test_a_store_is_made_described_changed_and_deleted(client: OpenAI) -> None:
    stores = client.vector_stores
    lasts: Any = {"anchor": "last_active_at", "days": 7}
    made = stores.create(name="animals", description="of the sea", metadata={"a": "b"}, expires_after=lasts)
    assert (made.name, made.metadata, made.status, made.usage_bytes) == (
        "animals",
        {"a": "b"},
        "completed",
        0,
    )
    assert made.file_counts.total == 0 and made.expires_after and made.expires_after.days == 7
    assert made.expires_at == made.created_at + 7 * 86_400
    assert stores.retrieve(made.id) == made
    changed = stores.update(made.id, name="whales", expires_after=None)
    assert (changed.name, changed.metadata) == ("whales", {"a": "b"})
    assert changed.expires_after is None and changed.expires_at is None
    assert stores.update(made.id, metadata=None).metadata == {}
    assert stores.update(made.id).name == "whales"
    gone = stores.delete(made.id)
    assert gone.deleted and gone.id == made.id
    assert "there is no vector store" in refused(404, stores.retrieve, made.id)


def test_a_store_without_anything_said_of_it(client: OpenAI) -> None:
    made = client.vector_stores.create()
    assert (made.name, made.metadata, made.expires_at) == ("", {}, None)


def test_stores_are_listed_in_pages_forwards_and_backwards(client: OpenAI) -> None:
    stores = client.vector_stores
    made = [stores.create(name=f"page {number}").id for number in range(5)]
    pages = [one.id for one in stores.list(limit=2)]
    assert pages[:5] == made[::-1]
    assert [one.id for one in stores.list(limit=2, order="asc", after=made[1]).data] == made[2:4]
    before = stores.list(limit=2, order="asc", before=made[2])
    assert [one.id for one in before.data] and made[2] not in [one.id for one in before.data]
    assert [one.id for one in stores.list(order="desc", before=made[2]).data] == made[:2:-1]
    assert "'after' names" in refused(400, stores.list, after="vs_none")
    assert "'before' names" in refused(400, stores.list, before="vs_none")
    assert "limit" in refused(400, stores.list, limit=101)


def test_a_file_is_found_and_then_it_is_not(client: OpenAI) -> None:
    store = client.vector_stores.create(name="found")
    file = client.vector_stores.files.upload_and_poll(
        vector_store_id=store.id, file=("whale.txt", WHALE.encode()), attributes={"kind": "animal"}, **FAST
    )
    assert (file.status, file.last_error, file.attributes) == ("completed", None, {"kind": "animal"})
    assert file.usage_bytes > len(WHALE) and file.vector_store_id == store.id
    assert file.chunking_strategy and file.chunking_strategy.type == "static"
    (found,) = client.vector_stores.search(store.id, query="What does the whale eat?").data
    assert (found.file_id, found.filename) == (file.id, "whale.txt")
    assert found.content[0].text == WHALE and 0 <= found.score <= 1 and found.attributes == {"kind": "animal"}
    counted = client.vector_stores.retrieve(store.id)
    assert counted.file_counts.completed == counted.file_counts.total == 1
    assert counted.usage_bytes == file.usage_bytes and counted.status == "completed"
    (content,) = client.vector_stores.files.content(file.id, vector_store_id=store.id).data
    assert (content.type, content.text) == ("text", WHALE)
    gone = client.vector_stores.files.delete(file.id, vector_store_id=store.id)
    assert gone.deleted and gone.id == file.id
    assert client.vector_stores.search(store.id, query="What does the whale eat?").data == []
    assert client.files.retrieve(file.id).filename == "whale.txt"  # the file itself stays
    assert "there is no file" in refused(
        404, client.vector_stores.files.delete, file.id, vector_store_id=store.id
    )


def test_chunks_of_a_file_are_pages_of_its_text(client: OpenAI, running: Live) -> None:
    store = client.vector_stores.create(name="chunks")
    text = "# Sea\n\n" + "\n\n".join(f"{WHALE} It was seen {number} times." for number in range(40))
    size: Any = {"type": "static", "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 20}}
    file = client.vector_stores.files.create_and_poll(
        uploaded(client, "sea.md", text), vector_store_id=store.id, chunking_strategy=size, **FAST
    )
    (content,) = client.vector_stores.files.content(file.id, vector_store_id=store.id).data
    place = f"{running.url}/v1/vector_stores/{store.id}/files/{file.id}/chunks"
    whole: dict[str, Any] = httpx.get(place, params={"limit": 100}).json()
    chunks = whole["data"]
    assert len(chunks) > 3 and not whole["has_more"] and whole["first_id"] == chunks[0]["id"]
    assert [one["index"] for one in chunks] == list(range(len(chunks)))
    assert content.text is not None
    assert all(content.text[one["start"] : one["end"]] == one["text"] for one in chunks)
    assert chunks[1]["object"] == "vector_store.file.chunk" and chunks[1]["page"] is None
    assert all(one["headings"] == ["Sea"] for one in chunks[1:])
    paged: list[Any] = []
    more = True
    while more:
        after = {"after": paged[-1]["id"]} if paged else {}
        page: dict[str, Any] = httpx.get(place, params={"limit": 2, **after}).json()
        paged, more = paged + page["data"], page["has_more"]
    assert paged == chunks
    last: dict[str, Any] = httpx.get(place, params={"limit": 1, "order": "desc"}).json()
    assert last["data"] == chunks[-1:] and last["has_more"]
    other = httpx.get(place, params={"after": "chunk_0"})
    assert other.status_code == 400 and other.json()["error"]["param"] == "after"


def test_a_search_explains_its_order_if_it_is_asked(client: OpenAI) -> None:
    store = client.vector_stores.create(name="explained")
    for name, text in (("whale.txt", WHALE), ("oak.txt", OAK)):
        client.vector_stores.files.upload_and_poll(
            vector_store_id=store.id, file=(name, text.encode()), **FAST
        )

    def asked(**more: Any) -> list[Any]:
        found = client.vector_stores.search(store.id, query="How does an oak grow?", extra_body=more)
        return found.model_dump()["data"]

    plain, told = asked(), asked(explain=True)
    assert all("scores" not in one for one in [*plain, *asked(explain=False)])
    assert [{**one, "scores": None} for one in told] == [{**one, "scores": None} for one in plain]
    oak, whale = told
    assert oak["filename"] == "oak.txt" and oak["scores"]["fused"] == oak["score"]
    assert oak["scores"]["lexical"]["rank"] == oak["scores"]["vector"]["rank"] == 1
    assert oak["scores"]["translated"] is None and oak["scores"]["rerank"] is None
    assert whale["scores"]["lexical"] is None and whale["scores"]["vector"]["rank"] == 2
    assert whale["scores"]["vector"]["score"] <= oak["scores"]["vector"]["score"] <= 1.001


def test_a_deleted_file_is_in_no_store(client: OpenAI) -> None:
    ids = [client.vector_stores.create().id for _ in range(2)]
    file = uploaded(client, "oak.txt", OAK)
    for id in ids:
        client.vector_stores.files.create_and_poll(file, vector_store_id=id, **FAST)
        assert client.vector_stores.search(id, query="acorn").data
    client.files.delete(file)
    for id in ids:
        assert client.vector_stores.search(id, query="acorn").data == []
        assert client.vector_stores.files.list(id).data == []


def test_files_of_a_new_store_are_attached_with_it_or_nothing_is_made(client: OpenAI) -> None:
    ids = [uploaded(client, f"{number}.txt", f"{WHALE} {number}") for number in range(2)]
    size: Any = {"type": "static", "static": {"max_chunk_size_tokens": 200, "chunk_overlap_tokens": 50}}
    store = client.vector_stores.create(file_ids=ids, chunking_strategy=size)
    assert store.file_counts.total == 2
    for id in ids:
        file = client.vector_stores.files.poll(id, vector_store_id=store.id, **FAST)
        assert file.chunking_strategy and file.chunking_strategy.type == "static"
        assert file.chunking_strategy.static.max_chunk_size_tokens == 200
        assert file.chunking_strategy.static.chunk_overlap_tokens == 50
    auto = client.vector_stores.files.create(
        store.id, file_id=uploaded(client, "auto.txt", OAK), chunking_strategy={"type": "auto"}
    )
    assert auto.chunking_strategy and auto.chunking_strategy.type == "static"
    assert auto.chunking_strategy.static.max_chunk_size_tokens == 512
    before = [one.id for one in client.vector_stores.list(limit=100)]
    assert "there is no file" in refused(404, client.vector_stores.create, file_ids=[*ids, "file-none"])
    assert [one.id for one in client.vector_stores.list(limit=100)] == before


def test_attributes_change_and_filters_see_them(client: OpenAI) -> None:
    store = client.vector_stores.create()
    files = {
        name: client.vector_stores.files.create_and_poll(
            uploaded(client, f"{name}.txt", text), vector_store_id=store.id, attributes=attributes, **FAST
        ).id
        for name, text, attributes in (
            ("whale", "a word of whales", {"kind": "animal", "year": 1998, "wet": True}),
            ("oak", "a word of oaks", {"kind": "plant", "year": 2020.5}),
        )
    }

    def names(filters: Any) -> list[str]:
        found = client.vector_stores.search(store.id, query="word", filters=filters)
        return sorted(one.filename.removesuffix(".txt") for one in found.data)

    assert names({"type": "eq", "key": "kind", "value": "plant"}) == ["oak"]
    assert names({"type": "lt", "key": "year", "value": 2000}) == ["whale"]
    assert names({"type": "in", "key": "kind", "value": ["plant", "animal"]}) == ["oak", "whale"]
    both: Any = {"type": "ne", "key": "kind", "value": "plant"}
    assert names({"type": "and", "filters": [both, {"type": "eq", "key": "wet", "value": True}]}) == ["whale"]
    assert names({"type": "or", "filters": [both, {"type": "gte", "key": "year", "value": 2020}]}) == [
        "oak",
        "whale",
    ]
    changed = client.vector_stores.files.update(
        files["oak"], vector_store_id=store.id, attributes={"kind": "animal"}
    )
    assert changed.attributes == {"kind": "animal"}
    assert names({"type": "eq", "key": "kind", "value": "animal"}) == ["oak", "whale"]
    assert (
        client.vector_stores.files.update(files["oak"], vector_store_id=store.id, attributes=None).attributes
        == {}
    )
    assert names({"type": "eq", "key": "kind", "value": "animal"}) == ["whale"]


def test_a_search_takes_several_queries_a_number_and_a_threshold(client: OpenAI) -> None:
    store = client.vector_stores.create()
    for name, text in (("whale", WHALE), ("oak", OAK)):
        client.vector_stores.files.upload_and_poll(
            vector_store_id=store.id, file=(f"{name}.txt", text.encode()), **FAST
        )
    search = client.vector_stores.search
    both = search(store.id, query=["krill in cold seas", "acorn"], max_num_results=2)
    assert [one.filename for one in both.data] == ["whale.txt", "oak.txt"]
    assert both.object == "vector_store.search_results.page"
    assert both.model_extra and both.model_extra["search_query"] == ["krill in cold seas", "acorn"]
    assert not both.has_next_page()
    assert len(search(store.id, query=["krill", "acorn"], max_num_results=1).data) == 1
    threshold: Any = {"score_threshold": 1.0, "ranker": "auto"}
    assert search(store.id, query="acorn", ranking_options=threshold).data == []
    named: Any = {"ranker": "default-2024-11-15", "score_threshold": 0}
    assert search(store.id, query="acorn", ranking_options=named, rewrite_query=True).data


def test_a_file_that_cannot_be_read_fails_alone(client: OpenAI) -> None:
    store = client.vector_stores.create()
    good, bad = uploaded(client, "good.txt", OAK), uploaded(client, "bad.xyz", b"\xff\x00\xfe" * 99)
    batch = client.vector_stores.file_batches.create_and_poll(store.id, file_ids=[good, bad], **FAST)
    counts = batch.file_counts
    assert (batch.status, counts.completed, counts.failed, counts.total) == ("completed", 1, 1, 2)
    failed = client.vector_stores.files.retrieve(bad, vector_store_id=store.id)
    assert failed.status == "failed" and failed.last_error and failed.last_error.message
    assert failed.last_error.code in ("unsupported_file", "invalid_file")
    told = refused(400, client.vector_stores.files.content, bad, vector_store_id=store.id)
    assert "its status is 'failed'" in told
    listed = client.vector_stores.files.list(store.id, filter="failed")
    assert [one.id for one in listed.data] == [bad]
    alone = client.vector_stores.file_batches.create_and_poll(store.id, file_ids=[bad], **FAST)
    assert (alone.status, alone.file_counts.total) == ("failed", 1)


def test_batches_of_files_with_attributes_of_their_own(client: OpenAI) -> None:
    store = client.vector_stores.create()
    ids = [uploaded(client, f"{number}.txt", f"word number {number}") for number in range(3)]
    batch = client.vector_stores.file_batches.create(
        store.id,
        files=[{"file_id": id, "attributes": {"number": number}} for number, id in enumerate(ids)],
    )
    assert batch.file_counts.total == 3 and batch.vector_store_id == store.id
    batch = client.vector_stores.file_batches.poll(batch.id, vector_store_id=store.id, **FAST)
    assert (batch.status, batch.file_counts.completed) == ("completed", 3)
    assert client.vector_stores.file_batches.retrieve(batch.id, vector_store_id=store.id) == batch
    listed = client.vector_stores.file_batches.list_files(
        batch.id, vector_store_id=store.id, order="asc", limit=2, filter="completed"
    )
    assert [(one.id, one.attributes) for one in listed] == [
        (id, {"number": float(number)}) for number, id in enumerate(ids)
    ]
    second = client.vector_stores.file_batches.upload_and_poll(
        store.id, files=[("a.txt", b"alpha"), ("b.txt", b"beta")], file_ids=ids[:1], **FAST
    )
    assert second.file_counts.completed == 3
    assert client.vector_stores.retrieve(store.id).file_counts.total == 5


def test_a_cancelled_batch_leaves_what_is_done(client: OpenAI) -> None:
    store = client.vector_stores.create()
    ids = [uploaded(client, f"{number}.txt", f"word number {number}") for number in range(8)]
    batch = client.vector_stores.file_batches.create(store.id, file_ids=ids)
    cancelled = client.vector_stores.file_batches.cancel(batch.id, vector_store_id=store.id)
    counts = cancelled.file_counts
    assert cancelled.status == "cancelled"
    assert counts.in_progress == 0 and counts.completed + counts.cancelled == counts.total == 8
    again = client.vector_stores.file_batches.cancel(batch.id, vector_store_id=store.id)
    assert again.status == "cancelled"


def test_an_unfinished_file_says_when_to_ask_again(client: OpenAI) -> None:
    store = client.vector_stores.create()
    raw = client.vector_stores.files.with_raw_response.create(
        store.id, file_id=uploaded(client, "a.txt", OAK)
    )
    assert raw.parse().status == "in_progress" and int(raw.headers["openai-poll-after-ms"]) > 0
    done = client.vector_stores.files.poll(raw.parse().id, vector_store_id=store.id)
    raw = client.vector_stores.files.with_raw_response.retrieve(done.id, vector_store_id=store.id)
    assert "openai-poll-after-ms" not in raw.headers


async def test_an_expired_store_says_how_to_go_on(client: OpenAI, running: Live) -> None:
    lasts: Any = {"anchor": "last_active_at", "days": 1}
    store = client.vector_stores.create(expires_after=lasts)
    file = uploaded(client, "a.txt", OAK)
    _expire(running, store.id)
    assert client.vector_stores.retrieve(store.id).status == "expired"
    told = refused(400, client.vector_stores.search, store.id, query="acorn")
    assert "has expired" in told and "expires_after" in told
    assert "has expired" in refused(400, client.vector_stores.files.create, store.id, file_id=file)
    assert client.vector_stores.update(store.id, expires_after=lasts).status == "completed"
    assert client.vector_stores.search(store.id, query="acorn").data == []


def _expire(running: Live, id: str) -> None:
    database = running.service.state.database
    statement = (
        sa.update(vector_stores)
        .where(vector_stores.c.tenant == LOCAL, vector_stores.c.id == id)
        .values(expires_at=int(time.time()) - 1)
    )
    database.write_now(lambda connection: connection.execute(statement).rowcount)


async def test_the_asynchronous_client(aclient: AsyncOpenAI) -> None:
    stores = aclient.vector_stores
    store = await stores.create(name="async")
    file = await stores.files.upload_and_poll(vector_store_id=store.id, file=("o.txt", OAK.encode()), **FAST)
    assert file.status == "completed"
    assert [one.filename async for one in stores.search(store.id, query="acorn")] == ["o.txt"]
    assert [one.id async for one in stores.files.list(store.id)] == [file.id]
    batch = await stores.file_batches.upload_and_poll(store.id, files=[("w.txt", WHALE.encode())], **FAST)
    assert batch.file_counts.completed == 1
    assert (await stores.files.content(file.id, vector_store_id=store.id)).data[0].text == OAK
    assert (await stores.files.delete(file.id, vector_store_id=store.id)).deleted
    assert (await stores.delete(store.id)).deleted


DEEP: Any = {"type": "eq", "key": "a", "value": 1}
for _ in range(60):
    DEEP = {"type": "and", "filters": [DEEP]}


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, "query"),
        ({"query": ""}, "query"),
        ({"query": "  "}, "query"),
        ({"query": []}, "query"),
        ({"query": [1]}, "query"),
        ({"query": ["a"] * 17}, "query"),
        ({"query": "a" * 16_385}, "query"),
        ({"query": "a", "filters": "x"}, "filters"),
        ({"query": "a", "filters": {}}, "filters.type"),
        ({"query": "a", "filters": {"type": "like", "key": "a", "value": "b"}}, "filters.type"),
        ({"query": "a", "filters": {"type": "eq", "key": "a"}}, "filters.value"),
        ({"query": "a", "filters": {"type": "eq", "key": "a", "value": {"b": 1}}}, "filters.value"),
        ({"query": "a", "filters": {"type": "in", "key": "a", "value": "b"}}, "filters.value"),
        ({"query": "a", "filters": {"type": "and", "filters": []}}, "filters.filters"),
        ({"query": "a", "filters": {"type": "or", "filters": [{"type": "eq"}] * 300}}, "filters"),
        ({"query": "a", "filters": DEEP}, "filters"),
        ({"query": "a", "max_num_results": 0}, "max_num_results"),
        ({"query": "a", "max_num_results": 51}, "max_num_results"),
        ({"query": "a", "max_num_results": "5"}, "max_num_results"),
        ({"query": "a", "ranking_options": {"ranker": "best"}}, "ranking_options.ranker"),
        ({"query": "a", "ranking_options": {"score_threshold": 1.1}}, "ranking_options.score_threshold"),
        ({"query": "a", "rewrite_query": "yes"}, "rewrite_query"),
        ({"query": "a", "top_k": 3}, "top_k"),
    ],
)
def test_hostile_searches_are_refused_by_name(client: OpenAI, body: dict[str, Any], named: str) -> None:
    store = client.vector_stores.create()
    with pytest.raises(openai.BadRequestError) as error:
        client.post(f"/vector_stores/{store.id}/search", body=body, cast_to=object)
    assert (error.value.param or "").startswith(named), error.value


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("", {"name": "x" * 257}, "name"),
        ("", {"name": "a\0b"}, "name"),
        ("", {"metadata": {"a": 1}}, "metadata"),
        ("", {"metadata": {str(number): "a" for number in range(17)}}, "metadata"),
        ("", {"expires_after": {"anchor": "created_at", "days": 1}}, "expires_after.anchor"),
        ("", {"expires_after": {"anchor": "last_active_at", "days": 0}}, "expires_after.days"),
        ("", {"expires_after": {"anchor": "last_active_at", "days": 366}}, "expires_after.days"),
        ("", {"file_ids": ["file-a"] * 501}, "file_ids"),
        ("", {"chunking_strategy": {"type": "semantic"}}, "chunking_strategy"),
        ("", {"files": []}, "files"),
        ("/files", {}, "file_id"),
        ("/files", {"file_id": "file-a", "attributes": {"a": [1]}}, "attributes"),
        ("/files", {"file_id": "file-a", "attributes": {"a": None}}, "attributes"),
        ("/files", {"file_id": "file-a", "attributes": {"a": "x" * 513}}, "attributes"),
        ("/files", {"file_id": "file-a", "attributes": {"x" * 65: 1}}, "attributes"),
        ("/files", {"file_id": "file-a", "attributes": {str(n): n for n in range(17)}}, "attributes"),
        (
            "/files",
            {
                "file_id": "file-a",
                "chunking_strategy": {
                    "type": "static",
                    "static": {"max_chunk_size_tokens": 99, "chunk_overlap_tokens": 0},
                },
            },
            "chunking_strategy",
        ),
        (
            "/files",
            {
                "file_id": "file-a",
                "chunking_strategy": {
                    "type": "static",
                    "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 51},
                },
            },
            "chunking_strategy",
        ),
        ("/file_batches", {}, "file_ids"),
        ("/file_batches", {"file_ids": []}, "file_ids"),
        ("/file_batches", {"file_ids": ["a"], "files": [{"file_id": "a"}]}, "file_ids"),
        ("/file_batches", {"files": [{"file_id": "a"}, {"file_id": "a"}]}, "files"),
        ("/file_batches", {"files": [{"file_id": "a"}], "attributes": {"a": 1}}, "attributes"),
        ("/file_batches", {"file_ids": ["a"] * 2001}, "file_ids"),
    ],
)
def test_hostile_requests_are_refused_by_name(
    client: OpenAI, path: str, body: dict[str, Any], named: str
) -> None:
    store = f"/{client.vector_stores.create().id}" if path else ""
    with pytest.raises(openai.BadRequestError) as error:
        client.post(f"/vector_stores{store}{path}", body=body, cast_to=object)
    assert (error.value.param or "").startswith(named), error.value
