"""Files and uploads over HTTP: what is sent comes back, memory stays small, and hostile forms are told what to do."""

from __future__ import annotations

import json
import re
import tracemalloc
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from fastapi import FastAPI
from openai import OpenAI
from tests.server.conftest import Live, start
from tests.server.fakes import FakeEngine, make_service

from deepwell.dialogue.text import Codec
from deepwell.server.app import create_app
from deepwell.server.context import ServerContext
from deepwell.server.options import FileOptions
from deepwell.storage.uploads import MAX_PARTS

MAX_FILE = 256 * 1024


@pytest.fixture(scope="module")
def service(codec: Codec) -> ServerContext:
    options = FileOptions(max_file_bytes=MAX_FILE, max_upload_bytes=4 * MAX_FILE)
    return make_service(FakeEngine(), codec, model="toy", max_body_bytes=64 * 1024, files=options)


@pytest.fixture(scope="module")
def app(service: ServerContext) -> FastAPI:
    return create_app(service)


@pytest.fixture
async def http(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


@pytest.fixture(scope="module")
def client(codec: Codec) -> Iterator[OpenAI]:
    engine = FakeEngine()
    running: Live = start(make_service(engine, codec, model="toy"), engine)
    with OpenAI(
        base_url=f"{running.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True
    ) as client:
        yield client
    running.stop()


def form(*parts: tuple[str, bytes], end: bytes = b"--xx--\r\n") -> bytes:
    """A form of fields, each with its whole Content-Disposition behind `form-data`."""
    body = b"".join(
        f"--xx\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + data + b"\r\n"
        for head, data in parts
    )
    return body + end


FORM = {"content-type": "multipart/form-data; boundary=xx"}
PURPOSE = ('name="purpose"', b"user_data")
FILE = ('name="file"; filename="a.txt"', b"data")


def problem(answer: httpx.Response, status: int = 400) -> str:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    return error["message"]


def test_what_is_sent_comes_back(client: OpenAI) -> None:
    data = (
        bytes(range(256)) * 9000
    )  # of several chunks, with every byte and no line break where a form has them
    kept = client.files.create(file=("データ 1.bin", data), purpose="user_data")
    assert (kept.filename, kept.bytes, kept.purpose) == ("データ 1.bin", len(data), "user_data")
    assert client.files.content(kept.id).content == data
    assert client.files.create(file=("b", b"x"), purpose="batch").expires_at


async def test_the_body_comes_in_any_pieces(http: httpx.AsyncClient) -> None:
    body = form(PURPOSE, ('name="file"; filename="a"', b"--xx\r\n--x\r\n\r\n--xx-\r\n\n" * 9))

    async def pieces(size: int) -> AsyncIterator[bytes]:
        for at in range(0, len(body), size):
            yield body[at : at + size]

    for size in (1, 2, 3, 7, len(body)):
        answer = await http.post("/v1/files", content=pieces(size), headers=FORM)
        if answer.status_code == 200:
            read = await http.get(f"/v1/files/{answer.json()['id']}/content")
            assert read.content == b"--xx\r\n--x\r\n\r\n--xx-\r\n\n" * 9
        else:  # a boundary stands in the data: every cut of it has to say so
            assert "cannot be read" in problem(answer)


async def test_a_large_file_never_lies_in_memory(codec: Codec) -> None:
    service = make_service(FakeEngine(), codec, model="toy")
    total = 48 << 20
    head, _, tail = form(PURPOSE, ('name="file"; filename="a"', b"@@")).partition(b"@@")

    async def pieces() -> AsyncIterator[bytes]:
        yield head
        for _ in range(total >> 16):
            yield bytes(1 << 16)
        yield tail

    transport = httpx.ASGITransport(create_app(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        await http.get("/v1/files")  # the database is made
        tracemalloc.start()
        answer = await http.post("/v1/files", content=pieces(), headers=FORM)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert answer.json()["bytes"] == total
    assert peak < 8 << 20
    await service.close_state()


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ([PURPOSE, ('name="file"; filename="../../etc/passwd"', b"x")], "plain name"),
        ([PURPOSE, ('name="file"; filename="/abs"', b"x")], "plain name"),
        ([PURPOSE, ('name="file"; filename="a\\\\b"', b"x")], "plain name"),
        ([PURPOSE, ('name="file"; filename=".."', b"x")], "plain name"),
        ([PURPOSE, ('name="file"; filename="a\x00b"', b"x")], "plain name|cannot be read"),
        ([PURPOSE, ('name="file"; filename="a\x1b[2J"', b"x")], "plain name|cannot be read"),
        ([PURPOSE, (f'name="file"; filename="{"n" * 300}"', b"x")], "more than 255 bytes"),
        ([PURPOSE, (f'name="file"; filename="{"n" * 9000}"', b"x")], "cannot be read"),
        ([PURPOSE, ('name="file"', b"x")], "has no name"),
        ([PURPOSE, ('name="file"; filename="a"', b"")], "is empty"),
        ([PURPOSE], "missing parameter 'file'"),
        ([FILE], "missing parameter 'purpose'.*batch"),
        ([('name="purpose"', b"batch_output"), FILE], "unknown purpose"),
        ([('name="purpose"', b"\xff\xfe"), FILE], "not UTF-8"),
        ([PURPOSE, PURPOSE, FILE], "'purpose' comes twice"),
        ([PURPOSE, FILE, FILE], "'file' comes twice"),
        ([PURPOSE, ('name="other"', b"x"), FILE], "unknown parameter 'other'"),
        ([PURPOSE, ('name="expires_after[seconds]"', b"3600"), FILE], "anchor"),
        ([('name="purpose"', b"p" * 5000), FILE], "longer than 4096 bytes"),
        ([(f'name="n{number}"', b"x") for number in range(50)], "more than 16 fields"),
    ],
)
async def test_a_hostile_form_is_told_what_to_do(
    http: httpx.AsyncClient, service: ServerContext, parts: list[tuple[str, bytes]], told: str
) -> None:
    before = (await http.get("/v1/files")).json()["data"]
    assert re.search(told, problem(await http.post("/v1/files", content=form(*parts), headers=FORM)))
    assert (await http.get("/v1/files")).json()["data"] == before
    assert not list(service.state.files.blobs.folder.glob("drafts/*"))


@pytest.mark.parametrize("seconds", ["0", "3599", "2592001", "1e4", "-5", "", "9" * 30, "３６００"])
async def test_a_lifetime_is_a_number_of_seconds(http: httpx.AsyncClient, seconds: str) -> None:
    lasts = [
        ('name="expires_after[anchor]"', b"created_at"),
        ('name="expires_after[seconds]"', seconds.encode()),
    ]
    answer = await http.post("/v1/files", content=form(PURPOSE, *lasts, FILE), headers=FORM)
    assert "from 3600 to 2592000" in problem(answer)


@pytest.mark.parametrize(
    ("content", "headers", "told"),
    [
        (b"{}", {"content-type": "application/json"}, "not a form"),
        (b"", {}, "not a form"),
        (form(PURPOSE, FILE), {"content-type": "multipart/form-data"}, "not a form"),
        (
            form(PURPOSE, FILE),
            {"content-type": f"multipart/form-data; boundary={'b' * 300}"},
            "cannot be read",
        ),
        (form(PURPOSE, FILE, end=b""), FORM, "before its last boundary"),
        (form(PURPOSE, FILE)[:-30], FORM, "before its last boundary"),
        (b"\r\nno form", FORM, "cannot be read"),
        (b"", FORM, "before its last boundary"),
    ],
)
async def test_what_is_no_form_is_refused(
    http: httpx.AsyncClient, content: bytes, headers: dict[str, str], told: str
) -> None:
    assert told in problem(await http.post("/v1/files", content=content, headers=headers))


async def test_a_file_has_a_limit_of_its_own(http: httpx.AsyncClient) -> None:
    named = 'name="file"; filename="a"'
    fits = await http.post("/v1/files", content=form(PURPOSE, (named, bytes(MAX_FILE))), headers=FORM)
    assert fits.json()["bytes"] == MAX_FILE  # which is more than any other body may have

    async def pieces() -> AsyncIterator[bytes]:
        yield form(PURPOSE, (named, bytes(MAX_FILE + 1)))

    for content in (form(PURPOSE, (named, bytes(MAX_FILE * 2))), pieces()):
        answer = await http.post("/v1/files", content=content, headers=FORM)
        assert "DEEPWELL_MAX_FILE_BYTES" in problem(answer, 413)
    long = {"model": "toy", "prompt": "x" * 100_000}
    assert "DEEPWELL_MAX_BODY_BYTES" in problem(await http.post("/v1/completions", json=long), 413)
    assert "DEEPWELL_MAX_BODY_BYTES" in problem(await http.post("/v1/uploads/x/complete", json=long), 413)


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("limit=0", "limit"),
        ("limit=10001", "limit"),
        ("order=up", "order"),
        ("colour=red", "colour"),
        ("after=file-0", "after"),
    ],
)
async def test_a_page_that_cannot_be(http: httpx.AsyncClient, query: str, told: str) -> None:
    assert told in problem(await http.get(f"/v1/files?{query}"))


