"""Erasure: one person's data gone from every place, another's untouched, and the list of places complete."""

import asyncio
import hashlib
import json
import secrets
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from tests.object_store import credentials_file
from tests.object_store import running as running_store
from tests.storage.conftest import database, kind, opened, postgres  # noqa: F401

from deepwell.errors import InvalidRequest, NotFound, StorageUnavailable
from deepwell.safety.privacy.attribution import Subject
from deepwell.safety.privacy.erase import Eraser, Hooks, HostPlaces
from deepwell.safety.privacy.export import export_person
from deepwell.safety.privacy.ledger import Change, EraseOvertaken, Ledger
from deepwell.safety.privacy.log_lines import drop_lines
from deepwell.safety.privacy.places import MADE, PLACES, end_user_of, names_end_user, place_of_path
from deepwell.safety.privacy.trained import erase_trained
from deepwell.server.observe.access_log import AccessLog
from deepwell.server.observe.record import Record
from deepwell.storage.agents import AgentStore, StoredAgentRun, StoredStep
from deepwell.storage.batches import BatchStore
from deepwell.storage.batches.lines import LineResult
from deepwell.storage.blobs import BlobPlace, open_blobs
from deepwell.storage.completions import CompletionStore, StoredCompletion
from deepwell.storage.conversations import ConversationStore, Item, StoredConversation
from deepwell.storage.database import LOCAL, Database, Tenant
from deepwell.storage.feedback import FeedbackStore, StoredFeedback, voter_of
from deepwell.storage.files import FileStore
from deepwell.storage.jobs import JobStore
from deepwell.storage.knowledge import KnowledgeStorage
from deepwell.storage.knowledge.chunks import NewChunk
from deepwell.storage.knowledge.files import Attachment
from deepwell.storage.safety.audit import AuditStore
from deepwell.storage.safety.chain import AuditRecord
from deepwell.storage.safety.verify import verify_chain
from deepwell.storage.tables import (
    api_keys,
    audit_chains,
    erasures,
    fine_tuned_models,
    jobs,
    metadata,
    rating_votes,
    responses,
    usage,
)
from deepwell.storage.tuning.evals import EvalStore, StoredEval, StoredRun
from deepwell.storage.tuning.fine_tuning import FineTuningStore
from deepwell.storage.tuning.works import (
    COMPRESS_JOB,
    OPTIMISE_JOB,
    WorkPayload,
    WorkStore,
    database_id,
    owner_of,
)

A, B = Tenant("ann-7f3"), Tenant("bob")
ROOT = Path(__file__).parents[2]


def test_every_table_is_in_the_list():
    listed = {place.name for place in PLACES if place.kind == "table"}
    outside = {"alembic_version", "chunk_vectors", "chunk_vector_states"}
    assert listed - outside == metadata.tables.keys()


def test_every_column_of_text_is_declared_with_what_it_may_hold():
    """A new column fails here until its place says that clients write into it, or why they cannot."""
    places = {place.name: place for place in PLACES}
    for table in metadata.sorted_tables:
        place, texts = places[table.name], (sa.String, sa.LargeBinary, sa.JSON)
        columns = {column.name for column in table.c if isinstance(column.type, texts)} - {"tenant"}
        assert columns == {*place.words, *place.made}, table.name
        assert not set(place.words) & set(place.made), table.name
        unexplained = [name for name in place.made if name not in MADE and f"{table.name}.{name}" not in MADE]
        assert not unexplained, table.name


def test_every_cache_of_the_server_is_in_the_list():
    folder = ROOT / "src" / "deepwell" / "server" / "caches"
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert {name for place in PLACES for name in place.modules} == modules


