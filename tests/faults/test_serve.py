"""`deepwell serve` under real signals: one engine, two HTTP processes, clients that stay, leave and stall."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.parallel import free_port
from tests.waiting import until

PATIENCE_S = 120.0
SIGNALS = pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=lambda n: n.name)


def children(pid: int) -> dict[int, str]:
    """Command lines of a process's children."""
    found: dict[int, str] = {}
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            with contextlib.suppress(OSError):
                found[child] = Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ")
    return found


@dataclass
class Served:
    """A running `deepwell serve`."""

    process: subprocess.Popen[bytes]
    url: str
    model: str = ""

    def question(self, tokens: int, **more: Any) -> dict[str, Any]:
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": "Count from one to a thousand."}],
            "temperature": 0,
            "ignore_eos": True,
            "max_tokens": tokens,
            **more,
        }

    def pids(self, module: str) -> list[int]:
        """Processes of the engine, or of the workers."""
        return [pid for pid, line in children(self.process.pid).items() if f"deepwell.{module}" in line]

    def engine(self) -> int:
        (pid,) = self.pids("engine.hosting.process")
        return pid

    def ready(self) -> dict[str, Any] | None:
        try:
            answer = httpx.get(f"{self.url}/readyz", timeout=5)
        except httpx.HTTPError:  # of a worker that is just being replaced
            return None
        return answer.json() if answer.status_code == 200 else None

    def restarts(self) -> int:
        return until(self.ready)["engine_restarts"]

    def ask(self, tokens: int = 8) -> str:
        answer = httpx.post(f"{self.url}/v1/chat/completions", json=self.question(tokens), timeout=PATIENCE_S)
        assert answer.status_code == 200, answer.text
        return answer.json()["choices"][0]["message"]["content"]

    def gauge(self, name: str) -> float:
        lines = httpx.get(f"{self.url}/metrics", timeout=30).text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"deepwell_{name}"))


class Stream:
    """A streamed answer, read when the test says so."""

    def __init__(self, served: Served, tokens: int) -> None:
        self.client = httpx.Client(timeout=PATIENCE_S)
        self._context = self.client.stream(
            "POST", f"{served.url}/v1/chat/completions", json=served.question(tokens, stream=True)
        )
        self.response = self._context.__enter__()
        assert self.response.status_code == 200
        self._lines = self.response.iter_lines()
        stream: Any = self.response.extensions["network_stream"]
        self.port: int = stream.get_extra_info("client_addr")[1]

    def next(self) -> str:
        return next(line for line in self._lines if line)

    def rest(self) -> list[str]:
        """What comes until the end; a connection that is cut ends with None."""
        return [line for line in self._lines if line]

    def leave(self) -> None:
        self.client.close()

    def owner(self, pids: list[int]) -> int:
        """The process that holds the other end."""
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if int(fields[2].rpartition(":")[2], 16) == self.port and fields[3] == "01":
                link = f"socket:[{fields[9]}]"
                for pid in pids:
                    with contextlib.suppress(OSError):
                        if any(str(fd.readlink()) == link for fd in Path(f"/proc/{pid}/fd").iterdir()):
                            return pid
        raise AssertionError("nobody holds it")


@contextlib.contextmanager
def serving(model: Path, home: Path, *flags: str, **settings: str) -> Generator[Served]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("DEEPWELL_")}
    environment |= {f"DEEPWELL_{key.upper()}": value for key, value in settings.items()}
    environment |= {"DEEPWELL_HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path)}
    port = free_port()
    command = [sys.executable, "-m", "deepwell", "serve", str(model), "--port", str(port), *flags]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment)
    served = Served(process, f"http://127.0.0.1:{port}")
    try:
        until(lambda: served.ready() or process.poll() is not None)
        assert process.poll() is None
        served.model = httpx.get(f"{served.url}/v1/models", timeout=30).json()["data"][0]["id"]
        yield served
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def served(smollm2_path: Path, home: Path) -> Iterator[Served]:
    """A server that takes no process for hung, however slow this machine is."""
    with serving(smollm2_path, home, "--workers", "2", engine_timeout_s="300", drain_seconds="60") as served:
        yield served


