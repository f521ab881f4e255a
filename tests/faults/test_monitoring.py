"""What watches a server must not take it down: a log whose disk is full, a collector that is away."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.needs import FULL_DEVICE
from tests.parallel import free_port
from tests.server.conftest import start
from tests.server.fakes import FakeEngine, make_codec, make_service

from deepwell.server.context import ServerContext
from deepwell.server.observe.observer import observer_of
from deepwell.settings import Settings

CHAT = {"model": "toy", "messages": [{"role": "user", "content": "hi"}]}


def served(tmp_path: Path, **settings: Any) -> ServerContext:
    """A server that has answered under these settings, and has stopped."""
    engine = FakeEngine()
    service = make_service(
        engine, make_codec(tmp_path / "tokenizer"), model="toy", observer=observer_of(Settings(**settings))
    )
    running = start(service, engine)
    try:
        for _ in range(3):
            answer = httpx.post(f"{running.url}/v1/chat/completions", json=CHAT, timeout=60)
            assert answer.status_code == 200
    finally:
        running.stop()
    return service


@pytest.mark.needs(FULL_DEVICE)
def test_a_full_disk_costs_log_lines_and_no_request(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="deepwell.server"):
        service = served(tmp_path, access_log="json", access_log_file=Path("/dev/full"))
    assert "No space left on device" in caplog.text
    assert "deepwell_dropped_records_total 3.0" in service.metrics.text().decode()


def test_a_collector_that_is_away_costs_traces_and_no_request(tmp_path: Path) -> None:
    served(tmp_path, trace_endpoint=f"http://127.0.0.1:{free_port()}")