def test_every_path_belongs_to_its_place():
    assert {
        path: getattr(place_of_path(path), "name", None)
        for path in (
            "deepwell.db-wal",
            "files/ab/abcd",
            "files/drafts/tmp1",
            "knowledge/vs_1/hash/lexical-1/meta.json",
            "fine_tuning/ftjob-1/checkpoints/step-2/adapter/adapter_config.json",
            "improve/smollm2@prod/0001/train.jsonl",
            "improve/smollm2@prod/0001/run/checkpoints/step-2/adapter/adapter_config.json",
            "deepwell.marker",
            "stores/1.marker",
            "audit/db/chain",
            "chat_history",
            "something",
            "files/new/place",
        )
    } == {
        "deepwell.db-wal": "database",
        "files/ab/abcd": "blobs",
        "files/drafts/tmp1": "drafts",
        "knowledge/vs_1/hash/lexical-1/meta.json": "side_indexes",
        "fine_tuning/ftjob-1/checkpoints/step-2/adapter/adapter_config.json": "fine_tuning_runs",
        "improve/smollm2@prod/0001/train.jsonl": "improve_rounds",
        "improve/smollm2@prod/0001/run/checkpoints/step-2/adapter/adapter_config.json": "improve_rounds",
        "deepwell.marker": "markers",
        "stores/1.marker": "markers",
        "audit/db/chain": "anchors",
        "chat_history": "chat_history",
        "something": None,
        "files/new/place": None,
    }


def value_of(column, tenant):
    """A value that names the tenant, for any column of any table."""
    if column.name == "tenant":
        return tenant
    if column.name in ("id", "batch_id", "conversation_id", "file_id", "store_id", "upload_id"):
        return f"id-{tenant}"
    if "sha256" in column.name:
        return hashlib.sha256(tenant.encode()).hexdigest()
    if isinstance(column.type, sa.LargeBinary):
        return f"secret of {tenant}".encode()
    if isinstance(column.type, sa.String):
        text = f"secret of {tenant}"
        return json.dumps({"text": text}) if isinstance(column.type, sa.Text) else text[: column.type.length]
    if isinstance(column.type, sa.Boolean):
        return False
    return 1001 if tenant == A else 1002


def fill(connection, tenant):
    """Writes a row of the tenant into every table that names tenants."""
    for table in metadata.sorted_tables:
        if "tenant" in table.c and table is not audit_chains:
            row = {column.name: value_of(column, tenant) for column in table.c}
            if table is api_keys:
                row["id"] = f"key_{secrets.token_hex(8)}"
            if table is jobs:
                row |= {"kind": "other", "status": "queued"}
            connection.execute(sa.insert(table).values(row))


def dump(connection, *, without=()):
    """All rows of all tables."""
    return {
        table.name: [tuple(row) for row in connection.execute(sa.select(table).order_by(*table.primary_key))]
        for table in metadata.sorted_tables
        if table.name not in without
    }


async def test_a_tenant_is_gone_from_every_table_and_another_untouched(database, tmp_path):  # noqa: F811
    files = FileStore(database, tmp_path / "files")
    store = AuditStore(database)
    for tenant in (B, A):
        await store.append(tenant, [AuditRecord("decision", 1, {"action": "block"}, f"user of {tenant}")])
    await database.write(lambda connection: fill(connection, B))
    before = await database.read(dump)
    await database.write(lambda connection: fill(connection, A))
    done = await Eraser(database, files, settle_s=0.01).erase(Subject(A))
    after = await database.read(dump)
    assert str(A) not in repr(after)
    grown = {"api_keys", "audit_chains", "audit_entries", "audit_persons", "erasures"}
    for name, rows in before.items():
        if name not in grown:
            assert after[name] == rows, name
    listed = {table.name for table in metadata.sorted_tables if "tenant" in table.c}
    assert listed - done.counts.keys() == set()
    for chain in await store.chains():
        assert (await asyncio.to_thread(verify_chain, store, chain.id)).holds
    assert await store.chains(A) == []


async def kept_files(files, tenant, *texts):
    async def content(text):
        yield text.encode()

    return [
        await files.create(tenant, filename=f"{text}.txt", purpose="assistants", content=content(text))
        for text in texts
    ]


