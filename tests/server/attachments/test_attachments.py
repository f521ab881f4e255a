"""Images, recordings and files in chat and responses, through the real SDK: what the model reads, and what is refused."""

from __future__ import annotations

import base64
import io
import wave
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI
from PIL import Image
from tests.media.images.pictures import encoded_as, image_of
from tests.server.conftest import Live, start
from tests.server.fakes import FakeEngine, make_service

from deepwell.dialogue.text import Codec
from deepwell.errors import ModelNotFound, NotFound
from deepwell.media.images.process import ImageRefused
from deepwell.safety.terms.lists import Term, TermList
from deepwell.server.app import create_app
from deepwell.server.attachments import fetch as fetching
from deepwell.server.attachments.attachments import MOST_PARTS, Attachments, Given, attachments_of
from deepwell.server.attachments.reading import AttachmentReader, kind_in
from deepwell.server.attachments.schema import Attachment
from deepwell.server.attachments.wording import ImageFacts, SoundFacts
from deepwell.server.context import ServerContext
from deepwell.server.options import GuardOptions, ImageServing
from deepwell.storage.database import LOCAL, Tenant

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"


class Reader(AttachmentReader):
    """Reads every image as one, every recording as another, and counts its work."""

    def __init__(self, context: ServerContext) -> None:
        super().__init__(context)
        self.images = self.sounds = 0
        self.text = "SALE 50 %"
        self.error: Exception | None = None

    async def image(self, data: bytes, tenant: Tenant) -> ImageFacts:
        self.images += 1
        if self.error is not None:
            raise self.error
        width, height = Image.open(io.BytesIO(data)).size
        names = ("red apple", "红苹果")
        return ImageFacts(width, height, named=True, captions=names, tags=(names,), text=self.text)

    async def sound(self, data: bytes, tenant: Tenant) -> SoundFacts:
        self.sounds += 1
        return SoundFacts("the weather is cold today", 1.5)


@pytest.fixture(scope="module")
def live(codec: Codec, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    engine = FakeEngine(max_model_len=8192)
    context = make_service(engine, codec, model="toy")
    with_reader(context)
    running = start(context, engine)
    yield running
    running.stop()


def with_reader(context: ServerContext) -> Reader:
    reader = Reader(context)
    context._shared[attachments_of] = Attachments(context, reader)  # pyright: ignore[reportPrivateUsage]
    return reader


@pytest.fixture
def client(live: Live) -> Iterator[OpenAI]:
    with OpenAI(
        base_url=f"{live.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


@asynccontextmanager
async def serving(codec: Codec, **options: Any) -> AsyncGenerator[tuple[httpx.AsyncClient, ServerContext]]:
    context = make_service(FakeEngine(max_model_len=8192), codec, model="toy", **options)
    transport = httpx.ASGITransport(create_app(context), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        yield http, context
    await context.close_state()


def in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def as_url(image: Image.Image, format: str = "PNG") -> str:
    return f"data:image/{format.lower()};base64,{in_base64(encoded_as(image, format))}"


def recording() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(16_000)
        sound.writeframes(b"\0\0" * 1600)
    return file.getvalue()


def asked(*parts: dict[str, Any], role: str = "user") -> dict[str, Any]:
    return {"model": "toy", "messages": [{"role": role, "content": list(parts)}], "temperature": 0}


PICTURE = {"type": "image_url", "image_url": {"url": as_url(image_of()), "detail": "low"}}
SAID = {"type": "input_audio", "input_audio": {"data": in_base64(recording()), "format": "wav"}}


def test_a_chat_reads_a_picture_as_marked_text_between_the_texts(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        **asked({"type": "text", "text": "What is this?"}, PICTURE, {"type": "text", "text": "Be brief."})
    )
    said = answer.choices[0].message.content or ""
    assert said.startswith("What is this?\n\n[Picture 1.") and said.endswith(
        "[End of picture 1]\n\nBe brief."
    )
    assert "Perhaps it shows: red apple" in said and "\n> SALE 50 %\n" in said
    context = answer.usage.prompt_tokens_details.model_extra["context"]  # type: ignore[union-attr,index]
    (part,) = context["parts"]
    assert part["kind"] == "image description" and 0 < part["tokens"] < answer.usage.prompt_tokens  # type: ignore[union-attr]


def test_a_recording_is_read_as_its_transcript_in_a_stream_too(client: OpenAI) -> None:
    with client.chat.completions.create(
        **asked(SAID), stream=True, stream_options={"include_usage": True}
    ) as stream:
        chunks = list(stream)
    said = "".join(one.choices[0].delta.content or "" for one in chunks if one.choices)
    assert said.startswith("[Recording 1.") and "\n> the weather is cold today\n" in said
    details = chunks[-1].usage.prompt_tokens_details  # type: ignore[union-attr]
    assert [one["kind"] for one in details.model_extra["context"]["parts"]] == ["transcript"]  # type: ignore[union-attr,index]


def test_the_text_is_made_once_and_stays_the_same(client: OpenAI, live: Live) -> None:
    reader: Reader = live.service.shared(attachments_of)._reader  # type: ignore[assignment]  # pyright: ignore
    other = {"type": "image_url", "image_url": {"url": as_url(image_of(31, 17))}}
    before = reader.images
    first = client.chat.completions.create(**asked(other)).choices[0].message.content
    body = asked(other)
    body["messages"] += [{"role": "assistant", "content": "ok"}, {"role": "user", "content": "and now?"}]
    client.chat.completions.create(**body)
    again = client.chat.completions.create(**asked(other))
    assert reader.images == before + 1 and again.choices[0].message.content == first
    assert again.usage.prompt_tokens_details.cached_tokens > 0  # type: ignore[union-attr]


def test_a_chinese_question_gets_a_chinese_description(client: OpenAI) -> None:
    answer = client.chat.completions.create(**asked({"type": "text", "text": "这是什么？"}, PICTURE))
    said = answer.choices[0].message.content or ""
    assert "[图片1。" in said and "红苹果" in said and "red apple" not in said


def test_a_response_reads_pictures_and_keeps_the_text(client: OpenAI) -> None:
    answer = client.responses.create(
        model="toy",
        input=[
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "Look:"},
                    {"type": "input_image", "image_url": as_url(image_of()), "detail": "auto"},
                ],
            }
        ],
    )
    assert answer.output_text.startswith("Look:\n\n[Picture 1.") and "red apple" in answer.output_text
    (item,) = client.responses.input_items.list(answer.id).data
    assert item.content[0].type == "input_text" and "red apple" in item.content[0].text  # type: ignore[union-attr]
    more = client.responses.create(model="toy", input="and?", previous_response_id=answer.id)
    assert more.output_text == "and?"


