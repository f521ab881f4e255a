"""Files, uploads and batches at rest: shared blobs that nobody can tell, parts that join, lines that end once."""

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from deepwell.errors import InvalidRequest, NotFound
from deepwell.storage.batches import BatchStore
from deepwell.storage.batches.lines import LineResult, Tokens
from deepwell.storage.blobs import BlobPlace, open_blobs
from deepwell.storage.database import Tenant
from deepwell.storage.files import FileStore
from deepwell.storage.jobs import JobStore
from deepwell.storage.tables import batch_lines, batches, files, uploads
from deepwell.storage.uploads import MAX_PARTS, UploadStore

A, B = Tenant("a"), Tenant("b")
LONG_AGO = 1_000_000_000


@pytest.fixture(params=["sqlite-folder", "postgres-folder", "sqlite-bucket"])
def kept_in(request: pytest.FixtureRequest) -> tuple[str, str]:
    """The kind of the database, and that of the place of the bytes."""
    database, _, place = request.param.partition("-")
    return database, place


@pytest.fixture
def kind(kept_in) -> str:
    return kept_in[0]


@pytest.fixture
def place(kept_in, request: pytest.FixtureRequest, tmp_path: Path) -> BlobPlace | None:
    if kept_in[1] == "folder":
        return None
    return request.getfixturevalue("object_store").place(tmp_path)


@pytest.fixture
def store(database, tmp_path: Path, place) -> FileStore:
    return FileStore(database, open_blobs(tmp_path / "files", place))


@pytest.fixture
def upload_store(database, store) -> UploadStore:
    return UploadStore(database, store)


@pytest.fixture
def batch_store(database, store) -> BatchStore:
    return BatchStore(database, store)


async def chunks(*data: bytes) -> AsyncIterator[bytes]:
    for one in data:
        yield one


async def keep(store: FileStore, data: bytes, tenant: Tenant = A, **named):
    named = {"filename": "x", "purpose": "user_data"} | named
    return await store.create(tenant, content=chunks(data), **named)


def blobs(store: FileStore) -> set[str]:
    return set(store.blobs.older_than(-1e9))


async def execute(database, statement) -> None:
    await database.write(lambda connection: connection.execute(statement).rowcount)


async def test_a_file_is_what_was_sent_however_it_came(store, tmp_path):
    (tmp_path / "source").write_bytes(b"hello world")
    draft = store.draft()
    draft.write(b"hello world")
    contents = [chunks(b"hello ", b"", b"world"), tmp_path / "source", draft]
    kept = [await store.create(A, filename="x", purpose="batch", content=one) for one in contents]
    assert len({one.id for one in kept}) == 3
    for one in kept:
        assert (one.bytes, one.sha256) == (11, hashlib.sha256(b"hello world").hexdigest())
        assert (await store.path(A, one.id)).read_bytes() == b"hello world"
        assert await store.get(A, one.id) == one
    assert len(blobs(store)) == 1 and not list((store.blobs.folder / "drafts").iterdir())


async def test_equal_bytes_of_two_tenants_are_one_blob_that_goes_with_the_last(store):
    one, two = await keep(store, b"same"), await keep(store, b"same", B)
    for wrong in (store.get, store.delete, store.path):
        with pytest.raises(NotFound, match="no file"):
            await wrong(B, one.id)
    await store.delete(A, one.id)
    assert (await store.path(B, two.id)).read_bytes() == b"same"
    await store.delete(B, two.id)
    assert not blobs(store)
    with pytest.raises(NotFound):
        await store.get(A, one.id)


async def test_files_are_listed_by_purpose_in_pages(store):
    ids = [(await keep(store, b"x", purpose=purpose)).id for purpose in ("batch", "user_data", "batch")]
    await keep(store, b"x", B)

    async def listed(**named):
        page = await store.list(A, **({"limit": 9, "order": "asc"} | named))
        return [one.id for one in page.data], page.has_more

    assert await listed() == (ids, False)
    assert await listed(purpose="batch") == ([ids[0], ids[2]], False)
    assert await listed(order="desc", limit=2) == ([ids[2], ids[1]], True)
    assert await listed(order="desc", limit=2, after=ids[1]) == ([ids[0]], False)
    with pytest.raises(InvalidRequest, match="after"):
        await listed(after="file-0")


async def test_an_expired_file_is_gone_at_once_and_swept_later(store, database):
    kept = await keep(store, b"old", lasts_s=-60)
    with pytest.raises(NotFound):
        await store.get(A, kept.id)
    assert not (await store.list(A, limit=9, order="asc")).data
    os.utime(store.blobs.path(kept.sha256), (LONG_AGO, LONG_AGO))
    assert await store.sweep() == 1
    assert not blobs(store)
    assert (
        await database.read(lambda c: c.execute(sa.select(sa.func.count()).select_from(files)).scalar()) == 0
    )


