"""What every store promises, whatever database is below: tenants apart, pages whole, names of what is missing."""

import uuid
from dataclasses import replace

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepwell.errors import InvalidRequest, NotFound
from deepwell.storage.batches import BatchStore, TooManyBatches
from deepwell.storage.completions import CompletionStore, StoredCompletion
from deepwell.storage.conversations import ConversationStore, Item, StoredConversation
from deepwell.storage.database import Tenant
from deepwell.storage.files import FileStore
from deepwell.storage.jobs import JobStore
from deepwell.storage.responses import ResponseStore, StoredResponse
from deepwell.storage.tables import responses

A, B = Tenant("a"), Tenant("b")


class Clock:
    """Monotonic seconds that pass when they are told to."""

    now = 1000.0

    def __call__(self):
        return self.now


def response(id, previous=None, status="completed"):
    return StoredResponse(id, 1, status, "[]", f'{{"id":"{id}"}}', previous)


def items(*ids):
    return [Item(id, f'{{"id":"{id}"}}') for id in ids]


def completion(id, model="m", **metadata):
    return StoredCompletion(id, 1, model, "[]", "{}", metadata)


async def test_responses_come_back_and_form_chains(database):
    store = ResponseStore(database)
    await store.put(A, response("r1"))
    await store.put(A, response("r2", "r1"))
    await store.put(A, response("r3", "r2"))
    assert await store.get(A, "r2") == response("r2", "r1")
    assert [one.id for one in await store.chain(A, "r3")] == ["r1", "r2", "r3"]
    assert (await store.some(A, ["r1", "r3", "none"])).keys() == {"r1", "r3"}
    await store.delete(A, "r2")
    assert [one.id for one in await store.chain(A, "r3")] == ["r1", "r3"], "a deleted link is passed over"
    for ask in (store.get(A, "r2"), store.chain(A, "r2"), store.delete(A, "r2")):
        with pytest.raises(NotFound, match="'r2'"):
            await ask
    assert await store.some(A, ["r2"]) == {}
    row = sa.select(responses.c.input, responses.c.body, responses.c.events).where(responses.c.id == "r2")
    kept = await database.read(lambda connection: connection.execute(row).one())
    assert tuple(kept) == ("[]", "{}", None), "nothing of what was said is kept"


def failed(stored):
    return replace(stored, status="failed")


async def test_a_response_is_finished_by_its_owner_alone(database):
    store = ResponseStore(database)
    await store.begin(A, response("r", status="in_progress"), "one", 600)
    assert not await store.finish(A, response("r"), "other")
    assert (await store.get(A, "r")).status == "in_progress"
    assert await store.finish(A, response("r"), "one")
    assert not await store.finish(A, response("r", status="failed"), "one")
    assert (await store.get(A, "r")).status == "completed"
    assert await store.beat(["r"], "one", 600) == set()


async def test_a_deleted_response_is_not_finished(database):
    store = ResponseStore(database)
    await store.begin(A, response("r", status="in_progress"), "one", 600)
    assert await store.beat(["r"], "one", 600) == {"r"}
    await store.delete(A, "r")
    assert not await store.finish(A, response("r"), "one")
    assert await store.beat(["r"], "one", 600) == set()
    with pytest.raises(NotFound):
        await store.get(A, "r")


async def test_a_closed_response_is_nobodys_any_more(database):
    store = ResponseStore(database)
    await store.begin(A, response("r", status="in_progress"), "one", 600)
    assert (await store.close(A, "r", failed)).status == "failed"
    assert not await store.finish(A, response("r"), "one")
    assert (await store.close(A, "r", lambda stored: replace(stored, status="cancelled"))).status == "failed"
    assert not await store.is_any_unfinished()
    with pytest.raises(NotFound):
        await store.close(B, "r", failed)


async def test_responses_are_taken_from_owners_that_fell_silent(database):
    clock = Clock()
    store, jobs = ResponseStore(database), JobStore(database, clock=clock)
    for id, owner in (("dead", "gone"), ("alive", "there")):
        await store.begin(A, response(id, status="in_progress"), owner, 10)
    await store.put(A, response("done"))

    async def take():
        return await store.take_silent(jobs, "me", 10)

    assert await take() == []
    clock.now += 9
    assert await store.beat(["alive"], "there", 10) == {"alive"}
    assert await take() == []
    clock.now += 1
    assert await take() == [(A, "dead")]
    assert await take() == []
    await store.close(A, "dead", failed)
    clock.now += 9
    assert await take() == [(A, "alive")]
    assert not await store.finish(A, response("alive"), "there")  # too late: it was given up


async def test_responses_of_older_versions_get_a_lease_when_they_are_found(database):
    clock = Clock()
    store, jobs = ResponseStore(database), JobStore(database, clock=clock)
    await store.put(A, response("old", status="in_progress"))
    owned = sa.update(responses).values(owner="another-host/1")
    await database.write(lambda connection: connection.execute(owned))
    assert await store.take_silent(jobs, "me", 10) == []
    clock.now += 10
    assert await store.take_silent(jobs, "me", 10) == [(A, "old")]
    assert (await store.close(A, "old", failed)).status == "failed"
    assert not await store.is_any_unfinished()