def test_a_response_streams(client: OpenAI) -> None:
    content: Any = [{"type": "input_image", "image_url": as_url(image_of()), "detail": "auto"}]
    with client.responses.create(
        model="toy", input=[{"role": "user", "content": content}], stream=True
    ) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
    assert "red apple" in text


def test_an_uploaded_file_is_read_by_its_id(client: OpenAI) -> None:
    picture = client.files.create(file=("a.png", encoded_as(image_of(), "PNG")), purpose="vision")
    content: Any = [{"type": "input_image", "file_id": picture.id, "detail": "auto"}]
    answer = client.responses.create(model="toy", input=[{"role": "user", "content": content}])
    assert "red apple" in answer.output_text
    note = client.files.create(file=("note.txt", b"The code is 4711."), purpose="user_data")
    part: Any = {"type": "file", "file": {"file_id": note.id, "filename": "note.txt"}}
    said = client.chat.completions.create(**asked(part)).choices[0].message.content or ""
    assert said.startswith("[File 1.") and "\n> The code is 4711.\n" in said and "> note.txt" in said
    content = [{"type": "input_file", "file_id": "file-" + "0" * 32}]
    with pytest.raises(openai.NotFoundError, match="file-000"):
        client.responses.create(model="toy", input=[{"role": "user", "content": content}])


def test_a_file_is_what_its_bytes_are() -> None:
    assert kind_in(encoded_as(image_of(), "PNG")) == kind_in(encoded_as(image_of(), "WEBP")) == "image"
    assert kind_in(recording()) == kind_in(b"OggS\0") == kind_in(b"ID3\4") == "sound"
    assert kind_in(b"%PDF-1.7") == kind_in("你好".encode()) == kind_in(b"") == "file"


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}, "neither a data URL"),
        ({"type": "image_url", "image_url": {"url": "ftp://example.org/a"}}, "neither a data URL"),
        ({"type": "image_url", "image_url": {"url": "data:image/png,abc"}}, "not base64"),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,%%%"}}, "not base64"),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}, "not base64"),
        ({"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/a.png"}}, "cannot be fetched"),
        ({"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest"}}, "cannot be fetched"),
        ({"type": "image_url", "image_url": {"url": "http://[::1]/"}}, "cannot be fetched"),
        ({"type": "image_url", "image_url": {"url": "http://2130706433/"}}, "cannot be fetched"),
        ({"type": "image_url", "image_url": {"url": "http://a:b@example.org/"}}, "cannot be fetched"),
        ({"type": "image_url", "image_url": {}}, "missing parameter"),
        ({"type": "image_url", "image_url": {"url": "data:,", "size": 1}}, "size"),
        ({"type": "image_url"}, "missing parameter"),
        ({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "flac"}}, "format"),
        ({"type": "file", "file": {}}, "file_data or file_id"),
        ({"type": "file", "file": {"file_id": "a", "file_data": "b"}}, "file_data or file_id"),
        ({"type": "video_url", "video_url": {"url": "x"}}, "'video_url' are not supported"),
        ({"type": "text", "text": 7}, "text"),
    ],
)
def test_what_is_no_attachment_is_refused_by_its_name(
    client: OpenAI, part: dict[str, Any], message: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=message) as refused:
        client.chat.completions.create(**asked(PICTURE, part))
    assert (refused.value.param or "").startswith("messages[0].content")


