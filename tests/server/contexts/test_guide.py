"""The programs of the guide to long contexts run, in both languages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI
from tests.knowledge.hashing import HashEmbedder
from tests.server.conftest import Live, start
from tests.server.fakes import FakeEngine, make_codec, make_service
from tests.server.tuning.jobs import COMMAND

from deepwell.server.options import TuningOptions

MODEL = "qwen2.5-coder-0.5b"
GUIDES = Path(__file__).parents[3] / "docs" / "guides"
MESSAGES = [
    {"role": role, "content": f"{text} {number}."}
    for number in range(200)
    for role, text in (("user", "Note the ferry of pier"), ("assistant", "I noted it as"))
] + [{"role": "user", "content": "Which ferry leaves from pier 7?"}]


def programs(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (GUIDES / page).read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Live]:
    engine = FakeEngine(max_model_len=2_000)
    tuning = TuningOptions(folder=tmp_path / "runs", command=COMMAND)
    service = make_service(engine, make_codec(tmp_path), model=MODEL, tuning=tuning)
    embedder = HashEmbedder()

    async def named(_name: str) -> HashEmbedder:
        return embedder

    monkeypatch.setattr(service.knowledge.embedders, "named", named)
    running = start(service, engine)
    yield running
    running.stop()


def test_both_languages_show_the_same_programs() -> None:
    assert programs("long-contexts.md") == programs("long-contexts.zh-CN.md")


def test_the_programs_of_a_client_run(live: Live, capsys: pytest.CaptureFixture[str]) -> None:
    client = OpenAI(base_url=f"{live.url}/v1", api_key="none", _strict_response_validation=True)
    names: dict[str, Any] = {}
    for program in programs("long-contexts.md")[:3]:
        exec(compile(program.replace("http://127.0.0.1:8000", live.url), "guide", "exec"), names)
        names["client"] = client  # it checks what the server answers
    assert "x-context-policy auto" in capsys.readouterr().out
    assert len(live.engine.seen) == 3
    assert names["compacted"].output[-1].type == "compaction"


def test_the_program_without_a_server_runs(
    smollm2_path: Path, e5_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = programs("long-contexts.md")[3]
    program = program.replace(MODEL, str(smollm2_path)).replace("4096", "1024").replace("=200", "=20")
    exec(compile(program, "guide", "exec"), {"messages": MESSAGES})
    assert "'dropped'" in capsys.readouterr().out
