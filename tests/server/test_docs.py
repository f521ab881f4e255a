"""The guide's blocks run as they stand, and the reference is what the code generates."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.needs import CURL, require
from tests.server.conftest import Live, start
from tests.server.fakes import FakeEngine, make_service

from deepwell.dialogue.model import ServedModel
from deepwell.dialogue.text import Codec
from deepwell_bench.suites.service.clients import GUIDES as BENCHED
from deepwell_bench.workers.api_docs import api_page, coverage_page, document

DOCS = Path(__file__).parents[2] / "docs"
GUIDES = ("clients", "batches", "ollama-clients")  # each in English and in Chinese
# Their Python blocks run in tests
TESTED = {
    *GUIDES,
    "agents",
    "agent-tools",
    "alignment",
    "attachments",
    "audit-and-privacy",
    "capacity",
    "compliance",
    "embeddings",
    "evaluate",
    "feedback",
    "fine-tuning-api",
    "images",
    "keys-and-limits",
    "labelling",
    "long-contexts",
    "mcp",
    "one-space",
    "promotion",
    "prompts",
    "python-api",
    "rerank",
    "router",
    "sandbox",
    "rules",
    "speech",
    "structured-output",
    "vector-stores",
    "world-model",
}
PAGES = sorted(page.name for page in (DOCS / "guides").glob("*.md"))
MISTAKES = {"lst"}  # commands that a guide gets wrong on purpose
READERS = {"json": json.loads, "toml": tomllib.loads, "python": lambda code: compile(code, "guide", "exec")}


def blocks(name: str) -> list[tuple[str, str]]:
    text = (DOCS / "guides" / name).read_text(encoding="utf-8")
    return re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL)


def runs_here(language: str, code: str) -> bool:
    """Returns whether the development environment has what a block needs. `deepwell bench clients` runs other clients."""
    packages = re.findall(r"^from (\w+)[\w.]* import", code, re.MULTILINE)
    return language in ("bash", "python") and all(importlib.util.find_spec(package) for package in packages)


@pytest.fixture(scope="module")
def served(codec: Codec) -> Iterator[Live]:
    engine = FakeEngine(max_model_len=4096)
    embedder = ServedModel("minilm", FakeEngine(), codec, tasks=("embed",))
    running = start(make_service(engine, codec, model="smollm2", embedder=embedder), engine)
    yield running
    running.stop()


@pytest.mark.parametrize(
    ("language", "code"), [block for guide in GUIDES for block in blocks(f"{guide}.md") if runs_here(*block)]
)
def test_every_block_of_the_guide_runs(
    served: Live, language: str, code: str, capfd: pytest.CaptureFixture[str]
) -> None:
    code = code.replace("http://127.0.0.1:8000", served.url)
    if language == "bash":
        require(CURL)
        subprocess.run(["bash", "-ec", code], check=True)
    else:
        exec(compile(code, "guide", "exec"), {})
    said = capfd.readouterr().out
    assert said.strip() and '"error"' not in said


@pytest.mark.parametrize("guide", GUIDES)
def test_both_languages_show_the_same_blocks(guide: str) -> None:
    assert blocks(f"{guide}.md") == blocks(f"{guide}.zh-CN.md") != []


@pytest.mark.parametrize("page", PAGES)
def test_blocks_are_what_they_say_and_python_is_run_somewhere(page: str) -> None:
    languages = set()
    for language, code in blocks(page):
        languages.add(language)
        READERS.get(language, str)(code)
    guide = page.removesuffix(".md").removesuffix(".zh-CN")
    assert "python" not in languages or guide in TESTED | BENCHED.keys()


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_the_guides_exist(page: str, whole_command: Any) -> None:
    text = (DOCS / "guides" / page).read_text(encoding="utf-8").replace("\\\n", " ")
    for line in re.findall(r"(?:^ *(?:\$ )?|&& |`)(deepwell [a-z][^`\n]*)", text, re.MULTILINE):
        command = whole_command
        words = shlex.split(re.split(r" [|>&]|  ", line)[0], comments=True)[1:]
        if words[0] in MISTAKES:
            continue
        while words and hasattr(command, "commands"):
            if words[0] not in command.commands and hasattr(command, "default"):
                words.insert(0, command.default)
            assert words[0] in command.commands, line
            command = command.commands[words.pop(0)]
        known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)} | {
            "--help"
        }
        assert {word.partition("=")[0] for word in words if word.startswith("-")} <= known, line


def test_the_reference_is_up_to_date() -> None:
    described = document()
    assert (DOCS / "reference" / "api.md").read_text(encoding="utf-8") == api_page(described)
    assert (DOCS / "reference" / "coverage.md").read_text(encoding="utf-8") == coverage_page()


def test_every_parameter_that_may_be_left_out_has_a_default() -> None:
    rows = re.findall(r"^\| `([^|]+)` \| ([^|]+) \| [^|]+ \| ([^|]*) \|", api_page(document()), re.MULTILINE)
    assert len(rows) > 150
    optional = {name: default for name, place, default in rows if place in ("body", "query")}
    assert {name for name, default in optional.items() if not default.strip()} == set()
    assert optional["temperature"] == "the model's, else 1" and optional["limit"] == "`20`"