def test_only_users_attach(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="only messages of users"):
        client.chat.completions.create(**asked(PICTURE, role="system"))
    content: Any = [{"type": "input_image", "image_url": as_url(image_of()), "detail": "auto"}]
    with pytest.raises(openai.BadRequestError, match="only messages of users"):
        client.responses.create(model="toy", input=[{"role": "developer", "content": content}])
    with pytest.raises(openai.BadRequestError, match="alone"):
        client.conversations.create(items=[{"type": "message", "role": "user", "content": content}])


def test_the_model_auto_writes_a_recording_down(client: OpenAI) -> None:
    body = asked({"type": "text", "text": "Transcribe this recording."}, SAID)
    body["model"] = "auto"
    answer = client.chat.completions.create(**body)
    assert answer.choices[0].message.content == "the weather is cold today"
    assert answer.model_extra["route"]["intents"] == ["transcription"]  # type: ignore[index]


def test_attachments_are_counted(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=f"more than {MOST_PARTS} attachments"):
        client.chat.completions.create(**asked(*[PICTURE] * (MOST_PARTS + 1)))


async def test_the_guard_reads_what_a_picture_says(codec: Codec, tmp_path: Path) -> None:
    policy = "version: 1\nterms: [own]\nrefusal: {en: Against the rules., zh: 不符合规范。}\ninput: {rules: {terms: block}}\n"
    (tmp_path / "policy.yaml").write_text(policy, "utf-8")
    terms = tmp_path / "terms"
    TermList("own", [Term("forbidden", "politics", "block")], "test", "none", "0" * 64).write(terms)
    guard = GuardOptions(str(tmp_path / "policy.yaml"), terms)
    async with serving(codec, guard=guard) as (http, context):
        reader = with_reader(context)
        answer = await http.post(CHAT, json=asked(PICTURE))
        assert "red apple" in answer.json()["choices"][0]["message"]["content"]
        reader.text = "forbidden things"
        other = {"type": "image_url", "image_url": {"url": as_url(image_of(40, 40))}}
        answer = await http.post(CHAT, json=asked(other))
        assert answer.json()["choices"][0]["message"]["content"] == "Against the rules."


async def test_an_unsafe_picture_is_refused_and_another_tenant_pays_for_its_own(codec: Codec) -> None:
    async with serving(codec) as (http, context):
        reader = with_reader(context)
        reader.error = ImageRefused.scored("image_input_refused", "image", 0.97)
        answer = await http.post(CHAT, json=asked(PICTURE))
        assert answer.status_code == 400 and answer.json()["error"]["code"] == "moderation_blocked"
        assert answer.json()["error"]["param"] == "messages[0].content[0]"
        reader.error = None
        assert (await http.post(CHAT, json=asked(PICTURE))).status_code == 200
        one = context.shared(attachments_of)
        given = [Given([Attachment("image", url=as_url(image_of()))], "x")]
        before = reader.images
        await one.told(given, Tenant("other"), len)
        assert reader.images == before + 1
        await one.told(given, Tenant("other"), len)
        assert reader.images == before + 1
        await context.forget_answers()
        await one.told(given, Tenant("other"), len)
        assert reader.images == before + 2
        metrics = (await http.get("/metrics")).text
        assert 'deepwell_attachments_total{kind="image",outcome="failed"} 1.0' in metrics
        assert 'deepwell_attachments_total{kind="image",outcome="remembered"}' in metrics


async def test_where_nothing_can_look_the_fix_is_named(codec: Codec, tmp_path: Path) -> None:
    images = ImageServing(models_dir=tmp_path / "models")
    async with serving(codec, images=images) as (http, _):
        answer = await http.post(CHAT, json=asked(PICTURE))
        assert answer.status_code == ModelNotFound.status and "--encoder-only" in answer.text
        broken = {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}
        assert (await http.post(CHAT, json=asked(broken))).status_code == 400
        answer = await http.post(CHAT, json=asked(SAID))
        assert answer.status_code == 404 and "deepwell pull" in answer.text
        answer = await http.post("/tokenize", json=asked(PICTURE) | {"temperature": None})
        assert answer.status_code == 400


