"""`deepwell up` as a newcomer meets it: one command to the console and a first answer, and nothing left after Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx

from deepwell.cli.bench.report import Report, rounded
from deepwell_bench.harness.environments import PeerError

__all__ = ["bench_up"]

_PARTS = ("api", "tensorboard", "jupyter")
_PATIENCE_S = 300.0
_QUESTION = {
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "max_tokens": 16,
    "temperature": 0,
}


@dataclass
class _Running:
    """A `deepwell up` in a home of its own, with the events that it printed."""

    process: subprocess.Popen[str]
    began: float
    events: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def urls(self) -> dict[str, str]:
        """Returns the addresses of the parts that are ready."""
        return {one["part"]: one["url"] for one in self.events if one.get("event") == "ready"}

    def read(self) -> None:
        """Reads what it prints until it ends."""
        for line in self.process.stdout or ():
            with suppress(ValueError):
                self.events.append(json.loads(line))


def bench_up(report: Report) -> dict[str, Any]:
    """Starts the platform in an empty home, and again; kills each part; ends it as Ctrl-C does; looks for what is left.

    Raises:
        PeerError: an extra is missing, or a part does not come up.
    """
    if missing := [name for name in ("tensorboard", "jupyterlab") if find_spec(name) is None]:
        fix = f"{sys.executable} -m pip install -e '.[tensorboard,jupyter]' in the checkout"
        raise PeerError(f"{' and '.join(missing)} are not installed", fix=fix)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        with _started(home) as running:
            cold = _first_answer(running)
        left = _left(home)
        with _started(home) as running:
            warm = _first_answer(running)
            _until(lambda: set(running.urls()) == set(_PARTS), "every part is ready")
            whole = time.monotonic() - running.began
            healed = {name: _healed(home, running, name) for name in _PARTS}
            status = _run(home, "status", "--json")
        left += _left(home)
        with _started(home) as running:
            _first_answer(running)
            _run(home, "down")
            running.process.wait(_PATIENCE_S)
        left += _left(home)
    parts = {one["name"]: one["healthy"] for one in json.loads(status)["parts"]}
    rows = [
        ["first answer, empty home (model is pulled)", cold],
        ["first answer, warm", warm],
        ["every part ready, warm", whole],
        *[[f"{name} healed after SIGKILL", seconds] for name, seconds in healed.items()],
    ]
    report.table("deepwell up", ["what", "seconds"], rows)
    return {
        "cold_answer_s": rounded(cold, 3),
        "warm_answer_s": rounded(warm, 3),
        "warm_parts_s": rounded(whole, 3),
        "healed_s": {name: rounded(seconds, 3) for name, seconds in healed.items()},
        "healthy": sum(parts.values()),
        "processes_left": len(left),
    }


def _environ(home: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("DEEPWELL_")}
    return kept | {"DEEPWELL_HOME": str(home), "HOME": str(home), "DEEPWELL_CONTAINER": "0"}


@contextmanager
def _started(home: Path) -> Generator[_Running]:
    """Starts the platform; at the end it gets what Ctrl-C sends, and has to end by itself."""
    ports = ["--port", "0", "--tensorboard-port", "0", "--jupyter-port", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "deepwell", "up", *ports, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=_environ(home),
        cwd=home,
        text=True,
        start_new_session=True,
    )
    running = _Running(process, time.monotonic())
    reader = threading.Thread(target=running.read, daemon=True)
    reader.start()
    try:
        yield running
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait(_PATIENCE_S)
    finally:
        if process.poll() is None:
            process.kill()
        reader.join(10)


def _until(holds: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + _PATIENCE_S
    while not (found := holds()):
        if time.monotonic() > deadline:
            raise PeerError(f"within {_PATIENCE_S:.0f} s it did not happen that {what}", fix="see its log")
        time.sleep(0.02)
    return found


def _first_answer(running: _Running) -> float:
    """Returns the seconds from the start to the whole of a first answer, with the console fetched before."""

    def ready() -> str | None:
        if running.process.poll() is not None:
            raise PeerError("deepwell up ended", fix="run it by hand")
        return running.urls().get("api")

    url = _until(ready, "the API is ready")
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
        page = http.get("/", headers={"accept": "text/html"})
        if page.status_code != 200 or "<script" not in page.text:
            raise PeerError("there is no console at /", fix="build it: make console")
        model = http.get("/v1/models").json()["data"][0]["id"]
        answer = http.post("/v1/chat/completions", json={"model": model, **_QUESTION})
        answer.raise_for_status()
    return time.monotonic() - running.began


def _part(home: Path, name: str) -> dict[str, Any]:
    found = json.loads(_run(home, "status", "--json"))
    return next(one for one in found["parts"] if one["name"] == name)


def _healed(home: Path, running: _Running, name: str) -> float:
    """Kills a part and returns the seconds until another process answers in its place."""
    before = _part(home, name)
    os.kill(before["pid"], signal.SIGKILL)
    began = time.monotonic()

    def healed() -> bool:
        now = _part(home, name)
        return now["pid"] not in (0, before["pid"]) and now["healthy"]

    _until(healed, f"{name} is back after SIGKILL")
    return time.monotonic() - began


def _run(home: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "deepwell", *arguments]
    done = subprocess.run(
        command, env=_environ(home), capture_output=True, text=True, timeout=_PATIENCE_S, check=False
    )
    return done.stdout


def _left(home: Path) -> list[int]:
    """Returns the processes that still run with this home in their environment, after ten seconds to go."""
    deadline = time.monotonic() + 10
    while (found := _of(home)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def _of(home: Path) -> list[int]:
    found: list[int] = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state = (process / "stat").read_text().rpartition(")")[2].split()[0]
            if str(home).encode() in (process / "environ").read_bytes() and state != "Z":
                found.append(int(process.name))
    return found