@pytest.fixture(scope="module")
def alert(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that takes a process for hung after four seconds."""
    home = tmp_path_factory.mktemp("alert")
    with serving(smollm2_path, home, "--workers", "2", engine_timeout_s="4", drain_seconds="60") as alert:
        yield alert


@pytest.fixture
def struck(number: signal.Signals, request: pytest.FixtureRequest) -> Served:
    """The server whose processes get the signal."""
    return request.getfixturevalue("alert" if number == signal.SIGSTOP else "served")


def test_a_client_that_vanishes_frees_its_sequence(served: Served) -> None:
    aborted = served.gauge("aborted_total")
    stream = Stream(served, 4000)
    stream.next()
    stream.leave()
    until(lambda: served.gauge("running") == 0 and served.gauge("aborted_total") == aborted + 1)


@SIGNALS
def test_the_engine_goes(struck: Served, number: signal.Signals) -> None:
    restarts = struck.restarts()
    answer = struck.ask()
    streams = [Stream(struck, 4000) for _ in range(4)]
    for stream in streams:
        stream.next()
    os.kill(struck.engine(), number)
    asked: list[str] = []
    waiting = threading.Thread(target=lambda: asked.append(struck.ask()))
    waiting.start()
    for stream in streams:
        last = json.loads(stream.rest()[-1].removeprefix("data: "))
        assert last["error"]["code"] == "engine_restarted"
        stream.leave()
    waiting.join(PATIENCE_S)
    assert asked == [answer]
    until(lambda: struck.restarts() == restarts + 1)


@SIGNALS
def test_a_worker_goes(struck: Served, number: signal.Signals) -> None:
    workers = until(lambda: len(pids := struck.pids("fleet.worker")) == 2 and pids)
    streams: dict[int, list[Stream]] = {}
    while len(streams) < 2:  # until both hold some
        stream = Stream(struck, 4000)
        stream.next()
        streams.setdefault(stream.owner(workers), []).append(stream)
    victim, other = streams
    os.kill(victim, number)
    for stream in streams[victim]:
        with pytest.raises(httpx.HTTPError):
            stream.rest()
    for stream in streams[other]:
        for _ in range(20):
            assert "error" not in json.loads(stream.next().removeprefix("data: "))
        stream.leave()
    until(lambda: len(struck.pids("fleet.worker")) == 2 and victim not in struck.pids("fleet.worker"))
    until(lambda: struck.gauge("running") == 0)
    assert struck.ask()
    assert other in struck.pids("fleet.worker")


def test_background_responses_are_found_through_every_worker(served: Served) -> None:
    body = {
        "model": served.model,
        "input": "Count.",
        "background": True,
        "max_output_tokens": 16,
        "temperature": 0,
    }

    def fetch(id: str) -> dict[str, Any]:  # a connection each, so that both workers are asked
        return httpx.get(f"{served.url}/v1/responses/{id}", timeout=PATIENCE_S).json()

    def start() -> str:
        answer = httpx.post(f"{served.url}/v1/responses", json=body, timeout=PATIENCE_S)
        assert answer.status_code == 200, answer.text
        return answer.json()["id"]

    ids = [start() for _ in range(6)]
    for id in ids:
        done = until(lambda id=id: (found := fetch(id))["status"] in ("completed", "incomplete") and found)
        assert done["output"]


def test_hang_up_replaces_every_worker_and_breaks_nothing(served: Served) -> None:
    before = set(until(lambda: len(pids := served.pids("fleet.worker")) == 2 and pids))
    stream = Stream(served, 200)
    stream.next()
    served.process.send_signal(signal.SIGHUP)
    assert stream.rest()[-1] == "data: [DONE]"
    stream.leave()
    until(lambda: len(after := set(served.pids("fleet.worker"))) == 2 and not after & before)
    assert served.ask()


def test_a_stop_lets_answers_end_and_takes_no_more(served: Served) -> None:
    stream = Stream(served, 200)
    stream.next()
    below = children(served.process.pid)
    served.process.terminate()
    assert stream.rest()[-1] == "data: [DONE]"
    stream.leave()
    assert served.process.wait(PATIENCE_S) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{served.url}/readyz")
    assert not [pid for pid in below if Path(f"/proc/{pid}").exists()]


def test_what_does_not_end_within_the_grace_is_told(smollm2_path: Path, home: Path) -> None:
    with serving(smollm2_path, home, drain_seconds="0") as served:
        stream = Stream(served, 4000)
        stream.next()
        served.process.terminate()
        assert json.loads(stream.rest()[-1].removeprefix("data: "))["error"]["code"] == "shutting_down"
        stream.leave()
        assert served.process.wait(PATIENCE_S) == 0
