"""The guide to vector stores: its program runs, prints what it shows, and is the same in both languages."""

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
    assert blocks("vector-stores.md") == blocks("vector-stores.zh-CN.md")


def test_the_guide_prints_what_it_shows(
    codec: Codec, e5_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert e5_path.exists()  # the server's own embedder
    engine = FakeEngine(max_model_len=4096)
    running = start(make_service(engine, codec, model="qwen2.5-coder-0.5b"), engine)
    state: dict[str, object] = {}
    shown = blocks("vector-stores.md")
    try:
        for (language, code), (_, printed) in pairwise(shown):
            if language != "python":
                continue
            exec(compile(code.replace("http://127.0.0.1:8000", running.url), "guide", "exec"), state)
            said = capsys.readouterr().out
            if (
                "responses.create" in code
            ):  # a language model would answer; `deepwell bench vector-stores` asks one
                assert "cleaning.md at" in said and "保修.md at" in said
            else:
                assert said == printed
    finally:
        running.stop()
