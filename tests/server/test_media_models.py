"""Models for sound and images in `/v1/models`: those that this server can serve, with their kind, behind all others."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI
from tests.server.conftest import start
from tests.server.fakes import FakeEngine, make_service

from deepwell.dialogue.text import Codec
from deepwell.media.images.options import DEFAULT_MODEL
from deepwell.models.formats.kinds import DRAWING_TYPE, SPEECH_MODEL
from deepwell.models.store.manifest import Manifest
from deepwell.server.app import create_app
from deepwell.server.families.models import media
from deepwell.server.options import ImageServing, KnowledgeOptions, RecognitionServing, SpeechServing

WHISPER = b"\x06\x00\x00\x00\x0c\x00WhisperSpec\0"


def stored(store: Path, name: str, **files: bytes) -> None:
    folder = store / name
    folder.mkdir(parents=True)
    Manifest(name, "path", "", "", "", None, "now").write(folder)
    for file, content in files.items():
        (folder / file.replace("_", ".", 1)).write_bytes(content)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with a model of each kind, an encoder of prompts, and a model that draws by an encoder that is not here."""
    stored(tmp_path, "hear", model_bin=WHISPER)
    stored(tmp_path, "e5-small-q4")
    stored(tmp_path, "words", config_json=b"{}")
    stored(tmp_path, "say")
    (tmp_path / "say" / SPEECH_MODEL).write_bytes(b"")
    for name, encoder in (("draw", "e5-small-q4"), ("blind", "other")):
        config = {"architecture": DRAWING_TYPE, "text_encoder": encoder}
        stored(tmp_path, name, config_json=json.dumps(config).encode())
    return tmp_path


@pytest.fixture
def everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "_installed", lambda modules: True)


def options(store: Path, **images: Any) -> dict[str, Any]:
    return {
        "speech": SpeechServing("say", store),
        "recognition": RecognitionServing(model="hear", models_dir=store),
        "images": ImageServing(model="draw", models_dir=store, **images),
        "knowledge": KnowledgeOptions(models_dir=store),
    }


@pytest.fixture
def serve(engine: FakeEngine, codec: Codec) -> Callable[..., AsyncIterator[httpx.AsyncClient]]:
    async def made(**given: Any) -> AsyncIterator[httpx.AsyncClient]:
        app = create_app(make_service(engine, codec, model="toy", **given))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            yield client

    return made


async def listed(clients: AsyncIterator[httpx.AsyncClient]) -> dict[str, str | None]:
    async for client in clients:
        cards = (await client.get("/v1/models")).json()["data"]
        return {card["id"]: card.get("kind") for card in cards}
    return {}


@pytest.mark.usefixtures("everything")
async def test_media_models_stand_behind_all_others_with_their_kind(store: Path, serve: Any) -> None:
    found = await listed(serve(**options(store)))
    assert list(found.items()) == [
        ("toy", None),
        ("say", "speech"),
        ("hear", "recognition"),
        (DEFAULT_MODEL, "image"),
        ("draw", "image"),
    ]


@pytest.mark.usefixtures("everything")
@pytest.mark.parametrize("elsewhere", [False, True])
async def test_the_model_that_recordings_are_written_down_with_is_told(
    store: Path, serve: Any, elsewhere: bool
) -> None:
    given = options(store)
    if elsewhere:  # the setting is a path
        given["recognition"] = RecognitionServing(model=str(store / "hear"), models_dir=store)
    async for client in serve(**given):
        cards = (await client.get("/v1/models")).json()["data"]
        assert {card["id"] for card in cards if card.get("default")} == {"hear"}
    given["recognition"] = RecognitionServing(model="whisper-none", models_dir=store)
    async for client in serve(**given):
        assert not any("default" in card for card in (await client.get("/v1/models")).json()["data"])


@pytest.mark.usefixtures("everything")
async def test_a_model_whose_requests_would_all_be_refused_is_left_out(store: Path, serve: Any) -> None:
    assert "image" not in (await listed(serve(**options(store, guard="required")))).values()
    without = options(store) | {"knowledge": KnowledgeOptions()}
    assert "image" not in (await listed(serve(**without))).values()


@pytest.mark.usefixtures("everything")
async def test_a_damaged_manifest_hides_its_model_and_no_other(store: Path, serve: Any) -> None:
    for name in ("say", "draw"):
        (store / name / "manifest.json").write_text("{")
    assert set(await listed(serve(**options(store)))) == {"toy", "hear", DEFAULT_MODEL}


async def test_without_the_extras_there_are_none(
    store: Path, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media, "_installed", lambda modules: False)
    assert list(await listed(serve(**options(store)))) == ["toy"]


@pytest.mark.usefixtures("everything")
async def test_a_served_model_keeps_its_name_and_ollama_lists_text_alone(store: Path, serve: Any) -> None:
    stored(store, "toy")
    (store / "toy" / SPEECH_MODEL).write_bytes(b"")
    async for client in serve(**options(store)):
        card = (await client.get("/v1/models/toy")).json()
        assert "kind" not in card and card["max_model_len"] > 0
        card = (await client.get("/v1/models/say")).json()
        assert card == {
            "object": "model",
            "id": "say",
            "created": card["created"],
            "owned_by": "deepwell",
            "kind": "speech",
        }
        tags = (await client.get("/api/tags")).json()["models"]
        assert [one["name"].partition(":")[0] for one in tags] == ["toy"]


@pytest.mark.usefixtures("everything")
def test_the_official_sdk_reads_them(store: Path, codec: Codec) -> None:
    engine = FakeEngine()
    running = start(make_service(engine, codec, model="toy", **options(store)), engine)
    try:
        with OpenAI(
            base_url=f"{running.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True
        ) as client:
            kinds = {one.id: (one.model_extra or {}).get("kind") for one in client.models.list()}
            assert kinds["hear"] == "recognition" and kinds["toy"] is None
            assert client.models.retrieve("draw").owned_by == "deepwell"
    finally:
        running.stop()
