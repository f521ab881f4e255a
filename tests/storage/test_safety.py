"""The audit trail, policies of tenants and answers to questions, on SQLite and PostgreSQL."""

import asyncio
import json

import pytest
import sqlalchemy as sa

from deepwell.storage.database import Tenant
from deepwell.storage.safety.anchors import Anchors
from deepwell.storage.safety.answers import AnswerStore
from deepwell.storage.safety.audit import AuditStore, forget_person, forget_tenant
from deepwell.storage.safety.chain import GENESIS, AuditRecord, Head, hash_of
from deepwell.storage.safety.entries import AuditPages, EntryFilter
from deepwell.storage.tables import audit_chains, audit_entries

A, B = Tenant("a"), Tenant("b")


def record(number: int, **given) -> AuditRecord:
    return AuditRecord("decision", 1000 + number, {"action": "block", "layer": "input"}, **given)


async def lines(store, tenant=A):
    [chain] = await store.chains(tenant)
    _, rows = store.rows(chain.id, 0, 1000)
    return [json.loads(row[2]) for row in rows]


async def test_every_entry_names_the_hash_of_the_one_before(database):
    store = AuditStore(database)
    await store.append(A, [record(1), record(2)])
    head = await store.append(A, [record(3)])
    [chain] = await store.chains(A)
    _, rows = store.rows(chain.id, 0, 10)
    assert [row[0] for row in rows] == [1, 2, 3]
    previous = GENESIS
    for _, _, entry, hash in rows:
        assert json.loads(entry)["previous"] == previous
        previous = hash_of(entry)
        assert hash == previous
    assert chain.head == head == Head(3, previous)


async def test_tenants_have_chains_of_their_own(database):
    store = AuditStore(database)
    heads = await store.append_all({B: [record(1)], A: [record(2), record(3)]})
    assert (heads[A].sequence, heads[B].sequence) == (2, 1)
    assert [line["time"] for line in await lines(store, B)] == [1001]
    assert "tenant" not in (await lines(store))[0]


async def test_a_trail_is_read_from_its_end(database):
    store, pages = AuditStore(database), AuditPages(database)
    finding = {"rule": 'a"action":"flag",', "action": "flag"}
    for number, action in enumerate(("allow", "block", "flag", "block", "allow"), 1):
        told = {"action": action, "findings": [finding], "policy": "hash"}
        await store.append(A, [AuditRecord("decision", 1000 * number, told)])
    await store.append(B, [record(1)])

    async def read(before=None, limit=10, **wanted):
        page = await pages.newest(A, EntryFilter(**wanted), before=before, limit=limit)
        return [row[0] for row in page.data], page.has_more

    assert await read() == ([5, 4, 3, 2, 1], False)
    assert await read(limit=2) == ([5, 4], True)
    assert await read(before=4, limit=3) == ([3, 2, 1], False)
    assert await read(action="block") == ([4, 2], False)
    assert await read(action="flag") == ([3], False)
    assert await read(since_ms=2000, until_ms=4000) == ([3, 2], False)
    assert (await pages.newest(Tenant("nobody"), EntryFilter(), before=None, limit=1)).data == []


async def test_two_servers_keep_one_chain(opened):
    databases = [opened(), opened()]
    try:
        stores = [AuditStore(database) for database in databases]

        async def append(store, first):
            for number in range(first, first + 12):
                await store.append_all({A: [record(number)], B: [record(number), record(number)]})

        await asyncio.wait_for(asyncio.gather(*(append(stores[n % 2], 100 * n) for n in range(4))), 60)
        for tenant, count in ((A, 48), (B, 96)):
            found = await lines(stores[0], tenant)
            assert [line["sequence"] for line in found] == list(range(1, count + 1))
            [chain] = await stores[0].chains(tenant)
            _, rows = stores[0].rows(chain.id, 0, 1000)
            assert [line["previous"] for line in found] == [GENESIS, *(row[3] for row in rows[:-1])]
    finally:
        for database in databases:
            database.close()


async def test_a_failed_write_leaves_no_entry(database):
    store = AuditStore(database)
    await store.append(A, [record(1)])
    with pytest.raises(ValueError, match="sequence"):
        await store.append(A, [record(2), AuditRecord("decision", 3, {"sequence": 9})])
    assert (await store.append(A, [record(4)])).sequence == 2


