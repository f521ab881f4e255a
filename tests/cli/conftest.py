"""The command in a home of its own, with a small model behind a real server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.models.builders import TINY, write_model_directory
from tests.server.conftest import Live, start
from tests.server.fakes import VOCAB, FakeEngine, make_codec, make_service, write_tokenizer
from typer.testing import CliRunner


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home: no configuration, no models, and wide lines."""
    for name in [name for name in os.environ if name.startswith(("DEEPWELL_", "LC_"))]:
        if name not in ("DEEPWELL_SMOLLM2", "DEEPWELL_MINILM", "DEEPWELL_WHISPER_TINY_EN"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("LANG", "C.UTF-8")
    monkeypatch.setenv("DEEPWELL_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


@pytest.fixture
def runner(home: Path) -> CliRunner:
    return CliRunner()


@pytest.fixture
def tiny_model(home: Path) -> Path:
    """The directory of a model that can be served: a few random weights, and a tokenizer of bytes."""
    folder = home / "tiny"
    folder.mkdir()
    write_tokenizer(folder)
    return write_model_directory(folder, replace(TINY, vocab_size=VOCAB))


@pytest.fixture
def toy_server(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Live]:
    """A running server of the model `toy`, at the configured port."""
    engine = FakeEngine()
    running = start(
        make_service(engine, make_codec(tmp_path_factory.mktemp("tokenizer")), model="toy"), engine
    )
    monkeypatch.setenv("DEEPWELL_PORT", running.url.rpartition(":")[2])
    monkeypatch.setenv("DEEPWELL_MODEL", "toy")
    yield running
    running.stop()