async def test_an_unknown_file_is_not_found(http: httpx.AsyncClient) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/content")):
        answer = await http.request(method, f"/v1/files/file-..%2f..%2fx{path}")
        assert "there is no" in problem(answer, 404)


async def test_a_browser_does_not_run_what_a_file_says(http: httpx.AsyncClient) -> None:
    page = ('name="file"; filename="a.html"', b"<script>alert(1)</script>")
    id = (await http.post("/v1/files", content=form(PURPOSE, page), headers=FORM)).json()["id"]
    answer = await http.get(f"/v1/files/{id}/content")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["x-content-type-options"] == "nosniff"


def announcement(**named: object) -> dict[str, object]:
    return {"bytes": 6, "filename": "a", "mime_type": "text/plain", "purpose": "user_data"} | named


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ({"bytes": 0}, "bytes"),
        ({"bytes": 4 * MAX_FILE + 1}, "DEEPWELL_MAX_UPLOAD_BYTES"),
        ({"filename": "../a"}, "plain name"),
        ({"purpose": "fun"}, "purpose"),
        ({"expires_after": {"anchor": "created_at", "seconds": 5}}, "expires_after.seconds"),
        ({"byts": 3}, "did you mean 'bytes'"),
    ],
)
async def test_an_upload_that_cannot_be(http: httpx.AsyncClient, named: dict[str, object], told: str) -> None:
    assert told in problem(await http.post("/v1/uploads", json=announcement(**named)))


