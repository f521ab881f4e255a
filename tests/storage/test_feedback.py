"""Ratings and usage, on SQLite and PostgreSQL."""

import asyncio
from dataclasses import replace

import pytest

from deepwell.errors import InvalidRequest, NotFound
from deepwell.storage.database import Tenant
from deepwell.storage.feedback import (
    FEEDBACK_WINDOW_S,
    FeedbackLimited,
    FeedbackLimits,
    FeedbackStore,
    Rating,
    StoredFeedback,
    voter_of,
)
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
        await store.put(A, rating(number, way))
    await store.put(B, rating(0))
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


async def test_a_later_vote_of_a_voter_on_an_answer_replaces_the_earlier_one(database):
    store = FeedbackStore(database)
    first = StoredFeedback("fb_1", "resp_1", "up", 1, voter=voter_of("lin"))
    again = StoredFeedback(
        "fb_2", "resp_1", "down", 9, "原因", "m", "[]", "lin", "better", True, True, first.voter, "import"
    )
    assert await store.put(A, first) == first
    assert await store.put(A, again) == replace(again, id="fb_1")
    for tenant, target, voter in (
        (A, "resp_2", first.voter),
        (A, "resp_1", voter_of("ada")),
        (B, "resp_1", first.voter),
    ):
        await store.put(tenant, StoredFeedback(f"fb_{target}{voter}"[:64], target, "up", 2, voter=voter))
    ours = (await store.list(A, after=None, limit=9, order="asc")).data
    assert len(ours) == 3 and ours[0] == replace(again, id="fb_1")  # its place stays
    assert [
        one.target_id for one in (await store.list(A, after=None, limit=9, order="asc", consent=True)).data
    ] == ["resp_1"]
    assert (await page(store, target_id="resp_2"))[0] == [ours[1].id]


async def test_a_voter_and_a_tenant_rate_so_many_answers_a_day(database):
    store, limits = FeedbackStore(database), FeedbackLimits(per_user=2, per_tenant=3)

    async def rate(target: str, user: str, at: int, tenant=A):
        return await store.put(
            tenant, StoredFeedback(f"{target}-{user}", target, "up", at, voter=voter_of(user)), limits
        )

    start = 1_000_000
    await rate("a", "lin", start)
    await rate("b", "lin", start + 10)
    with pytest.raises(FeedbackLimited, match="user has rated 2") as refused:
        await rate("c", "lin", start + 20)
    assert refused.value.retry_after == FEEDBACK_WINDOW_S - 20
    await rate("b", "lin", start + 20)  # a changed mind is no further answer
    await rate("a", "ada", start + 20)
    with pytest.raises(FeedbackLimited, match="tenant has rated 3"):
        await rate("a", "eve", start + 30)
    await rate("a", "eve", start + 30, B)
    await rate("c", "lin", start + FEEDBACK_WINDOW_S)  # the first one is a day old
    imported = StoredFeedback("fb_i", "x", "up", start + FEEDBACK_WINDOW_S, voter="v", source="import")
    await store.put(A, imported)  # a file is the operator's
    with pytest.raises(FeedbackLimited):
        await store.put_all(
            A, [replace(imported, id=f"fb_{n}", target_id=str(n), source="api") for n in range(3)], limits
        )
    assert len((await page(store))[0]) == 5  # none of the three


async def test_two_servers_keep_one_vote(opened):
    databases = [opened(), opened()]
    try:
        stores = [FeedbackStore(database) for database in databases]
        await asyncio.gather(
            *(
                store.put(A, StoredFeedback(f"fb_{number}{n}", f"resp_{n % 4}", "up", n, voter="v"))
                for n in range(8)
                for number, store in enumerate(stores)
            )
        )
        assert len((await page(stores[0]))[0]) == 4
    finally:
        for database in databases:
            database.close()


async def test_a_walk_sees_all_ratings_in_order(database):
    store = FeedbackStore(database)
    made = [rating(number, "up" if number % 3 else "down") for number in range(450)]
    await store.put_all(A, [replace(one, consent=bool(n % 2)) for n, one in enumerate(made)])
    await store.put(B, rating(0))
    assert [one.id async for one in store.walk(A)] == [one.id for one in made]
    assert [one.created_at async for one in store.walk(A, consent=True)] == list(range(1, 450, 2))
    assert [one.created_at async for one in store.walk(A, rating="down")] == list(range(0, 450, 3))


def test_voters_are_told_apart():
    names = [voter_of(None), voter_of("a"), voter_of(None, "a"), voter_of(""), voter_of("\ud83d")]
    assert len(set(names)) == 5 and all(len(one) == 64 for one in names)


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
