"""The audit trail: what verification finds, what waits for a commit, what pruning leaves."""

import asyncio
import hashlib
import json
import time

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from deepwell.errors import InvalidRequest, StorageUnavailable
from deepwell.safety.audit.keep import LEAST_DAYS, entries, prune, write_texts
from deepwell.safety.audit.trail import AuditOptions, AuditTrail, RequestFacts, decision_record
from deepwell.safety.findings import Decision, Finding
from deepwell.safety.policy import Audit
from deepwell.storage.database import Database, Tenant
from deepwell.storage.safety.anchors import Anchors
from deepwell.storage.safety.audit import AuditStore, forget_person
from deepwell.storage.safety.chain import NOTHING, AuditRecord, Head, hash_of, sealed
from deepwell.storage.safety.verify import verify_chain, verify_lines
from deepwell.storage.tables import audit_chains, audit_entries, audit_persons, audit_texts

A, B = Tenant("a"), Tenant("b")
DAY_MS = 86_400_000
FOUND = Finding("terms.politics", "politics", 3, 9)
BLOCK = Decision("block", "input", ((FOUND, "block"),), "f" * 64)
ALLOW = Decision("allow", "input", (), "f" * 64)


@pytest.fixture(scope="module")
def database():
    database = Database.temporary()
    yield database
    database.close()


@pytest.fixture
def store(database, tmp_path):
    def clear(connection):
        for table in (audit_entries, audit_persons, audit_texts, audit_chains):
            connection.execute(sa.delete(table))

    database.write_now(clear)
    return AuditStore(database, Anchors(tmp_path / "anchors"))


def record(number: int) -> AuditRecord:
    return AuditRecord("decision", 1000 + number, {"action": "flag"})


async def filled(store, count=10):
    await store.append(A, [record(number) for number in range(count)])
    [chain] = await store.chains(A)
    return chain


def kinds(result):
    return [(problem.sequence, problem.kind) for problem in result.problems]


async def test_a_whole_trail_holds_and_is_anchored(store):
    chain = await filled(store)
    result = await asyncio.to_thread(verify_chain, store, chain.id)
    assert result.holds
    assert (result.entries, result.first, result.last, result.head) == (10, 1, 10, chain.head.hash)
    assert result.anchors == [chain.head]
    assert result.tenant == A


