"""Usage and limits of sound and images: what a request used, by tenant and key, in OpenAI's shape, and what a minute allows."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI
from tests.server.conftest import Live
from tests.server.fakes import FakeEngine, make_service

from deepwell.dialogue.text import Codec
from deepwell.server.access.limit_table import LimitTable
from deepwell.server.access.media_use import MediaUse
from deepwell.server.access.principal import Principal
from deepwell.server.access.quota import LimitKind, Quota, RateLimited, RateLimits
from deepwell.server.access.ticket import Ticket, set_ticket
from deepwell.server.app import create_app
from deepwell.server.context import ServerContext
from deepwell.server.observe.usage import UsageMeter
from deepwell.storage.database import Database, Tenant
from deepwell.storage.keys import KeyStore
from deepwell.storage.usage import HOUR_S, MediaPlace, MediaSource, MediaUsage, UsageStore

A = Principal(Tenant("a"), "key_1")
ROOT = "/v1/organization/usage"
DAY_S = 24 * HOUR_S


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database.open(tmp_path / "deepwell.db")
    yield database
    database.close()


@pytest.fixture
def table() -> Iterator[LimitTable]:
    table = LimitTable(clock=lambda: 100.0)
    yield table
    table.close()


@pytest.fixture
def service(engine: FakeEngine, codec: Codec, database: Database) -> ServerContext:
    return make_service(engine, codec, model="toy", database=database)


@pytest.fixture
async def http(service: ServerContext) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


def quota(table: LimitTable, refused: list[LimitKind] | None = None, **limits: int) -> Quota:
    return Quota(table, RateLimits(**limits), A, None if refused is None else refused.append)


def left(one: Quota, kind: str) -> int:
    return int(dict(one.headers())[f"x-ratelimit-remaining-{kind}".encode()])


async def written(meter: UsageMeter, database: Database) -> list[tuple[MediaPlace, MediaUsage]]:
    store = UsageStore(database)
    await meter.write(store)
    return list(await store.media_between(A.tenant, 0, 3 * DAY_S))


async def test_images_are_charged_in_advance_and_those_that_are_not_drawn_come_back(
    table: LimitTable, database: Database
) -> None:
    meter, refused = UsageMeter(lambda: 7200.5), list[LimitKind]()
    mine = quota(table, refused, images_per_minute=4)
    set_ticket(Ticket(A, mine))
    with contextlib.suppress(ValueError):
        async with MediaUse(meter, "draw", "image.generation", "512x512") as use:
            await use.reserve(3)
            assert left(mine, "images") == 1
            use.images += 1
            raise ValueError("broken")
    async with MediaUse(meter, "draw", "image.edit", "256x256") as use:
        await use.reserve(3)
        use.images += 3
    assert left(mine, "images") == 0 and not refused
    with pytest.raises(RateLimited, match="limit of 4 images a minute is reached: 1 asked for") as told:
        async with MediaUse(meter, "draw", "image.edit", "256x256") as use:
            await use.reserve(1)
    assert told.value.retry_after == 15 and refused == ["images"]
    assert await written(meter, database) == [
        (MediaPlace(A.tenant, 7200, "key_1", "draw", "image.edit", "256x256"), MediaUsage(1, images=3)),
        (MediaPlace(A.tenant, 7200, "key_1", "draw", "image.generation", "512x512"), MediaUsage(1, images=1)),
    ]


async def test_sound_is_settled_by_what_it_lasted(table: LimitTable, database: Database) -> None:
    meter, mine = UsageMeter(lambda: 7200.5), quota(table, audio_seconds_per_minute=60)
    set_ticket(Ticket(A, mine))
    async with MediaUse(meter, "kokoro", "audio.speech") as use:
        await use.reserve(1)
        await use.reserve(40.2)  # in the place of the first
        assert left(mine, "audio-seconds") == 19
        use.characters, use.seconds = 12, 10.0
    async with MediaUse(meter, "whisper", "audio.transcription") as use:
        await use.reserve(50)
        assert left(mine, "audio-seconds") == 0
        use.seconds = 50.0004
    with pytest.raises(RateLimited, match="60 seconds of sound a minute"):
        async with MediaUse(meter, "whisper", "audio.translation") as use:
            await use.reserve(1)
    assert [used for _, used in await written(meter, database)] == [
        MediaUsage(1, characters=12, milliseconds=10_000),
        MediaUsage(1, milliseconds=50_001),
    ]


async def test_a_recording_longer_than_the_limit_needs_a_full_minute(table: LimitTable) -> None:
    set_ticket(Ticket(A, quota(table, audio_seconds_per_minute=60)))
    async with MediaUse(UsageMeter(), "whisper", "audio.transcription") as use:
        await use.reserve(1)
        await use.reserve(100)
        use.seconds = 100
    with pytest.raises(RateLimited):
        await MediaUse(UsageMeter(), "whisper", "audio.transcription").reserve(1)


async def test_a_key_with_a_limit_of_its_own_has_it_alone(table: LimitTable) -> None:
    own = Principal(Tenant("a"), "key_2", images_per_minute=1)
    free = Principal(Tenant("a"), "key_3", images_per_minute=0)
    limits = RateLimits(images_per_minute=2)
    for principal, images in ((A, 2), (own, 1)):
        one = Quota(table, limits, principal)
        await one.reserve(images, "images")
        with pytest.raises(RateLimited):
            await one.reserve(1, "images")
    assert not Quota(table, limits, free).limited


async def test_a_request_outside_of_any_ticket_is_counted_for_nobody_and_limited_by_nothing(
    database: Database,
) -> None:
    set_ticket(None)
    meter = UsageMeter(lambda: 0.0)
    async with MediaUse(meter, "kokoro", "audio.speech") as use:
        await use.reserve(10**9)
        use.characters = 1
    await meter.write(UsageStore(database))
    ((place, _),) = await UsageStore(database).media_between(Tenant("local"), 0, DAY_S)
    assert place.key_id == ""


def test_the_official_sdk_reads_it(shared_live: Live, sdk: OpenAI) -> None:
    start = int(time.time())
    note: list[tuple[MediaSource, MediaUsage, str]] = [
        ("audio.speech", MediaUsage(1, characters=41, milliseconds=2000), ""),
        ("audio.transcription", MediaUsage(1, milliseconds=1500), ""),
        ("audio.translation", MediaUsage(1, milliseconds=600), ""),
        ("image.generation", MediaUsage(1, images=2), "512x512"),
        ("image.variation", MediaUsage(1, images=1), "256x256"),
    ]
    for source, used, size in note:
        shared_live.service.usage.note_media(Principal(Tenant("local")), "m", source, used, size)
    usage = sdk.with_options(admin_api_key="none").admin.organization.usage
    (speech,) = usage.audio_speeches(start_time=start, group_by=["model"]).data[0].results
    assert (speech.characters, speech.num_model_requests, speech.model) == (41, 1, "m")
    (heard,) = usage.audio_transcriptions(start_time=start).data[0].results
    assert (heard.seconds, heard.num_model_requests, heard.model) == (3, 2, None)
    drawn = usage.images(start_time=start, group_by=["size", "source"]).data[0].results
    assert {(one.size, one.source, one.images) for one in drawn} == {
        ("512x512", "image.generation", 2),
        ("256x256", "image.variation", 1),
    }
    (few,) = usage.images(start_time=start, sources=["image.variation"]).data[0].results
    assert (few.images, few.size, few.source) == (1, None, None)
    assert usage.images(start_time=start, sizes=["1024x1024"]).data[0].results == []
    assert usage.completions(start_time=start).data[0].results == []


async def test_a_tenant_sees_its_own(
    http: httpx.AsyncClient, service: ServerContext, database: Database
) -> None:
    keys = KeyStore(database)
    mine, other = (keys.create(Tenant(name), name, ["inference"]) for name in ("a", "b"))
    who = Principal(Tenant("a"), mine[0].id)
    service.usage.note_media(who, "draw", "image.edit", MediaUsage(1, images=3), "512x512")
    for (_, text), seen in ((mine, 1), (other, 0)):
        answer = await http.get(
            f"{ROOT}/images",
            params={"start_time": int(time.time()), "group_by": "api_key_id"},
            headers={"authorization": f"Bearer {text}"},
        )
        results = answer.json()["data"][0]["results"]
        assert len(results) == seen
        assert all(one["api_key_id"] == mine[0].id and one["images"] == 3 for one in results)


@pytest.mark.parametrize(
    ("path", "query", "param", "said"),
    [
        ("images", {"group_by": "user_id"}, "group_by", "not kept by user_id"),
        ("images", {"group_by": "moon"}, "group_by", ""),
        ("images", {"sources": "image.theft"}, "sources", ""),
        ("images", {"sources[]": ["x"] * 200}, "sources", ""),
        ("audio_speeches", {"group_by": "size"}, "group_by", ""),
        ("audio_speeches", {"sizes": "512x512"}, "sizes", ""),
        ("audio_transcriptions", {"bucket_width": "1m"}, "bucket_width", "by the hour"),
    ],
)
async def test_hostile_questions_are_refused(
    http: httpx.AsyncClient, path: str, query: dict[str, Any], param: str, said: str
) -> None:
    refused = await http.get(f"{ROOT}/{path}", params={"start_time": 0} | query)
    assert refused.status_code == 400, refused.text
    error = refused.json()["error"]
    assert error["param"].startswith(param) and said in error["message"]
