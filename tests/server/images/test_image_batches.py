"""Batches of images: lines are drawn one behind another, and what may not fit into the output is refused before."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI
from tests.server.conftest import Live, start
from tests.server.fakes import FakeEngine, make_service
from tests.server.images.test_images import FEW, options
from tests.server.test_batches import begin, ended, lines_of

from deepwell.dialogue.text import Codec
from deepwell.server.families.batches.images import image_bytes
from deepwell.server.families.batches.lines import check_input
from deepwell.server.options import FileOptions

PATH: Any = "/v1/images/generations"


def row(number: int, **body: Any) -> dict[str, Any]:
    drawn = {"model": "toy-draw", "prompt": "a red apple", "size": "256x256"} | FEW | body
    return {"custom_id": f"line-{number}", "method": "POST", "url": PATH, "body": drawn}


def encoded(*rows: dict[str, Any]) -> bytes:
    return "\n".join(map(json.dumps, rows)).encode()


@pytest.fixture(scope="module")
def drawing(codec: Codec, e5_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    engine, folder = FakeEngine(), tmp_path_factory.mktemp("batches")
    files = FileOptions(folder=folder / "files", max_file_bytes=4 << 20)
    service = make_service(engine, codec, model="toy", files=files, **options(folder, e5_path))
    running = start(service, engine)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def client(drawing: Live) -> Iterator[OpenAI]:
    with OpenAI(
        base_url=f"{drawing.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


async def test_lines_become_images(client: OpenAI) -> None:
    rows = [row(1, seed=3), row(2, n=2), row(3, model="nothing"), row(4, size="3x3")]
    batch = await ended(client, begin(client, encoded(*rows), PATH).id)
    assert batch.status == "completed" and batch.request_counts
    assert (batch.request_counts.completed, batch.request_counts.failed) == (2, 2)
    first, second = (one["response"]["body"] for one in lines_of(client, batch.output_file_id))
    assert first["data"][0]["seed"] == 3 and len(second["data"]) == 2
    assert base64.b64decode(first["data"][0]["b64_json"]).startswith(b"\x89PNG")
    codes = [one["response"]["status_code"] for one in lines_of(client, batch.error_file_id)]
    assert codes == [404, 400]


async def test_images_that_may_not_fit_into_the_output_are_refused_before_any_is_drawn(
    client: OpenAI,
) -> None:
    rows = [row(1), row(2, n=10, size="1024x1024")]
    batch = await ended(client, begin(client, encoded(*rows), PATH).id)
    assert batch.status == "failed" and batch.errors and batch.errors.data
    (error,) = batch.errors.data
    assert (error.code, error.line, error.param) == ("images_too_large", 2, "body.n")
    assert error.message is not None and "split the file" in error.message


async def test_a_stream_is_no_line(client: OpenAI) -> None:
    batch = await ended(client, begin(client, encoded(row(1, stream=True)), PATH).id)
    assert batch.status == "failed" and batch.errors and batch.errors.data
    assert batch.errors.data[0].param == "body.stream"


def test_forms_are_no_lines(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="endpoint") as refused:
        begin(client, encoded(row(1)), "/v1/images/edits")
    assert "/v1/images/generations" in str(refused.value)


@pytest.mark.parametrize(
    ("body", "images", "pixels"),
    [
        ({}, 1, 512 * 512),
        ({"n": 3, "size": "256x256"}, 3, 256 * 256),
        ({"n": None, "size": "auto"}, 1, 512 * 512),
        ({"n": True, "size": "1536x1024"}, 1, 1536 * 1024),
        ({"n": -5, "size": "9" * 5000}, 1, 512 * 512),
        ({"n": 10**9, "size": 7}, 1, 512 * 512),
    ],
)
def test_the_room_of_a_line(body: dict[str, Any], images: int, pixels: int) -> None:
    assert images * pixels * 4 <= image_bytes(body) <= images * (pixels * 4 + 8192)


def test_lines_of_other_endpoints_have_no_such_limit(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(encoded(row(1, n=10) | {"url": "/v1/chat/completions"}))
    assert not check_input(path, "/v1/chat/completions", 4096, lambda name: None, 1).errors
