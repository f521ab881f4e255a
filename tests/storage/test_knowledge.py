"""Vector stores, their files and chunks, on SQLite and PostgreSQL."""

import json
import time

import numpy as np
import pytest

from deepwell.errors import InvalidRequest, NotFound
from deepwell.storage.database import Tenant
from deepwell.storage.files import FileStore
from deepwell.storage.jobs import JobStore
from deepwell.storage.knowledge import KnowledgeStorage
from deepwell.storage.knowledge.chunks import NewChunk
from deepwell.storage.knowledge.files import INGEST_JOB, Attachment

A, B = Tenant("a"), Tenant("b")
HASH, SIZE = "hash-of-embedder", 4


@pytest.fixture
def kept(database):
    return KnowledgeStorage(database)


@pytest.fixture
def files(database, tmp_path):
    return FileStore(database, tmp_path / "files")


async def made(kept, tenant=A, **given):
    return await kept.stores.create(tenant, **({"name": "base", "embedder": "e5"} | given))


async def file_of(files, tenant=A, name="a.txt"):
    async def content():
        yield name.encode()

    return await files.create(tenant, filename=name, purpose="assistants", content=content())


def chunk(text: str) -> NewChunk:
    return NewChunk(f"digest of {text}", text, 0, len(text), "{}", 3)


async def published(kept, store, attached, texts, tenant=A):
    vectors = np.eye(SIZE, dtype=np.float32)[np.arange(len(texts)) % SIZE]
    await kept.chunks.keep_vectors(tenant, HASH, [f"digest of {text}" for text in texts], vectors)
    await kept.stores.adopt(tenant, store.id, embedder="e5", embedder_hash=HASH, dimensions=SIZE)
    replaced = await kept.files.complete(
        tenant, attached, "document", [chunk(text) for text in texts], usage_bytes=7, embedder_hash=HASH
    )
    return replaced is not None


async def attached_with(kept, files, store, texts, **given):
    stored = await file_of(files)
    _, [attached] = await kept.files.attach(A, store.id, [Attachment(stored.id, **given)])
    assert await published(kept, store, attached, texts)
    return attached


async def texts_of(kept, store, since=0):
    delta = await kept.chunks.delta(A, store.id, since)
    found = await kept.chunks.found(A, store.id, delta.keys.tolist())
    return [found[key].text for key in delta.keys.tolist()]


async def test_a_store_is_found_by_its_id_and_by_its_name(kept):
    store = await made(kept, name="handbook")
    assert (
        (await kept.stores.named(A, "handbook")).id == (await kept.stores.named(A, store.id)).id == store.id
    )
    with pytest.raises(NotFound, match="handbook"):
        await kept.stores.named(A, "other")


async def test_a_unique_name_is_taken_once(kept):
    await made(kept, unique=True)
    await made(kept, B, unique=True)
    with pytest.raises(InvalidRequest, match="already"):
        await made(kept, unique=True)


async def test_no_call_reaches_a_store_of_another_tenant(kept, files):
    store = await made(kept)
    attached = await attached_with(kept, files, store, ["one"])
    assert (await kept.stores.list(B)).data == []
    assert await kept.chunks.found(B, store.id, [1, 2, 3]) == {}
    assert await kept.chunks.of_file(B, store.id, attached.file_id) == []
    assert await kept.chunks.embedded(B, HASH, ["digest of one"]) == set()
    assert await kept.chunks.document(B, "document") is None
    for refused in (
        kept.stores.get(B, store.id),
        kept.stores.update(B, store.id, name="mine"),
        kept.stores.delete(B, store.id),
        kept.chunks.delta(B, store.id, 0),
        kept.files.get(B, store.id, attached.file_id),
        kept.files.list(B, store.id),
        kept.files.detach(B, store.id, [attached.file_id]),
        kept.files.attach(B, store.id, [Attachment(attached.file_id)]),
        kept.files.set_attributes(B, store.id, attached.file_id, "{}"),
        kept.sources.add(B, store.id, "{}"),
    ):
        with pytest.raises(NotFound):
            await refused


async def test_another_tenants_file_cannot_be_attached(kept, files):
    store, foreign = await made(kept), await file_of(files, B)
    with pytest.raises(NotFound, match=foreign.id):
        await kept.files.attach(A, store.id, [Attachment(foreign.id)])


