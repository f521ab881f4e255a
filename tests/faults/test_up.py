"""`deepwell up` with real children: each that is killed comes back, one Ctrl-C ends all, and no process is left.

The server is the real one. TensorBoard and JupyterLab are small programs of the same names, started in the same way.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
from tests.models.builders import TINY, write_model_directory
from tests.parallel import free_port
from tests.server.fakes import VOCAB, write_tokenizer
from tests.waiting import until

PATIENCE_S = 120.0
KEY = "key-of-the-operator-0001"

# The notebook server has a kernel in a session of its own, which a signal to its process group does not reach.
WEB = """
import json, os, subprocess, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
kernel = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE,
                          start_new_session=True)
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"environ": dict(os.environ), "kernel": kernel.pid}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
port = next(int(word.rpartition("=")[2]) for word in sys.argv[::-1] if word.rpartition("=")[2].isdigit())
print("hello from", sys.argv[0], flush=True)
ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def alive(home: Path) -> dict[int, str]:
    """Processes that run in a home, with their command lines: all of them have its path in their environment or command."""
    found: dict[int, str] = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            marks = (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
            state = (process / "stat").read_text().rpartition(")")[2].split()[0]
            if str(home).encode() in marks and state != "Z":
                found[int(process.name)] = (process / "cmdline").read_text().replace("\0", " ")
    return found


@dataclass
class Running:
    """A `deepwell up` with its log."""

    home: Path
    process: subprocess.Popen[str]
    environ: dict[str, str]
    lines: list[str] = field(default_factory=list)

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines if line.startswith("{")]

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "deepwell", *words], env=self.environ, capture_output=True, text=True
        )

    def parts(self) -> dict[str, dict[str, Any]]:
        return {one["name"]: one for one in json.loads(self.command("status", "--json").stdout)["parts"]}

    def ready(self) -> bool:
        found = {one["part"] for one in self.events() if one["event"] == "ready"}
        assert self.process.poll() is None, self.lines
        return found == {"api", "tensorboard", "jupyter"}

    def ended(self) -> int:
        code = self.process.wait(PATIENCE_S)
        until(lambda: not alive(self.home))
        return code


def prepared(home: Path, *flags: str, **environ: str) -> tuple[list[str], dict[str, str]]:
    """The command line of a platform in a home, and its environment."""
    model = home / "tiny"
    if not model.exists():
        model.mkdir()
        write_tokenizer(model)
        write_model_directory(model, replace(TINY, vocab_size=VOCAB))
    extras = home / "extras"
    for package, module in (("tensorboard", "main"), ("jupyterlab", "__main__")):
        (extras / package).mkdir(parents=True, exist_ok=True)
        (extras / package / "__init__.py").touch()
        (extras / package / f"{module}.py").write_text(WEB)
    known = {name: value for name, value in os.environ.items() if not name.startswith("DEEPWELL_")}
    known |= {
        "DEEPWELL_HOME": str(home),
        "DEEPWELL_DRAIN_SECONDS": "5",
        "PYTHONPATH": os.pathsep.join([str(extras), *sys.path]),
        **environ,
    }
    ports = [str(free_port()) for _ in range(3)]
    command = [sys.executable, "-m", "deepwell", "up", str(model), "--json", *flags]
    for option, port in zip(("--port", "--tensorboard-port", "--jupyter-port"), ports, strict=True):
        command += [option, port]
    return command, known


@contextlib.contextmanager
def platform(home: Path, *flags: str, **environ: str) -> Generator[Running]:
    command, known = prepared(home, *flags, **environ)
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        env=known,
        start_new_session=True,
    )
    running = Running(home, process, known)
    assert process.stdout is not None
    reader = threading.Thread(target=lambda: running.lines.extend(process.stdout or ()), daemon=True)
    reader.start()
    try:
        until(running.ready)
        yield running
    finally:
        process.kill()
        process.wait()
        for pid in alive(home):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def test_every_child_that_is_killed_comes_back_and_a_ctrl_c_ends_all(tmp_path: Path) -> None:
    with platform(tmp_path, DEEPWELL_API_KEYS=KEY) as running:
        before = running.parts()
        jupyter = httpx.get(before["jupyter"]["url"]).json()
        assert KEY not in json.dumps(jupyter)
        assert jupyter["environ"]["DEEPWELL_URL"] == before["api"]["url"]
        for name, part in before.items():
            assert part["healthy"] and part["state"] == "ready" and part["memory_bytes"] > 1e6
            os.kill(part["pid"], signal.SIGKILL)
            after = until(
                lambda name=name, pid=part["pid"]: (
                    (one := running.parts()[name])["healthy"] and one["pid"] not in (0, pid) and one
                )
            )
            assert after["restarts"] == 1
        assert jupyter["kernel"] not in alive(tmp_path)
        ask = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
        url, headers = f"{before['api']['url']}/v1/chat/completions", {"authorization": f"Bearer {KEY}"}
        assert httpx.post(url, json=ask, headers=headers, timeout=PATIENCE_S).status_code == 200
        assert "hello from" in " ".join(one.get("text", "") for one in running.events())
        os.kill(running.process.pid, signal.SIGINT)
        assert running.ended() == 0
        assert not (tmp_path / "data" / "up.json").exists()


def test_one_that_runs_is_found_and_ended_from_another_terminal(tmp_path: Path) -> None:
    with platform(tmp_path) as running:
        second = running.command("up", str(tmp_path / "tiny"))
        assert second.returncode == 1 and "deepwell down" in second.stderr
        shown = running.command("status")
        assert shown.returncode == 0 and "tiny" in shown.stdout and "healthy" in shown.stdout
        ready = {one["part"]: one["url"] for one in running.events() if one["event"] == "ready"}
        token = ready["jupyter"].partition("token=")[2]
        assert len(token) > 30 and token not in shown.stdout + running.command("status", "--json").stdout
        ended = running.command("down")
        assert ended.returncode == 0, ended.stderr
        assert running.ended() == 0
        assert running.command("status").returncode == 1


def test_nothing_outlives_a_platform_that_was_killed(tmp_path: Path) -> None:
    with platform(tmp_path) as running:
        os.kill(running.process.pid, signal.SIGKILL)
        running.ended()
        assert running.command("status").returncode == 1  # what it left is stale


def test_a_server_that_cannot_start_ends_all_with_its_reason(tmp_path: Path) -> None:
    command, environ = prepared(tmp_path, DEEPWELL_ISA="nonsense")
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 1, done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert "nonsense" in last["error"]["message"] and "avx2" in last["error"]["fix"]
    until(lambda: not alive(tmp_path))