async def test_bytes_go_unless_another_tenant_has_the_same(database, tmp_path):  # noqa: F811
    files = FileStore(database, tmp_path / "files")
    mine, shared = await kept_files(files, A, "only mine", "everybody's")
    await kept_files(files, B, "everybody's")
    done = await Eraser(database, files, settle_s=0.01).erase(Subject(A))
    assert not files.blobs.path(mine.sha256).exists()
    assert files.blobs.path(shared.sha256).exists()
    assert (done.counts["files"], done.counts["blobs"]) == (2, 1)


async def test_files_in_an_object_store_are_exported_and_erased_there(tmp_path):
    """The machine that exports has no copy; an erasure while the store is away is not finished, and goes on later."""
    kept = Database.open(tmp_path / "deepwell.db")
    away = BlobPlace("bucket", "", "http://127.0.0.1:1", "us-east-1", credentials_file(tmp_path))
    try:
        with running_store() as store:
            place = store.place(tmp_path)
            await kept_files(FileStore(kept, open_blobs(tmp_path / "files", place)), A, "mine")
            there = FileStore(kept, open_blobs(tmp_path / "there", place))
            assert (await export_person(kept, there, Subject(A), tmp_path / "export"))["blobs"] == 1
            assert [one.read_text() for one in (tmp_path / "export" / "files").iterdir()] == ["mine"]
            lost = FileStore(kept, open_blobs(tmp_path / "lost", away))
            with pytest.raises(StorageUnavailable):
                await Eraser(kept, lost, settle_s=0.01).erase(Subject(A))
            assert len(store.objects(place)) == 2
            await Eraser(kept, there, settle_s=0.01).erase(Subject(A))
            assert set(store.objects(place)) == {"deepwell-owner"}
    finally:
        kept.close()


async def test_copies_of_votes_in_rounds_go_with_whom_they_name(database, tmp_path):  # noqa: F811
    ratings, rounds = FeedbackStore(database), tmp_path / "improve"
    for tenant, number, user in ((A, 0, ME), (A, 1, OTHER), (B, 2, ME)):
        given = StoredFeedback(
            f"fb_{number}", f"t{number}", "up", 1, end_user=user, voter=voter_of(user), consent=True
        )
        await ratings.put(tenant, given)
    for alias, numbers in (("both", (0, 1)), ("other", (1,)), ("elsewhere", (1, 2))):
        folder = rounds / f"{alias}@prod" / "0001"
        (folder / "run").mkdir(parents=True)
        (folder / "train.jsonl").write_text("".join(f"said by {number}\n" for number in numbers))
        votes = [{"source": f"fb_{number}"} for number in numbers]
        (folder / "votes.json").write_text(json.dumps({"train": votes, "held_out": []}))

    def left():
        return sorted(path.parents[1].name for path in rounds.glob("*/*/train.jsonl"))

    host = HostPlaces(rounds=rounds)
    eraser = Eraser(database, FileStore(database, tmp_path / "files"), host, settle_s=0)
    done = await eraser.erase(Subject(A, ME))
    assert left() == ["elsewhere@prod", "other@prod"] and done.counts["improve_rounds"] == 1
    await eraser.erase(Subject(A))
    assert left() == [], "a round that has votes of two tenants is made anew without those that are gone"


async def test_searches_and_compressions_go_with_a_file_that_they_read(database):  # noqa: F811
    works = WorkStore(database)
    made = [
        await works.create(A, work, WorkPayload({}, (file,)))
        for work in (OPTIMISE_JOB, COMPRESS_JOB)
        for file in ("file-aaaa", "file-bbbb")
    ]
    counts, _ = await database.write(lambda connection: erase_trained(connection, A, "file-aaaa"))
    assert counts["jobs"] == 2
    assert await works.unfinished() == {made[1].id, made[3].id}
    await works.cancel(A, OPTIMISE_JOB, made[1].id)
    assert await works.unfinished() == {made[3].id}, "the folder of a job that ended in the queue goes too"


