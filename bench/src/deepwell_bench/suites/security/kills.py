"""`deepwell bench siege --part kills`: processes of every kind are killed while clients use all of them."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from deepwell.cli.bench.machine import process_tree
from deepwell.cli.bench.report import Report, rounded
from deepwell.media.space.options import encoder_file
from deepwell.settings import Settings
from deepwell_bench.harness.environments import PeerError
from deepwell_bench.harness.served import serve_command, served_process
from deepwell_bench.suites.security.besieged import create_key
from deepwell_bench.workloads.media.small import pdf_part, png_part

__all__ = ["Load", "LoadedServer", "bench_kills", "kind_of", "load_tasks"]

_SCOPES: Final = ("inference", "files", "adapters", "metrics")
_STREAMS: Final = 4  # clients that stream
_END_S: Final = 10.0  # within which streams end and children of what was killed are gone
_BACK_S: Final = 120.0  # in which a server answers again
_EVERY_S: Final = 0.05
_PAUSE_S: Final = 0.2  # of each client between two requests
_PROGRAM: Final = """
import asyncio
from deepwell.agents.sandbox import Sandbox, SandboxUnavailable

async def one():
    while True:
        try:
            await Sandbox().run("import time; time.sleep(20)", seconds=20)
        except SandboxUnavailable:
            pass

async def main():
    await asyncio.gather(one(), one())

