"""Blobs in a bucket: several machines, damage, outages, hostile stores, and what a deletion in between must not lose.

What files promise in a bucket as in a folder is tested in `tests/storage/test_files.py`, which runs against both.
"""

import hashlib
import logging
import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from tests.object_store import SECRET, ObjectStore, answering, credentials_file

from deepwell.errors import InvalidRequest, StorageError, StorageUnavailable
from deepwell.settings import Settings
from deepwell.storage.blobs import BlobPlace, DiskFull, bucket, open_blobs
from deepwell.storage.blobs.bucket import BlobsUnavailable
from deepwell.storage.blobs.place import read_credentials
from deepwell.storage.database import Database, Tenant
from deepwell.storage.files import FileStore

A = Tenant("a")
OWNER = "0" * 32
LONG_AGO = 1_000_000_000


@pytest.fixture
def kind() -> str:
    return "sqlite"


@pytest.fixture
def place(object_store: ObjectStore, tmp_path: Path) -> BlobPlace:
    return object_store.place(tmp_path)


def away(folder: Path) -> BlobPlace:
    """Returns a place where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    return BlobPlace("bucket", "", f"http://127.0.0.1:{port}", "us-east-1", credentials_file(folder))


async def keep(store: FileStore, data: bytes):
    draft = store.draft()
    draft.write(data)
    return await store.create(A, filename="x", purpose="user_data", content=draft)


def name_of(data: bytes) -> str:
    digest = hashlib.sha256(data).hexdigest()
    return f"{digest[:2]}/{digest}"


async def test_another_machine_reads_what_one_has_written_and_erases_it(
    database, place, object_store, tmp_path
):
    here, there = (FileStore(database, open_blobs(tmp_path / one, place)) for one in ("here", "there"))
    kept = await keep(here, b"shared")
    assert set(object_store.objects(place)) == {"deepwell-owner", name_of(b"shared")}
    path = await there.path(A, kept.id)
    assert path.is_relative_to(tmp_path / "there") and path.read_bytes() == b"shared"
    assert await there.path(A, kept.id) == path  # of the copy, without the store
    await there.delete(A, kept.id)
    assert set(object_store.objects(place)) == {"deepwell-owner"}
    copy = here.blobs.path(kept.sha256)
    os.utime(copy, (LONG_AGO, LONG_AGO))
    await here.sweep()
    assert not copy.exists()


async def test_a_bucket_belongs_to_one_database(database, place, tmp_path):
    await keep(FileStore(database, open_blobs(tmp_path / "files", place)), b"mine")
    other = Database.open(tmp_path / "other.db")
    try:
        store = FileStore(other, open_blobs(tmp_path / "other", place))
        with pytest.raises(StorageError, match="another database"):
            await store.sweep()
        with pytest.raises(StorageError, match="another prefix"):
            await keep(store, b"theirs")
        await keep(FileStore(other, open_blobs(tmp_path / "other", replace(place, prefix="else"))), b"theirs")
    finally:
        other.close()


async def test_other_bytes_than_the_name_says_are_never_read(database, place, object_store, tmp_path):
    here, there = (FileStore(database, open_blobs(tmp_path / one, place)) for one in ("here", "there"))
    kept = await keep(here, b"right")
    object_store.change(place, name_of(b"right"), b"wrong")
    with pytest.raises(BlobsUnavailable, match="other bytes"):
        await there.path(A, kept.id)
    assert not there.blobs.path(kept.sha256).exists() and not list((tmp_path / "there/drafts").iterdir())
    large = FileStore(database, open_blobs(tmp_path / "large", replace(place, most_bytes=3)))
    with pytest.raises(BlobsUnavailable, match="other bytes"):
        await large.path(A, kept.id)
    object_store.remove(place, name_of(b"right"))
    with pytest.raises(FileNotFoundError):
        await there.path(A, kept.id)


async def test_bytes_are_sent_whoever_has_them(database, place, object_store, tmp_path):
    """An upload that is shorter where another tenant has the same file would tell of it; one that is sent mends damage."""
    store = FileStore(database, open_blobs(tmp_path / "files", place))
    await keep(store, b"right")
    object_store.change(place, name_of(b"right"), b"wrong")
    await keep(store, b"right")
    assert object_store.objects(place)[name_of(b"right")] == b"right"


async def test_large_files_go_in_parts_with_the_checksum_of_each(place, object_store, tmp_path, monkeypatch):
    monkeypatch.setattr(bucket, "_PART_BYTES", 5 << 20)
    blobs, data = open_blobs(tmp_path / "files", place), os.urandom(6 << 20)
    draft = blobs.draft()
    draft.write(data)
    blobs.prepare(draft)
    assert object_store.objects(place)[name_of(data)] == data
    assert open_blobs(tmp_path / "there", place).fetch(draft.sha256).read_bytes() == data


async def test_bytes_that_somebody_deletes_before_the_commit_are_sent_again(
    database, place, object_store, tmp_path
):
    """Another tenant's deletion of the same bytes finds no row that names them until the transaction has ended."""
    store = FileStore(database, open_blobs(tmp_path / "files", place))
    draft = store.draft()
    draft.write(b"same")

    def work(connection):
        object_store.remove(place, name_of(b"same"))
        return store.insert(connection, A, draft, filename="x", purpose="user_data")

    async with store.placing(draft):
        await database.write(work)
    assert object_store.objects(place)[name_of(b"same")] == b"same"


