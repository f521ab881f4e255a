"""The guide to the one space: its programs run, print what they show, and are the same in both languages."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.needs import IMAGE_ENCODER, WHISPER_BASE
from tests.server.conftest import start
from tests.server.fakes import FakeEngine, make_codec, make_service

from deepwell.server.options import ImageServing, KnowledgeOptions, RecognitionServing
from deepwell.settings import Settings

ROOT = Path(__file__).parents[2]
GUIDES = ROOT / "docs" / "guides"


def blocks(name: str) -> list[tuple[str, str]]:
    return re.findall(r"```(\w+)\n(.*?)```", (GUIDES / name).read_text(encoding="utf-8"), re.DOTALL)


def test_both_languages_show_the_same() -> None:
    assert blocks("one-space.md") == blocks("one-space.zh-CN.md")


@pytest.mark.needs(IMAGE_ENCODER, WHISPER_BASE)
def test_the_programs_print_what_the_guide_shows(
    e5_path: Path,
    whisper_path: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    models_dir = Settings.load().models_dir
    monkeypatch.chdir(ROOT)
    options: dict[str, Any] = {
        "images": ImageServing(models_dir=models_dir, threads=1, guard="off"),
        "recognition": RecognitionServing(model=str(whisper_path), models_dir=None, most_s=60.0, threads=1),
        "knowledge": KnowledgeOptions(models_dir=models_dir),
    }
    engine = FakeEngine()
    running = start(make_service(engine, make_codec(tmp_path), model="toy", **options), engine)
    names: dict[str, Any] = {}
    try:
        for (language, code), (_, printed) in pairwise(blocks("one-space.md")):
            if language == "python":
                exec(compile(code.replace("http://127.0.0.1:8000", running.url), "guide", "exec"), names)
                assert capsys.readouterr().out == printed
    finally:
        running.stop()
