"""The guide's blocks run as they stand, and the reference is what the code generates."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.server.conftest import Live, start
from tests.server.fakes import FakeEngine, make_service

from deepwell.bench.workers.api_docs import api_page, coverage_page, document
from deepwell.dialogue.text import Codec

DOCS = Path(__file__).parents[2] / "docs"
GUIDES = ("clients", "batches")  # each in English and in Chinese


def blocks(name: str) -> list[tuple[str, str]]:
    text = (DOCS / "guides" / name).read_text(encoding="utf-8")
    return re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL)


def runs_here(language: str, code: str) -> bool:
    """Returns whether the development environment has what a block needs. `deepwell bench clients` runs other clients."""
    packages = re.findall(r"^from (\w+)[\w.]* import", code, re.MULTILINE)
    return language != "js" and all(importlib.util.find_spec(package) for package in packages)


@pytest.fixture(scope="module")
def served(codec: Codec) -> Iterator[Live]:
    engine = FakeEngine(max_model_len=4096)
    running = start(make_service(engine, codec, model="smollm2"), engine)
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
        subprocess.run(["bash", "-ec", code], check=True)
    else:
        exec(compile(code, "guide", "exec"), {})
    said = capfd.readouterr().out
    assert said.strip() and '"error"' not in said


@pytest.mark.parametrize("guide", GUIDES)
def test_both_languages_show_the_same_blocks(guide: str) -> None:
    assert blocks(f"{guide}.md") == blocks(f"{guide}.zh-CN.md") != []


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
