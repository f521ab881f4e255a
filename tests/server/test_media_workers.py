"""Sound and images with several HTTP workers: a request that reaches another one is answered by the one with the models."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import uvicorn
from tests.media.images.pictures import drawing_model, encoded_as, image_of
from tests.media.recordings import SAID, TONE
from tests.server.fakes import FakeEngine, make_service

from deepwell.dialogue.text import Codec
from deepwell.server.app import FAMILIES, create_app, route_table
from deepwell.server.options import FileOptions, ImageServing, RecognitionServing
from deepwell.server.workers.forward import Forward, Forwarded

PREFIXES = route_table(FAMILIES).roots(in_one_process=True)


@pytest.fixture
async def other(codec: Codec, whisper_path: Path, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of worker 1, which has no models; worker 0 has them."""
    drawing = drawing_model(tmp_path / "toy-draw")
    first = make_service(
        FakeEngine(),
        codec,
        model="toy",
        recognition=RecognitionServing(model=str(whisper_path), models_dir=None, most_s=60.0, threads=1),
        images=ImageServing(model=str(drawing.folder), models_dir=None, threads=1, guard="off"),
        files=FileOptions(max_file_bytes=1 << 20),
    )
    address = str(tmp_path / "worker-0")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        server = uvicorn.Server(
            uvicorn.Config(Forwarded(create_app(first)), lifespan="off", log_level="warning")
        )
        server.capture_signals = contextlib.nullcontext
        running = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(0)
        second = make_service(FakeEngine(), codec, model="toy")
        app = Forward(create_app(second), prefixes=PREFIXES, address=address)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=120) as client:
            yield client
        server.should_exit = True
        await running
        await first.close_background()
        await second.close_background()


async def test_a_recording_is_recognised_whole_and_as_a_stream(other: httpx.AsyncClient) -> None:
    file = {"file": ("tone.wav", TONE.read_bytes())}
    path = "/v1/audio/transcriptions"
    whole = await other.post(path, data={"model": "whisper-1"}, files=file)
    assert whole.status_code == 200 and whole.json()["text"] == SAID[TONE]
    streamed = await other.post(path, data={"model": "whisper-1", "stream": "true"}, files=file)
    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert "transcript.text.done" in streamed.text and SAID[TONE] in streamed.text


async def test_a_picture_is_varied(other: httpx.AsyncClient) -> None:
    answer = await other.post(
        "/v1/images/variations",
        data={"n": "2", "size": "256x256", "steps": "2", "seed": "5"},
        files={"image": ("image.png", encoded_as(image_of(96, 96), "PNG"))},
    )
    assert answer.status_code == 200, answer.text
    assert [one["seed"] for one in answer.json()["data"]] == [5, 6] and answer.headers["x-seed"] == "5"


async def test_what_is_refused_there_is_refused_here(other: httpx.AsyncClient) -> None:
    large = {"file": ("large.wav", bytes(2 << 20))}
    answer = await other.post("/v1/audio/transcriptions", data={"model": "whisper-1"}, files=large)
    assert answer.status_code == 413 and "compress it" in answer.json()["error"]["message"]
    body = {"model": "none", "input": "hi", "voice": "alloy"}
    answer = await other.post("/v1/audio/speech", json=body)
    assert answer.status_code == 404 and answer.json()["error"]["param"] == "model"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/audio/speech",
        "/v1/audio/transcriptions",
        "/v1/audio/translations",
        "/v1/images/edits",
        "/v1/images/generations",
        "/v1/images/variations",
    ],
)
def test_every_operation_of_the_models_is_passed_on(path: str) -> None:
    assert path.startswith(PREFIXES)
