"""The guide to stored prompts: its program prints what it shows, its pack is one, and both languages show the same."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
from tests.server.conftest import start
from tests.server.fakes import FakeEngine, make_service

from deepwell.dialogue.prompts.pack import read_pack
from deepwell.dialogue.text import Codec

GUIDES = Path(__file__).parents[2] / "docs" / "guides"


def blocks(name: str) -> list[tuple[str, str]]:
    return re.findall(r"```(\w+)\n(.*?)```", (GUIDES / name).read_text(encoding="utf-8"), re.DOTALL)


def test_both_languages_show_the_same() -> None:
    assert blocks("prompts.md") == blocks("prompts.zh-CN.md") != []


def test_the_program_prints_what_the_guide_shows(codec: Codec, capsys: pytest.CaptureFixture[str]) -> None:
    engine = FakeEngine(max_model_len=4096)
    running = start(make_service(engine, codec, model="toy"), engine)
    try:
        for (language, code), (_, printed) in pairwise(blocks("prompts.md")):
            if language == "python":
                exec(compile(code.replace("http://127.0.0.1:8000", running.url), "guide", "exec"), {})
                assert capsys.readouterr().out == printed
    finally:
        running.stop()


def test_the_packs_that_are_shown_are_packs(tmp_path: Path) -> None:
    packs: dict[str, str | None] = {}
    for language, code in blocks("prompts.md"):
        if language == "toml":
            file = tmp_path / "pack.toml"
            file.write_text(code)
            pack = read_pack(file)
            packs[pack.id] = pack.content.industry
    assert packs.keys() == {"request-kind", "reply-en"}
    assert packs["reply-en"] == "support"