async def test_the_sweep_takes_what_killed_processes_left_and_nothing_young(store):
    kept = await keep(store, b"kept")
    for data in (b"orphan", b"young"):
        draft = store.draft()
        draft.write(data)
        store.blobs.prepare(draft)
        store.blobs.place(draft)
    left, writing = store.draft(), store.draft()
    for old in (store.blobs.path(hashlib.sha256(b"orphan").hexdigest()), left.path):
        os.utime(old, (LONG_AGO, LONG_AGO))
    os.utime(store.blobs.path(kept.sha256), (LONG_AGO, LONG_AGO))
    assert await store.sweep() == 1
    assert blobs(store) == {kept.sha256, hashlib.sha256(b"young").hexdigest()}
    assert writing.path.exists() and not left.path.exists()


async def test_a_transaction_with_a_file_may_be_tried_again(store, database):
    draft = store.draft()
    draft.write(b"twice")

    def work(connection):
        return store.insert(connection, A, draft, filename="x", purpose="user_data")

    async with store.placing(draft):
        first, second = await database.write(work), await database.write(work)
    assert (await store.path(A, first.id)).read_bytes() == (await store.path(A, second.id)).read_bytes()


async def announced(store: UploadStore, bytes: int):
    return await store.create(A, filename="x", purpose="user_data", mime_type="text/plain", bytes=bytes)


async def add(store: UploadStore, files: FileStore, id: str, data: bytes, tenant: Tenant = A) -> str:
    draft = files.draft()
    draft.write(data)
    return (await store.add_part(tenant, id, draft)).id


async def test_parts_join_in_the_named_order(upload_store, store):
    upload = await announced(upload_store, 6)
    second = await add(upload_store, store, upload.id, b"def")
    first = await add(upload_store, store, upload.id, b"abc")
    md5 = hashlib.md5(b"abcdef", usedforsecurity=False).hexdigest()
    for part_ids, digest, problem in (
        ([second, first], md5, "MD5"),
        ([first, second], "0" * 32, "MD5"),
        ([first], None, "3 bytes, 6 were announced"),
        ([first, first], None, "twice"),
        ([first, "part_0"], None, "no part 'part_0'"),
    ):
        with pytest.raises(InvalidRequest, match=problem):
            await upload_store.complete(A, upload.id, part_ids, digest)
    done, kept = await upload_store.complete(A, upload.id, [first, second], md5.upper())
    assert done.status == "completed" and done.file_id == kept.id
    assert (await store.path(A, kept.id)).read_bytes() == b"abcdef"
    assert blobs(store) == {kept.sha256}  # the parts are gone
    for again in (
        upload_store.complete(A, upload.id, [first, second]),
        upload_store.cancel(A, upload.id),
        add(upload_store, store, upload.id, b"x"),
    ):
        with pytest.raises(InvalidRequest, match="is completed"):
            await again


async def test_an_upload_takes_no_more_than_was_announced(upload_store, store, database):
    upload = await announced(upload_store, 4)
    await add(upload_store, store, upload.id, b"abc")
    assert await upload_store.room(A, upload.id) == 1
    with pytest.raises(InvalidRequest, match="room for 1"):
        await add(upload_store, store, upload.id, b"de")
    with pytest.raises(NotFound):
        await add(upload_store, store, upload.id, b"d", B)
    assert MAX_PARTS >= 8 << 30 >> 26
    ended = await upload_store.cancel(A, upload.id)
    assert ended.status == "cancelled" and not blobs(store)


async def test_a_part_whose_answer_was_lost_can_be_sent_again(upload_store, store):
    """The client does not know that the part was kept, so the upload must still take all that was announced."""
    upload = await announced(upload_store, 6)
    await add(upload_store, store, upload.id, b"abc")
    first = await add(upload_store, store, upload.id, b"abc")
    second = await add(upload_store, store, upload.id, b"def")
    with pytest.raises(InvalidRequest, match="room for 0"):
        await add(upload_store, store, upload.id, b"g")
    again = await add(upload_store, store, upload.id, b"def")
    _, kept = await upload_store.complete(A, upload.id, [first, again])
    assert second != again and (await store.path(A, kept.id)).read_bytes() == b"abcdef"
    assert blobs(store) == {kept.sha256}


async def test_an_upload_that_is_late_has_expired(upload_store, store, database):
    upload = await announced(upload_store, 3)
    part = await add(upload_store, store, upload.id, b"abc")
    await execute(database, sa.update(uploads).values(expires_at=LONG_AGO))
    assert (await upload_store.get(A, upload.id)).status == "expired"
    with pytest.raises(InvalidRequest, match="is expired"):
        await upload_store.complete(A, upload.id, [part])
    assert await upload_store.sweep() == 1
    assert not blobs(store)


