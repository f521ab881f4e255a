"""A keyed server with two tenants for a siege: how it is started, what its processes are, and what its client sees."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepwell.cli.bench.machine import process_tree
from deepwell.engine.architectures import tensor_plan
from deepwell.engine.weights.adapters import linears_of
from deepwell.errors import DeepwellError
from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell_bench.harness.assets import minilm
from deepwell_bench.harness.environments import PeerError
from deepwell_bench.harness.served import rss_bytes, serve_command, served_process
from deepwell_bench.workloads.attacks.objects import form
from deepwell_bench.workloads.random_adapter import write_random_adapter

__all__ = ["Besieged", "Seen", "Victim", "besieged", "victim_of"]

SCOPES = ("inference", "files", "adapters")
_MAIN = (
    "deepwell.engine.hosting.process",
    "deepwell.fleet.worker",
)  # modules of processes that must not change


@dataclass(frozen=True, slots=True)
class Besieged:
    """A running server.

    Attributes:
        keys: one of each tenant, by the tenant's name.
        theirs: ids of the victim's objects, by kind.
        log: file of what the server printed.
    """

    port: int
    pid: int
    model: str
    keys: Mapping[str, str]
    theirs: Mapping[str, str]
    adapters: tuple[str, ...]
    log: Path

    def whom(self) -> dict[str, Any]:
        """Returns what the attacker is told."""
        return {
            "port": self.port,
            "key": self.keys["raider"],
            "model": self.model,
            "theirs": dict(self.theirs),
            "adapters": list(self.adapters),
        }

    def rss_mb(self) -> float:
        """Returns the resident memory of all its processes."""
        return rss_bytes(process_tree(self.pid)) / 1e6

    def processes(self) -> set[int]:
        """Returns the ids of its engine and its workers, and its own while it runs."""
        return {self.pid, *_of_modules(process_tree(self.pid))} if _is_running(self.pid) else set()

    def tracebacks(self) -> int:
        """Returns how many tracebacks its log has."""
        return self.log.read_text(encoding="utf-8", errors="replace").count(
            "Traceback (most recent call last)"
        )

    def last_words(self) -> str:
        """Returns the end of its log."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-500:]

    def log_bytes(self) -> int:
        """Returns the size of its log."""
        return self.log.stat().st_size

    def request(
        self, who: str, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        """Sends a request of a tenant; returns the status and the JSON of the answer."""
        return ask(self.port, self.keys[who], method, path, body, headers)


def ask(
    port: int, key: str, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
) -> tuple[int, Any]:
    """Sends a request; returns the status and the JSON of the answer. `body`: bytes, or JSON."""
    data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
    lines = (
        {"Content-Type": "application/json"}
        | dict(headers or {})
        | ({"Authorization": f"Bearer {key}"} if key else {})
    )
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, data, lines)
        answer = connection.getresponse()
        text = answer.read()
    finally:
        connection.close()
    with contextlib.suppress(ValueError):
        return answer.status, json.loads(text)
    return answer.status, text


