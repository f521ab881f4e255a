"""Pictures and recordings in vector stores, through the official SDK: how they are found, cited, and fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI
from tests.server.conftest import Live, start
from tests.server.fakes import FakeEngine, make_service
from tests.server.senses.fakes import PNG, WAV, use_fake_space

from deepwell.dialogue.text import Codec
from deepwell.errors import ModelNotFound
from deepwell.media.recognition.options import RecognitionOptions, Segment

FAST: dict[str, Any] = {"poll_interval_ms": 20}


@dataclass
class FakeHearing:
    said: list[str]

    async def segments(self) -> AsyncGenerator[Segment]:
        for number, text in enumerate(self.said):
            yield Segment(number, 0, 10.0 * number, 10.0 * number + 8.5, f" {text}", [], 0.0, -0.1, 1.0, 0.0)


class FakeRecognisers:
    """Hears the lines that are written in a file. No model: `missing`."""

    missing = False

    def __init__(self, _options: object) -> None: ...

    async def find(self, name: str) -> FakeRecognisers:
        if self.missing:
            raise ModelNotFound.of("recognition_not_pulled", name=name, param="model")
        return self

    @asynccontextmanager
    async def hear(
        self, tenant: str, path: Path, _options: RecognitionOptions
    ) -> AsyncGenerator[FakeHearing]:
        data = await asyncio.to_thread(path.read_bytes)
        yield FakeHearing(data[len(WAV) :].decode().splitlines())

    async def close(self) -> None: ...


@pytest.fixture
def patch(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr("deepwell.server.senses.knowledge.Recognisers", FakeRecognisers)
    return monkeypatch


@contextmanager
def served(codec: Codec) -> Iterator[Live]:
    engine = FakeEngine(max_model_len=4096)
    running = start(make_service(engine, codec, model="toy"), engine)
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture
def client(codec: Codec, patch: pytest.MonkeyPatch) -> Iterator[OpenAI]:
    use_fake_space(patch)
    with (
        served(codec) as running,
        OpenAI(
            base_url=f"{running.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True
        ) as client,
    ):
        yield client


def filled(client: OpenAI, **files: bytes) -> tuple[str, Any]:
    store = client.vector_stores.create(name="things")
    sent: Any = [(name.replace("_", "."), data) for name, data in files.items()]
    return store.id, client.vector_stores.file_batches.upload_and_poll(store.id, files=sent, **FAST)


def test_pictures_and_recordings_are_found_beside_texts(client: OpenAI) -> None:
    store, batch = filled(
        client,
        apple_png=PNG + b"red apple",
        boat_png=PNG + b"sailing boat",
        talk_wav=WAV + b"the meeting begins\nwe paint the door green",
        note_txt=b"Apples are sold in the shop around the corner.",
    )
    assert (batch.file_counts.completed, batch.file_counts.failed) == (4, 0)
    [best, *_] = client.vector_stores.search(store, query="red apple").data
    assert (best.filename, best.content[0].text) == (
        "apple.png",
        "[picture] perhaps something / 某物. words: fruit; 水果",
    )
    assert best.model_extra is not None and best.model_extra["media"] == {"kind": "picture"}
    [heard, *_] = client.vector_stores.search(store, query="which door is green").data
    assert heard.filename == "talk.wav" and heard.model_extra is not None
    media = heard.model_extra["media"]
    assert media == {"kind": "recording", "start_seconds": 0.0, "end_seconds": 18.5}
    [text, *_] = client.vector_stores.search(store, query="shop around the corner").data
    assert text.filename == "note.txt" and not text.model_extra


def test_chunks_tell_their_times(client: OpenAI) -> None:
    store, _ = filled(client, talk_wav=WAV + b"\n".join(b"word " * 20 for _ in range(3)))
    [file] = client.vector_stores.files.list(store).data
    answer = client.get(f"/vector_stores/{store}/files/{file.id}/chunks", cast_to=dict[str, Any])
    ranges = [(one["media"]["start_seconds"], one["media"]["end_seconds"]) for one in answer["data"]]
    assert ranges == [(0.0, 8.5), (10.0, 18.5), (20.0, 28.5)]


def test_an_unsafe_picture_fails_alone(client: OpenAI) -> None:
    store, batch = filled(client, bad_png=PNG + b"unsafe scene", good_png=PNG + b"red apple")
    assert (batch.file_counts.completed, batch.file_counts.failed) == (1, 1)
    [failed] = client.vector_stores.files.list(store, filter="failed").data
    assert failed.last_error is not None and failed.last_error.code == "invalid_file"


def test_what_is_missing_is_named_by_the_file(codec: Codec, patch: pytest.MonkeyPatch) -> None:
    use_fake_space(patch, image=False, sound=False)
    patch.setattr(FakeRecognisers, "missing", True)
    with (
        served(codec) as running,
        OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client,
    ):
        store, batch = filled(client, apple_png=PNG + b"red apple", talk_wav=WAV + b"hello")
        assert batch.file_counts.failed == 2
        errors = [one.last_error for one in client.vector_stores.files.list(store).data]
    assert {one.code for one in errors if one} == {"server_error"}
    said = " ".join(one.message for one in errors if one)
    assert "deepwell media train space" in said and "deepwell[ocr]" in said and "deepwell pull" in said