asyncio.run(main())
"""
_CONVERSATION: Final = {
    "messages": [{"role": "user", "content": "Say yes."}, {"role": "assistant", "content": "Yes."}]
}


@dataclass
class Load:
    """Clients of one server, and their observations. `port` changes when the server is started again.

    Attributes:
        kept: acknowledged writes: the path under which each is read, and the word that it holds.
        ends: streams by how they ended: done, typed (an error event), refused (an error before the first event), cut (the
            connection broke), short (neither), silent (nothing came for too long).
        answers: other requests by status, or `cut`; `untyped`: errors without a code or type.
    """

    port: int = 0
    model: str = ""
    key: str = ""
    kept: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]], init=False)
    ends: Counter[str] = field(default_factory=Counter[str], init=False)
    answers: Counter[str] = field(default_factory=Counter[str], init=False)
    untyped: list[str] = field(default_factory=list[str], init=False)
    unexplained: int = field(default=0, init=False)  # cut although neither server nor worker was killed
    _cutting: float = field(default=0.0, init=False)  # when a process was last killed with its connections
    _ended: threading.Event = field(default_factory=threading.Event, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _threads: list[threading.Thread] = field(default_factory=list[threading.Thread], init=False)

    def start(self, tasks: Sequence[Callable[[httpx.Client], None]]) -> None:
        """Starts a client for each task, which repeats it until `stop`."""
        for task in tasks:
            thread = threading.Thread(target=self._run, args=(task,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Ends the clients."""
        self._ended.set()
        for thread in self._threads:
            thread.join(timeout=_BACK_S)

    def cuts(self) -> None:
        """Notes that connections break now."""
        self._cutting = time.monotonic()

    def client(self, timeout: httpx.Timeout | float = 60.0) -> httpx.Client:
        """Returns a client of the server, with the key."""
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        return httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}", headers=headers, timeout=timeout, trust_env=False
        )

    def _run(self, task: Callable[[httpx.Client], None]) -> None:
        while not self._ended.is_set():
            port = self.port
            # No read may wait longer than a stream may be silent; the first byte may.
            timeout = httpx.Timeout(60.0, connect=5.0)
            with self.client(timeout) as http:
                while port == self.port and not self._ended.is_set():
                    try:
                        task(http)
                    except httpx.TransportError as error:
                        is_away = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
                        self.note("away" if is_away else "cut")
                        break
                    self._ended.wait(_PAUSE_S)
            self._ended.wait(_PAUSE_S)

    def note(self, status: str, untyped: str = "") -> None:
        """Counts an answer."""
        with self._lock:
            self.answers[status] += 1
            if untyped:
                self.untyped.append(untyped)

    def judge(self, answer: httpx.Response, what: str) -> bool:
        """Counts an answer, and returns whether it is one of success."""
        typed = True
        if not answer.is_success:
            try:
                typed = bool(answer.json()["error"]["type"])
            except (ValueError, KeyError, TypeError):
                typed = False
        self.note(f"{what} {answer.status_code}", "" if typed else f"{what}: {answer.text[:100]}")
        return answer.is_success

    def stream(self, http: httpx.Client) -> None:
        """Streams an answer, and notes how it ended."""
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": f"Tell a story of {random.random()}."}],  # noqa: S311
            "max_tokens": 48,
            "stream": True,
        }
        begun, end, last = time.monotonic(), "short", time.monotonic()
        try:
            with http.stream("POST", "/v1/chat/completions", json=body) as answer:
                if not answer.is_success:
                    answer.read()
                    end = "refused"
                    self.judge(answer, "stream")
                for line in answer.iter_lines() if answer.is_success else ():
                    now = time.monotonic()
                    if now - last > _END_S and last > begun:
                        end = "silent"
                        break
                    last = now
                    if line == "data: [DONE]":
                        end = "done"
                    elif line.startswith("data: ") and "error" in json.loads(line[6:]):
                        end = "typed"
        except (httpx.ConnectError, httpx.ConnectTimeout):
            raise  # no stream has begun
        except httpx.ReadTimeout:
            end = "silent"
        except httpx.TransportError:
            end = "cut"
        with self._lock:
            self.ends[end] += 1
            self.unexplained += end == "cut" and self._cutting < begun - _END_S
        if end == "cut":
            raise httpx.TransportError(end)

    def write(self, http: httpx.Client) -> None:
        """Writes a conversation and a file, and keeps those that are acknowledged."""
        word = f"word-{random.getrandbits(64):x}"
        said = {"type": "message", "role": "user", "content": word}
        answer = http.post("/v1/conversations", json={"items": [said]})
        if self.judge(answer, "conversation"):
            self.kept.append((f"/v1/conversations/{answer.json()['id']}/items", word))
        form = {"files": {"file": ("f.txt", word.encode())}, "data": {"purpose": "user_data"}}
        answer = http.post("/v1/files", **form)
        if self.judge(answer, "file"):
            self.kept.append((f"/v1/files/{answer.json()['id']}/content", word))

    def attach(self, part: Callable[[], Mapping[str, Any]]) -> Callable[[httpx.Client], None]:
        """Returns a task that asks about an attachment, which a child reads."""

        def ask(http: httpx.Client) -> None:
            content = [{"type": "text", "text": "What is it?"}, part()]
            body = {"model": self.model, "max_tokens": 2, "messages": [{"role": "user", "content": content}]}
            self.judge(http.post("/v1/chat/completions", json=body), f"{part()['type']} attached")

        return ask

    def speak(self, http: httpx.Client) -> None:
        """Has a sentence spoken, and the sound written down."""
        body = {"model": "kokoro", "input": "Hello there.", "voice": "af_heart", "response_format": "wav"}
        answer = http.post("/v1/audio/speech", json=body)
        if self.judge(answer, "speech"):
            form = {"files": {"file": ("a.wav", answer.content)}, "data": {"model": "whisper-tiny.en"}}
            self.judge(http.post("/v1/audio/transcriptions", **form), "transcription")

    def draw(self, http: httpx.Client) -> None:
        """Has an image drawn."""
        body = {"prompt": f"a red circle {random.random()}", "size": "256x256"}  # noqa: S311
        self.judge(http.post("/v1/images/generations", json=body), "image")

    def train(self, http: httpx.Client) -> None:
        """Starts a training, and stops it when it has run for a while."""
        data = (json.dumps(_CONVERSATION) + "\n") * 32
        form = {"files": {"file": ("t.jsonl", data.encode())}, "data": {"purpose": "fine-tune"}}
        file = http.post("/v1/files", **form)
        if not self.judge(file, "training file"):
            return
        body = {"model": self.model, "training_file": file.json()["id"]}
        job = http.post("/v1/fine_tuning/jobs", json=body)
        if self.judge(job, "training"):
            self._ended.wait(30.0)
            self.judge(http.post(f"/v1/fine_tuning/jobs/{job.json()['id']}/cancel"), "cancelled training")


