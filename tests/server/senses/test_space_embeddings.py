"""`/v1/embeddings` with the model of the space: parts, fused parts, usage, what it refuses, and plain requests beside it."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from openai import OpenAI
from tests.server.conftest import Live, start
from tests.server.fakes import FakeEngine, make_service
from tests.server.senses.fakes import PNG, WAV, FakeSensing, use_fake_space

from deepwell.dialogue.text import Codec
from deepwell.server.app import create_app

SPACE = "deepwell-space"


def coded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def picture(shown: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{coded(PNG + shown.encode())}"}}


def sound(said: str) -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": coded(WAV + said.encode()), "format": "wav"}}


def text(words: str) -> dict[str, Any]:
    return {"type": "input_text", "text": words}


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[FakeSensing]:
    return use_fake_space(monkeypatch)


@pytest.fixture
def spaced(codec: Codec, opened: list[FakeSensing]) -> Iterator[Live]:
    engine = FakeEngine()
    running = start(make_service(engine, codec, model="toy"), engine)
    yield running
    running.stop()


@pytest.fixture
def client(spaced: Live) -> Iterator[OpenAI]:
    with OpenAI(
        base_url=f"{spaced.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


@pytest.fixture
async def http(codec: Codec, opened: list[FakeSensing]) -> AsyncIterator[httpx.AsyncClient]:
    service = make_service(FakeEngine(), codec, model="toy")
    transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client
    if service.kept.is_set():
        service.state.close()


def embedded(client: OpenAI, items: Any, **given: Any) -> Any:
    return client.embeddings.create(model=SPACE, input=items, encoding_format="float", **given)


def test_texts_pictures_and_sounds_are_compared_by_cosine(client: OpenAI) -> None:
    items = ["red apple", picture("red apple"), sound("red apple"), text("red apple"), picture("grey boat")]
    answer = embedded(client, items)
    vectors = np.array([one.embedding for one in answer.data])
    assert vectors.shape == (5, 384) and [one.index for one in answer.data] == [0, 1, 2, 3, 4]
    cosines = vectors @ vectors[0]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert min(cosines[1:4]) > 0.9 > 0.3 > cosines[4]
    assert answer.model == SPACE
    usage = answer.usage.model_dump()
    assert usage == {"prompt_tokens": 4, "total_tokens": 4, "images": 2, "audio_seconds": 1.25}


def test_a_text_alone_needs_no_encoder(client: OpenAI, opened: list[FakeSensing]) -> None:
    answer = embedded(client, "red apple")
    assert len(answer.data[0].embedding) == 384 and not opened
    assert answer.usage.model_dump() == {"prompt_tokens": 2, "total_tokens": 2}


def test_several_parts_are_fused_with_their_gates(client: OpenAI) -> None:
    parts = [text("red apple"), picture("red apple"), sound("grey boat")]
    fused = embedded(client, [parts, picture("red apple")])
    gates = fused.data[0].model_extra["gates"]
    assert set(gates) == {"text", "image", "sound"} and abs(sum(gates.values()) - 1) < 1e-3
    assert "gates" not in (fused.data[1].model_extra or {})
    assert np.dot(fused.data[0].embedding, fused.data[1].embedding) > 0.3


def test_one_part_in_a_list_stays_as_it_is(client: OpenAI) -> None:
    answer = embedded(client, [[picture("red apple")], picture("red apple")])
    np.testing.assert_allclose(answer.data[0].embedding, answer.data[1].embedding, atol=1e-6)
    assert answer.data[0].model_extra == {"gates": {"image": 1.0}}


def test_fewer_dimensions(client: OpenAI) -> None:
    answer = embedded(client, [picture("red apple")], dimensions=64)
    assert len(answer.data[0].embedding) == 64
    assert abs(np.linalg.norm(answer.data[0].embedding) - 1) < 1e-5
    with pytest.raises(openai.BadRequestError, match="384 dimensions"):
        embedded(client, "red apple", dimensions=385)


def test_base64_is_what_the_sdk_asks_for_by_itself(spaced: Live) -> None:
    with OpenAI(base_url=f"{spaced.url}/v1", api_key="none", max_retries=0) as lenient:
        items: Any = [picture("red apple"), [text("red apple"), picture("red apple")]]
        answer = lenient.embeddings.create(model=SPACE, input=items)
        floats = lenient.embeddings.create(model=SPACE, input=items, encoding_format="float")
    for one, other in zip(answer.data, floats.data, strict=True):
        np.testing.assert_allclose(one.embedding, other.embedding, atol=1e-6)


def test_plain_requests_to_other_models_are_as_before(client: OpenAI) -> None:
    answer = client.embeddings.create(model="toy", input=["abc", "d"], encoding_format="float")
    assert len(answer.data) == 2 and not answer.usage.model_extra
    answer = client.embeddings.create(
        model="toy", input=[[1, 2], [3]], encoding_format="float", extra_body={"tokenizer": "toy"}
    )
    assert answer.usage.prompt_tokens == 3


@pytest.mark.parametrize(
    ("model", "items", "param", "says"),
    [
        ("toy", [picture("a")], "input", "deepwell-space"),
        ("toy", ["a", text("b")], "input", "embeds text alone"),
        (SPACE, [1, 2], "input", "send text"),
        (SPACE, [[text("a"), text("b")]], "input[0]", "one of each kind"),
        (SPACE, [[picture("a"), text("b"), sound("c"), sound("d")]], "input[0]", "at most 3"),
        (SPACE, [[]], "input", ""),
        (SPACE, [], "input", ""),
        (SPACE, [""], "input", ""),
        (SPACE, [text("")], "input[0].text", ""),
        (SPACE, {"type": "input_text"}, "input[0].text", ""),
        (SPACE, [{"type": "input_video", "video": "x"}], "input[0]", "input_video"),
        (SPACE, [{"type": None}], "input[0]", ""),
        (SPACE, [{**text("a"), "more": 1}], "input[0].more", ""),
        (SPACE, [picture("a"), 7], "input[1]", ""),
        (SPACE, [picture("a"), [1, 2]], "", "token"),
        (SPACE, [[1, picture("a")]], "input[0]", ""),
        (SPACE, [{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "midi"}}], "", "format"),
        (
            SPACE,
            [{"type": "input_audio", "input_audio": {"data": "!", "format": "wav"}}],
            "input[0]",
            "base64",
        ),
        (
            SPACE,
            [{"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}],
            "input[0]",
            "data:",
        ),
        (SPACE, [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}], "input[0]", "data:"),
        (
            SPACE,
            [{"type": "image_url", "image_url": {"url": "data:text/html;base64,AAAA"}}],
            "input[0]",
            "data:",
        ),
        (
            SPACE,
            [{"type": "image_url", "image_url": {"url": "data:image/png;base64,A A"}}],
            "input[0]",
            "base64",
        ),
        (
            SPACE,
            [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}],
            "input[0]",
            "damaged",
        ),
        (SPACE, [picture("a")] * 65, "input", "64"),
        (SPACE, "word " * 33, "input", "32 tokens"),
    ],
)
async def test_what_cannot_be_embedded_is_refused_by_name(
    http: httpx.AsyncClient, model: str, items: Any, param: str, says: str
) -> None:
    answer = await http.post("/v1/embeddings", json={"model": model, "input": items})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert says in error["message"]
    if param:
        assert (error["param"] or "").startswith(param) and error["param"] != "input.input", error


async def test_token_ids_with_the_spaces_own_name_are_refused(http: httpx.AsyncClient) -> None:
    body = {"model": SPACE, "input": [1, 2], "tokenizer": SPACE}
    answer = await http.post("/v1/embeddings", json=body)
    assert answer.status_code == 400 and "send text" in answer.json()["error"]["message"]


async def test_an_unsafe_picture_is_refused_and_counted(http: httpx.AsyncClient) -> None:
    body = {"model": SPACE, "input": ["fine", picture("unsafe")]}
    answer = await http.post("/v1/embeddings", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "moderation_blocked", "input[1]")
    metrics = (await http.get("/metrics")).text
    assert 'deepwell_images_refused_total{model="deepwell-space",side="sent"} 1.0' in metrics


@pytest.mark.parametrize(("part", "fix"), [(picture("a"), "train space"), (sound("a"), "deepwell pull")])
async def test_a_missing_encoder_names_the_command(
    codec: Codec, monkeypatch: pytest.MonkeyPatch, part: dict[str, Any], fix: str
) -> None:
    use_fake_space(monkeypatch, image=False, sound=False)
    service = make_service(FakeEngine(), codec, model="toy")
    transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.post("/v1/embeddings", json={"model": SPACE, "input": [part]})
    assert answer.status_code == 404 and fix in answer.json()["error"]["message"]
    service.state.close()


async def test_the_space_is_measured_as_other_models(http: httpx.AsyncClient) -> None:
    await http.post("/v1/embeddings", json={"model": SPACE, "input": ["red apple", picture("a")]})
    metrics = (await http.get("/metrics")).text
    assert 'gen_ai_request_model="deepwell-space"' in metrics or 'model="deepwell-space"' in metrics
