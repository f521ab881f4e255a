"""The guide to keys and limits, run from its first block to its last against a server with its database."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.needs import CURL
from tests.server.conftest import Live, start
from tests.server.fakes import FakeEngine, make_service

import deepwell
from deepwell.dialogue.text import Codec
from deepwell.server.access.quota import RateLimits
from deepwell.server.options import LimitsConfig
from deepwell.storage.database import Database

DOCS = Path(__file__).parents[2] / "docs"


def blocks(name: str) -> list[tuple[str, str]]:
    text = (DOCS / "guides" / name).read_text(encoding="utf-8")
    return re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL)


@pytest.fixture
def served(codec: Codec, tmp_path: Path) -> Iterator[Live]:
    engine = FakeEngine(max_model_len=4096)
    service = make_service(
        engine,
        codec,
        model="smollm2",
        database=Database.open(tmp_path / "deepwell.db"),
        response_cache_bytes=1 << 20,
        limits=LimitsConfig(rates=RateLimits(600, 100_000), table=tmp_path / "limits"),
    )
    running = start(service, engine)
    yield running
    running.stop()


@pytest.mark.slow
@pytest.mark.needs(CURL)
def test_the_guide_runs_from_first_to_last(served: Live, tmp_path: Path) -> None:
    shim = tmp_path / "deepwell"
    shim.write_text(f'#!/bin/sh\nexec {sys.executable} -m deepwell "$@"\n')
    shim.chmod(0o755)
    script = ""
    for language, code in blocks("keys-and-limits.md"):
        if language == "python":
            code = f"{sys.executable} - <<'PYTHON'\n{code}PYTHON\n"
        if language:
            script += code.replace("http://127.0.0.1:8000", served.url)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env={
            **os.environ,
            "DEEPWELL_DATA_DIR": str(tmp_path),
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "PYTHONPATH": str(Path(deepwell.__file__).parents[1]),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout
    assert re.search(r"^dw-[\w-]{43}$", said, re.MULTILINE)
    assert '"object":"list"' in said
    assert "is revoked; running servers refuse it within 5 seconds" in said
    assert "x-ratelimit-limit-requests: 20\n" in said and "x-ratelimit-limit-tokens: 10000\n" in said
    assert said.rstrip().splitlines()[-4:] == [
        "x-deepwell-cache: miss",
        "x-deepwell-cache: hit",
        "x-deepwell-cache: miss",
        "no cache was asked",
    ]


def test_both_languages_show_the_same_blocks() -> None:
    assert blocks("keys-and-limits.md") == blocks("keys-and-limits.zh-CN.md")