async def test_tenants_do_not_see_each_other(database):
    stored, conversations, completions = (
        ResponseStore(database),
        ConversationStore(database),
        CompletionStore(database),
    )
    await stored.put(A, response("x"))
    await conversations.create(A, StoredConversation("x", 1, "{}"), items("i"))
    await completions.create(A, completion("x", k="v"))
    for ask in (
        stored.get(B, "x"),
        stored.chain(B, "x"),
        stored.delete(B, "x"),
        conversations.get(B, "x"),
        conversations.update(B, "x", "{}"),
        conversations.delete(B, "x"),
        conversations.append(B, "x", items("j")),
        conversations.items(B, "x"),
        conversations.list_items(B, "x", after=None, limit=5, order="asc"),
        conversations.item(B, "x", "i"),
        conversations.delete_item(B, "x", "i"),
        completions.get(B, "x"),
        completions.update(B, "x", {}),
        completions.delete(B, "x"),
    ):
        with pytest.raises(NotFound):
            await ask
    assert not await stored.finish(B, response("x"), "me")
    assert (await completions.list(B, after=None, limit=5, order="asc")).data == []
    with pytest.raises(InvalidRequest, match="after"):
        await completions.list(B, after="x", limit=5, order="asc")
    # The same id may be another tenant's too.
    await stored.put(B, response("x", status="failed"))
    assert (await stored.get(A, "x")).status == "completed"
    # A chain does not lead from one tenant to another.
    await stored.put(B, response("y", "z"))
    await stored.put(A, response("z"))
    assert [one.id for one in await stored.chain(B, "y")] == ["y"]


async def test_conversation_items_keep_their_order_and_their_ids(database):
    store = ConversationStore(database)
    await store.create(A, StoredConversation("c", 1, '{"a":"b"}'), items("1", "2"))
    await store.append(A, "c", items("3"))
    await store.append(A, "c", [])
    assert [item.id for item in await store.items(A, "c")] == ["1", "2", "3"]
    with pytest.raises(InvalidRequest, match="2"):
        await store.append(A, "c", items("4", "2"))
    with pytest.raises(InvalidRequest, match="twice"):
        await store.append(A, "c", items("5", "5"))
    assert await store.delete_item(A, "c", "2") == StoredConversation("c", 1, '{"a":"b"}')
    await store.append(A, "c", items("2"))
    assert [item.id for item in await store.items(A, "c")] == ["1", "3", "2"]
    assert (await store.item(A, "c", "3")).body == '{"id":"3"}'
    assert (await store.update(A, "c", "{}")).metadata == "{}"
    for item in ("9", "'; --"):
        with pytest.raises(NotFound, match="item"):
            await store.item(A, "c", item)
    await store.delete(A, "c")
    await store.create(A, StoredConversation("c", 1, "{}"), items("1"))  # nothing of the old one was left
    assert len(await store.items(A, "c")) == 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(data=st.data(), order=st.sampled_from(["asc", "desc"]), limit=st.integers(1, 8))
async def test_pages_join_to_the_whole(database, data, order, limit):
    store = ConversationStore(database)
    name = f"c{uuid.uuid4()}"
    ids = [str(number) for number in range(data.draw(st.integers(0, 15)))]
    await store.create(A, StoredConversation(name, 1, "{}"), items(*ids))
    found, after = [], None
    while True:
        page = await store.list_items(A, name, after=after, limit=limit, order=order)
        found += [item.id for item in page.data]
        assert len(page.data) <= limit and (len(page.data) == limit or not page.has_more)
        if not page.has_more:
            break
        after = found[-1]
    assert found == (ids if order == "asc" else ids[::-1])


async def test_completions_are_listed_by_model_and_metadata(database):
    store = CompletionStore(database)
    await store.create(A, completion("1", k="v", x="y"))
    await store.create(A, completion("2", "n", k="v"))
    await store.create(A, completion("3", k="w", **{'"odd" $.key': "'"}))

    async def ids(**kwargs):
        page = await store.list(A, after=None, limit=9, order="asc", **kwargs)
        return [one.id for one in page.data]

    assert await ids() == ["1", "2", "3"]
    assert await ids(model="n") == ["2"]
    assert await ids(metadata={"k": "v"}) == ["1", "2"]
    assert await ids(metadata={"k": "v", "x": "y"}) == ["1"]
    assert await ids(metadata={'"odd" $.key': "'"}) == ["3"]
    updated = await store.update(A, "1", {"k": "w"})
    assert updated.metadata == {"k": "w"} == (await store.get(A, "1")).metadata
    assert await ids(metadata={"k": "w"}) == ["1", "3"]
    await store.delete(A, "3")
    assert await ids(metadata={"k": "w"}) == ["1"]
    page = await store.list(A, after="2", limit=1, order="desc")
    assert [one.id for one in page.data] == ["1"] and not page.has_more


async def test_a_tenant_has_a_number_of_unfinished_batches_at_most(database, tmp_path, monkeypatch):
    monkeypatch.setattr("deepwell.storage.batches.store.MOST_OPEN", 2)
    store = FileStore(database, tmp_path)
    batches = BatchStore(database, store)

    async def make(tenant):
        draft = store.draft()
        draft.write(b"{}")
        draft.close()
        try:
            return await batches.create_without_files(tenant, endpoint="/v1/messages", lines=draft, total=1)
        finally:
            draft.discard()

    first = await make(A)
    await make(A)
    with pytest.raises(TooManyBatches, match="cancel it") as refused:
        await make(A)
    assert refused.value.status == 429 and refused.value.retry_after
    await make(B)
    await batches.cancel(A, first.id)
    await batches.conclude(A, first.id, "cancelled")
    await make(A)
