"""The guides of observability and of the semantic cache: blocks run, settings exist, both languages show the same."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.needs import CURL
from tests.server.conftest import Live, start
from tests.server.fakes import FakeEngine, make_service

from deepwell.dialogue.model import ServedModel
from deepwell.dialogue.text import Codec
from deepwell.server.observe.access_log import fields_of
from deepwell.server.observe.record import Record
from deepwell.server.options import SemanticOptions
from deepwell.settings import Settings

GUIDES = Path(__file__).parents[2] / "docs" / "guides"
NAMES = ("observability", "semantic-cache")


def blocks(name: str) -> list[tuple[str, str]]:
    return re.findall(r"```(\w+)\n(.*?)```", (GUIDES / name).read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def served(codec: Codec) -> Iterator[Live]:
    engine = FakeEngine(max_model_len=4096)
    running = start(make_service(engine, codec, model="smollm2"), engine)
    httpx.post(f"{running.url}/v1/completions", json={"model": "smollm2", "prompt": "abc"}, timeout=60)
    yield running
    running.stop()


@pytest.mark.parametrize(
    "code", [code for language, code in blocks("observability.md") if language == "bash"]
)
@pytest.mark.needs(CURL)
def test_every_block_of_the_guide_runs(served: Live, code: str) -> None:
    code = code.replace("http://127.0.0.1:8000", served.url)
    done = subprocess.run(["bash", "-ec", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip()


@pytest.mark.needs(CURL)
def test_the_example_of_the_semantic_cache_is_true(codec: Codec) -> None:
    """The politer wording gets the first answer, and the other question does not."""
    engine = FakeEngine(max_model_len=4096)
    service = make_service(
        engine,
        codec,
        model="qwen2.5-coder-0.5b",
        response_cache_bytes=1 << 20,
        embedder=ServedModel("minilm", FakeEngine(), codec, tasks=("embed",)),
        semantic=SemanticOptions(min_cosine=0.5),
    )
    (code,) = (code for language, code in blocks("semantic-cache.md") if language == "bash")
    running = start(service, engine)
    try:
        code = code.replace("http://127.0.0.1:8000", running.url)
        done = subprocess.run(["bash", "-ec", code], capture_output=True, text=True, check=True)
    finally:
        running.stop()
    lines = done.stdout.splitlines()
    caches, answers = lines[::2], lines[1::2]
    assert caches == [f"x-deepwell-cache: {what}" for what in ("miss", "semantic", "miss")]
    assert answers[0] == answers[1] != answers[2]
    shown = next(code for language, code in blocks("semantic-cache.md") if language == "text").splitlines()
    assert shown[::2] == caches and shown[1] == shown[3] != shown[5]


@pytest.mark.parametrize("name", NAMES)
def test_both_languages_show_the_same_blocks(name: str) -> None:
    assert blocks(f"{name}.md") == blocks(f"{name}.zh-CN.md")


def test_settings_metrics_and_fields_that_the_guides_name_exist(served: Live) -> None:
    text = "".join((GUIDES / f"{name}.md").read_text(encoding="utf-8") for name in NAMES)
    named = {name.lower() for name in re.findall(r"DEEPWELL_(\w+)=", text)}
    named |= set(re.findall(r"^\| `(\w+)` \| ", text.partition("## Settings")[2], re.MULTILINE))
    assert len(named) >= 7 and named <= set(Settings.model_fields)
    exposed = served.service.metrics.text().decode()
    for metric in re.findall(r"`((?:deepwell|gen_ai)_\w+)`", text):
        assert metric in exposed
    (line,) = (code for language, code in blocks("observability.md") if language == "json")
    full = Record.begin("GET", "/p", None, None)
    full.model, full.error, full.queue_s, full.first_token_s = "m", "e", 1.0, 1.0
    full.tenant, full.cache, full.finish_reason = "t", "miss", "stop"
    assert set(json.loads(line)) <= set(fields_of(full))