async def test_a_file_id_is_the_tenants_own(codec: Codec) -> None:
    async with serving(codec) as (http, context):
        reader = with_reader(context)
        picture = {"file": ("a.png", encoded_as(image_of(), "PNG")), "purpose": (None, "vision")}
        id = (await http.post("/v1/files", files=picture)).json()["id"]
        given = [Given([Attachment("image", file_id=id)], "input[0].content")]
        told = await context.shared(attachments_of).told(given, LOCAL, len)
        assert "red apple" in told.texts[0] and reader.images == 1
        with pytest.raises(NotFound) as missing:
            await context.shared(attachments_of).told(given, Tenant("other"), len)
        assert missing.value.param == "input[0].content[0]" and reader.images == 1


async def test_anthropic_and_ollama_send_pictures_too(codec: Codec) -> None:
    data = in_base64(encoded_as(image_of(), "PNG"))
    source = {"type": "base64", "media_type": "image/png", "data": data}
    blocks = [{"type": "image", "source": source}, {"type": "text", "text": "What is it?"}]
    message = {"role": "user", "content": blocks}
    async with serving(codec) as (http, context):
        with_reader(context)
        body = {"model": "toy", "max_tokens": 4000, "messages": [message]}
        said = (await http.post("/v1/messages", json=body)).json()["content"][0]["text"]
        assert "red apple" in said and said.endswith("[End of picture 1]\n\nWhat is it?")
        counted = await http.post("/v1/messages/count_tokens", json={"model": "toy", "messages": [message]})
        assert counted.json()["input_tokens"] > len("red apple")
        for wrong in ({"type": "url", "data": data}, {"type": "base64"}, {"type": "text", "data": data}):
            body["messages"] = [{"role": "user", "content": [{"type": "image", "source": wrong}]}]
            assert (await http.post("/v1/messages", json=body)).status_code == 400
        chat = {
            "model": "toy",
            "stream": False,
            "messages": [{"role": "user", "content": "?", "images": [data]}],
        }
        assert "red apple" in (await http.post("/api/chat", json=chat)).json()["message"]["content"]
        prompt = {"model": "toy", "stream": False, "prompt": "?", "images": [data]}
        assert "red apple" in (await http.post("/api/generate", json=prompt)).json()["response"]
        chat["messages"] = [{"role": "system", "content": "?", "images": [data]}]
        assert (await http.post("/api/chat", json=chat)).status_code == 400


class Web:
    """Answers instead of the web."""

    def __init__(self, answers: dict[str, tuple[int, dict[str, str], bytes]]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def transport(self, *_: Any) -> httpx.MockTransport:
        def handle(request: httpx.Request) -> httpx.Response:
            self.asked.append(str(request.url))
            status, headers, body = self.answers[str(request.url)]
            return httpx.Response(status, headers=headers, stream=httpx.ByteStream(body))

        return httpx.MockTransport(handle)


async def test_an_address_is_read_once_and_redirects_are_checked(
    codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    web = Web(
        {
            "https://example.org/a.png": (302, {"location": "/b.png"}, b""),
            "https://example.org/b.png": (200, {}, encoded_as(image_of(), "PNG")),
            "https://example.org/in": (302, {"location": "file:///etc/passwd"}, b""),
            "https://example.org/turns": (302, {"location": "/turns"}, b""),
            "https://example.org/gone": (404, {}, b""),
            "https://example.org/large": (200, {}, b"0" * 2000),
        }
    )
    monkeypatch.setattr("deepwell.knowledge.sources.web.guard.GuardedTransport", web.transport)
    monkeypatch.setattr("deepwell.server.attachments.attachments.MOST_BYTES", 1500)
    async with serving(codec) as (http, context):
        reader = with_reader(context)

        async def ask(address: str) -> httpx.Response:
            return await http.post(
                CHAT,
                json=asked({"type": "image_url", "image_url": {"url": f"https://example.org/{address}"}}),
            )

        assert (await ask("a.png")).status_code == 200 and (await ask("a.png")).status_code == 200
        assert reader.images == 1 and web.asked == [
            "https://example.org/a.png",
            "https://example.org/b.png",
        ]
        for address, reason in (
            ("in", "file"),
            ("turns", "redirects more than"),
            ("gone", "answers 404"),
            ("large", "larger than"),
        ):
            answer = await ask(address)
            assert answer.status_code == 400 and reason in answer.json()["error"]["message"], address
    assert fetching.TIMEOUT_S <= 30