async def test_files_of_the_host_go_with_their_tenant(database, tmp_path):  # noqa: F811
    indexes, log, history = tmp_path / "knowledge", tmp_path / "access.log", tmp_path / "chat_history"
    (indexes / "vs_gone" / "x").mkdir(parents=True)
    log.write_text('{"tenant":"local","path":"/v1/x"}\n{"tenant":"bob"}\ntime=1 tenant=local key_id=x\nold\n')
    history.write_text("hello")
    runs = tmp_path / "fine_tuning"
    (runs / "ftjob-gone" / "adapter").mkdir(parents=True)
    models = tmp_path / "models"
    identity = await database.read(database_id)
    for owner in (LOCAL, A):
        made = {"made_by": {"job": "cmpjob-1", "owner": owner_of(identity, owner, "cmpjob-1"), "files": []}}
        (models / f"of-{owner}").mkdir(parents=True)
        (models / f"of-{owner}" / "manifest.json").write_text("{}")
        (models / f"of-{owner}" / "deepwell.json").write_text(json.dumps(made))
    places = HostPlaces(indexes, log, history, runs, models=models)
    cleared = []

    async def clear():
        cleared.append(1)

    eraser = Eraser(database, FileStore(database, tmp_path / "files"), places, Hooks(clear_caches=clear))
    done = await eraser.erase(Subject(LOCAL))
    assert not list(indexes.iterdir()) and not list(runs.iterdir())
    assert log.read_text() == '{"tenant":"bob"}\nold\n'
    assert not history.exists()
    assert cleared == [1]
    assert [one.name for one in models.glob("of-*")] == [f"of-{A}"]
    assert {name: done.counts[name] for name in ("side_indexes", "access_log", "chat_history")} == {
        "side_indexes": 1,
        "access_log": 2,
        "chat_history": 1,
    }
    assert drop_lines(log, Subject(Tenant("nobody")), "") == 0


async def test_an_erasure_that_stops_is_finished_by_another_process(database, tmp_path, monkeypatch):  # noqa: F811
    from deepwell.safety.privacy import ledger as module

    monkeypatch.setattr(module, "LEASE_S", 0.05)
    monkeypatch.setattr("deepwell.safety.privacy.erase.LEASE_S", 0.05)
    files = FileStore(database, tmp_path / "files")
    [mine] = await kept_files(files, A, "mine")
    await database.write(lambda connection: fill(connection, B))
    await database.write(lambda connection: fill(connection, A))
    killed = Eraser(database, files, settle_s=0.01)
    id = await killed.request(Subject(A))
    real, left = Ledger.write, iter(range(8))

    async def dying(self, work, **values):
        if next(left, None) is None:
            raise asyncio.CancelledError
        return await real(self, work, **values)

    monkeypatch.setattr(Ledger, "write", dying)
    with pytest.raises(asyncio.CancelledError):
        await killed.run_next()
    monkeypatch.setattr(Ledger, "write", real)
    other = Eraser(database, files, settle_s=0.01)
    assert await other.request(Subject(A)) == id
    done = await other.erase(Subject(A))
    assert done.id == id
    assert done.counts["files"] == 2
    assert not files.blobs.path(mine.sha256).exists()
    assert str(A) not in repr(await database.read(dump))


async def test_a_worker_that_was_overtaken_changes_nothing(database, tmp_path):  # noqa: F811
    eraser = Eraser(database, FileStore(database, tmp_path / "files"), settle_s=0.01)
    await eraser.request(Subject(A))
    job = await JobStore(database).claim(["erase"], "first", 600)
    assert job is not None
    ledger = Ledger(database, job)
    await database.write(
        lambda connection: connection.execute(sa.update(jobs).values(owner="second")).rowcount
    )
    with pytest.raises(EraseOvertaken):
        await ledger.write(lambda connection: (fill(connection, B), Change())[1])
    assert str(B) not in repr(await database.read(dump))