async def test_what_a_transaction_refuses_leaves_nothing(database, place, object_store, tmp_path):
    store = FileStore(database, open_blobs(tmp_path / "files", place))
    draft = store.draft()
    draft.write(b"refused")
    with pytest.raises(InvalidRequest):
        async with store.placing(draft):
            raise InvalidRequest("no room")
    draft.discard()
    assert set(object_store.objects(place)) == {"deepwell-owner"}


async def test_a_store_that_is_away_is_a_typed_error_and_loses_nothing(
    database, place, object_store, tmp_path, caplog
):
    store = FileStore(database, open_blobs(tmp_path / "files", place))
    kept = await keep(store, b"kept")
    lost = FileStore(database, open_blobs(tmp_path / "files", away(tmp_path)))
    with pytest.raises(BlobsUnavailable, match="no connection") as raised:
        await keep(lost, b"new")
    assert (raised.value.status, raised.value.retry_after) == (503, 5)
    assert not list((tmp_path / "files/drafts").iterdir())
    assert (await lost.path(A, kept.id)).read_bytes() == b"kept"
    await lost.delete(
        A, kept.id
    )  # the row is gone; the bytes go with the next sweep of a server that reaches them
    with pytest.raises(StorageUnavailable):
        await lost.erase([kept.sha256])
    assert name_of(b"kept") in object_store.objects(place)
    object_store.age(place)
    assert await store.sweep() == 1 and set(object_store.objects(place)) == {"deepwell-owner"}
    assert SECRET not in caplog.text


async def test_the_sweep_sends_what_was_here_before_and_keeps_as_many_copies_as_it_may(
    database, place, object_store, tmp_path
):
    folder = tmp_path / "files"
    before = FileStore(database, folder)
    texts = [b"one" * 100, b"two" * 100, b"three" * 100]
    kept = [await keep(before, text) for text in texts]
    for number, one in enumerate(kept):
        os.utime(before.blobs.path(one.sha256), (LONG_AGO + number, LONG_AGO + number))
    store = FileStore(database, open_blobs(folder, replace(place, cache_bytes=600)))
    await store.sweep()
    assert set(object_store.objects(place)) == {"deepwell-owner", *map(name_of, texts)}
    assert [before.blobs.path(one.sha256).exists() for one in kept] == [False, False, True]
    assert [(await store.path(A, one.id)).read_bytes() for one in kept] == texts


async def test_what_else_lies_in_the_bucket_is_left_alone(database, place, object_store, tmp_path):
    store = FileStore(database, open_blobs(tmp_path / "files", place))
    await keep(store, b"mine")
    for name in ("note", "aa/note", f"aa/{'b' * 64}", f"zz/{'z' * 64}"):
        object_store.add(place, name)
    object_store.age(place)
    await store.sweep()
    assert len(object_store.objects(place)) == 6


REFUSAL = (
    b"<Error><Code>InvalidAccessKeyId</Code><AWSAccessKeyId>AKIATESTS</AWSAccessKeyId>"
    b"<StringToSign>" + SECRET.encode() + b"</StringToSign></Error>"
)


def test_a_refusal_names_its_code_and_nothing_of_the_credentials(tmp_path, caplog):
    def refuse(request) -> None:
        request.send_response(403)
        request.send_header("content-length", str(len(REFUSAL)))
        request.end_headers()
        request.wfile.write(REFUSAL)

    caplog.set_level(logging.DEBUG)
    with answering(refuse) as url:
        place = BlobPlace("bucket", "", url, "us-east-1", credentials_file(tmp_path))
        with pytest.raises(BlobsUnavailable, match="InvalidAccessKeyId") as raised:
            open_blobs(tmp_path / "files", place).claim(OWNER)
    shown = f"{raised.value} {raised.value.__cause__} {raised.value.texts} {caplog.text}"
    assert "AKIATESTS" not in shown and SECRET not in shown


