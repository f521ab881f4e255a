"""The command in a home of its own, with a small model behind a real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.server.conftest import Live, start
from tests.server.fakes import FakeEngine, make_codec, make_service
from typer.testing import CliRunner


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home: no configuration, no models, and wide lines."""
    for name in ("DEEPWELL_CONFIG", "DEEPWELL_API_KEYS", "DEEPWELL_ISA", "DEEPWELL_MODEL", "DEEPWELL_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DEEPWELL_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


@pytest.fixture
def runner(home: Path) -> CliRunner:
    return CliRunner()


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
