"""An hour of clients on all routes of one server: what grows, and which answers are not as documented."""

from __future__ import annotations

import random
import tempfile
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx

from deepwell.cli.bench.machine import process_tree
from deepwell.cli.bench.report import Report, rounded
from deepwell_bench.harness.served import pss_bytes
from deepwell_bench.suites.security.kills import Load, LoadedServer, kind_of, load_tasks
from deepwell_bench.suites.service.soak import slope
from deepwell_bench.workloads.tour import take_tour

__all__ = ["bench_soak_routes"]

_TOURS: Final = 4  # clients that call every method of the official SDKs
_EVERY_S: Final = 5.0
_WARM: Final = 0.25  # share of the time after which nothing may grow: caches are full


def bench_soak_routes(
    report: Report, model: Path, *, clients: int = 32, minutes: float = 60.0
) -> dict[str, Any]:
    """Keeps clients on every route of a server with two workers and the native engine, and watches its processes.

    Memory is the sum over the server's processes, each with its share of what several map.

    Raises:
        PeerError: the server does not start.
    """
    load, samples = Load(), list[_Sample]()
    with tempfile.TemporaryDirectory(prefix="dw-soak-", ignore_cleanup_errors=True) as folder:
        tourists = [f"tourist-{number}" for number in range(min(_TOURS, clients))]
        options = ("--response-cache-mb", "1")
        server = LoadedServer(model, Path(folder), load, *options, tenants=["crowd", *tourists])
        try:
            server.start()
            toured = _Tours(load)
            tasks = [*load_tasks(load), _search(load), _list(load)]
            others = [tasks[number % len(tasks)] for number in range(max(clients - _TOURS, 0))]
            load.start([*others, *(partial(toured.take, server.keys[one]) for one in tourists)])
            begun = time.monotonic()
            while (now := time.monotonic() - begun) < minutes * 60:
                samples.append(_sample(now, server.pid))
                time.sleep(_EVERY_S)
            load.stop()
            with load.client() as http:
                lost = [path for path, word in load.kept[-200:] if word not in http.get(path).text]
        finally:
            load.stop()
            server.stop()
    warm = [one for one in samples if one.at >= _WARM * minutes * 60]
    unexpected = [name for name in load.answers if not name.endswith((" 200", " 201", " 429", " 503"))]
    value: dict[str, Any] = {
        "clients": clients,
        "minutes": minutes,
        "answers": sum(load.answers.values()) + sum(load.ends.values()) + toured.calls,
        "tours": toured.taken,
        "unexpected": sum(load.answers[name] for name in unexpected)
        + sum(load.ends[name] for name in ("short", "silent", "cut"))
        + len(load.untyped)
        + len(toured.failed),
        "unexpected_kinds": unexpected,
        "by_status": dict(sorted(load.answers.items())),
        "stream_ends": dict(load.ends),
        "lost": len(lost),
        "memory_mb": rounded(sum(warm[-1].memory_mb.values())),
        "memory_mb_per_minute": rounded(slope([(one.at, sum(one.memory_mb.values())) for one in warm]), 3),
        "memory_mb_per_minute_by_kind": {
            kind: rounded(slope([(one.at, one.memory_mb.get(kind, 0.0)) for one in warm]), 3)
            for kind in sorted({kind for one in warm for kind in one.memory_mb})
        },
        "descriptors": warm[-1].descriptors,
        "descriptors_per_minute": rounded(slope([(one.at, one.descriptors) for one in warm]), 3),
    }
    for told in (*load.untyped[:5], *toured.failed[:10], *lost[:5]):
        report.note(str(told))
    report.table("All routes", ["figure", "value"], [[name, str(one)] for name, one in value.items()])
    return value


class _Tours:
    """Tours of every method of the official SDKs. `failed`: what was not answered as documented."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._lock = threading.Lock()
        self.taken, self.calls = 0, 0
        self.failed: list[str] = []

    def take(self, key: str, _: httpx.Client) -> None:
        """Takes one tour as a tenant, who finds nobody else's objects in its lists."""
        try:
            done = take_tour(f"http://127.0.0.1:{self._load.port}", self._load.model, key)
        except Exception as error:  # whatever an SDK says of an answer
            at = traceback.extract_tb(error.__traceback__)[-1]
            with self._lock:
                self.failed.append(
                    f"tour: {type(error).__name__} at {at.name}: {at.line}: {str(error)[:200]}"
                )
            return
        with self._lock:
            self.taken += 1
            self.calls += sum(map(len, done.values()))


@dataclass(frozen=True, slots=True)
class _Sample:
    """The server's processes at one time, in seconds. `memory_mb`: by kind of process."""

    at: float
    memory_mb: dict[str, float]
    descriptors: int


def _sample(at: float, server: int) -> _Sample:
    memory, pids = defaultdict[str, float](float), process_tree(server)
    for pid in pids:
        memory["server" if pid == server else kind_of(pid) or "ended"] += pss_bytes([pid]) / 1e6
    return _Sample(at, memory, _descriptors(pids))


def _search(load: Load) -> Callable[[httpx.Client], None]:
    """Returns a task that makes a vector store of a file, searches it, and deletes both."""

    def task(http: httpx.Client) -> None:
        text = f"The lighthouse of {random.random()} is painted red."  # noqa: S311
        form = {"files": {"file": ("a.txt", text.encode())}, "data": {"purpose": "assistants"}}
        file = http.post("/v1/files", **form)
        store = http.post("/v1/vector_stores", json={"name": "soak"})
        if not (load.judge(file, "knowledge file") and load.judge(store, "vector store")):
            return
        at, id = f"/v1/vector_stores/{store.json()['id']}", file.json()["id"]
        load.judge(http.post(f"{at}/files", json={"file_id": id}), "vector store file")
        load.judge(http.post(f"{at}/search", json={"query": "the colour of the lighthouse"}), "search")
        load.judge(http.delete(at), "vector store deleted")
        load.judge(http.delete(f"/v1/files/{id}"), "knowledge file deleted")

    return task


def _list(load: Load) -> Callable[[httpx.Client], None]:
    """Returns a task that reads every route without parameters that the server's document names, and embeds and moderates."""
    paths: list[str] = []

    def task(http: httpx.Client) -> None:
        if not paths:
            document = http.get("/openapi.json").json()["paths"]
            paths.extend(path for path, methods in document.items() if "get" in methods and "{" not in path)
        for path in paths:
            answer = http.get(path)
            # What needs a query or is not set up says so.
            load.note(f"get {path} {answer.status_code}") if answer.status_code >= 500 else load.note(
                "get 200"
            )
        body = {"input": "a word", "model": "minilm"}
        load.judge(http.post("/v1/embeddings", json=body), "embedding")
        load.judge(http.post("/v1/moderations", json={"input": "a word"}), "moderation")

    return task


def _descriptors(pids: list[int]) -> int:
    count = 0
    for pid in pids:
        with suppress(OSError):  # it has ended
            count += sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    return count
