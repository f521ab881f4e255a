"""The guide to feedback: its program runs, prints what it shows, its lines are read, and both languages show the same."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
from tests.server.conftest import start
from tests.server.fakes import FakeEngine, make_service

from deepwell.dialogue.text import Codec
from deepwell.storage.feedback import StoredFeedback
from deepwell.tuning.align.feedback import read_feedback
from deepwell.tuning.align.votes import DROP_REASONS

GUIDES = Path(__file__).parents[2] / "docs" / "guides"


def text(name: str) -> str:
    return (GUIDES / name).read_text(encoding="utf-8")


def blocks(name: str) -> list[tuple[str, str]]:
    return re.findall(r"```(\w+)\n(.*?)```", text(name), re.DOTALL)


def test_both_languages_show_the_same() -> None:
    assert blocks("feedback.md") == blocks("feedback.zh-CN.md")


def test_the_program_prints_what_the_guide_shows(codec: Codec, capsys: pytest.CaptureFixture[str]) -> None:
    engine = FakeEngine()
    running = start(make_service(engine, codec, model="toy"), engine)
    try:
        for (language, code), (_, printed) in pairwise(blocks("feedback.md")):
            if language == "python":
                exec(compile(code.replace("http://127.0.0.1:8000", running.url), "guide", "exec"), {})
                assert capsys.readouterr().out == printed
    finally:
        running.stop()


def test_the_line_that_is_shown_is_read(tmp_path: Path) -> None:
    [line] = [code for language, code in blocks("feedback.md") if language == "json"]
    file = tmp_path / "votes.jsonl"
    file.write_text(line)
    [read] = read_feedback([file])
    assert isinstance(read, StoredFeedback) and read.correction == "4" and read.consent


@pytest.mark.parametrize("name", ["feedback.md", "feedback.zh-CN.md"])
def test_every_reason_is_explained(name: str) -> None:
    assert all(f"`{reason}`" in text(name) for reason in DROP_REASONS)