async def test_attaching_queues_a_job_for_each_file_in_one_commit(kept, files, database):
    store = await made(kept)
    first, second = await file_of(files), await file_of(files, name="b.txt")
    batch, attached = await kept.files.attach(
        A, store.id, [Attachment(first.id), Attachment(second.id)], batch=True
    )
    jobs = (await JobStore(database).list(A, INGEST_JOB)).data
    assert {json.loads(job.payload)["file_id"] for job in jobs} == {first.id, second.id}
    assert {one.job_id for one in attached} == {job.id for job in jobs}
    assert await kept.files.batch_counts(A, batch.id) == {"in_progress": 2}
    missing = Attachment("file-missing")
    with pytest.raises(NotFound):
        await kept.files.attach(A, store.id, [missing, Attachment(first.id)])
    assert len((await JobStore(database).list(A, INGEST_JOB)).data) == 2


async def test_what_is_published_is_in_the_next_delta_and_only_there(kept, files):
    store = await made(kept)
    await attached_with(kept, files, store, ["one", "two"])
    first = await kept.chunks.delta(A, store.id, 0)
    assert list(first.texts) == ["one", "two"]
    assert first.complete
    np.testing.assert_array_equal(first.vectors, np.eye(SIZE, dtype=np.float32)[:2])
    await attached_with(kept, files, store, ["three"])
    second = await kept.chunks.delta(A, store.id, first.generation)
    assert list(second.texts) == ["three"]
    assert second.keys.min() > first.keys.max()


async def test_a_detached_file_is_gone_at_once_and_named_in_the_delta(kept, files):
    store = await made(kept)
    attached = await attached_with(kept, files, store, ["one", "two"])
    before = await kept.chunks.delta(A, store.id, 0)
    assert await kept.files.detach(A, store.id, [attached.file_id]) == 1
    assert await kept.chunks.found(A, store.id, before.keys.tolist()) == {}
    after = await kept.chunks.delta(A, store.id, before.generation)
    np.testing.assert_array_equal(after.removed, before.keys)
    assert not len(after.keys)


async def test_a_deleted_file_leaves_every_store(kept, files):
    store = await made(kept)
    attached = await attached_with(kept, files, store, ["one"])
    await files.delete(A, attached.file_id)
    assert await texts_of(kept, store) == []
    with pytest.raises(NotFound):
        await kept.files.get(A, store.id, attached.file_id)


async def test_an_expired_file_is_found_no_more(kept, files, database):
    import sqlalchemy as sa

    from deepwell.storage.tables import files as table

    store = await made(kept)
    attached = await attached_with(kept, files, store, ["one"])
    await database.write(
        lambda connection: (
            connection.execute(sa.update(table).values(expires_at=int(time.time()) - 1)).rowcount
        )
    )
    assert await kept.chunks.of_file(A, store.id, attached.file_id) == []
    assert await kept.files.orphans() == 1
    assert (await kept.stores.counts(A, [store.id]))[store.id] == {"usage_bytes": 0}


async def test_a_new_version_replaces_the_old_one_in_one_moment(kept, files):
    store = await made(kept)
    source = {"source_id": (await kept.sources.add(A, store.id, "{}")).id, "uri": "file:///a"}
    await attached_with(kept, files, store, ["old one", "old two"], **source)
    before = await kept.chunks.delta(A, store.id, 0)
    await attached_with(kept, files, store, ["new"], **source)
    after = await kept.chunks.delta(A, store.id, before.generation)
    assert list(after.texts) == ["new"]
    np.testing.assert_array_equal(after.removed, before.keys)
    assert after.generation == before.generation + 1
    assert len((await kept.files.list(A, store.id)).data) == 1


async def test_what_was_removed_meanwhile_is_not_published(kept, files):
    store = await made(kept)
    stored = await file_of(files)
    _, [attached] = await kept.files.attach(A, store.id, [Attachment(stored.id)])
    await kept.files.detach(A, store.id, [stored.id])
    assert not await published(kept, store, attached, ["late"])
    assert await texts_of(kept, store) == []


async def test_a_job_that_was_overtaken_publishes_nothing(kept, files):
    store = await made(kept)
    stored = await file_of(files)
    _, [first] = await kept.files.attach(A, store.id, [Attachment(stored.id)])
    _, [second] = await kept.files.attach(A, store.id, [Attachment(stored.id)])
    assert first.job_id != second.job_id
    assert not await published(kept, store, first, ["stale"])
    assert await published(kept, store, second, ["fresh"])
    assert await texts_of(kept, store) == ["fresh"]


async def test_vectors_of_another_embedder_are_not_published(kept, files):
    store = await made(kept)
    await kept.stores.adopt(A, store.id, embedder="other", embedder_hash="other", dimensions=SIZE)
    stored = await file_of(files)
    _, [attached] = await kept.files.attach(A, store.id, [Attachment(stored.id)])
    assert not await published(kept, store, attached, ["one"])


