"""Prompts and their versions, on SQLite and PostgreSQL."""

import pytest

from deepwell.errors import InvalidRequest, NotFound
from deepwell.storage.database import Tenant
from deepwell.storage.registry import prompts
from deepwell.storage.registry.prompts import PromptConflict, PromptStore

A, B = Tenant("a"), Tenant("b")


@pytest.fixture
def store(database):
    return PromptStore(database)


async def test_prompts_are_of_one_tenant_and_listed_newest_first(store):
    for id in ("one", "two", "three"):
        await store.create(A, id, f'"{id}"')
    await store.create(B, "one", '"other"')
    assert [one.id for one in (await store.list(A)).data] == ["three", "two", "one"]
    assert [one.id for one in (await store.list(A, after="three", limit=1)).data] == ["two"]
    assert (await store.get(B, "one")).body == '"other"'
    for call in (
        store.get(B, "two"),
        store.versions(B, "two"),
        store.numbers(B, "two"),
        store.add(B, "two", "{}"),
        store.choose(B, "two", 1),
        store.delete(B, "two"),
    ):
        with pytest.raises(NotFound, match="Prompt with id 'two' not found"):
            await call
    await store.delete(B, "one")
    assert (await store.get(A, "one")).body == '"one"'


async def test_versions_are_written_once_numbered_upwards_and_one_is_current(store):
    first = await store.create(A, "p", "1")
    assert (first.number, first.is_current) == (1, True)
    with pytest.raises(PromptConflict):
        await store.create(A, "p", "2")
    second = await store.add(A, "p", "2")
    assert (second.number, second.is_current) == (2, True)
    assert (await store.add(A, "p", "1", current=False)).number == 1
    assert (await store.get(A, "p")).number == 2
    assert (await store.add(A, "p", "1")).is_current  # the same text becomes current again
    assert (await store.add(A, "p", "7", number=7)).number == 7
    for number in (2, 3, 6):
        with pytest.raises(PromptConflict, match=r"other|another text|only rise"):
            await store.add(A, "p", "x", number=number)
    assert [one.number for one in (await store.versions(A, "p")).data] == [7, 2, 1]
    page = await store.versions(A, "p", before=7, limit=1)
    assert ([one.number for one in page.data], page.has_more) == ([2], True)
    assert not (await store.versions(A, "p", before=2)).has_more
    assert await store.numbers(A, "p") == [(7, True), (2, False), (1, False)]
    assert (await store.choose(A, "p", 2)).is_current
    with pytest.raises(NotFound, match="version '3' not found"):
        await store.choose(A, "p", 3)
    assert (await store.get(A, "p", 1)) == first.__class__("p", 1, "1", first.sha256, first.created_at, False)
    await store.delete(A, "p")
    with pytest.raises(NotFound):
        await store.get(A, "p", 1)


async def test_no_version_follows_the_last_that_a_request_can_name(store):
    last = 999_999_999
    await store.create(A, "p", "1", number=last)
    with pytest.raises(InvalidRequest, match="which is the last"):
        await store.add(A, "p", "2")
    assert (await store.add(A, "p", "1")).number == last


async def test_a_tenant_has_no_more_prompts_and_versions_than_it_may(store, monkeypatch):
    monkeypatch.setattr(prompts, "MOST_PROMPTS", 1)
    monkeypatch.setattr(prompts, "MOST_VERSIONS", 2)
    await store.create(A, "p", "1")
    with pytest.raises(InvalidRequest, match="most of a tenant"):
        await store.create(A, "q", "1")
    await store.create(B, "q", "1")
    await store.add(A, "p", "2")
    with pytest.raises(InvalidRequest, match="which is the most"):
        await store.add(A, "p", "3")