CHANGES = {
    "a flipped byte": (
        "UPDATE audit_entries SET entry = replace(entry, '\"flag\"', '\"flaf\"') WHERE sequence = 4",
        [(4, "changed")],
    ),
    "a time beside the entry": (
        "UPDATE audit_entries SET at_ms = at_ms + 1 WHERE sequence = 4",
        [(4, "moved")],
    ),
    "a removed entry": ("DELETE FROM audit_entries WHERE sequence = 4", [(4, "missing"), (5, "unlinked")]),
    "a removed beginning": (
        "DELETE FROM audit_entries WHERE sequence < 4",
        [(1, "missing"), (4, "unlinked")],
    ),
    "a cut tail": ("DELETE FROM audit_entries WHERE sequence > 8", [(8, "cut"), (8, "cut")]),
    "an entry of another type": (
        "UPDATE audit_entries SET entry = 5 WHERE sequence = 4",
        [(4, "changed"), (4, "changed")],
    ),
    "an entry whose number is none": (
        "UPDATE audit_entries SET sequence = 'x' WHERE sequence = 10",
        [(9, "changed"), (9, "cut"), (9, "cut")],
    ),
    "an emptied trail": ("DELETE FROM audit_entries", [(0, "cut"), (0, "cut")]),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_is_found(store, database, change):
    chain = await filled(store)
    statement, expected = CHANGES[change]
    await database.write(lambda connection: connection.execute(sa.text(statement)).rowcount)
    result = await asyncio.to_thread(verify_chain, store, chain.id)
    assert kinds(result) == expected


DAMAGE = {
    "an entry": ("audit_entries", "entry", "sequence = 4", [(4, "changed"), (4, "changed")]),
    "a hash": ("audit_entries", "hash", "sequence = 4", [(4, "changed"), (5, "unlinked")]),
    "the hash of the head": ("audit_chains", "hash", "1", [(10, "replaced")]),
    "the tenant": ("audit_chains", "tenant", "1", []),
    "the chain's id": ("audit_chains", "id", "1", [(0, "cut")]),
    "a text": ("audit_texts", "text", "1", [(11, "changed")]),
    "the salt of a text": ("audit_texts", "salt", "1", [(11, "changed")]),
}


@pytest.mark.parametrize("part", DAMAGE)
async def test_bytes_that_are_not_utf8_are_damage_and_no_crash(store, database, part):
    await store.append(A, [record(number) for number in range(10)])
    await store.append(A, [AuditRecord("decision", 2000, {}, text="said")] if "text" in part else [])
    table, column, where, expected = DAMAGE[part]

    def flip(connection):
        connection.execute(sa.text("PRAGMA defer_foreign_keys = ON"))
        for name, one in ((table, column), *([("audit_entries", "chain")] if column == "id" else ())):
            wrong = f"CAST(substr({one}, 1, 3) || x'ff' || substr({one}, 5) AS TEXT)"
            connection.execute(sa.text(f"UPDATE {name} SET {one} = {wrong} WHERE {where}"))

    database.write_now(flip)
    [chain] = await store.chains()
    result = await asyncio.to_thread(verify_chain, store, chain.id)
    assert kinds(result) == expected


async def test_a_replacement_character_is_not_taken_for_the_bytes_that_it_stands_for(store, database):
    await store.append(A, [AuditRecord("decision", 1000, {"model": "\ufffd"})])
    swapped = "UPDATE audit_entries SET entry = CAST(replace(CAST(entry AS BLOB), x'efbfbd', x'ff') AS TEXT)"
    database.write_now(lambda connection: connection.execute(sa.text(swapped)).rowcount)
    [chain] = await store.chains(A)
    assert not verify_chain(store, chain.id).holds


async def test_two_entries_that_changed_places_are_found(store, database):
    chain = await filled(store)

    def swap(connection):
        for one, other in ((4, 99), (5, 4), (99, 5)):
            connection.execute(
                sa.update(audit_entries).where(audit_entries.c.sequence == one).values(sequence=other)
            )

    await database.write(swap)
    result = await asyncio.to_thread(verify_chain, store, chain.id)
    assert {4, 5} <= {sequence for sequence, _ in kinds(result)}


async def rewrite(database, chain, count):
    """Makes a trail anew, with all of its hashes, as somebody with the right to write could."""

    def work(connection):
        rows = sealed([record(500 + number) for number in range(count)], chain.id, NOTHING, {})
        connection.execute(sa.delete(audit_entries))
        connection.execute(
            sa.insert(audit_entries),
            [
                {"chain": chain.id, "sequence": row[0], "at_ms": row[1], "entry": row[2], "hash": row[3]}
                for row in rows
            ],
        )
        connection.execute(sa.update(audit_chains).values(sequence=rows[-1][0], hash=rows[-1][3]))

    await database.write(work)


@pytest.mark.parametrize("count", [8, 10, 14])
async def test_a_trail_written_anew_is_found_by_its_anchor(store, database, count):
    chain = await filled(store)
    await rewrite(database, chain, count)
    result = await asyncio.to_thread(verify_chain, store, chain.id)
    assert kinds(result) == ([(8, "cut")] if count == 8 else [(10, "replaced")])


async def test_without_an_anchor_a_head_written_down_elsewhere_finds_it(store, database):
    chain = await filled(store)
    await rewrite(database, chain, 10)
    bare = AuditStore(database)
    assert (await asyncio.to_thread(verify_chain, bare, chain.id)).holds
    result = await asyncio.to_thread(verify_chain, bare, chain.id, [chain.head])
    assert kinds(result) == [(10, "replaced")]


async def test_an_exported_file_proves_itself(store):
    chain = await filled(store)
    lines = [line async for line in entries(store, chain, since_ms=1003, until_ms=1008)]
    assert [json.loads(line)["sequence"] for line in lines] == [4, 5, 6, 7, 8]
    # The verification that the guide shows.
    before = ""
    for line in lines:
        entry = json.loads(line)
        assert before in ("", entry["previous"])
        before = hashlib.sha256(line.encode()).hexdigest()
    data = [f"{line}\n".encode() for line in lines]
    assert verify_lines(data, [Head(8, before)]).holds
    assert kinds(verify_lines(data[:-1], [Head(8, before)])) == [(7, "cut")]
    assert kinds(verify_lines(data[:2] + data[3:])) == [(6, "missing"), (7, "unlinked")]
    assert kinds(verify_lines([data[0].replace(b"flag", b"flog"), *data[1:]])) == [(5, "unlinked")]


async def test_an_export_of_one_person_has_that_persons_entries_alone(store):
    await store.append(
        A, [AuditRecord("decision", 1, {}, "lin"), AuditRecord("decision", 2, {}, "ada"), record(3)]
    )
    [chain] = await store.chains(A)
    found = await store.person(A, "lin")
    assert found is not None
    lines = [json.loads(line) async for line in entries(store, chain, person=found[1])]
    assert [line["sequence"] for line in lines] == [1]


async def aged(store, ages_days):
    now = time.time()
    await store.append(A, [AuditRecord("decision", int(now * 1000) - age * DAY_MS) for age in ages_days])
    [chain] = await store.chains(A)
    return chain, now


async def test_what_pruning_leaves_still_verifies(store):
    chain, now = await aged(store, [400, 300, 200, 100, 1])
    done = await prune(store, chain, now - 250 * 86_400)
    assert (done.entries, done.through) == (2, 2)
    result = await asyncio.to_thread(verify_chain, store, chain.id)
    assert result.holds
    assert (result.first, result.last) == (3, 6)
    assert (await prune(store, chain, now - 250 * 86_400)).entries == 0
    [line] = [json.loads(line) async for line in entries(store, chain) if '"prune"' in line]
    assert (line["through"], line["entries"]) == (2, 2)


async def test_a_trail_may_be_pruned_to_its_last_word(store):
    chain, now = await aged(store, [400, 300])
    assert (await prune(store, chain, now - 200 * 86_400)).entries == 2
    assert (await asyncio.to_thread(verify_chain, store, chain.id)).holds
    await store.append(A, [record(1)])
    assert (await prune(store, chain, now + 10, force=True)).entries >= 1
    assert (await asyncio.to_thread(verify_chain, store, chain.id)).holds


async def test_six_months_are_kept_unless_forced(store):
    chain, now = await aged(store, [400, 100])
    with pytest.raises(InvalidRequest, match="six months"):
        await prune(store, chain, now - (LEAST_DAYS - 1) * 86_400)
    assert (await prune(store, chain, now - 50 * 86_400, force=True)).entries == 2


async def test_an_interrupted_pruning_verifies_and_is_finished_by_the_next(store):
    chain, now = await aged(store, [400, 300, 200])
    await store.append_to(chain.id, [AuditRecord("prune", 1, {"through": 2, "entries": 2})])
    assert await store.prune(chain.id, 2, 1) == 1  # and then the process was killed
    assert (await asyncio.to_thread(verify_chain, store, chain.id)).holds
    assert (await prune(store, chain, now - 250 * 86_400)).through == 2


async def test_a_beginning_that_nobody_pruned_is_reported(store, database):
    chain = await filled(store)
    await store.prune(chain.id, 3, 10)
    result = await asyncio.to_thread(verify_chain, store, chain.id)
    assert kinds(result) == [(3, "unannounced")]


@settings(deadline=None)
@given(data=st.data())
def test_any_change_of_an_exported_file_is_found(data):
    texts = data.draw(st.lists(st.text(max_size=8), min_size=2, max_size=12))
    rows = sealed([AuditRecord("decision", 1, {"text": text}) for text in texts], "c", NOTHING, {})
    lines = [row[2].encode() for row in rows]
    known = [Head(rows[-1][0], rows[-1][3])]
    assert verify_lines(lines, known).holds
    at = data.draw(st.integers(0, len(lines) - 1))
    match data.draw(st.sampled_from(["flip", "remove", "swap", "repeat"])):
        case "flip":
            place = data.draw(st.integers(0, len(lines[at]) - 1))
            bit = 1 << data.draw(st.integers(0, 7))
            changed = bytearray(lines[at])
            changed[place] ^= bit
            if bytes(changed).rstrip(b"\r\n") == b"" or b"\n" in bytes(changed):
                return  # a line feed is no byte of a line
            lines[at] = bytes(changed)
        case "remove":
            del lines[at]
            if at == 0:
                return  # a file may begin anywhere
        case "swap":
            other = (at + 1) % len(lines)
            lines[at], lines[other] = lines[other], lines[at]
        case "repeat":
            lines.insert(at, lines[at])
    assert not verify_lines(lines, known).holds


async def test_a_refusal_is_on_the_disk_before_it_leaves_and_in_order(store):
    trail = AuditTrail(store, AuditOptions(max_delay_s=60))
    facts = RequestFacts("req_1", "key_1", "smollm2", "lin@example.com", "/v1/chat/completions")
    await trail.decided(A, ALLOW, facts)
    assert await store.chains(A) == []
    await trail.decided(A, BLOCK, facts)
    [chain] = await store.chains(A)
    lines = [json.loads(line) async for line in entries(store, chain)]
    assert [line["action"] for line in lines] == ["allow", "block"]
    assert lines[1]["findings"] == [
        {"rule": "terms.politics", "category": "politics", "start": 3, "end": 9, "score": 1.0, "view": "plain",
         "action": "block"}
    ]  # fmt: skip
    assert lines[1]["policy"] == "f" * 64
    assert lines[1]["route"] == "/v1/chat/completions"
    assert "lin@" not in json.dumps(lines)
    await trail.close()


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        (None, [("allow", None), ("block", None)]),
        (Audit(), [("block", None)]),
        (Audit(keep_text=True), [("block", "how to")]),
        (Audit(decisions="all", keep_text=True), [("allow", "how to"), ("block", "how to")]),
    ],
)
async def test_the_policy_says_what_is_kept(store, keep, expected):
    trail = AuditTrail(store)
    for decision in (ALLOW, BLOCK):
        await trail.decided(A, decision, RequestFacts(), keep=keep, text="how to")
    await trail.close()
    [chain] = await store.chains(A)
    lines = [json.loads(line) async for line in entries(store, chain)]
    texts = {one.sequence: one.text for one in store.texts(chain.id, 0, 10)}
    assert [(line["action"], texts.get(line["sequence"])) for line in lines] == expected