async def test_a_text_is_embedded_once(kept):
    vectors = np.ones((2, SIZE), np.float32)
    await kept.chunks.keep_vectors(A, HASH, ["x", "y"], vectors)
    await kept.chunks.keep_vectors(A, HASH, ["y", "z"], vectors * 2)
    assert await kept.chunks.embedded(A, HASH, ["x", "y", "z", "w"]) == {"x", "y", "z"}
    assert await kept.chunks.embedded(A, "another", ["x"]) == set()


async def test_a_large_delta_comes_in_parts_that_end_with_a_generation(kept, files, monkeypatch):
    from deepwell.storage.knowledge import chunks as module

    monkeypatch.setattr(module, "_PAGE", 3)
    store = await made(kept)
    for number, count in enumerate((2, 2, 5, 1)):
        await attached_with(kept, files, store, [f"{number}.{index}" for index in range(count)])
    since, seen = 0, []
    while True:
        delta = await kept.chunks.delta(A, store.id, since)
        seen += delta.texts
        assert delta.generation > since
        since = delta.generation
        if delta.complete:
            break
    assert seen == [f"{n}.{i}" for n, count in enumerate((2, 2, 5, 1)) for i in range(count)]


async def test_forgotten_removals_ask_for_a_rebuild(kept, files, database):
    import sqlalchemy as sa

    from deepwell.storage.tables import chunk_removals

    store = await made(kept)
    attached = await attached_with(kept, files, store, ["one"])
    old = (await kept.chunks.delta(A, store.id, 0)).generation
    await kept.files.detach(A, store.id, [attached.file_id])
    await attached_with(kept, files, store, ["two"])
    assert not (await kept.chunks.delta(A, store.id, old)).rebuild
    await database.write(
        lambda connection: connection.execute(sa.update(chunk_removals).values(created_at=0)).rowcount
    )
    assert await kept.chunks.sweep() == 1
    delta = await kept.chunks.delta(A, store.id, old)
    assert delta.rebuild
    assert list(delta.texts) == ["two"]


async def test_a_rebuild_queues_every_file_for_the_other_embedder(kept, files):
    store = await made(kept)
    await attached_with(kept, files, store, ["one"])
    await kept.rebuild(A, store.id, embedder="other", embedder_hash="h2", dimensions=2)
    assert (await kept.stores.counts(A, [store.id]))[store.id]["in_progress"] == 1
    now = await kept.stores.get(A, store.id)
    assert (now.embedder, now.embedder_hash, now.dimensions) == ("other", "h2", 2)
    assert await texts_of(kept, store) == []


async def test_a_cancelled_batch_leaves_what_is_done(kept, files):
    store = await made(kept)
    done, waiting = await file_of(files), await file_of(files, name="b.txt")
    batch, [first, second] = await kept.files.attach(
        A, store.id, [Attachment(done.id), Attachment(waiting.id)], batch=True
    )
    assert await published(kept, store, first, ["one"])
    await kept.files.cancel_batch(A, store.id, batch.id)
    assert await kept.files.batch_counts(A, batch.id) == {"completed": 1, "cancelled": 1}
    assert not await published(kept, store, second, ["two"])


async def test_an_expired_store_takes_no_files(kept, files, database):
    import sqlalchemy as sa

    from deepwell.storage.tables import vector_stores

    store, stored = await made(kept, expires_after_days=1), await file_of(files)
    await database.write(
        lambda connection: connection.execute(sa.update(vector_stores).values(expires_at=1)).rowcount
    )
    with pytest.raises(InvalidRequest, match="expired"):
        await kept.files.attach(A, store.id, [Attachment(stored.id)])
    assert await kept.stores.sweep() == 1


async def test_deleting_a_store_takes_its_rows_but_not_its_files(kept, files, database):
    import sqlalchemy as sa

    from deepwell.storage.tables import chunk_removals, chunks, vector_store_files, vector_store_sources

    store = await made(kept)
    attached = await attached_with(kept, files, store, ["one"])
    await kept.sources.add(A, store.id, "{}")
    await kept.stores.delete(A, store.id)

    def left(connection):
        tables = (chunks, chunk_removals, vector_store_files, vector_store_sources)
        return [
            connection.execute(sa.select(sa.func.count()).select_from(one)).scalar_one() for one in tables
        ]

    assert await database.read(left) == [0, 0, 0, 0]
    assert (await files.get(A, attached.file_id)).id == attached.file_id


async def test_a_source_is_added_once(kept):
    store = await made(kept)
    first = await kept.sources.add(A, store.id, '{"kind":"folder"}')
    assert await kept.sources.add(A, store.id, '{"kind":"folder"}') == first
    await kept.sources.checked(A, first.id, "no such folder")
    assert [one.error for one in await kept.sources.list(A, store.id)] == ["no such folder"]
    await kept.sources.remove(A, store.id, first.id)
    with pytest.raises(NotFound):
        await kept.sources.remove(A, store.id, first.id)
