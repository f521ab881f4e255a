"""The guide to labelling: its program runs, prints what it shows, and is the same in both languages."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
from tests.server.conftest import start
from tests.server.fakes import FakeEngine, make_service

from deepwell.dialogue.text import Codec

GUIDES = Path(__file__).parents[2] / "docs" / "guides"


def blocks(name: str) -> list[tuple[str, str]]:
    return re.findall(r"```(\w+)\n(.*?)```", (GUIDES / name).read_text(encoding="utf-8"), re.DOTALL)


def test_both_languages_show_the_same() -> None:
    assert blocks("labelling.md") == blocks("labelling.zh-CN.md")


def test_the_program_prints_what_the_guide_shows(codec: Codec, capsys: pytest.CaptureFixture[str]) -> None:
    engine = FakeEngine()
    running = start(make_service(engine, codec, model="toy"), engine)
    try:
        for (language, code), (_, printed) in pairwise(blocks("labelling.md")):
            if language == "python":
                exec(compile(code.replace("http://127.0.0.1:8000", running.url), "guide", "exec"), {})
                assert capsys.readouterr().out == printed
    finally:
        running.stop()
