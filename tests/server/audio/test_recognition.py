"""Recordings become text over HTTP: the real model behind the real SDK, its formats and streams, guard, metrics and tenants."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
from openai import OpenAI
from tests.media.recordings import SAID, TONE, WEATHER, wav
from tests.server.conftest import Live, start
from tests.server.fakes import FakeEngine, make_service

from deepwell.dialogue.text import Codec
from deepwell.media.audio.decode import decode_audio
from deepwell.safety.terms.lists import Term, TermList
from deepwell.server.app import create_app
from deepwell.server.options import GuardOptions, RecognitionServing

POLICY = "version: 1\nterms: [own]\nrefusal: {en: Against the rules., zh: 不符合规范。}\n"
BLOCK_INPUT = "input: {rules: {terms: block}}"
BLOCK_OUTPUT = "output: {rules: {terms: block}}"
REDACT_OUTPUT = "output: {rules: {terms: redact}}"


def serving(whisper_path: Path) -> RecognitionServing:
    return RecognitionServing(model=str(whisper_path), models_dir=None, most_s=60.0, threads=1)


@pytest.fixture(scope="module")
def heard(codec: Codec, whisper_path: Path) -> Iterator[Live]:
    engine = FakeEngine()
    running = start(make_service(engine, codec, model="toy", recognition=serving(whisper_path)), engine)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def client(heard: Live) -> Iterator[OpenAI]:
    with OpenAI(
        base_url=f"{heard.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


@pytest.mark.parametrize("recording", SAID)
def test_a_recording_becomes_its_words(client: OpenAI, recording: Path) -> None:
    told = client.audio.transcriptions.create(file=recording, model="whisper-1")
    assert told.text == SAID[recording]
    assert told.usage is not None and told.usage.type == "duration" and 2 < told.usage.seconds < 4


def test_text_and_subtitles(client: OpenAI) -> None:
    def told(shape: str) -> str:
        return client.audio.transcriptions.create(
            file=TONE, model="whisper-tiny.en", response_format=shape, language="en"
        )  # pyright: ignore[reportReturnType]

    assert told("text") == SAID[TONE] + "\n"
    number, times, text = told("srt").split("\n")[:3]
    assert (number, text) == ("1", SAID[TONE]) and times.startswith("00:00:00,000 --> 00:00:02,")
    head, _, times, text = told("vtt").split("\n")[:4]
    assert (head, text) == ("WEBVTT", SAID[TONE]) and times.startswith("00:00:00.000 --> 00:00:02.")


def test_segments_and_words(client: OpenAI) -> None:
    def told(*granularities: str) -> openai.types.audio.TranscriptionVerbose:
        return client.audio.transcriptions.create(
            file=WEATHER,
            model="whisper-1",
            response_format="verbose_json",
            timestamp_granularities=[*granularities],  # pyright: ignore[reportArgumentType]
            prompt="London.",
            temperature=0,
        )

    both = told("word", "segment")
    assert both.text == SAID[WEATHER] and both.language == "english" and 2 < both.duration < 4
    assert both.segments is not None and both.words is not None and both.usage is not None
    assert "".join(one.text for one in both.segments).strip() == both.text
    assert [one.word for one in both.words] == SAID[WEATHER].split()
    assert all(one.start <= one.end <= both.duration + 0.1 for one in both.words)
    alone = told("word")
    assert alone.words == both.words and alone.segments is None
    plain = client.audio.transcriptions.create(
        file=WEATHER, model="whisper-1", response_format="verbose_json"
    )
    assert plain.segments is not None and plain.words is None


def test_a_stream_of_events(client: OpenAI) -> None:
    with client.audio.transcriptions.create(
        file=TONE, model="whisper-1", stream=True, chunking_strategy="auto"
    ) as stream:
        events = [*stream]
    assert {one.type for one in events[:-1]} == {"transcript.text.delta"}
    assert "".join(one.delta for one in events if one.type == "transcript.text.delta") == SAID[TONE]
    assert events[-1].type == "transcript.text.done" and events[-1].text == SAID[TONE]
    strategy = {"type": "server_vad", "threshold": 0.4, "silence_duration_ms": 500, "prefix_padding_ms": 100}
    told = client.audio.transcriptions.create(file=TONE, model="whisper-1", chunking_strategy=strategy)  # pyright: ignore[reportCallIssue, reportArgumentType]
    assert told.text == SAID[TONE]


def test_an_english_model_says_what_it_cannot(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="name a multilingual model"):
        client.audio.translations.create(file=TONE, model="whisper-1")
    with pytest.raises(openai.BadRequestError, match="knows English alone") as refused:
        client.audio.transcriptions.create(file=TONE, model="whisper-1", language="zh")
    assert refused.value.param == "language"


def test_a_file_that_is_no_recording_is_a_bad_request_in_either_shape(client: OpenAI) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="no recording in a known format") as refused:
            client.audio.transcriptions.create(file=("a.wav", b"words"), model="whisper-1", stream=stream)
        assert refused.value.code == "unsupported_file" and refused.value.param == "file"


def test_errors_come_in_the_language_of_the_client(heard: Live) -> None:
    files = {"file": ("a.wav", b"words"), "model": (None, "whisper-1")}
    answer = httpx.post(
        f"{heard.url}/v1/audio/transcriptions", files=files, headers={"accept-language": "zh"}, timeout=60
    )
    assert "文件不是已知格式的录音" in answer.json()["error"]["message"]


def test_a_client_that_leaves_ends_the_work(client: OpenAI, heard: Live) -> None:
    speech = decode_audio(TONE, 9).samples
    form = {
        # One sentence in each window: the model takes windows that repeat a sentence again and again
        "file": ("long.wav", wav(np.tile(np.pad(speech, (0, 16_000 * 29 - len(speech))), 2))),
        "model": (None, "whisper-1"),
        "stream": (None, "true"),
    }
    with httpx.stream("POST", f"{heard.url}/v1/audio/transcriptions", files=form, timeout=120) as answer:
        assert "transcript.text.delta" in next(answer.iter_lines())
    assert client.audio.transcriptions.create(file=TONE, model="whisper-1").text == SAID[TONE]


def test_metrics_count_the_sound(client: OpenAI, heard: Live) -> None:
    client.audio.transcriptions.create(file=TONE, model="whisper-1")
    text = httpx.get(f"{heard.url}/metrics").text
    (seconds,) = [line for line in text.splitlines() if line.startswith("deepwell_recognised_seconds_total{")]
    assert float(seconds.split()[-1]) > 2
    assert 'gen_ai_operation_name="transcription"' in text


def test_no_recording_stays_on_the_disk_and_the_model_ends_with_the_server(
    codec: Codec, whisper_path: Path
) -> None:
    engine = FakeEngine()
    before = _recognising()
    running = start(make_service(engine, codec, model="toy", recognition=serving(whisper_path)), engine)
    with TONE.open("rb") as file:
        form = {"file": ("tone.flac", file), "model": (None, whisper_path.name)}
        answer = httpx.post(f"{running.url}/v1/audio/transcriptions", files=form, timeout=60)
    assert answer.json()["text"] == SAID[TONE]
    assert [*running.service.state.folder.rglob("drafts/*")] == []
    running.stop()
    assert _recognising() <= before


def _recognising() -> set[str]:
    """Process ids of this process's children that recognise speech."""
    pids = [pid for one in Path("/proc/self/task").glob("*/children") for pid in one.read_text().split()]
    return {pid for pid in pids if b"deepwell.media" in Path(f"/proc/{pid}/cmdline").read_bytes()}