async def begun(batch_store: BatchStore, store: FileStore, total: int = 3):
    source = await keep(store, b"lines", purpose="batch")
    batch = await batch_store.create(
        A, endpoint="/v1/completions", input_file_id=source.id, completion_window="24h", metadata={"k": "v"}
    )
    return await batch_store.begin(A, batch.id, total=total, model="m")


def line(number: int, body: str, *, failed: bool = False) -> LineResult:
    return LineResult(number, failed, json.dumps(body), Tokens(2, 1, 3))


async def test_a_batch_comes_with_its_job_and_keeps_its_input(batch_store, store, database):
    batch = await begun(batch_store, store)
    assert (await JobStore(database).get(A, batch.id)).kind == "batch"
    await store.delete(A, batch.input_file_id)
    assert batch.input_sha256 in blobs(store)
    other = await keep(store, b"x")
    with pytest.raises(InvalidRequest, match="purpose 'batch'"):
        await batch_store.create(A, endpoint="e", input_file_id=other.id, completion_window="24h")
    with pytest.raises(NotFound):
        await batch_store.create(B, endpoint="e", input_file_id=other.id, completion_window="24h")
    for call in (batch_store.get, batch_store.cancel):
        with pytest.raises(NotFound):
            await call(B, batch.id)
    assert [one.id for one in (await batch_store.list(A)).data] == [batch.id]
    assert not (await batch_store.list(B)).data


async def test_a_line_ends_once_whoever_comes_second(batch_store, store):
    batch = await begun(batch_store, store)
    assert await batch_store.record(A, batch.id, [line(2, "first"), line(1, "one")]) == "in_progress"
    await asyncio.gather(
        *(batch_store.record(A, batch.id, [line(2, "second"), line(3, "no", failed=True)]) for _ in range(9))
    )
    assert await batch_store.done(A, batch.id) == {1, 2, 3}
    await batch_store.finalize(A, batch.id)
    assert await batch_store.record(A, batch.id, [line(4, "late")]) == "finalizing"
    ended = await asyncio.gather(*(batch_store.conclude(A, batch.id, "completed") for _ in range(4)))
    assert len({(one.output_file_id, one.error_file_id) for one in ended}) == 1
    (batch, *_) = ended
    assert (batch.completed, batch.failed, batch.input_tokens, batch.output_tokens) == (2, 1, 6, 9)
    outputs = (await store.list(A, limit=9, order="asc", purpose="batch_output")).data
    assert [one.id for one in outputs] == [batch.output_file_id, batch.error_file_id]
    assert (await store.path(A, batch.output_file_id)).read_text() == '"one"\n"first"\n'
    assert (await store.path(A, batch.error_file_id)).read_text() == '"no"\n'
    assert not await batch_store.done(A, batch.id)
    assert batch.ended and batch.input_sha256 is None
    with pytest.raises(InvalidRequest, match="is completed"):
        await batch_store.cancel(A, batch.id)


async def test_a_cancelled_batch_keeps_the_lines_that_had_ended(batch_store, store, database):
    batch = await begun(batch_store, store)
    await batch_store.record(A, batch.id, [line(1, "one")])
    assert (await batch_store.cancel(A, batch.id)).status == "cancelling"
    assert await batch_store.record(A, batch.id, [line(2, "late")]) == "cancelling"
    assert (await batch_store.conclude(A, batch.id, "completed")).status == "cancelling"
    assert not await batch_store.orphans()
    await JobStore(database).cancel(A, batch.id)
    assert [(tenant, one.id) for tenant, one in await batch_store.orphans()] == [(A, batch.id)]
    ended = await batch_store.conclude(A, batch.id, "cancelled")
    assert (ended.status, ended.completed, ended.error_file_id) == ("cancelled", 1, None)
    assert (await store.path(A, ended.output_file_id)).read_text() == '"one"\n'
    assert not await batch_store.orphans()


async def test_a_failed_batch_says_why(batch_store, store):
    source = await keep(store, b"lines", purpose="batch")
    batch = await batch_store.create(A, endpoint="e", input_file_id=source.id, completion_window="24h")
    problem = {"code": "invalid_json_line", "message": "不", "line": 1, "param": None}
    failed = await batch_store.fail(A, batch.id, [problem])
    assert failed.status == "failed" and json.loads(failed.errors or "") == [problem]
    assert (await batch_store.begin(A, batch.id, total=1, model=None)).status == "failed"


async def test_the_rows_of_lines_go_with_their_batch(batch_store, store, database):
    batch = await begun(batch_store, store)
    await batch_store.record(A, batch.id, [line(1, "one")])
    await execute(database, sa.delete(batches))
    left = await database.read(
        lambda c: c.execute(sa.select(sa.func.count()).select_from(batch_lines)).scalar_one()
    )
    assert left == 0