def test_many_findings_are_counted_behind_the_first_hundred():
    many = Decision("flag", "input", tuple((FOUND, "flag") for _ in range(130)))
    fields = decision_record(many, RequestFacts()).fields
    assert (len(fields["findings"]), fields["further_findings"]) == (100, 30)


async def test_what_nobody_waits_for_is_written_soon_and_at_the_end(store):
    trail = AuditTrail(store, AuditOptions(max_delay_s=0.01))
    await trail.record(A, record(1))
    await trail.flush()
    assert (await store.chains(A))[0].head.sequence == 1
    for number in range(2000):
        await trail.record(A if number % 2 else B, record(number))
    await trail.close()
    assert {chain.tenant: chain.head.sequence for chain in await store.chains()} == {A: 1001, B: 1000}
    assert trail.pending == 0
    with pytest.raises(StorageUnavailable):
        await trail.record(A, record(1))


class Failing(AuditStore):
    """A store whose database is away until `back`."""

    back = False

    async def append_all(self, records):
        if not self.back:
            raise StorageUnavailable("the database cannot be reached", fix="wait")
        return await super().append_all(records)


@pytest.mark.parametrize("on_failure", ["allow", "block"])
async def test_a_database_that_is_away_has_the_declared_effect(database, store, on_failure, monkeypatch):
    from deepwell.safety.audit import trail as module

    monkeypatch.setattr(module, "_RETRIED_AFTER_S", 0.001)
    failing = Failing(database)
    trail = AuditTrail(failing, AuditOptions(max_delay_s=0.001, most_pending=3, on_failure=on_failure))
    with pytest.raises(StorageUnavailable, match="reached"):
        await trail.record(A, record(0), durable=True)
    for number in range(3):
        await trail.record(A, record(number))
    if on_failure == "block":
        with pytest.raises(StorageUnavailable, match="wait for the database"):
            await trail.record(A, record(4))
    else:
        await trail.record(A, record(4))
        assert trail.dropped == 1
    with pytest.raises(StorageUnavailable):
        await trail.record(A, record(5), durable=True)
    with pytest.raises(StorageUnavailable):
        await trail.flush()
    failing.back = True
    await trail.flush()
    await trail.close()
    [chain] = await store.chains(A)
    lines = [json.loads(line) async for line in entries(store, chain)]
    told = [line.get("dropped") for line in lines if line["event"] == "gap"]
    assert told == ([1] if on_failure == "allow" else [])
    assert [line["time"] for line in lines if line["event"] == "decision"] == [1000, 1001, 1002]


