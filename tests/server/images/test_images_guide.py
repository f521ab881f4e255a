"""The guide to images: its program runs, prints what it shows, and is the same in both languages."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.server.conftest import start
from tests.server.fakes import FakeEngine, make_service
from tests.server.images.test_images import options

from deepwell.dialogue.text import Codec

GUIDES = Path(__file__).parents[3] / "docs" / "guides"


def blocks(name: str) -> list[tuple[str, str]]:
    return re.findall(r"```(\w+)\n(.*?)```", (GUIDES / name).read_text(encoding="utf-8"), re.DOTALL)


def test_both_languages_show_the_same() -> None:
    assert blocks("images.md") == blocks("images.zh-CN.md")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK's, about variations
def test_the_program_prints_what_the_guide_shows(
    codec: Codec,
    e5_path: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    engine = FakeEngine()
    running = start(make_service(engine, codec, model="toy", **options(tmp_path, e5_path)), engine)
    names: dict[str, Any] = {}
    ran = 0
    try:
        for (language, code), (_, printed) in pairwise(blocks("images.md")):
            if language == "python" and "negative_prompt" not in code:  # tests/parity has that one
                code = code.replace("http://127.0.0.1:8000", running.url)
                exec(compile(code, "guide", "exec"), names)
                assert capsys.readouterr().out == printed
                ran += 1
    finally:
        running.stop()
    assert ran == 5
