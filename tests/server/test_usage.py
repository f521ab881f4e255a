"""Usage by hour: what the engine computed, by tenant, key and model; in OpenAI's shape; never lost by a failing database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI
from tests.server.fakes import FakeEngine, make_service

from deepwell.dialogue.text import Codec
from deepwell.errors import StorageUnavailable
from deepwell.server.access.principal import Principal
from deepwell.server.app import create_app
from deepwell.server.context import ServerContext
from deepwell.server.families.usage.buckets import span_of, usage_page
from deepwell.server.families.usage.schema import UsageQuery
from deepwell.server.observe.usage import UsageMeter
from deepwell.storage.database import Database, Tenant
from deepwell.storage.keys import KeyStore
from deepwell.storage.usage import HOUR_S, Usage, UsagePlace, UsageStore

A = Tenant("a")
DAY_S = 24 * HOUR_S
PATH = "/v1/organization/usage/completions"
CHAT: dict[str, Any] = {
    "model": "toy",
    "messages": [{"role": "user", "content": "hi"}],
    "max_tokens": 8,
    "temperature": 0,
}


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database.open(tmp_path / "deepwell.db")
    yield database
    database.close()


@pytest.fixture
def service(engine: FakeEngine, codec: Codec, database: Database) -> ServerContext:
    return make_service(engine, codec, model="toy", database=database, response_cache_bytes=1 << 20)


@pytest.fixture
async def http(service: ServerContext) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


def key_of(database: Database, tenant: str, *scopes: str) -> tuple[str, dict[str, str]]:
    key, text = KeyStore(database).create(Tenant(tenant), tenant, scopes or ["inference"])
    return key.id, {"authorization": f"Bearer {text}"}


async def results(http: httpx.AsyncClient, who: dict[str, str], **query: Any) -> list[dict[str, Any]]:
    answer = await http.get(PATH, params={"start_time": 0, "limit": 1} | query, headers=who)
    assert answer.status_code == 200, answer.text
    (bucket,) = answer.json()["data"]
    return bucket["results"]


def now() -> int:
    import time

    return int(time.time())


async def test_usage_is_what_was_computed_by_key_and_model(
    http: httpx.AsyncClient, database: Database
) -> None:
    (first, one), (second, two), (_, other) = (key_of(database, tenant) for tenant in ("a", "a", "b"))
    used = [
        (await http.post("/v1/chat/completions", json=CHAT, headers=who)).json()["usage"]
        for who in (one, one)
    ]
    assert (
        used[0]["completion_tokens"] == used[1]["completion_tokens"]
    )  # the second, from the cache, uses nothing
    streamed = CHAT | {"stream": True, "max_tokens": 3, "n": 2}
    assert (await http.post("/v1/chat/completions", json=streamed, headers=two)).status_code == 200
    (whole,) = await results(http, one, start_time=now())
    assert whole["object"] == "organization.usage.completions.result"
    assert whole["num_model_requests"] == 2 and whole["model"] is None and whole["api_key_id"] is None
    assert whole["input_tokens"] == 2 * used[0]["prompt_tokens"]
    assert whole["output_tokens"] == used[0]["completion_tokens"] + 6
    mine = await results(http, two, start_time=now(), group_by=["api_key_id", "model"])
    assert {(row["api_key_id"], row["model"]) for row in mine} == {(first, "toy"), (second, "toy")}
    assert [row["output_tokens"] for row in mine if row["api_key_id"] == second] == [6]
    (only,) = await results(http, one, start_time=now(), api_key_ids=[second])
    assert only["num_model_requests"] == 1
    assert await results(http, one, start_time=now(), models=["other"]) == []
    assert await results(http, other, start_time=now()) == []


def test_the_official_sdk_reads_it(sdk: OpenAI) -> None:
    sdk.chat.completions.create(**CHAT)
    usage = sdk.with_options(admin_api_key="none").admin.organization.usage
    page = usage.completions(start_time=now(), group_by=["model", "api_key_id"], models=["toy"])
    assert page.object == "page" and not page.has_more
    (result,) = page.data[0].results
    assert result.object == "organization.usage.completions.result"
    assert (result.model, result.api_key_id, result.num_model_requests) == ("toy", "", 1)
    (nothing,) = usage.completions(start_time=now(), models=["none"]).data
    assert nothing.results == []


async def test_what_fails_before_it_is_computed_uses_nothing(
    http: httpx.AsyncClient, service: ServerContext, database: Database
) -> None:
    _, who = key_of(database, "a")
    assert (await http.post("/v1/chat/completions", json=CHAT | {"n": 0}, headers=who)).status_code == 400
    assert await results(http, who, start_time=now()) == []


async def test_what_answers_in_flight_use_is_written_at_the_end(
    engine: FakeEngine, codec: Codec, tmp_path: Path
) -> None:
    database = Database.open(tmp_path / "kept.db")
    service = make_service(engine, codec, model="toy", database=database)
    transport = httpx.ASGITransport(create_app(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        assert (await http.post("/v1/chat/completions", json=CHAT)).status_code == 200
    await service.close_state()
    again = Database.open(tmp_path / "kept.db")
    try:
        ((place, used),) = await UsageStore(again).between(Tenant("local"), 0, now() + DAY_S)
    finally:
        again.close()
    assert (place.key_id, place.model, used.requests) == ("", "toy", 1) and place.hour % HOUR_S == 0


async def test_a_database_that_fails_loses_nothing(database: Database) -> None:
    class Failing(UsageStore):
        fails = True

        async def add(self, *counts: Any) -> None:
            if self.fails:
                raise StorageUnavailable("it is away", fix="wait")
            await super().add(*counts)

    store, meter = Failing(database), UsageMeter(lambda: 7200.5)
    meter.note(Principal(A, "key_1"), "toy", Usage(1, 2, 3, 1))
    with pytest.raises(StorageUnavailable):
        await meter.write(store)
    await meter.write_or_warn(store)
    meter.note(Principal(A, "key_1"), "toy", Usage(1, 20, 30, 10))
    store.fails = False
    await meter.write(store)
    await meter.write(store)
    assert await store.between(A, 0, DAY_S) == [(UsagePlace(A, 7200, "key_1", "toy"), Usage(2, 22, 33, 11))]


def test_buckets_of_a_day_begin_at_midnight_and_come_in_pages() -> None:
    start = 10 * DAY_S + 5000
    query = UsageQuery.model_validate({"start_time": start, "end_time": start + 3 * DAY_S, "limit": 2})
    span = span_of(query, 0)
    assert span == (10 * DAY_S, 12 * DAY_S, 14 * DAY_S)
    rows = [
        (UsagePlace(A, 10 * DAY_S + hour * HOUR_S, "", model), Usage(1, 10, 5, 2))
        for hour in (0, 3, 24)
        for model in ("m", "n")
    ]
    page = usage_page(query, span, rows)
    assert [(one.start_time, one.end_time, len(one.results)) for one in page.data] == [
        (10 * DAY_S, 11 * DAY_S, 1),
        (11 * DAY_S, 12 * DAY_S, 1),
    ]
    assert page.data[0].results[0].input_tokens == 40 and page.has_more
    behind = query.model_copy(update={"page": page.next_page})
    assert span_of(behind, 0) == (12 * DAY_S, 14 * DAY_S, 14 * DAY_S)
    last = usage_page(behind, span_of(behind, 0), [])
    assert [one.results for one in last.data] == [[], []] and last.next_page is None
    hours = UsageQuery.model_validate({"start_time": HOUR_S + 1, "bucket_width": "1h"})
    assert span_of(hours, 3 * HOUR_S) == (HOUR_S, 4 * HOUR_S, 4 * HOUR_S)


@pytest.mark.parametrize(
    ("query", "param", "said"),
    [
        ({}, "start_time", ""),
        ({"start_time": -1}, "start_time", ""),
        ({"start_time": 10**15}, "start_time", ""),
        ({"start_time": 5, "end_time": 5}, "end_time", "not after"),
        ({"start_time": 0, "bucket_width": "1m"}, "bucket_width", "by the hour"),
        ({"start_time": 0, "group_by": "project_id"}, "group_by", "not kept by project_id"),
        ({"start_time": 0, "group_by": "moon"}, "group_by", ""),
        ({"start_time": 0, "page": "page_1"}, "page", "no such page"),
        ({"start_time": 0, "page": "page_-86400"}, "page", "no such page"),
        ({"start_time": 0, "limit": 1000}, "limit", ""),
        ({"start_time": 0, "limit": 32}, "limit", "at most 31 days"),
        ({"start_time": 0, "group_by[]": ["user_id"]}, "group_by", "not kept by user_id"),
        ({"start_time": 0, "project_ids": "x"}, "project_ids", ""),
    ],
)
async def test_hostile_questions_are_refused(
    http: httpx.AsyncClient, query: dict[str, Any], param: str, said: str
) -> None:
    refused = await http.get(PATH, params=query)
    assert refused.status_code == 400, refused.text
    error = refused.json()["error"]
    assert error["param"].startswith(param) and said in error["message"]
