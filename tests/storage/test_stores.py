"""What every store promises, whatever database is below: tenants apart, pages whole, names of what is missing."""

import os
import subprocess
import sys
import uuid

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepwell.errors import InvalidRequest, NotFound
from deepwell.storage.completions import CompletionStore, StoredCompletion
from deepwell.storage.conversations import ConversationStore, Item, StoredConversation
from deepwell.storage.database import Tenant
from deepwell.storage.responses import ResponseStore, StoredResponse
from deepwell.storage.tables import responses

A, B = Tenant("a"), Tenant("b")


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


async def test_a_deleted_response_is_not_finished(database):
    store = ResponseStore(database)
    await store.put(A, response("r", status="in_progress"), working=True)
    assert await store.finish(A, response("r"))
    await store.delete(A, "r")
    assert not await store.finish(A, response("r"))
    with pytest.raises(NotFound):
        await store.get(A, "r")


@pytest.fixture
def ended():
    """A process that was there."""
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    return process


async def test_orphans_are_those_of_processes_that_have_ended(database, ended):
    store = ResponseStore(database)
    await store.put(A, response("dead", status="in_progress"), working=True)
    await store.put(B, response("alive", status="in_progress"), working=True)
    await store.put(B, response("done"))
    for name, pid in (("dead", ended.pid), ("alive", os.getppid())):
        owner = f"{os.uname().nodename[:40]}/{pid}"
        statement = sa.update(responses).where(responses.c.id == name).values(owner=owner)
        await database.write(lambda connection, statement=statement: connection.execute(statement))
    assert store.orphans() == [(A, response("dead", status="in_progress"))]
    store.give_up(A, response("dead", status="failed"))
    assert store.orphans() == []
    assert (await store.get(A, "dead")).status == "failed"


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
    assert not await stored.finish(B, response("x"))
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