async def test_the_proof_names_nobody(database, tmp_path):  # noqa: F811
    person = f"lin-{secrets.token_hex(4)}@example.com"
    eraser = Eraser(database, FileStore(database, tmp_path / "files"), settle_s=0.01)
    done = await eraser.erase(Subject(A, person))
    assert (done.scope, await eraser.result(done.id)) == ("person", done)
    assert person not in repr(await database.read(dump))
    rows = await database.read(lambda connection: connection.execute(sa.select(erasures)).all())
    assert len(rows) == 1


ME, OTHER = "lin@example.com", "ada@example.com"


def responses_of(*users):
    return [
        {
            "tenant": A,
            "id": f"resp_{number}",
            "created_at": number,
            "status": "completed",
            "input": json.dumps([{"text": f"secret of {user}"}]),
            "body": json.dumps({"id": f"resp_{number}", "safety_identifier": user, **more}),
        }
        for number, (user, more) in enumerate(users)
    ]


async def test_an_end_user_is_gone_and_the_others_of_the_tenant_untouched(database, tmp_path):  # noqa: F811
    files = FileStore(database, tmp_path / "files")
    conversation_store, completion_store = ConversationStore(database), CompletionStore(database)
    knowledge = KnowledgeStorage(database)
    for user in (ME, OTHER):
        secret, labels = f"secret of {user}", {"user_id": user}
        for name, metadata_of in (("talk", {}), ("labelled", labels)):
            talk = StoredConversation(f"{name} {user}", 1, json.dumps(metadata_of))
            await conversation_store.create(A, talk, [Item(f"item {user}", json.dumps({"text": secret}))])
        for end_user, label in ((user, {}), (None, labels)):
            id = f"chat {secret} {end_user}"
            await completion_store.create(A, StoredCompletion(id, 1, "m", "[]", "{}", label, end_user))
        own = await knowledge.stores.create(A, name=secret, embedder="e5", metadata=json.dumps(labels))
        shared = await shared_store(knowledge)
        for store, attributes in ((own, {}), (shared, labels)):
            [stored] = await kept_files(files, A, f"{secret} in {store.name}")
            await ingested(knowledge, store, stored, f"{secret} in {store.name}", json.dumps(attributes))
    rows = responses_of((ME, {"conversation": {"id": f"talk {ME}"}}), (OTHER, {}), (ME, {"metadata": {}}))
    await database.write(lambda connection: connection.execute(sa.insert(responses), rows).rowcount)
    ratings = FeedbackStore(database)
    for number, (target, user) in enumerate((("resp_0", None), ("resp_1", None), ("x", ME), ("x", OTHER))):
        reason = f"secret of {OTHER if target == 'resp_1' else user or ME}"
        given = StoredFeedback(f"fb_{number}", target, "up", 1, reason, end_user=user, voter=voter_of(user))
        await ratings.put(A, given)
    await AuditStore(database).append(A, [AuditRecord("decision", 1, {}, user) for user in (ME, OTHER)])
    others = await database.read(lambda connection: rows_naming(connection, OTHER))
    refreshed = []

    async def refresh(tenant, store_id):
        refreshed.append((tenant, store_id))

    eraser = Eraser(database, files, hooks=Hooks(refresh_index=refresh))
    folder = tmp_path / "export"
    exported = await export_person(database, files, Subject(A, ME), folder)
    done = await eraser.erase(Subject(A, ME))
    assert ME not in repr(await database.read(dump))
    assert await database.read(lambda connection: rows_naming(connection, OTHER)) == others
    expected = {
        "responses": 2,
        "conversations": 2,
        "conversation_items": 2,
        "completions": 2,
        "feedback": 2,
        "vector_stores": 1,
        "vector_store_files": 2,
        "chunks": 2,
        "files": 2,
        "embeddings": 2,
        "documents": 2,
        "jobs": 2,
        "blobs": 2,
    }
    assert expected.items() <= done.counts.items()
    assert expected | {"audit_entries": 1, "completion_metadata": 1} == exported
    assert (A, (await shared_store(knowledge)).id) in refreshed
    text = "".join(path.read_text() for path in folder.rglob("*") if path.is_file())
    assert f"secret of {ME}" in text and OTHER not in text
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["places"].keys() == {place.name for place in PLACES}
    delta = await knowledge.chunks.delta(A, (await shared_store(knowledge)).id, 2)
    assert delta.rebuild  # an index that has seen the person's texts drops them