async def test_parts_are_refused_before_and_after_they_came(http: httpx.AsyncClient) -> None:
    assert "no upload" in problem(
        await http.post("/v1/uploads/upload_0/parts", content=b"", headers=FORM), 404
    )
    id = (await http.post("/v1/uploads", json=announcement())).json()["id"]
    parts = f"/v1/uploads/{id}/parts"
    for data, told in (
        (form(('name="data"', b"")), "is empty"),
        (form(('name="data"', b"1234567")), "room for 6"),
        (form(('name="data"', b"123"), ('name="more"', b"")), "unknown parameter 'more'"),
        (form(('name="file"; filename="a"', b"123")), "missing parameter 'data'"),
    ):
        assert told in problem(await http.post(parts, content=data, headers=FORM))
    kept = [
        (await http.post(parts, content=form(('name="data"', data)), headers=FORM)).json()["id"]
        for data in (b"abc", b"def")
    ]
    complete = f"/v1/uploads/{id}/complete"
    for body, told in (
        ({"part_ids": []}, "part_ids"),
        ({"part_ids": ["part_0"]}, "no part"),
        ({"part_ids": kept[:1]}, "3 bytes, 6 were announced"),
        ({"part_ids": kept, "md5": "0" * 32}, "MD5"),
        ({"part_ids": kept * 6000}, "64 bytes|larger|twice"),
    ):
        answer = await http.post(complete, json=body)
        status = 413 if "larger" in told and answer.status_code == 413 else 400
        assert any(one in problem(answer, status) for one in told.split("|"))
    done = (await http.post(complete, json={"part_ids": kept})).json()
    read = await http.get(f"/v1/files/{done['file']['id']}/content")
    assert read.content == b"abcdef"


async def test_an_upload_has_so_many_parts_and_no_more(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MAX_PARTS == 10_000
    monkeypatch.setattr("deepwell.storage.uploads.MAX_PARTS", 3)
    id = (await http.post("/v1/uploads", json=announcement())).json()["id"]
    one = form(('name="data"', b"x"))
    answers = [await http.post(f"/v1/uploads/{id}/parts", content=one, headers=FORM) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 400]
    assert "fewer, larger parts" in problem(answers[-1])


async def test_nothing_of_one_key_is_seen_by_another(codec: Codec) -> None:
    from pydantic import SecretStr

    keys = [SecretStr("a" * 32), SecretStr("b" * 32)]
    service = make_service(FakeEngine(), codec, model="toy", api_keys=keys)
    mine, theirs = ({"authorization": f"Bearer {key.get_secret_value()}"} for key in keys)
    transport = httpx.ASGITransport(create_app(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        body = form(('name="purpose"', b"batch"), FILE)
        file = (await http.post("/v1/files", content=body, headers=FORM | mine)).json()["id"]
        upload = (await http.post("/v1/uploads", json=announcement(), headers=mine)).json()["id"]
        asked = {"input_file_id": file, "endpoint": "/v1/completions", "completion_window": "24h"}
        batch = (await http.post("/v1/batches", json=asked, headers=mine)).json()["id"]
        for method, path, sent in (
            ("GET", f"/v1/files/{file}", None),
            ("GET", f"/v1/files/{file}/content", None),
            ("DELETE", f"/v1/files/{file}", None),
            ("POST", f"/v1/uploads/{upload}/complete", {"part_ids": ["x"]}),
            ("POST", f"/v1/uploads/{upload}/cancel", None),
            ("POST", "/v1/batches", asked),
            ("GET", f"/v1/batches/{batch}", None),
            ("POST", f"/v1/batches/{batch}/cancel", None),
        ):
            problem(await http.request(method, path, json=sent, headers=theirs), 404)
        part = form(('name="data"', b"abc"))
        problem(await http.post(f"/v1/uploads/{upload}/parts", content=part, headers=FORM | theirs), 404)
        for path in ("/v1/files", "/v1/batches"):
            assert json.loads((await http.get(path, headers=theirs)).text)["data"] == []
            assert len((await http.get(path, headers=mine)).json()["data"]) == 1
    await service.close_state()