def _is_running(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    return False


def _of_modules(pids: Sequence[int]) -> Iterator[int]:
    for pid in pids:
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
            if any(module in words for module in _MAIN):
                yield pid


@contextlib.contextmanager
def besieged(
    model: Path,
    *,
    workers: int = 1,
    env: Mapping[str, str] | None = None,
    options: Sequence[str] = (),
    wrap: Callable[[list[str]], list[str]] = lambda command: command,
) -> Generator[Besieged]:
    """Starts `deepwell serve` with the tenants `guest` (the victim) and `raider`, an adapter folder and minilm if it is there.

    Args:
        options: further options of `deepwell serve`.
        wrap: changes the command, as for a lower limit of descriptors.

    Raises:
        PeerError: it does not start, or refuses what its tenants may do.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data, adapters, log = folder / "data", folder / "adapters", folder / "log"
        data.mkdir()
        own = {"DEEPWELL_DATA_DIR": str(data), "COLUMNS": "200", **(env or {})}
        keys = {who: create_key(who, SCOPES, own) for who in ("guest", "raider")}
        _write_adapter(model, adapters / "lora")
        command = [
            "--workers",
            str(workers),
            "--adapter-dir",
            str(adapters),
            "--response-cache-mb",
            "1",
            *options,
        ]
        with contextlib.suppress(DeepwellError, OSError):
            command += ["--embedding-model", str(minilm())]

        def whole(port: int) -> list[str]:
            return wrap([*serve_command(model)(port), *command])

        with served_process(whole, env=own, log=log) as (port, pid):
            status, listed = ask(port, keys["guest"], "GET", "/v1/models")
            if status != 200:
                raise PeerError(f"the server answered {status} to its own key: {listed}")
            server = Besieged(port, pid, listed["data"][0]["id"], keys, {}, ("lora",), log)
            theirs = _belongings(server)
            yield Besieged(port, pid, server.model, keys, theirs, ("lora",), log)


def create_key(tenant: str, scopes: Sequence[str], env: Mapping[str, str], *options: str) -> str:
    """Makes a key by `deepwell keys create`, and returns it.

    Raises:
        PeerError: the command fails.
    """
    command = [
        sys.executable,
        "-m",
        "deepwell",
        "keys",
        "create",
        tenant,
        "--tenant",
        tenant,
        "--json",
        *options,
    ]
    for scope in scopes:
        command += ["--scope", scope]
    done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PeerError(f"no key was made: {(done.stdout + done.stderr)[-400:]}")
    return str(json.loads(done.stdout.strip().splitlines()[-1])["key"])


def _write_adapter(model: Path, folder: Path) -> None:
    """Writes a small adapter of random weights for the model."""
    checkpoint = open_checkpoint(model)
    write_random_adapter(folder, linears_of(tensor_plan(checkpoint.config), checkpoint), rank=4, seed=1)


def _belongings(server: Besieged) -> dict[str, str]:
    """Gives the victim one object of each kind; returns their ids."""

    def made(path: str, body: object, headers: Mapping[str, str] | None = None) -> str:
        status, answer = server.request("guest", "POST", path, body, headers)
        if status != 200:
            raise PeerError(f"{path} answered {status}: {answer}")
        return str(answer["id"])

    chat = {
        "model": server.model,
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 2,
        "temperature": 0,
    }
    line = json.dumps(
        {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": chat}
    ).encode()
    kind = {"Content-Type": "multipart/form-data; boundary=deepwell-form"}
    file = made("/v1/files", form({"purpose": "batch"}, "file", line), kind)
    upload = {"filename": "a.txt", "purpose": "user_data", "bytes": 4, "mime_type": "text/plain"}
    batch = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    found = {
        "file": file,
        "completion": made("/v1/chat/completions", chat | {"store": True}),
        "response": made("/v1/responses", {"model": server.model, "input": "Hello", "max_output_tokens": 2}),
        "conversation": made("/v1/conversations", {}),
        "upload": made("/v1/uploads", upload),
        "batch": made("/v1/batches", batch),
    }
    status, _ = server.request(
        "guest", "POST", "/v1/load_lora_adapter", {"lora_name": "guest-adapter", "lora_path": "lora"}
    )
    return found | ({"adapter": "guest-adapter"} if status == 200 else {})


@dataclass(frozen=True, slots=True)
class Seen:
    """One request of the victim: monotonic seconds, and what went wrong. `first` is 0 where no token came."""

    begin: float
    first: float
    end: float
    error: str

    def first_ms(self) -> float:
        """Returns the time to the first token, or to the end where none came."""
        return ((self.first or self.end) - self.begin) * 1e3


@dataclass(slots=True)
class Victim:
    """The well-behaved client while it runs, and all that it has seen."""

    process: subprocess.Popen[str]
    seen: list[Seen] = field(default_factory=list[Seen])
    changed: threading.Condition = field(default_factory=threading.Condition)

    def read(self) -> None:
        """Collects its lines until it ends."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self.changed:
                self.seen.append(Seen(**json.loads(line)))
                self.changed.notify_all()

    def since(self, moment: float, until: float | None = None) -> list[Seen]:
        """Returns the requests that were under way after `moment`, and that began before `until`."""
        with self.changed:
            return [one for one in self.seen if one.end >= moment and (until is None or one.begin <= until)]

    def wait_past(self, moment: float, patience_s: float = 90.0) -> None:
        """Waits until a request that began after `moment` has ended.

        Raises:
            PeerError: none does.
        """
        with self.changed:
            if not self.changed.wait_for(
                lambda: bool(self.seen) and self.seen[-1].begin > moment, timeout=patience_s
            ):
                raise PeerError(f"the well-behaved client had no answer for {patience_s:g} s")


@contextlib.contextmanager
def victim_of(server: Besieged) -> Generator[Victim]:
    """Runs the well-behaved client beside whatever happens in the block."""
    command = [sys.executable, "-m", "deepwell_bench.workers.victim", str(server.port), server.model]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    victim = Victim(process)
    reader = threading.Thread(target=victim.read, daemon=True)
    reader.start()
    try:
        process.stdin.write(server.keys["guest"] + "\n")
        process.stdin.flush()
        victim.wait_past(time.monotonic())
        yield victim
    finally:
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(timeout=70)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join()
