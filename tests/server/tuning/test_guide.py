"""The guide to fine-tuning: its programs run against a server with the stand-in, and are the same in both languages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.server.tuning.jobs import TEMPLATE_HASH, tuning_server

from deepwell.dialogue.text import Codec

GUIDES = Path(__file__).parents[3] / "docs" / "guides"


def programs(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (GUIDES / name).read_text(encoding="utf-8"), re.DOTALL)


def test_both_languages_show_the_same_programs() -> None:
    assert programs("fine-tuning-api.md") == programs("fine-tuning-api.zh-CN.md")


def test_the_programs_run(
    codec: Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STAND_IN_TEMPLATE", TEMPLATE_HASH)
    with tuning_server(codec, tmp_path) as live:
        for code in programs("fine-tuning-api.md"):
            code = code.replace("http://127.0.0.1:8000", live.url).replace('"smollm2"', '"toy"')
            exec(compile(code, "guide", "exec"), {})
    printed = capsys.readouterr().out
    assert "The job has succeeded" in printed
    assert "toy completed ResultCounts(" in printed
    assert re.search(r"^ft:toy:codes:\w+ completed ", printed, re.MULTILINE)
