"""Limits and usage of sound over HTTP: both directions share the seconds of a minute."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI
from tests.media.recordings import TONE
from tests.server.conftest import Live, start
from tests.server.fakes import FakeEngine, make_service

from deepwell.dialogue.text import Codec
from deepwell.server.access.limit_table import LimitTable
from deepwell.server.access.quota import RateLimits
from deepwell.server.options import LimitsConfig, RecognitionServing, SpeechServing
from deepwell.storage.database import Database


@pytest.fixture
def limited(codec: Codec, kokoro_path: Path, whisper_path: Path, tmp_path: Path) -> Iterator[Live]:
    engine = FakeEngine(max_model_len=8192)
    service = make_service(
        engine,
        codec,
        model="toy",
        database=Database.open(tmp_path / "deepwell.db"),
        limits=LimitsConfig(rates=RateLimits(audio_seconds_per_minute=6)),
        speech=SpeechServing(str(kokoro_path), None, 1),
        recognition=RecognitionServing(model=str(whisper_path), models_dir=None, most_s=60.0, threads=1),
    )
    service.limiter.store = LimitTable(clock=lambda: 100.0)  # nothing comes back while the test runs
    running = start(service, engine)
    yield running
    running.stop()


def test_a_minute_has_so_many_seconds_of_sound(limited: Live) -> None:
    begin, text = int(time.time()), "Good morning."
    with OpenAI(base_url=f"{limited.url}/v1", api_key="none", max_retries=0) as client:
        raw = client.audio.speech.with_raw_response.create(model="tts-1", input=text, voice="alloy")
        assert raw.headers["x-ratelimit-limit-audio-seconds"] == "6"
        assert int(raw.headers["x-ratelimit-remaining-audio-seconds"]) == 5  # what it is expected to last
        client.audio.transcriptions.create(file=TONE, model="whisper-1")
        for stream in (False, True):
            with pytest.raises(openai.RateLimitError, match="6 seconds of sound a minute") as refused:
                client.audio.transcriptions.create(file=TONE, model="whisper-1", stream=stream)
            assert int(refused.value.response.headers["retry-after"]) > 0
        with pytest.raises(openai.RateLimitError, match="seconds of sound"):
            client.audio.speech.create(model="tts-1", input=text * 10, voice="alloy")
        usage = client.with_options(admin_api_key="none").admin.organization.usage
        (spoken,) = usage.audio_speeches(start_time=begin).data[0].results
        assert (spoken.characters, spoken.num_model_requests) == (len(text), 1)
        (heard,) = usage.audio_transcriptions(start_time=begin).data[0].results
        assert (heard.seconds, heard.num_model_requests) == (3, 1)


def test_recordings_in_conversations_take_seconds_of_the_same_minute(limited: Live) -> None:
    def asked(more: bytes) -> list[Any]:  # further bytes make it a recording that was not heard before
        data = base64.b64encode(TONE.read_bytes() + more).decode()
        return [
            {"role": "user", "content": [{"type": "file", "file": {"file_data": data, "filename": "a.flac"}}]}
        ]

    begin = int(time.time())
    with OpenAI(base_url=f"{limited.url}/v1", api_key="none", max_retries=0) as client:
        for more in (b"", b"", b"1"):
            client.chat.completions.create(model="toy", messages=asked(more), max_tokens=1)
        with pytest.raises(openai.RateLimitError, match="seconds of sound a minute"):
            client.chat.completions.create(model="toy", messages=asked(b"2"), max_tokens=1)
        usage = client.with_options(admin_api_key="none").admin.organization.usage
        (heard,) = usage.audio_transcriptions(start_time=begin).data[0].results
        assert (heard.seconds, heard.num_model_requests) == (6, 2)  # what is remembered is not heard again