async def shared_store(knowledge):
    found = [one for one in (await knowledge.stores.list(A)).data if one.name == "shared"]
    return found[0] if found else await knowledge.stores.create(A, name="shared", embedder="e5")


async def ingested(knowledge, store, stored, text, attributes):
    _, [attached] = await knowledge.files.attach(A, store.id, [Attachment(stored.id, attributes)])
    digest = f"digest of {text}"
    await knowledge.chunks.keep_vectors(A, "hash", [digest], np.eye(4, dtype=np.float32)[:1])
    await knowledge.chunks.keep_document(A, f"document {text}", json.dumps({"text": text}))
    await knowledge.stores.adopt(A, store.id, embedder="e5", embedder_hash="hash", dimensions=4)
    chunk = NewChunk(digest, text, 0, len(text), "{}", 3)
    replaced = await knowledge.files.complete(
        A, attached, f"document {text}", [chunk], usage_bytes=7, embedder_hash="hash"
    )
    assert replaced is not None


def rows_naming(connection, user):
    return [
        (table.name, told)
        for table in metadata.sorted_tables
        for row in connection.execute(sa.select(table))
        for told in [tuple(row)]
        if user in repr(told)
    ]


async def test_an_export_of_a_tenant_has_every_table_but_no_secret_of_the_server(database, tmp_path):  # noqa: F811
    files = FileStore(database, tmp_path / "files")
    await kept_files(files, A, "mine")
    for tenant in (A, B):
        await database.write(lambda connection, tenant=tenant: fill(connection, tenant))
    folder = tmp_path / "export"
    counts = await export_person(database, files, Subject(A), folder)
    listed = {
        table.name for table in metadata.sorted_tables if "tenant" in table.c and table is not audit_chains
    }
    assert listed <= counts.keys()
    text = "".join(path.read_text() for path in folder.rglob("*.jsonl"))
    assert str(A) in text and f'"{B}"' not in text
    assert '"digest"' not in (folder / "tables" / "api_keys.jsonl").read_text()
    assert [path.read_text() for path in (folder / "files").iterdir()] == ["mine"]
    with pytest.raises(InvalidRequest, match="not empty"):
        await export_person(database, files, Subject(A), folder)


async def test_nobody_is_found_where_nobody_is(database, tmp_path):  # noqa: F811
    files = FileStore(database, tmp_path / "files")
    assert await export_person(database, files, Subject(A, ME), tmp_path / "export") == {}
    assert not (await Eraser(database, files, settle_s=0.01).erase(Subject(A, ME))).counts


def test_a_request_names_its_end_user_in_a_field_or_in_its_metadata():
    assert end_user_of({"user": "b", "safety_identifier": "a", "metadata": {"user_id": "c"}}) == "a"
    assert end_user_of({"user": None, "metadata": {"end_user": "c"}}) == "c"
    assert end_user_of({"metadata": {"note": "c"}, "input": {"user": "d"}}) == ""
    assert names_end_user({"metadata": {"end_user": "c"}}, "c") and not names_end_user({"note": "c"}, "c")


