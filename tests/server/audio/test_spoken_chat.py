"""Spoken answers of chat through the official SDK: whole, streamed sentence by sentence, and sent back by their id."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI
from tests.server.conftest import Live, start
from tests.server.fakes import FakeEngine, make_service

from deepwell.dialogue.dialogue import Turn
from deepwell.dialogue.parsers.events import Content
from deepwell.dialogue.text import Codec
from deepwell.media.speech.split import ready_end
from deepwell.server.options import SpeechServing
from deepwell.server.routing.speech import SoundPiece, VoiceWish, open_voice, voiced
from deepwell.server.routing.spoken_texts import LIFE_S, SpokenTexts

AUDIO: dict[str, Any] = {"voice": "alloy", "format": "wav"}
SPOKEN: dict[str, Any] = {"modalities": ["text", "audio"], "audio": AUDIO, "temperature": 0}
STREAMED: dict[str, Any] = SPOKEN | {"audio": {"voice": "nova", "format": "pcm16"}, "stream": True}


@pytest.fixture(scope="module")
def running(codec: Codec, kokoro_path: Path) -> Iterator[Live]:
    engine = FakeEngine(max_model_len=4096)
    speech = SpeechServing(str(kokoro_path), None, 1)
    running = start(make_service(engine, codec, model="toy", speech=speech), engine)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def client(running: Live) -> Iterator[OpenAI]:
    with OpenAI(
        base_url=f"{running.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


def say(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def prompts(running: Live) -> list[str]:
    return [bytes(token for token in one.prompt if token < 256).decode() for one in running.engine.seen]


def seconds_of(data: bytes) -> float:
    import av

    with av.open(io.BytesIO(data)) as file:
        rate = file.streams.audio[0].rate
        return sum(frame.samples for frame in file.decode(audio=0)) / rate


def test_an_answer_is_spoken_and_comes_back_by_its_id(client: OpenAI, running: Live) -> None:
    answer = client.chat.completions.create(model="toy", messages=say("Good morning."), **SPOKEN)
    message = answer.choices[0].message
    assert message.content is None and message.audio is not None
    assert message.audio.transcript == "Good morning." and message.audio.id.startswith("audio_")
    assert 0.8 < seconds_of(base64.b64decode(message.audio.data)) < 3
    assert message.audio.expires_at > answer.created + LIFE_S - 60
    running.engine.seen.clear()
    sent: Any = [*say("Hello"), {"role": "assistant", "audio": {"id": message.audio.id}}, *say("And now?")]
    client.chat.completions.create(model="toy", messages=sent)
    assert "assistant\nGood morning." in prompts(running)[0]
    whole: Any = message.model_dump(exclude_none=True)
    client.chat.completions.create(model="toy", messages=[*say("Hello"), whole, *say("Then?")])
    assert "assistant\nGood morning." in prompts(running)[1]


def test_a_stream_carries_text_and_sound(client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model="toy",
        messages=say("Good morning. How are you? 今天天气很好。"),
        stream_options={"include_usage": True},
        **STREAMED,
    )
    chunks: list[Any] = list(stream)
    deltas = [one.choices[0].delta for one in chunks if one.choices]
    heard = [one.audio for one in deltas if one.audio is not None]
    assert heard[0].id and {one.id for one in heard} == {heard[0].id}
    assert "".join(one.transcript or "" for one in heard) == "Good morning. How are you? 今天天气很好。"
    sound = [base64.b64decode(one.data) for one in heard if one.data]
    assert len(sound) >= 3 and 2 < sum(map(len, sound)) / 48_000 < 10
    assert heard[-1].expires_at and not "".join(one.content or "" for one in deltas)
    assert [one.choices[0].finish_reason for one in chunks if one.choices][-1] == "stop"
    assert chunks[-1].usage.completion_tokens > 0


async def test_the_first_sentence_is_heard_before_the_text_ends(codec: Codec, kokoro_path: Path) -> None:
    service = make_service(FakeEngine(), codec, model="toy", speech=SpeechServing(str(kokoro_path), None, 1))
    heard = asyncio.Event()

    async def turns() -> AsyncGenerator[Turn, None]:
        yield Turn(0, (Content("Good morning. "),))
        yield Turn(0, (Content("And"),))
        await asyncio.wait_for(heard.wait(), 60)  # the text goes on when its begin was heard
        yield Turn(0, (Content(" goodbye."),), finish_reason="stop")

    voice = await open_voice(service, "t", VoiceWish(format="pcm16"))
    parts: list[str] = []
    async for part in voiced(voice, turns()):
        if isinstance(part, SoundPiece):
            heard.set()
        parts.append(type(part).__name__)
    assert parts.index("SoundPiece") < len(parts) - 1 - parts[::-1].index("Turn")
    await service.close_background()


async def test_a_text_that_fails_ends_its_speech(codec: Codec, kokoro_path: Path) -> None:
    service = make_service(FakeEngine(), codec, model="toy", speech=SpeechServing(str(kokoro_path), None, 1))

    async def turns() -> AsyncGenerator[Turn, None]:
        yield Turn(0, (Content("Good"),))
        raise ValueError("broken")

    voice = await open_voice(service, "t", VoiceWish(format="pcm16"))
    with pytest.raises(ValueError, match="broken"):
        async for _ in voiced(voice, turns()):
            pass
    await service.close_background()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"modalities": ["audio", "text"], "audio": None}, "audio need audio"),
        ({"modalities": ["text"]}, 'audio needs modalities: \\["text", "audio"\\]'),
        ({"modalities": ["video"]}, "modalities"),
        ({"audio": {"voice": "alloy"}}, "audio.format"),
        ({"audio": {"voice": "alloy", "format": "ogg"}}, "audio.format"),
        ({"audio": {"voice": "somebody", "format": "wav"}}, "there is no voice 'somebody'"),
        ({"audio": AUDIO | {"speed": 2}}, "audio.speed"),
        ({"stream": True}, "a stream carries pcm16 alone"),
        ({"n": 2}, "one answer is spoken"),
        ({"logprobs": True}, "no log probabilities"),
        ({"response_format": {"type": "json_object"}}, "a spoken answer is text"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(client: OpenAI, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(openai.BadRequestError, match=said):
        client.chat.completions.create(model="toy", messages=say("Hello"), **(SPOKEN | changed))


def test_an_id_that_nobody_knows_names_its_message(client: OpenAI) -> None:
    sent: Any = [*say("Hello"), {"role": "assistant", "audio": {"id": "audio_1"}}, *say("And?")]
    with pytest.raises(openai.BadRequestError, match="audio_1 is not kept") as caught:
        client.chat.completions.create(model="toy", messages=sent)
    assert caught.value.param == "messages.1.audio.id"
    sent[1]["role"] = "user"
    with pytest.raises(openai.BadRequestError, match="belong to assistant messages"):
        client.chat.completions.create(model="toy", messages=sent)


def test_a_text_without_a_word_is_silent(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="toy", messages=say("🙂 ..."), **SPOKEN)
    audio = answer.choices[0].message.audio
    assert audio is not None and audio.transcript == "🙂 ..." and audio.data == ""


def test_a_missing_model_is_named_with_its_command(codec: Codec, tmp_path: Path) -> None:
    engine = FakeEngine()
    speech = SpeechServing("kokoro", tmp_path, 1)
    running = start(make_service(engine, codec, model="toy", speech=speech), engine)
    try:
        client = OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)
        with client, pytest.raises(openai.NotFoundError, match="deepwell pull kokoro"):
            client.chat.completions.create(model="toy", messages=say("Hello"), **SPOKEN)
    finally:
        running.stop()


async def test_texts_are_kept_for_an_hour_and_for_their_tenant_alone() -> None:
    now = [1000.0]
    texts = SpokenTexts(lambda: now[0])
    assert texts.keep("a", "audio_1", "hello") == 1000 + LIFE_S
    assert texts.get("a", "audio_1") == "hello" and texts.get("b", "audio_1") is None
    for number in range(600):
        texts.keep("b", f"audio_{number}", "x")
    assert texts.get("b", "audio_0") is None and texts.get("b", "audio_599") == "x"
    assert texts.get("a", "audio_1") == "hello"
    now[0] += LIFE_S
    assert texts.get("a", "audio_1") is None
    await texts.forget()
    assert texts.get("b", "audio_599") is None


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("Good morning. How", 13),
        ("Good morning.", 0),
        ("It is 3.", 0),
        ("Dr. Who came. He", 13),
        ("今天很好。明", 5),
        ("今天很好。", 0),
        ("no end", 0),
    ],
)
def test_a_sentence_is_ready_when_something_follows_it(text: str, end: int) -> None:
    assert ready_end(text) == end
