"""Two hosts with a database each behind haproxy; the disk of one fills up, and has room again."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import subprocess
import time
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx

from deepwell.fleet.front.front import HaproxyFront
from deepwell.fleet.front.haproxy import HaproxyTerms
from deepwell.fleet.front.routes import Routes, Slot
from deepwell_bench.harness.environments import PeerError
from deepwell_bench.harness.ports import free_port
from deepwell_bench.suites.fleet.faults.servers import Server, running
from deepwell_bench.suites.fleet.faults.work import Kept, Writers, begin_batch, client, finished, missing
from deepwell_bench.suites.fleet.running import ALIAS

__all__ = ["full_disk"]

_DISK: Final = 24 << 20
_LINES: Final = 20
_ASKED: Final = 40


def full_disk(model: Path, folder: Path) -> dict[str, Any]:
    """Fills the disk of one of two hosts to the last page while it writes, asks both by haproxy, and makes room again."""
    small = folder / "small"
    with _mounted(small):
        full = Server("full", model, small / "data", folder / "full.log", {})
        other = Server("other", model, folder / "data", folder / "other.log", {})
        with running(full, other), _haproxy(folder, full, other) as front, client(full.url) as http:
            with Writers([partial(client, full.url)]) as writers:
                writers.until(30)
                batch = begin_batch(http, _LINES)
                _fill(small / "filler")
                full.until(ready=False)
                if not _refuses(writers):
                    raise PeerError("writes are still taken on a full disk")
                failed = _asked(front)
                (small / "filler").unlink()
                full.until(ready=True)
                again = writers.until(30)
            lines = finished(http, batch)
            kept: list[Kept] = writers.kept
            drafts = len(list((small / "data" / "files" / "drafts").glob("*")))
            lost = len(missing(http, kept))
        whole = _is_whole(small / "data" / "deepwell.db")
    return {
        "disk_acknowledged": len(kept),
        "disk_lost": lost + _LINES - lines + (not whole) + (not again),
        "disk_refused": sum(writers.refused.values()),
        "disk_refusals": dict(writers.refused),
        "disk_untyped": writers.untyped + writers.broken,
        "disk_half_files": drafts,
        "disk_requests_failed_by_front": failed,
    }


def _refuses(writers: Writers) -> bool:
    """Waits until something was refused."""
    until = time.monotonic() + 30
    while not writers.refused and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(2)
    return bool(writers.refused)


def _asked(front: int) -> int:
    """Asks for stored responses through the front, and returns how many requests fail."""
    body = {"model": ALIAS, "max_output_tokens": 4, "store": True}
    with client(f"http://127.0.0.1:{front}") as http:
        answers = [
            http.post("/v1/responses", json={**body, "input": f"User {one}", "user": f"u{one}"})
            for one in range(_ASKED)
        ]
    return sum(one.status_code != httpx.codes.OK for one in answers)


def _fill(path: Path) -> None:
    """Writes zeroes until the disk takes no more."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


def _is_whole(database: Path) -> bool:
    connection = sqlite3.connect(database)
    try:
        return connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    finally:
        connection.close()


@contextlib.contextmanager
def _mounted(folder: Path) -> Generator[None]:
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={_DISK}", "tmpfs"]
    done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise PeerError(f"a small disk cannot be mounted: {done.stderr.strip()}", fix="run it as root")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.contextmanager
def _haproxy(folder: Path, *servers: Server) -> Generator[int]:
    """Runs the front of a deployment before servers that run already, and yields its port."""
    port = free_port()
    ports: dict[Slot, list[int]] = {"blue": [one.port for one in servers], "green": [free_port()]}
    front = HaproxyFront(HaproxyTerms(folder / "front", "127.0.0.1", port), ports, Routes({"blue": "v1"}))
    for number in range(len(servers)):
        asyncio.run(front.set_state("blue", number, "ready"))
    program = front.program
    process = subprocess.Popen(program.command, env=dict(program.environ), cwd=program.folder)
    try:
        with client(f"http://127.0.0.1:{port}") as http:
            until = time.monotonic() + 30
            while not _answers(http):
                if process.poll() is not None or time.monotonic() > until:
                    raise PeerError("haproxy does not start")
                time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(timeout=30)


def _answers(http: httpx.Client) -> bool:
    try:
        return http.get("/v1/models").is_success
    except httpx.TransportError:
        return False