class LoadedServer:
    """One server after another over the same data, and a process that runs programs of agents beside it.

    Args:
        options: further ones of `deepwell serve`.
        tenants: names of tenants with a key each, in `keys`; the load is the first. Without any, the server asks for no key.
    """

    def __init__(
        self, model: Path, folder: Path, load: Load, *options: str, tenants: Sequence[str] = ()
    ) -> None:
        self._model, self._folder, self._load = model, folder, load
        self._options = options
        self._tenants = tenants
        self.keys: dict[str, str] = {}
        self._log = folder / "log"
        self._stack = ExitStack()
        self._agents: subprocess.Popen[bytes] | None = None
        self.pid = 0

    def start(self) -> None:
        """Starts the server."""
        env = {
            "DEEPWELL_DATA_DIR": str(self._folder / "data"),
            "DEEPWELL_STATE_DIR": str(self._folder / "state"),
            "DEEPWELL_JOB_LEASE_S": "1",
        }

        for tenant in self._tenants if not self.keys else ():
            self.keys[tenant] = create_key(tenant, _SCOPES, env)
            self._load.key = self._load.key or self.keys[tenant]

        def command(port: int) -> list[str]:
            options = ("--workers", "2", "--embedding-model", "minilm", *self._options)
            return [*serve_command(self._model)(port), *options]

        port, self.pid = self._stack.enter_context(served_process(command, env=env, log=self._log))
        self._load.port = port
        with self._load.client() as http:
            self._load.model = http.get("/v1/models").json()["data"][0]["id"]

    def stop(self) -> None:
        """Ends the server."""
        self._stack.close()
        if self._agents is not None:
            self._agents.kill()
            self._agents.wait()

    def run_agents(self) -> None:
        """Starts the process that runs programs, unless it runs."""
        if self._agents is None or self._agents.poll() is not None:
            self._agents = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
            )

    def processes(self) -> dict[str, list[int]]:
        """Returns the living processes by kind, those of agents among them."""
        found: dict[str, list[int]] = {}
        for root, name in ((self.pid, "server"), (self._agents.pid if self._agents else 0, "agents")):
            for pid in process_tree(root) if root else ():
                kind = name if pid == root else kind_of(pid)
                if kind is not None:
                    found.setdefault("sandbox" if name == "agents" and pid != root else kind, []).append(pid)
        return found

    def until_ready(self) -> None:
        """Waits until the server answers `/readyz`.

        Raises:
            PeerError: it does not.
        """
        until, said = time.monotonic() + _BACK_S, ""
        while time.monotonic() < until:
            try:
                answer = httpx.get(f"http://127.0.0.1:{self._load.port}/readyz", timeout=20)
                if answer.is_success:
                    return
                said = answer.text
            except httpx.TransportError as error:
                said = repr(error)
            time.sleep(_EVERY_S)
        raise PeerError(f"the server does not come back: {said[:300]}; {self._log.read_text()[-500:]}")

    def restart(self) -> None:
        """Starts a server in the place of one that was killed."""
        self._stack.close()
        self._stack = ExitStack()
        self.start()


def kind_of(pid: int) -> str | None:
    """Returns the kind of a process: the module that it runs, or its name; None: it has ended."""
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        if "-m" in words[:-1]:
            return words[words.index("-m") + 1].removeprefix("deepwell.")
        if words[0]:
            return Path(words[0]).name
    return None