@pytest.mark.parametrize("code", [301, 307, 308])
def test_a_redirect_to_another_host_reaches_nobody(code, tmp_path, monkeypatch):
    """The client would take a session token along, and could be sent to any port that this machine reaches."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    seen: list[str] = []
    credentials = credentials_file(tmp_path)
    credentials.write_text(credentials.read_text() + "aws_session_token = of-a-session\n")

    def note(request) -> None:
        seen.append(str(request.headers))
        request.send_response(200)
        request.send_header("content-length", "0")
        request.end_headers()

    with answering(note) as other:

        def send_away(request) -> None:
            request.send_response(code)
            request.send_header("location", other.replace("127.0.0.1", "localhost") + "/taken")
            request.send_header("content-length", "0")
            request.end_headers()

        with answering(send_away) as url:
            place = BlobPlace("bucket", "", url, "us-east-1", credentials)
            blobs = open_blobs(tmp_path / "files", place)
            with pytest.raises(StorageUnavailable):
                blobs.claim(OWNER)
            with pytest.raises(StorageUnavailable):
                blobs.remove("ab" * 32)
    assert not seen


def test_an_object_that_trickles_is_left(place, object_store, tmp_path, monkeypatch):
    draft = (blobs := open_blobs(tmp_path / "files", place)).draft()
    draft.write(b"slow")
    blobs.prepare(draft)
    monkeypatch.setattr(bucket, "_PATIENCE_S", 0.0)
    monkeypatch.setattr(bucket, "_LEAST_PER_S", 1 << 60)
    with pytest.raises(BlobsUnavailable, match="a second"):
        open_blobs(tmp_path / "there", place).fetch(draft.sha256)
    assert not list((tmp_path / "there/drafts").iterdir())


def test_a_list_without_an_end_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(bucket, "_MOST_OBJECTS", 3)
    entry = "<Contents><Key>{0}/{1}</Key><Size>1</Size><LastModified>2020-01-01T00:00:00.000Z</LastModified></Contents>"
    body = (
        "<ListBucketResult><Name>b</Name><IsTruncated>true</IsTruncated>"
        "<NextContinuationToken>again</NextContinuationToken>"
        + "".join(entry.format(one, one * 32) for one in ("ab", "cd"))
        + "</ListBucketResult>"
    ).encode()

    def again(request) -> None:
        request.send_response(200)
        request.send_header("content-length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    with answering(again) as url:
        place = BlobPlace("bucket", "", url, "us-east-1", credentials_file(tmp_path))
        with pytest.raises(BlobsUnavailable, match="more than 3 objects"):
            list(open_blobs(tmp_path / "files", place).older_than(0))


@pytest.mark.parametrize("body", [b"", b"<", b"<Error>" * 1000, b"\xff" * 4096, b"<ListBucketResult/>"])
def test_nonsense_of_a_store_is_a_typed_error(body, tmp_path):
    def nonsense(request) -> None:
        request.send_response(200)
        request.send_header("content-length", str(len(body)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body)

    with answering(nonsense) as url:
        place = BlobPlace("bucket", "", url, "us-east-1", credentials_file(tmp_path))
        blobs = open_blobs(tmp_path / "files", place)
        with pytest.raises(StorageError):
            blobs.claim(OWNER)
        with pytest.raises(StorageError):
            blobs.fetch("ab" * 32)


def test_an_endless_object_ends_at_the_largest_size(tmp_path):
    def endless(request) -> None:
        request.send_response(200)
        request.send_header("content-length", str(1 << 50))
        request.send_header("last-modified", "Sat, 28 Nov 2026 12:00:00 GMT")
        request.send_header("etag", '"x"')
        request.end_headers()
        try:
            while True:
                request.wfile.write(bytes(1 << 16))
        except OSError:
            pass

    with answering(endless) as url:
        place = BlobPlace("bucket", "", url, "us-east-1", credentials_file(tmp_path), most_bytes=4 << 20)
        with pytest.raises(BlobsUnavailable, match="other bytes"):
            open_blobs(tmp_path / "files", place).fetch("ab" * 32)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "No such file"),
        ("", r"below \[default\]"),
        ("[other]\naws_access_key_id=a\naws_secret_access_key=b\n", r"below \[default\]"),
        ("[default]\naws_access_key_id=a\n", r"below \[default\]"),
        ("AKIAKEY very-secret", "no file of sections"),
    ],
)
def test_credentials_that_cannot_be_used_name_the_file_and_none_of_its_lines(text, told, tmp_path):
    path = tmp_path / "credentials"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InvalidRequest, match=told) as raised:
        read_credentials(path, {})
    assert "AKIAKEY" not in str(raised.value) and str(path) in str(raised.value)
    assert read_credentials(credentials_file(tmp_path), {}) == ("AKIATESTS", SECRET, None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("blobs", "bucket"),
        ("blobs", "https://bucket"),
        ("blobs", "s3://Bucket"),
        ("blobs", "s3://bucket/../other"),
        ("blobs", "s3://bucket/a b"),
        ("blobs", "s3://key:secret@bucket/"),
        ("blobs_endpoint", "127.0.0.1:9000"),
        ("blobs_endpoint", "http://user:password@host"),
        ("blobs_endpoint", "http://host/?x=1"),
        ("blobs_endpoint", "http://host:99999"),
        ("blobs_endpoint", "http://[::1]:0"),
    ],
)
def test_settings_name_one_bucket_and_no_secret(name, value):
    with pytest.raises(ValueError, match="write it as"):
        Settings(**{name: value})


def test_a_place_is_read_from_the_settings(tmp_path):
    settings = Settings(
        blobs="s3://bucket/a/b/",
        blobs_endpoint="http://127.0.0.1:9000",
        blobs_credentials=credentials_file(tmp_path),
    )
    place = BlobPlace.of(settings)
    assert place is not None
    assert (place.bucket, place.prefix, place.shown) == ("bucket", "a/b", "s3://bucket/a/b")
    assert BlobPlace.of(Settings()) is None
    assert SECRET not in repr(settings) and SECRET not in repr(place)
    assert DiskFull.status == 507
