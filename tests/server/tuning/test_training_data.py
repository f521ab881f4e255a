"""Training files that would take the memory, the threads or the time of a server, or that are not what they seem."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.server.conftest import Live
from tests.server.fakes import FakeEngine, make_service
from tests.server.tuning.jobs import COMMAND, LINES, tuning_server

from deepwell.dialogue.text import Codec
from deepwell.server.app import create_app
from deepwell.server.families.fine_tuning.data import InvalidTrainingFile, check_file
from deepwell.server.options import TuningOptions

GOOD = json.dumps(LINES[0]).encode() + b"\n"
GRADER = {
    "type": "string_check",
    "name": "g",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
    "operation": "eq",
}
METHODS: dict[str, dict[str, Any]] = {
    "supervised": {"type": "supervised"},
    "dpo": {"type": "dpo"},
    "reinforcement": {"type": "reinforcement", "reinforcement": {"grader": GRADER}},
}


def said(content: bytes) -> bytes:
    """A line whose question has a content in JSON."""
    return GOOD.replace(b'"hi"', content)


HOSTILE = {
    "a long line": said(b'"' + b"a" * (33 << 20) + b'"'),
    "lists in lists": said(b"[" * 100_000 + b"]" * 100_000),
    "objects in objects": said(b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    "a raw NUL": said(b'"a\0b"'),
    "half a surrogate pair": said(b'"\\ud800"'),
    "a surrogate in UTF-8": said(b'"\xed\xa0\x80"'),
    "no UTF-8": said(b'"\xff\xfe"'),
    "UTF-16": GOOD.decode().encode("utf-16"),
    "two marks of order": b"\xef\xbb\xbf" * 2 + GOOD,
    "no number": GOOD.replace(b'"hello"', b'"hello", "weight": NaN'),
    "no finite number": GOOD.replace(b'"hello"', b'"hello", "weight": 1e999'),
    "a number of 5,000 digits": GOOD.replace(b'"hello"', b'"hello", "weight": ' + b"9" * 5_000),
    "a list as a role": GOOD.replace(b'"user"', b'["user"]'),
    "an array that is never closed": b"[" + GOOD.strip() + b",",
    "a file of this machine": said(b'[{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]'),
    "compressed": b"\x1f\x8b" + bytes(range(256)) * 40,
}


@pytest.fixture(scope="module")
def live(codec: Codec, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with tuning_server(codec, tmp_path_factory.mktemp("tuning")) as live:
        yield live


@pytest.fixture
def http(live: Live) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=live.url, timeout=60) as client:
        yield client


def sent(http: httpx.Client, data: bytes) -> str:
    form = {"files": {"file": ("train.jsonl", data)}, "data": {"purpose": "fine-tune"}}
    return http.post("/v1/files", **form).json()["id"]


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_files_are_refused_by_their_line(http: httpx.Client, what: str) -> None:
    file = sent(http, HOSTILE[what])
    for method in METHODS.values():
        answer = http.post(
            "/v1/fine_tuning/jobs", json={"model": "toy", "training_file": file, "method": method}
        )
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (400, "invalid_training_file"), error
        assert error["message"].startswith("line 1: ") and len(error["message"]) < 2_000
        assert "root:" not in error["message"]


def test_what_looks_like_a_template_is_text(http: httpx.Client, live: Live) -> None:
    inside = b"{{ ''.__class__.__mro__[1].__subclasses__() }}"
    file = sent(http, said(json.dumps(inside.decode()).encode()))
    assert http.post("/v1/fine_tuning/jobs", json={"model": "toy", "training_file": file}).is_success
    assert inside in http.get(f"/v1/files/{file}/content").content


def test_a_large_array_is_refused_before_it_is_read(tmp_path: Path):
    path = tmp_path / "train.json"
    with path.open("wb") as file:
        file.write(b' \n[{"messages": []}, ')
        file.truncate(100 << 30)  # nothing of it is on the disk
    with pytest.raises(InvalidTrainingFile, match="one JSON array") as refused:
        check_file(path, "training_file")
    assert refused.value.param == "training_file" and "a line" in str(refused.value)


def test_nothing_is_read_behind_a_thousand_bad_lines(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(b"{}\n" * 5_000)
    with pytest.raises(InvalidTrainingFile, match="nothing behind line 1000 was read"):
        check_file(path, "training_file")
    path.write_bytes(b"{}\n" * 7)
    with pytest.raises(InvalidTrainingFile, match="and 2 more lines"):
        check_file(path, "training_file")


async def test_files_that_take_long_to_read_keep_nobody_from_the_database(
    codec: Codec, tmp_path: Path
) -> None:
    """Reading them took the threads that the database is read on."""
    options = TuningOptions(folder=tmp_path / "runs", command=COMMAND)
    service = make_service(FakeEngine(), codec, model="toy", tuning=options)
    transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
    gate = threading.Event()
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        form = {"files": {"file": ("train.jsonl", GOOD)}, "data": {"purpose": "fine-tune"}}
        file = (await http.post("/v1/files", **form)).json()["id"]
        held = [asyncio.create_task(service.readers.call("a", gate.wait)) for _ in range(40)]
        body = {"model": "toy", "training_file": file}
        waits = asyncio.create_task(http.post("/v1/fine_tuning/jobs", json=body))
        for path in (f"/v1/files/{file}", "/readyz"):
            assert (await http.get(path)).is_success
        assert not waits.done()
        gate.set()
        await asyncio.gather(*held)
        assert (await waits).is_success
    await service.close_background()