def test_the_hash_is_that_of_the_line(tmp_path):
    [row] = sealed([record(1)], "c", NOTHING, {})
    assert row[3] == hash_of(row[2]) == hashlib.sha256(row[2].encode()).hexdigest()


async def test_a_text_lies_beside_its_entry_and_may_go_without_a_break(store, database, tmp_path):
    texts = ("how to", "half \ud800 a pair and \0")
    for number, text in enumerate(texts):
        await store.append(A, [AuditRecord("decision", number, {}, "lin", text)])
    [chain] = await store.chains(A)
    lines = [line async for line in entries(store, chain)]
    assert not any(text[:4] in line for line in lines for text in texts)
    assert (await asyncio.to_thread(verify_chain, store, chain.id)).holds
    assert write_texts(store, chain, tmp_path / "texts") == 2
    for line, told in zip(lines, (tmp_path / "texts").read_text().splitlines(), strict=True):
        one = json.loads(told)
        salted = bytes.fromhex(one["salt"]) + one["text"].encode()
        assert json.loads(line)["text_sha256"] == hashlib.sha256(salted).hexdigest()
    changed = sa.text("UPDATE audit_texts SET text = 'how not to' WHERE sequence = 1")
    await database.write(lambda connection: connection.execute(changed).rowcount)
    assert kinds(await asyncio.to_thread(verify_chain, store, chain.id)) == [(1, "changed")]
    counts = await database.write(lambda connection: forget_person(connection, A, "lin"))
    assert counts == {"audit_texts": 2, "audit_persons": 1}
    assert (await asyncio.to_thread(verify_chain, store, chain.id)).holds
    assert write_texts(store, chain, tmp_path / "none") == 0


async def test_pruning_takes_the_texts_along(store, database):
    await store.append(
        A, [AuditRecord("decision", 1, {}, "", "old"), AuditRecord("decision", 2, {}, "", "new")]
    )
    [chain] = await store.chains(A)
    assert await store.prune(chain.id, 1, 10) == 1
    assert [one.text for one in store.texts(chain.id, 0, 10)] == ["new"]