async def test_an_end_user_has_one_random_pseudonym_until_it_is_forgotten(database):
    store = AuditStore(database)
    await store.append(A, [record(1, end_user="lin@example.com"), record(2, end_user="lin@example.com")])
    first, second = await lines(store)
    assert first["person"] == second["person"]
    assert await store.person(A, "lin@example.com") == (first["chain"], first["person"])
    assert await store.person(B, "lin@example.com") is None
    assert await database.write(lambda connection: forget_person(connection, A, "lin@example.com")) == {
        "audit_persons": 1,
        "audit_texts": 0,
    }
    assert await store.person(A, "lin@example.com") is None
    await store.append(A, [record(3, end_user="lin@example.com")])
    assert (await lines(store))[2]["person"] != first["person"]

    def dumped(connection):
        return repr([connection.execute(sa.select(table)).all() for table in (audit_chains, audit_entries)])

    assert "lin@" not in await database.read(dumped)


async def test_a_forgotten_tenant_leaves_a_whole_chain_of_nobody(database):
    store = AuditStore(database)
    await store.append(A, [record(1, end_user="lin")])
    assert await database.write(lambda connection: forget_tenant(connection, A)) == {
        "audit_chains": 1,
        "audit_persons": 1,
        "audit_texts": 0,
    }
    assert await store.chains(A) == []
    [chain] = await store.chains()
    assert chain.tenant is None
    assert chain.head.sequence == 1
    assert (await store.append(A, [record(2)])).sequence == 1
    assert await database.write(lambda connection: forget_tenant(connection, B)) == {}


async def test_pruning_removes_the_oldest_and_remembers_where_it_stopped(database):
    store = AuditStore(database)
    await store.append(A, [record(number) for number in range(10)])
    [chain] = await store.chains(A)
    _, rows = store.rows(chain.id, 0, 10)
    assert await store.prune(chain.id, 6, 4) == 4
    assert await store.prune(chain.id, 6, 4) == 2
    assert await store.prune(chain.id, 6, 4) == 0
    state, left = store.rows(chain.id, 0, 10)
    assert [row[0] for row in left] == [7, 8, 9, 10]
    assert state.pruned == Head(6, rows[5][3])
    assert (await store.append(A, [record(11)])).sequence == 11


async def test_half_a_surrogate_pair_is_kept_as_a_question_mark(database):
    store = AuditStore(database)
    await store.append(A, [AuditRecord("decision", 1, {"model": "a\ud800\x00"}, end_user="x\udfff")])
    assert (await lines(store))[0]["model"] == "a?\x00"


async def test_the_anchor_follows_the_head(database, tmp_path):
    anchors = Anchors(tmp_path / "anchors")
    store = AuditStore(database, anchors)
    for number in range(3):
        head = await store.append(A, [record(number)])
        [chain] = await store.chains(A)
        assert store.anchor(chain.id) == anchors.read(chain.id) == head


async def test_an_anchor_is_not_moved_by_a_trail_that_was_cut(database, tmp_path):
    anchors = Anchors(tmp_path / "anchors")
    store = AuditStore(database, anchors)
    await store.append(A, [record(number) for number in range(5)])
    [chain] = await store.chains(A)
    remembered = anchors.read(chain.id)
    _, rows = store.rows(chain.id, 0, 10)

    def cut(connection):
        connection.execute(sa.delete(audit_entries).where(audit_entries.c.sequence > 3))
        connection.execute(sa.update(audit_chains).values(sequence=3, hash=rows[2][3]))

    await database.write(cut)
    later = AuditStore(database, anchors)
    await later.append(A, [record(number) for number in range(100, 110)])
    assert anchors.read(chain.id) == remembered


def test_an_older_head_moves_no_anchor(tmp_path):
    anchors = Anchors(tmp_path / "a")
    new, old = Head(12, "1" * 64), Head(11, "2" * 64)
    anchors.advance("chain_x", new)
    anchors.advance("chain_x", old)
    assert anchors.read("chain_x") == new
    anchors.forget("chain_x")
    assert anchors.read("chain_x") is None


async def test_the_newest_answer_counts_and_the_older_stay(database):
    store = AnswerStore(database)
    await store.put(A, "cn", "security-officer", "no", answered_by="lin")
    await store.put(A, "cn", "security-officer", "yes", evidence="letter of 3 May", answered_by="ada")
    await store.put(A, "eu", "security-officer", "no", answered_by="lin")
    newest = await store.newest(A, "cn")
    assert {name: one.answer for name, one in newest.items()} == {"security-officer": "yes"}
    assert [one.answered_by for one in await store.history(A, "cn")] == ["lin", "ada"]
    assert await store.newest(B, "cn") == {}
