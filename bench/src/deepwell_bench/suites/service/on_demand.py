"""Models on demand over HTTP: the time to the first token, and random requests for more models than memory has room for."""

from __future__ import annotations

import contextlib
import itertools
import json
import queue
import random
import re
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from deepwell.cli.bench.machine import process_tree
from deepwell.cli.bench.report import Report, percentile, rounded
from deepwell.dialogue.opening import plan_model
from deepwell.models.store.store import ModelStore
from deepwell.settings import Settings
from deepwell_bench.harness.served import served_process

__all__ = ["bench_on_demand"]

CONTEXT = 2048
NAMES = ("one", "two", "three", "four", "five")
SOURCES = ("smollm2", "smollm2", "smollm2", "minilm", "minilm")
CLIENTS = 8
LONGEST_WAIT_S = 300.0  # of one request: longer means that something hangs
QUESTION = [{"role": "user", "content": "Why is the sky blue?"}]


def bench_on_demand(
    report: Report, *, rounds: int = 9, requests: int = 500, seed: int = 15
) -> dict[str, Any]:
    """Returns the seconds to the first token of a model that is not loaded, and the counts of what went wrong under load.

    The first part asks one server for smollm2 and unloads it again, `rounds` times. The second asks another server with
    room for two of five models: `CLIENTS` clients send requests for models and lengths drawn at random. The third measures the
    time between tokens of one stream while another model is loaded.
    """
    with _store({"smollm2": "smollm2", "minilm": "minilm"}) as store:
        first = _first_tokens(report, store, rounds)
        between = _disturbance(report, store, rounds)
    with _store(dict(zip(NAMES, SOURCES, strict=True))) as store:
        load = _random_load(report, store, requests, seed)
    return first | between | load


@contextlib.contextmanager
def _store(models: Mapping[str, str]) -> Generator[Path]:
    """Yields a store whose models are links to those of the real one, with a packed folder of its own."""
    real = ModelStore(Settings.load().models_dir)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "models"
        for name, source in models.items():
            (root / name).mkdir(parents=True)
            for file in (real.root / source).iterdir():
                if file.name == "manifest.json":
                    manifest = json.loads(file.read_text(encoding="utf-8"))
                    (root / name / file.name).write_text(
                        json.dumps({**manifest, "name": name}), encoding="utf-8"
                    )
                else:
                    (root / name / file.name).symlink_to(file.resolve())
        yield root


@contextlib.contextmanager
def _server(store: Path, **settings: object) -> Generator[tuple[httpx.Client, int]]:
    env = {f"DEEPWELL_{name.upper()}": str(value) for name, value in settings.items()}
    env |= {"DEEPWELL_MODELS_DIR": str(store), "DEEPWELL_MODEL_LOADS_PER_MINUTE": "0"}
    env["DEEPWELL_RESPONSE_CACHE_MB"] = "0"  # a kept answer needs no model

    def command(port: int) -> list[str]:
        flags = ["--models-on-demand", "--port", str(port), "--context", str(CONTEXT)]
        return [sys.executable, "-m", "deepwell", "serve", *flags]

    with (
        served_process(command, env=env) as (port, pid),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=LONGEST_WAIT_S) as client,
    ):
        yield client, pid