def line_of(user, number, /, **more):
    body = {"messages": [{"role": "user", "content": f"secret of {user}"}], **more}
    return json.dumps(
        {"custom_id": f"{user} {number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
    )


async def stored_lines(files, purpose, *lines):
    async def content():
        yield "\n".join(lines).encode()

    return await files.create(A, filename="lines.jsonl", purpose=purpose, content=content())


async def test_lines_of_a_batch_that_others_share_are_cut(database, tmp_path):  # noqa: F811
    files = FileStore(database, tmp_path / "files")
    store = BatchStore(database, files)
    lines = [
        line_of(ME, 1, safety_identifier=ME),
        line_of(OTHER, 2, user=OTHER),
        line_of(ME, 3, metadata={"user_id": ME}),
    ]
    source = await stored_lines(files, "batch", *lines)
    batch = await store.create(
        A, endpoint="/v1/chat/completions", input_file_id=source.id, completion_window="24h"
    )
    await store.begin(A, batch.id, total=3, model="m")
    results = [
        LineResult(number, False, line_of(user, number), end_user=user)
        for number, user in ((1, ME), (2, OTHER), (3, ME))
    ]
    running = await store.create(
        A, endpoint="/v1/chat/completions", input_file_id=source.id, completion_window="24h"
    )
    await store.begin(A, running.id, total=3, model="m")
    await store.record(A, running.id, results[:2])
    await store.record(A, batch.id, results)
    await store.finalize(A, batch.id)
    ended = await store.conclude(A, batch.id, "completed")
    folder = tmp_path / "export"
    counts = await export_person(database, files, Subject(A, ME), folder)
    assert (counts["file_lines"], counts["batch_lines"]) == (4, 1)
    exported = (folder / "file_lines.jsonl").read_text()
    assert ME in exported and OTHER not in exported
    done = await Eraser(database, files, settle_s=0).erase(Subject(A, ME))
    assert (done.counts["file_lines"], done.counts["batch_lines"], done.counts["blobs"]) == (4, 1, 2)
    for id, kept in ((source.id, [2]), (ended.output_file_id, [2])):
        text = (await files.path(A, id)).read_bytes()
        assert ME.encode() not in text and (await files.get(A, id)).bytes == len(text)
        assert [number for number, line in enumerate(text.split(b"\n"), 1) if line] == kept
    assert (await store.get(A, running.id)).input_sha256 == (await files.get(A, source.id)).sha256
    assert await store.done(A, running.id) == {2}, "another user's line is not answered twice"
    assert not hits(tmp_path / "files", ME)


async def test_a_file_whose_every_line_names_an_end_user_goes_whole(database, tmp_path):  # noqa: F811
    files = FileStore(database, tmp_path / "files")
    theirs = await stored_lines(files, "batch", line_of(ME, 1, user=ME), "", line_of(ME, 2, user=ME))
    others = await stored_lines(files, "batch", line_of(OTHER, 1, user=OTHER), "no JSON")
    batch = await BatchStore(database, files).create(
        A, endpoint="/v1/chat/completions", input_file_id=theirs.id, completion_window="24h"
    )
    done = await Eraser(database, files, settle_s=0).erase(Subject(A, ME))
    assert (done.counts["files"], done.counts["batches"], "file_lines" in done.counts) == (1, 1, False)
    with pytest.raises(NotFound):
        await BatchStore(database, files).get(A, batch.id)
    assert (await files.get(A, others.id)) == others


async def test_what_is_labelled_with_an_end_user_goes_and_what_others_made_stays(database, tmp_path):  # noqa: F811
    files = FileStore(database, tmp_path / "files")
    agents, tunings, judged = (
        AgentStore(database),
        FineTuningStore(database, files),
        EvalStore(database, files),
    )
    data = await stored_lines(files, "fine-tune", json.dumps({"text": "everybody's"}))
    for user in (ME, OTHER):
        labels = {"user": user}
        run = StoredAgentRun(f"run {user}", "queued", "m", user, json.dumps({"metadata": labels}), 1)
        await agents.create(A, run, [StoredStep(0, "started", json.dumps(user))], payload="{}")
        job = await tunings.create(
            A,
            model="m",
            training_file=data.id,
            validation_file=None,
            suffix=f"of-{user[:3]}",
            seed=1,
            hyperparameters={},
            options={},
            metadata=labels,
        )
        name = f"ft:m:of-{user[:3]}:{job.id}"
        await database.write(lambda connection, job=job, name=name: model_used(connection, job.id, name))
        for name, label, rows in (
            (f"of {user}", labels, {}),
            (f"shared {user[:3]}", None, inline_rows(user)),
        ):
            stored = StoredEval(f"eval {name}", name, "{}", "[]", label and json.dumps(label), 1)
            await judged.create(A, stored)
            run = StoredRun(
                f"run {name}", stored.id, f"run {user}", "queued", "m", json.dumps(rows), None, None, 1
            )
            await judged.create_run(A, run)
        vote = {"tenant": A, "study_id": "s", "position": 0, "rater": user, "choice": "tie", "created_at": 1}
        await database.write(
            lambda connection, vote=vote: connection.execute(sa.insert(rating_votes), vote).rowcount
        )
        asked = {"prompt": {"id": "p"}, "metadata": labels}
        await WorkStore(database).create(A, OPTIMISE_JOB, WorkPayload(asked))
    others = await database.read(lambda connection: rows_naming(connection, OTHER))
    exported = await export_person(database, files, Subject(A, ME), tmp_path / "export")
    done = await Eraser(database, files, settle_s=0).erase(Subject(A, ME))
    gone = await database.read(dump)
    assert ME not in repr(gone) and "of-lin" not in repr(gone)
    assert await database.read(lambda connection: rows_naming(connection, OTHER)) == others
    expected = {
        "agent_runs": 1,
        "agent_steps": 1,
        "fine_tuning_jobs": 1,
        "fine_tuned_models": 1,
        "evals": 1,
        "eval_runs": 2,
        "rating_votes": 1,
    }
    assert expected.items() <= done.counts.items() and expected.items() <= exported.items()


def inline_rows(user):
    return {"source": {"type": "file_content", "content": [{"item": {"user": user}}]}}


def model_used(connection, job_id, name):
    made = {"tenant": A, "name": name, "base": "m", "job_id": job_id, "folder": "adapter", "created_at": 1}
    connection.execute(sa.insert(fine_tuned_models), made)
    used = {"requests": 1, "input_tokens": 1, "output_tokens": 1, "cached_tokens": 0}
    connection.execute(sa.insert(usage), {"tenant": A, "hour": 0, "key_id": "", "model": name, **used})


async def test_lines_of_the_access_log_go_with_the_end_user_whom_a_request_named(database, tmp_path):  # noqa: F811
    log = tmp_path / "access.log"
    access = AccessLog("json", log, database.id)
    for user, tenant in ((ME, A), (OTHER, A), (ME, B), ("", A)):
        record = Record.begin("POST", "/v1/chat/completions", f"word-of-{user[:3]}-{tenant}".encode(), None)
        record.tenant, record.end_user = tenant, user
        access([record])
    access.close()
    assert ME not in log.read_text()
    host = HostPlaces(access_log=log)
    files = FileStore(database, tmp_path / "files")
    assert (await export_person(database, files, Subject(A, ME), tmp_path / "export", host)) == {
        "access_log": 1
    }
    done = await Eraser(database, files, host, settle_s=0).erase(Subject(A, ME))
    left = [json.loads(line)["request_id"] for line in log.read_text().splitlines()]
    assert done.counts["access_log"] == 1
    assert left == [f"word-of-ada-{A}", f"word-of-lin-{B}", f"word-of--{A}"]


def hits(folder, word):
    return [path for path in folder.rglob("*") if path.is_file() and word.encode() in path.read_bytes()]
