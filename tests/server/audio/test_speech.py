"""Text becomes speech over HTTP: the real model behind the real SDK, its formats and streams, guard, labels and metrics."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI
from tests.server.conftest import Live, start
from tests.server.fakes import FakeEngine, make_service

from deepwell.dialogue.text import Codec
from deepwell.safety.labels import read_audio_label
from deepwell.safety.terms.lists import Term, TermList
from deepwell.server.app import create_app
from deepwell.server.options import GuardOptions, SpeechServing

PATH = "/v1/audio/speech"
POLICY = "version: 1\nterms: [own]\nrefusal: {en: Against the rules., zh: 不符合规范。}\n"
FAST = 4.0  # a sound takes as long to make as it lasts
LABELLED = "version: 1\nlabel: true\nproducer: tester\n"


def serving(kokoro_path: Path) -> SpeechServing:
    return SpeechServing(str(kokoro_path), None, 1)


@pytest.fixture(scope="module")
def speaking(codec: Codec, kokoro_path: Path) -> Iterator[Live]:
    engine = FakeEngine()
    running = start(make_service(engine, codec, model="toy", speech=serving(kokoro_path)), engine)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def client(speaking: Live) -> Iterator[OpenAI]:
    with OpenAI(
        base_url=f"{speaking.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


def seconds_of(data: bytes) -> float:
    import av

    with av.open(io.BytesIO(data)) as file:
        rate = file.streams.audio[0].rate
        return sum(frame.samples for frame in file.decode(audio=0)) / rate


@pytest.mark.parametrize("format", ["mp3", "opus", "aac", "flac", "wav", "pcm"])
def test_a_text_becomes_sound_in_every_format(client: OpenAI, format: Any) -> None:
    answer = client.audio.speech.create(
        model="tts-1",
        input="Good morning.",
        voice="alloy",
        response_format=format,
        instructions="",
        speed=FAST,
    )
    data = answer.read()
    seconds = len(data) / 48_000 if format == "pcm" else seconds_of(data)
    assert 0.3 < seconds < 1
    kind = "ogg" if format == "opus" else "mpeg" if format == "mp3" else format
    assert answer.response.headers["content-type"] == f"audio/{kind}"
    assert answer.response.headers["x-voice"] == "af_alloy"


def test_the_first_sentence_is_sent_before_the_second_is_made(client: OpenAI) -> None:
    with client.audio.speech.with_streaming_response.create(
        model="tts-1",
        input="Good morning. How are you today? 今天天气很好。",
        voice="zf_xiaobei",
        response_format="pcm",
        speed=2,
    ) as answer:
        pieces = [piece for piece in answer.http_response.iter_raw() if piece]
    assert len(pieces) >= 3 and len(pieces[0]) > 24_000


def test_the_stream_of_events_has_the_file(speaking: Live) -> None:
    body = {"model": "tts-1", "input": "One. And two.", "voice": {"id": "bm_george"}, "stream_format": "sse"}
    answer = httpx.post(f"{speaking.url}{PATH}", json=body | {"response_format": "wav"}, timeout=60)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(line.removeprefix("data: ")) for line in answer.text.split("\n\n") if line]
    assert {one["type"] for one in events[:-1]} == {"speech.audio.delta"}
    data = b"".join(base64.b64decode(one["audio"]) for one in events[:-1])
    assert data.startswith(b"RIFF") and len(data) > 48_000
    assert events[-1]["type"] == "speech.audio.done"
    usage = events[-1]["usage"]
    assert usage["input_tokens"] == usage["total_tokens"] > 5


def test_speed(client: OpenAI) -> None:
    def made(speed: float) -> int:
        answer = client.audio.speech.create(
            model="tts-1", input="Hi.", voice="nova", response_format="pcm", speed=speed
        )
        return len(answer.read())

    assert made(2.0) < made(1.0)


@pytest.mark.parametrize(
    ("changed", "said", "param"),
    [
        ({"input": ""}, "input", "input"),
        ({"input": "a" * 4097}, "input", "input"),
        ({"input": "🙂" * 1000}, "no word that can be said", "input"),
        ({"input": "こんにちは"}, "Chinese and English are read", "input"),
        ({"input": "你好", "voice": "af_heart"}, "use zf_xiaoxiao", "voice"),
        ({"voice": "somebody"}, "there is no voice 'somebody'", "voice"),
        ({"voice": {"id": "voice_1234"}}, "there is no voice 'voice_1234'", "voice"),
        ({"speed": 0.2}, "speed", "speed"),
        ({"speed": 5}, "speed", "speed"),
        ({"response_format": "ogg"}, "response_format", "response_format"),
        ({"stream_format": "xml"}, "stream_format", "stream_format"),
        ({"instructions": "whisper"}, "the model follows no instructions", "instructions"),
        ({"colour": "blue"}, "colour", "colour"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    speaking: Live, changed: dict[str, Any], said: str, param: str
) -> None:
    body = {"model": "tts-1", "input": "hello", "voice": "alloy"} | changed
    answer = httpx.post(f"{speaking.url}{PATH}", json=body, timeout=60)
    error = answer.json()["error"]
    assert answer.status_code == 400 and said in error["message"], error
    assert error["param"].startswith(param)


def test_a_model_that_is_not_here_or_reads_nothing_is_named(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="there is no speech model 'toy'"):
        client.audio.speech.create(model="toy", input="hello", voice="alloy")
    with pytest.raises(openai.NotFoundError, match="no speech model '/etc'"):
        client.audio.speech.create(model="/etc", input="hello", voice="alloy")


def test_errors_come_in_the_language_of_the_client(speaking: Live) -> None:
    body = {"model": "tts-1", "input": "...", "voice": "alloy"}
    answer = httpx.post(f"{speaking.url}{PATH}", json=body, headers={"accept-language": "zh"}, timeout=60)
    assert "没有可以朗读的内容" in answer.json()["error"]["message"]


def test_metrics_count_the_sound(client: OpenAI, speaking: Live) -> None:
    client.audio.speech.create(model="tts-1", input="Good morning.", voice="alloy").read()
    text = httpx.get(f"{speaking.url}/metrics").text
    (seconds,) = [line for line in text.splitlines() if line.startswith("deepwell_spoken_seconds_total{")]
    assert float(seconds.split()[-1]) > 0.8
    assert 'gen_ai_operation_name="speech"' in text and "deepwell_speech_first_sound_seconds_bucket" in text


async def guarded(
    codec: Codec, folder: Path, kokoro_path: Path, policy: str, *bodies: dict[str, Any]
) -> list[httpx.Response]:
    TermList("own", [Term("weather", "politics", "block")], "test", "none", "0" * 64).write(folder / "terms")
    (folder / "policy.yaml").write_text(policy, "utf-8")
    guard = GuardOptions(str(folder / "policy.yaml"), folder / "terms")
    service = make_service(FakeEngine(), codec, model="toy", guard=guard, speech=serving(kokoro_path))
    transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=60) as http:
        plain = {"model": "tts-1", "voice": "alloy"}
        answers = [await http.post(PATH, json=plain | body) for body in bodies]
    await service.close_background()
    return answers


async def test_the_guard_reads_the_text(codec: Codec, tmp_path: Path, kokoro_path: Path) -> None:
    policy = f"{POLICY}input: {{rules: {{terms: block}}}}"
    refused, passed = await guarded(
        codec, tmp_path, kokoro_path, policy, {"input": "the weather"}, {"input": "hello"}
    )
    error = refused.json()["error"]
    assert refused.status_code == 400 and error["param"] == "input" and "refuses the text" in error["message"]
    assert passed.status_code == 200 and len(passed.content) > 5000


async def test_sound_has_the_label_of_generated_content(
    codec: Codec, tmp_path: Path, kokoro_path: Path
) -> None:
    bodies = [{"input": "hello", "response_format": one, "speed": FAST} for one in ("mp3", "wav", "pcm")]
    for body, answer in zip(
        bodies, await guarded(codec, tmp_path, kokoro_path, LABELLED, *bodies), strict=True
    ):
        assert '"ContentProducer":"tester"' in answer.headers["x-aigc"].replace(" ", "")
        if body["response_format"] == "mp3":
            label = read_audio_label(answer.content)
            assert label is not None and label.producer == "tester" and label.label == "1"
        elif body["response_format"] == "wav":
            assert b"AIGC" in answer.content[:600]
