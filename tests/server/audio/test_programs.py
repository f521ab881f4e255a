"""Voices of programs over HTTP: the guide's program with espeak-ng, a stored voice of Piper, and what is refused."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI
from tests.needs import ESPEAK
from tests.server.conftest import Live, start
from tests.server.fakes import FakeEngine, make_service

from deepwell.dialogue.text import Codec
from deepwell.models.store.store import ModelStore
from deepwell.server.options import SpeechServing

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "speech.md"
PATH = "/v1/audio/speech"


@pytest.fixture(scope="module")
def speaking(codec: Codec, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("programs")
    voice = folder / "en_US-tester-low"
    voice.mkdir()
    (voice / "tester.onnx").write_bytes(b"weights")
    (voice / "tester.onnx.json").write_text(
        json.dumps({"audio": {"sample_rate": 24_000}, "language": {"code": "en_US"}})
    )
    ModelStore(folder / "models").pull(str(voice))
    engine = FakeEngine()
    speech = SpeechServing("en_US-tester-low", folder / "models", 1)
    running = start(make_service(engine, codec, model="toy", speech=speech), engine)
    yield running
    running.stop()


def asked(speaking: Live, **body: Any) -> httpx.Response:
    fields = {"model": "tts-1", "input": "Good morning.", "voice": "alloy", "response_format": "pcm"} | body
    return httpx.post(f"{speaking.url}{PATH}", json=fields, timeout=60)


def test_a_stored_voice_stands_for_the_names_of_openai(
    speaking: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "piper"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nsys.stdout.buffer.write(sys.stdin.buffer.read() * 8)\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    answer = asked(speaking)
    assert (answer.status_code, answer.headers["x-voice"]) == (200, "tester")
    assert answer.content == b"Good morning.\n" * 8
    assert "deepwell_spoken_seconds_total" in httpx.get(f"{speaking.url}/metrics").text


def test_what_cannot_be_said_is_refused(
    speaking: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "reads no Chinese" in asked(speaking, input="今天天气很好。").json()["error"]["message"]
    assert asked(speaking, voice="nobody").json()["error"]["param"] == "voice"
    monkeypatch.setenv("PATH", str(tmp_path))
    missing = asked(speaking, model="espeak").json()["error"]
    assert "espeak-ng" in missing["message"] and missing["param"] == "model"


@pytest.mark.needs(ESPEAK)
def test_the_guide_speaks_with_espeak(
    speaking: Live, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```(\w+)\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    ((code, printed),) = [
        (code, printed) for (_, code), (_, printed) in pairwise(blocks) if 'model="espeak"' in code
    ]
    with OpenAI(base_url=f"{speaking.url}/v1", api_key="none", max_retries=0) as client:
        exec(compile(code, "guide", "exec"), {"client": client})
    assert capsys.readouterr().out == printed
    assert (tmp_path / "bonjour.wav").stat().st_size > 20_000
