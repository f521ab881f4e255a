"""The server of a background response is killed or stopped: the response ends, is told apart, and can be cancelled at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.faults.test_batches import PATIENCE_S, ROOT, answers, put_to_sleep
from tests.parallel import free_port
from tests.waiting import until

SHORT_S, LONG_S = 0.3, 3600.0
FOREVER = {"model": "toy", "input": "count FOREVER", "background": True}


class Served:
    """One server over a folder that outlives it."""

    def __init__(self, folder: Path, lease_s: float, host: str = "") -> None:
        port = free_port()
        arguments = [str(folder), str(port), str(lease_s), *([host] if host else [])]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.batch_server", *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"},
        )
        self.port = port
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}/v1", timeout=PATIENCE_S)

    def begin(self) -> str:
        """The id of a response that is under way."""
        id = self.ask("POST", "responses", json=FOREVER)["id"]
        until(lambda: self.ask("GET", f"responses/{id}")["output"])
        return id

    def ask(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        answer = self.http.request(method, f"/{path}", **more)
        assert answer.is_success, answer.text
        return answer.json()

    def end(self, number: int = signal.SIGKILL) -> None:
        self.process.send_signal(number)
        self.process.wait(timeout=PATIENCE_S)
        self.http.close()


Serve = Callable[..., Served]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    running: list[Served] = []

    def start(*arguments: Any) -> Served:
        running.append(Served(tmp_path, *arguments))
        until(lambda: answers(running[-1].port))
        return running[-1]

    yield start
    for one in running:
        if one.process.poll() is None:
            one.process.send_signal(signal.SIGCONT)
            one.end()


def test_a_killed_server_leaves_no_response_unfinished(serve: Serve) -> None:
    before = serve(SHORT_S)
    id = before.begin()
    before.end()
    after = serve(SHORT_S, "another-machine")
    ended = until(lambda: (found := after.ask("GET", f"responses/{id}"))["status"] == "failed" and found)
    assert "was killed" in ended["error"]["message"] and "again" in ended["error"]["message"]
    stream = after.http.get(f"/responses/{id}", params={"stream": True}).text
    assert stream.startswith("event: response.failed\n") and stream.count("event: ") == 1
    assert after.ask("POST", f"responses/{id}/cancel") == ended  # too late: nothing changes
    assert after.http.delete(f"/responses/{id}").is_success


def test_what_a_killed_server_left_is_cancelled_at_once(serve: Serve) -> None:
    before = serve(LONG_S)
    id = before.begin()
    before.end()
    after = serve(LONG_S)
    assert after.ask("GET", f"responses/{id}")["status"] in ("queued", "in_progress")
    assert after.ask("POST", f"responses/{id}/cancel")["status"] == "cancelled"
    assert after.ask("GET", f"responses/{id}")["status"] == "cancelled"


def test_a_response_is_cancelled_and_deleted_through_another_server(serve: Serve) -> None:
    one, other = (
        serve(LONG_S),
        serve(LONG_S),
    )  # neither takes the other for dead, however slow this machine is
    for verb, path in (("POST", "/cancel"), ("DELETE", "")):
        id = one.begin()
        other.ask(verb, f"responses/{id}{path}")
        # The server that works on it notices within two looks, and stops.
        expected = "cancelled" if verb == "POST" else None
        until(lambda id=id, expected=expected: status(one, id) == expected)


def status(served: Served, id: str) -> str | None:
    answer = served.http.get(f"/responses/{id}")
    return answer.json()["status"] if answer.is_success else None


def test_a_server_that_wakes_up_too_late_changes_nothing(serve: Serve, tmp_path: Path) -> None:
    asleep = serve(SHORT_S)
    id = asleep.begin()
    put_to_sleep(asleep.process, tmp_path / "deepwell.db")
    awake = serve(SHORT_S)
    until(lambda: status(awake, id) == "failed")
    asleep.process.send_signal(signal.SIGCONT)
    until(lambda: status(asleep, id) == "failed")
    asleep.end(signal.SIGTERM)  # and it would tell its readers now
    assert status(awake, id) == "failed"
    assert "was killed" in awake.ask("GET", f"responses/{id}")["error"]["message"]
