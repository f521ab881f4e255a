"""The guide to speech: its program runs, prints what it shows, and is the same in both languages."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.server.conftest import start
from tests.server.fakes import FakeEngine, make_service

from deepwell.dialogue.text import Codec
from deepwell.server.options import RecognitionServing

ROOT = Path(__file__).parents[3]
GUIDES = ROOT / "docs" / "guides"


def blocks(name: str) -> list[tuple[str, str]]:
    return re.findall(r"```(\w+)\n(.*?)```", (GUIDES / name).read_text(encoding="utf-8"), re.DOTALL)


def test_both_languages_show_the_same() -> None:
    assert blocks("speech.md") == blocks("speech.zh-CN.md")


def test_the_program_prints_what_the_guide_shows(
    codec: Codec, whisper_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    engine = FakeEngine()
    recognition = RecognitionServing(model=str(whisper_path), models_dir=None, most_s=60.0, threads=1)
    running = start(make_service(engine, codec, model="toy", recognition=recognition), engine)
    names: dict[str, Any] = {}
    try:
        for (language, code), (_, printed) in pairwise(blocks("speech.md")):
            if language == "python" and "audio.transcriptions" in code:
                code = code.replace("http://127.0.0.1:8000", running.url)
                code = code.replace('"whisper-tiny.en"', repr(whisper_path.name))
                exec(compile(code, "guide", "exec"), names)
                assert capsys.readouterr().out == printed
    finally:
        running.stop()