def _body(model: str, tokens: int) -> dict[str, Any]:
    return {
        "model": model,
        "messages": QUESTION,
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def _stream(client: httpx.Client, body: Mapping[str, Any]) -> list[float]:
    """Returns the moments at which the pieces of an answer came. The answer must be whole."""
    moments: list[float] = []
    usage: dict[str, Any] = {}
    ended = False
    with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        if answer.status_code != 200:
            answer.read()
            raise RuntimeError(f"{answer.status_code}: {answer.text[:300]}")
        for line in answer.iter_lines():
            if line == "data: [DONE]":
                ended = True
            elif line.startswith("data: "):
                piece = json.loads(line[6:])
                if "error" in piece:
                    raise RuntimeError(f"the stream ended with an error: {piece['error']}")
                usage = piece.get("usage") or usage
                if piece["choices"] and piece["choices"][0]["delta"].get("content"):
                    moments.append(time.perf_counter())
    if not ended or usage.get("completion_tokens") != body["max_tokens"]:
        raise RuntimeError(f"the stream was cut: {usage}")
    return moments


def _unload(client: httpx.Client, model: str) -> None:
    while client.delete(f"/v1/models/{model}").status_code == 409:
        time.sleep(0.005)
    while any(
        card["id"] == model and card["state"] != "not_loaded"
        for card in client.get("/v1/models").json()["data"]
    ):
        time.sleep(0.005)


def _first_tokens(report: Report, store: Path, rounds: int) -> dict[str, Any]:
    seconds: list[float] = []
    with _server(store) as (client, _):
        for _ in range(rounds + 1):
            began = time.perf_counter()
            seconds.append(_stream(client, _body("smollm2", 4))[0] - began)
            _unload(client, "smollm2")
    packing, *warm = seconds
    report.table(
        "Seconds to the first token of a model that is not loaded",
        ["request", "seconds"],
        [
            ["first, which packs the weights", packing],
            [f"later, median of {rounds}", statistics.median(warm)],
            ["later, slowest", max(warm)],
        ],
    )
    return {
        "first_token_s": rounded(statistics.median(warm), 3),
        "slowest_first_token_s": rounded(max(warm), 3),
        "packing_s": rounded(packing, 3),
    }


def _disturbance(report: Report, store: Path, rounds: int) -> dict[str, Any]:
    """Measures the time between tokens of a stream of smollm2, alone and while minilm is loaded."""
    alone: list[float] = []
    beside: list[float] = []
    with _server(store) as (client, _):
        _stream(client, _body("smollm2", 4))
        for _ in range(rounds):
            alone += _gaps(_stream(client, _body("smollm2", 400)))
            loader = threading.Thread(
                target=lambda: client.post("/v1/embeddings", json={"model": "minilm", "input": "a"})
            )
            loader.start()
            beside += _gaps(_stream(client, _body("smollm2", 400)))
            loader.join()
            _unload(client, "minilm")
    rows = [
        [name, *(1e3 * value for value in (percentile(gaps, 0.5), percentile(gaps, 0.99), max(gaps)))]
        for name, gaps in (("alone", alone), ("while another model is loaded", beside))
    ]
    report.table("Milliseconds between tokens of one stream", ["stream", "p50", "p99", "most"], rows)
    return {
        "between_tokens_p99_ms": rounded(1e3 * percentile(alone, 0.99), 3),
        "between_tokens_loading_p99_ms": rounded(1e3 * percentile(beside, 0.99), 3),
        "between_tokens_loading_most_ms": rounded(1e3 * max(beside), 3),
    }


def _gaps(moments: Sequence[float]) -> list[float]:
    return [after - before for before, after in itertools.pairwise(moments)]


@dataclass(slots=True)
class _Seen:
    """Observations of the clients and the watcher of a random load."""

    served: Counter[str] = field(default_factory=Counter[str])
    failures: list[str] = field(default_factory=list[str])
    seconds: list[float] = field(default_factory=list[float])
    most_planned: float = 0.0
    most_resident: float = 0.0


def _random_load(report: Report, store: Path, requests: int, seed: int) -> dict[str, Any]:
    settings = Settings.load(models_dir=store, context=CONTEXT)
    sizes = [plan_model(settings.with_model(name), is_additional=True).memory.total_bytes for name in NAMES]
    room_mb = int(2 * max(sizes) / 1e6) + 1
    draw = random.Random(seed)  # noqa: S311
    work: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
    for _ in range(requests):
        work.put((draw.choice(NAMES), draw.randint(1, 48)))
    seen, over = _Seen(), threading.Event()
    began = time.perf_counter()
    with _server(store, models_memory_mb=room_mb) as (client, pid):
        watcher = threading.Thread(target=_watch, args=(client, pid, seen, over))
        clients = [threading.Thread(target=_ask, args=(client, work, seen)) for _ in range(CLIENTS)]
        watcher.start()
        for one in clients:
            one.start()
        for one in clients:
            one.join()
        over.set()
        watcher.join()
        loads = _counter(client.get("/metrics").text, "deepwell_model_loads_total")
    for failure in seen.failures[:5]:
        report.note(failure)
    report.table(
        f"{requests} random requests for {len(NAMES)} models in room for 2 ({room_mb} MB), {CLIENTS} clients",
        ["figure", "value"],
        [
            ["answered whole", sum(seen.served.values())],
            ["failed", len(seen.failures)],
            ["loads", loads],
            ["seconds in all", time.perf_counter() - began],
            ["slowest request, seconds", max(seen.seconds, default=0.0)],
            ["most planned memory, MB", seen.most_planned / 1e6],
            ["most memory of the engines, MB", seen.most_resident / 1e6],
        ],
    )
    return {
        "answered": sum(seen.served.values()),
        "failed": len(seen.failures),
        "loads": int(loads),
        "slowest_request_s": rounded(max(seen.seconds, default=0.0), 3),
        "room_mb": room_mb,
        "most_planned_share": rounded(seen.most_planned / (room_mb * 1e6), 3),
        "most_resident_share": rounded(seen.most_resident / (room_mb * 1e6), 3),
    }


def _ask(client: httpx.Client, work: queue.SimpleQueue[tuple[str, int]], seen: _Seen) -> None:
    while True:
        try:
            model, tokens = work.get_nowait()
        except queue.Empty:
            return
        began = time.perf_counter()
        try:
            if SOURCES[NAMES.index(model)] == "smollm2":
                _stream(client, _body(model, tokens))
            else:
                client.post(
                    "/v1/embeddings", json={"model": model, "input": "word " * tokens}
                ).raise_for_status()
            seen.served[model] += 1
        except Exception as error:
            seen.failures.append(f"{model}: {type(error).__name__}: {error}")
        seen.seconds.append(time.perf_counter() - began)


def _watch(client: httpx.Client, pid: int, seen: _Seen, over: threading.Event) -> None:
    """Notes the most memory that was planned for models, and that their processes had, until the load is over."""
    while not over.wait(0.2):
        planned = _counter(client.get("/metrics").text, "deepwell_on_demand_bytes")
        seen.most_planned = max(seen.most_planned, planned)
        engines = [one for one in process_tree(pid)[1:] if _is_engine(one)]
        seen.most_resident = max(seen.most_resident, sum(map(_pss_bytes, engines)))


def _is_engine(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return b"deepwell.engine.hosting" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def _pss_bytes(pid: int) -> int:
    """Returns a process's share of memory: of what several map, its part."""
    with contextlib.suppress(OSError):
        found = re.search(r"^Pss: +(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
        return int(found.group(1)) * 1024 if found else 0
    return 0


def _counter(text: str, name: str) -> float:
    found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    return float(found.group(1)) if found else 0.0
