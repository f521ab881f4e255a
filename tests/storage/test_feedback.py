"""Ratings and usage, on SQLite and PostgreSQL."""

import asyncio

import pytest

from deepwell.errors import InvalidRequest, NotFound
from deepwell.storage.database import Tenant
from deepwell.storage.feedback import FeedbackStore, Rating, StoredFeedback
from deepwell.storage.usage import HOUR_S, Usage, UsagePlace, UsageStore

A, B = Tenant("a"), Tenant("b")


def rating(number, way: Rating = "up"):
    return StoredFeedback(
        f"fb_{number}", f"resp_{number}", way, number, "原因", "m", '[{"content": "x"}]', "lin"
    )


async def page(store, tenant=A, **query):
    found = await store.list(tenant, **{"after": None, "limit": 10, "order": "desc"} | query)
    return [one.id for one in found.data], found.has_more


async def test_ratings_are_of_one_tenant(database):
    store = FeedbackStore(database)
    for number, way in enumerate(("up", "down", "up")):
        await store.create(A, rating(number, way))
    await store.create(B, rating(0))
    assert await page(store) == (["fb_2", "fb_1", "fb_0"], False)
    assert await page(store, limit=1, order="asc") == (["fb_0"], True)
    assert await page(store, rating="up", after="fb_2") == (["fb_0"], False)
    assert (await store.list(B, after=None, limit=1, order="desc")).data == [rating(0)]
    with pytest.raises(InvalidRequest):
        await page(store, B, after="fb_1")
    with pytest.raises(NotFound):
        await store.delete(B, "fb_1")
    await store.delete(A, "fb_1")
    assert await page(store) == (["fb_2", "fb_0"], False)


async def test_usage_adds_up_by_place(database):
    store = UsageStore(database)
    here, later = UsagePlace(A, 0, "key_1", "m"), UsagePlace(A, HOUR_S, "key_1", "m")
    await store.add({here: Usage(1, 10, 5, 2), later: Usage(1, 1, 1, 0)})
    await store.add({here: Usage(2, 20, 10, 4), UsagePlace(A, 0, "key_2", "m"): Usage(1, 1, 0, 0)})
    await store.add({UsagePlace(B, 0, "key_3", "m"): Usage(9, 9, 9, 9)})
    first = await store.between(A, 0, HOUR_S)
    assert first == [(here, Usage(3, 30, 15, 6)), (UsagePlace(A, 0, "key_2", "m"), Usage(1, 1, 0, 0))]
    assert [place for place, _ in await store.between(A, HOUR_S, 2 * HOUR_S)] == [later]
    assert await store.between(A, 2 * HOUR_S, 9 * HOUR_S) == []


async def test_two_servers_add_to_one_row(opened):
    databases = [opened(), opened()]
    try:
        places = [UsagePlace(A, hour * HOUR_S, "", "m") for hour in range(3)]
        stores = [UsageStore(database) for database in databases]
        await asyncio.gather(
            *(store.add({place: Usage(1, 2, 3, 4) for place in places}) for store in stores for _ in range(8))
        )
        found = await stores[0].between(A, 0, 9 * HOUR_S)
        assert [count for _, count in found] == [Usage(16, 32, 48, 64)] * 3
    finally:
        for database in databases:
            database.close()