async def guarded(
    codec: Codec, folder: Path, whisper_path: Path, rules: str, *forms: dict[str, str]
) -> list[httpx.Response]:
    """The answers of a server with a policy to forms with one recording."""
    TermList("own", [Term("weather", "politics", "block")], "test", "none", "0" * 64).write(folder / "terms")
    (folder / "policy.yaml").write_text(POLICY + rules, "utf-8")
    guard = GuardOptions(str(folder / "policy.yaml"), folder / "terms")
    service = make_service(FakeEngine(), codec, model="toy", guard=guard, recognition=serving(whisper_path))
    transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        answers = [
            await http.post(
                "/v1/audio/transcriptions",
                files={
                    "file": ("a.flac", WEATHER.read_bytes()),
                    **{name: (None, value) for name, value in ({"model": "whisper-1"} | form).items()},
                },
            )
            for form in forms
        ]
    await service.close_background()
    return answers


async def test_the_guard_reads_transcripts_in_every_shape(
    codec: Codec, tmp_path: Path, whisper_path: Path
) -> None:
    shapes = [{"response_format": one} for one in ("json", "text", "srt", "vtt", "verbose_json")]
    answers = await guarded(codec, tmp_path, whisper_path, BLOCK_OUTPUT, *shapes, {"stream": "true"})
    for answer in answers:
        assert answer.status_code == 200
        assert "Against the rules." in answer.text and "weather" not in answer.text, answer.text


async def test_what_the_guard_redacts_is_redacted_in_segments_and_words(
    codec: Codec, tmp_path: Path, whisper_path: Path
) -> None:
    verbose = {"response_format": "verbose_json", "timestamp_granularities[]": "word"}
    answers = await guarded(
        codec,
        tmp_path,
        whisper_path,
        REDACT_OUTPUT,
        {"response_format": "verbose_json"},
        verbose,
        {"stream": "true"},
    )
    for answer in answers:
        assert "London is cold today." in answer.text and "weather" not in answer.text
    (segment,) = answers[0].json()["segments"]
    assert segment["text"].strip() == answers[0].json()["text"] and segment["tokens"] == []
    assert answers[1].json()["words"] == []


async def test_the_guard_reads_the_prompt(codec: Codec, tmp_path: Path, whisper_path: Path) -> None:
    (refused,) = await guarded(codec, tmp_path, whisper_path, BLOCK_INPUT, {"prompt": "the weather"})
    error = refused.json()["error"]
    assert (
        refused.status_code == 400 and error["param"] == "prompt" and "refuses the prompt" in error["message"]
    )
