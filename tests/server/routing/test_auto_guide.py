"""The guides to the model `auto` and to spoken answers: their programs run and print what they show."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from tests.server.conftest import start
from tests.server.fakes import FakeEngine, make_service
from tests.server.images.test_images import options

from deepwell.dialogue.text import Codec
from deepwell.server.options import SpeechServing

GUIDES = Path(__file__).parents[3] / "docs" / "guides"
BEGIN = """
import base64
from pathlib import Path
from openai import OpenAI
client = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none")
"""


def programs(name: str, has: str) -> list[str]:
    page = (GUIDES / name).read_text(encoding="utf-8")
    return [one for one in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if has in one]


def test_the_programs_print_what_the_guides_show(
    codec: Codec,
    e5_path: Path,
    kokoro_path: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    engine = FakeEngine()
    more: dict[str, Any] = options(tmp_path, e5_path)
    more["speech"] = SpeechServing(str(kokoro_path), None, 1)
    running = start(make_service(engine, codec, model="toy", **more), engine)
    shown = re.search(r"```text\n(\['image.*?)```", (GUIDES / "router.md").read_text("utf-8"), re.DOTALL)
    assert shown is not None
    try:
        for name, has, printed in (
            ("router.md", 'model="auto"', shown[1]),
            ("router.zh-CN.md", 'model="auto"', shown[1]),
            ("speech.md", "modalities", "Good morning.\nAnd good night.\n"),
        ):
            (code,) = programs(name, has)
            code = (BEGIN + code).replace("http://127.0.0.1:8000", running.url)
            exec(compile(code, name, "exec"), {})
            assert capsys.readouterr().out == printed
    finally:
        running.stop()
    assert (tmp_path / "answer.wav").read_bytes().startswith(b"RIFF")
