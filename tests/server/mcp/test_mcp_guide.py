"""The Python blocks of the guide on MCP run as they stand."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.server.conftest import Live, start
from tests.server.fakes import FakeEngine, make_service

from deepwell.agents.mcp.config import McpOptions
from deepwell.dialogue.text import Codec

GUIDES = Path(__file__).parents[3] / "docs" / "guides"


def blocks(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (GUIDES / name).read_text("utf-8"), re.DOTALL)


class CallingEngine(FakeEngine):
    """Calls the tool if it is told to, and repeats its result."""

    def _script(self, request):  # type: ignore[no-untyped-def]
        said = bytes(super()._script(request)).decode()
        if said.startswith("Which models"):
            return list(b'<tool_call>\n{"name": "lab__list_models", "arguments": {}}\n</tool_call>')
        return list(said.encode())


@pytest.fixture
def served(codec: Codec) -> Iterator[Live]:
    engine = CallingEngine(max_model_len=8192)
    running = start(
        make_service(engine, codec, model="smollm2", mcp=McpOptions(hosts=("127.0.0.1",))), engine
    )
    yield running
    running.stop()


def test_both_languages_show_the_same_blocks() -> None:
    assert blocks("mcp.md") == blocks("mcp.zh-CN.md") and len(blocks("mcp.md")) == 2


def test_the_blocks_run(served: Live, capfd: pytest.CaptureFixture[str]) -> None:
    first, second = (block.replace("http://127.0.0.1:8000", served.url) for block in blocks("mcp.md"))
    exec(compile(first, "guide", "exec"), {"__name__": "guide"})
    assert "list_vector_stores" in capfd.readouterr().out
    exec(compile(second, "guide", "exec"), {})
    out = capfd.readouterr().out
    assert "mcp_approval_request lab list_models" in out and "mcp_call smollm2" in out