def bench_kills(report: Report, model: Path, *, kills: int = 120, seed: int = 50) -> dict[str, Any]:
    """Kills processes of a server with two workers, those of the kind that was killed least often first, under load.

    A process is found by its descent: a child may be a tree of processes. After each kill all below it have to be gone within
    ten seconds, streams have to end with a typed error or go on, and the server has to be ready again. At the end everything
    that was acknowledged has to be there.

    Raises:
        PeerError: a server does not start or come back.
    """
    draw = random.Random(seed)  # noqa: S311
    load, done, orphans = Load(), Counter[str](), list[str]()
    slowest, begun = 0.0, time.monotonic()
    with tempfile.TemporaryDirectory(prefix="dw-kills-", ignore_cleanup_errors=True) as folder:
        server = LoadedServer(model, Path(folder), load)
        try:
            server.start()
            load.start(load_tasks(load))
            for _ in range(kills):
                server.run_agents()
                time.sleep(draw.uniform(0.5, 2.0))
                kinds = server.processes()
                kind = min(sorted(kinds), key=lambda one: (done[one], draw.random()))
                victim = draw.choice(kinds[kind])
                below = process_tree(victim)
                if kind in ("server", "fleet.worker"):
                    load.cuts()
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
                done[kind] += 1
                killed = time.monotonic()
                orphans += [f"{kind}: {one}" for one in _left(below)]
                if kind == "server":
                    server.restart()
                server.until_ready()
                slowest = max(slowest, time.monotonic() - killed)
                load.cuts() if kind in ("server", "fleet.worker") else None
            load.stop()
            lost = _lost(load)
        finally:
            load.stop()
            server.stop()
    value: dict[str, Any] = {
        "kills": sum(done.values()),
        "kinds": len(done),
        "killed": dict(sorted(done.items())),
        "acknowledged": len(load.kept),
        "lost": len(lost),
        "streams": sum(load.ends.values()),
        "stream_ends": dict(load.ends),
        "streams_untyped": load.ends["short"] + load.ends["silent"] + load.unexplained,
        "answers": dict(sorted(load.answers.items())),
        "untyped": len(load.untyped),
        "orphans": len(orphans),
        "slowest_back_s": rounded(slowest, 2),
        "seconds": rounded(time.monotonic() - begun, 1),
    }
    for told in (*lost, *load.untyped[:5], *orphans):
        report.note(str(told))
    report.table("Kills under load", ["figure", "value"], [[name, str(one)] for name, one in value.items()])
    return value


def load_tasks(load: Load) -> list[Callable[[httpx.Client], None]]:
    """Returns the tasks of a load's clients: streams, writes, every child that reads or makes media, and training.

    Raises:
        PeerError: the image encoder is not made, without which every picture is answered with 404.
    """
    if not encoder_file(Settings.load().models_dir).is_file():
        raise PeerError(
            "the image encoder is not made",
            fix="make tune && .venv-tune/bin/deepwell media train space --encoder-only",
        )
    tasks = [load.stream] * _STREAMS
    tasks += [load.write, load.speak, load.draw, load.attach(pdf_part), load.attach(png_part)]
    if importlib.util.find_spec("torch") is not None:
        tasks.append(load.train)
    return tasks


def _left(pids: Sequence[int]) -> list[str]:
    """Waits for processes to be gone, and ends and names those that are not."""
    until = time.monotonic() + _END_S
    names = {pid: kind_of(pid) for pid in pids}
    while (alive := [pid for pid in pids if _lives(pid)]) and time.monotonic() < until:
        time.sleep(_EVERY_S)
    for pid in alive:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return [str(names[pid]) for pid in alive]


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def _lost(load: Load) -> list[str]:
    """Returns the paths of acknowledged writes that are not there whole."""
    with load.client() as http:
        return [path for path, word in load.kept if word not in http.get(path).text]
