"""The guide to attachments: its program runs, and is the same in both languages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.server.attachments.test_attachments import with_reader
from tests.server.conftest import start
from tests.server.fakes import FakeEngine, make_service

from deepwell.dialogue.text import Codec
from deepwell.server.attachments.wording import ImageFacts, described

ROOT = Path(__file__).parents[3]


def blocks(name: str) -> list[tuple[str, str]]:
    text = (ROOT / "docs" / "guides" / name).read_text(encoding="utf-8")
    return re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL)


def test_both_languages_show_the_same() -> None:
    assert blocks("attachments.md") == blocks("attachments.zh-CN.md")


def test_the_guide_shows_what_the_model_reads() -> None:
    tags = (("apple", "苹果"), ("fruit", "水果"))
    facts = ImageFacts(640, 480, named=True, captions=("red apple", ""), tags=tags, text="SALE 50 %")
    (shown,) = [text for language, text in blocks("attachments.md") if language == "text"]
    assert shown == described(facts, "en", 1) + "\n"


def test_the_program_runs(
    codec: Codec, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    engine = FakeEngine(max_model_len=8192)
    context = make_service(engine, codec, model="smollm2")
    with_reader(context)
    running = start(context, engine)
    try:
        (code,) = [text for language, text in blocks("attachments.md") if language == "python"]
        exec(compile(code.replace("http://127.0.0.1:8000", running.url), "guide", "exec"), {})
    finally:
        running.stop()
    said = capsys.readouterr().out
    assert "red apple" in said and said.endswith("['image description']\n")
