"""Two servers under the same load: throughput and latency, against `llama-server`."""

from __future__ import annotations

import itertools
import json
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepwell.bench.harness.assets import WORKERS
from deepwell.bench.harness.comparison import SETTLE_SECONDS
from deepwell.bench.harness.environments import PeerError
from deepwell.bench.harness.machine import machine
from deepwell.bench.harness.report import Report, percentile, rounded
from deepwell.bench.harness.served import cpu_seconds, process_tree
from deepwell.bench.peers.llama_cpp import LlamaCpp, llama_python, missing_instruction_sets, peer_file
from deepwell.bench.peers.llama_server import flags, llama_server
from deepwell.bench.workloads.mixed import CLIENTS, LONGEST, Asked, mixed_load
from deepwell.engine.layouts import Precision
from deepwell.errors import DeepwellError
from deepwell.models.text.tokenizer import Tokenizer

__all__ = ["Measured", "bench_load", "summarise", "value_of"]

CLIENT = WORKERS / "load_client.py"
SLOT_TOKENS = 2048  # of each of the peer's slots: the longest prompt, its answer, and room
START_SECONDS = 120
PEERS = ("Q4_0", "Q4_1", "Q8_0")


@dataclass(frozen=True, slots=True)
class Measured:
    """One server under one list of requests. Latencies in milliseconds."""

    tokens_per_s: float
    first_p50_ms: float
    first_p95_ms: float
    between_p95_ms: float
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    client_cpu_seconds: float
    server_cpu_seconds: float
    seconds: float


def summarise(answer: dict[str, Any], asked: Sequence[Asked], *, server_cpu_seconds: float) -> Measured:
    """Returns the figures of one run of the client.

    Raises:
        DeepwellError: a server generated fewer or more tokens than it was asked for, or its events do not carry them.
    """
    results = answer["results"]
    firsts: list[float] = []
    gaps: list[float] = []
    for result in results:
        wanted, got = asked[result["index"]].max_tokens, result.get("completion_tokens")
        # Bytes of half a character wait for the rest of it: a few tokens may share an event.
        if got != wanted or len(result["events"]) < wanted * 0.8:
            raise DeepwellError(
                f"{wanted} tokens were asked for, {got} were reported in {len(result['events'])} events",
                fix="check that the server honours ignore_eos and streams token by token",
            )
        events = result["events"][:wanted]
        firsts.append((events[0] - result["begin"]) * 1e3)
        gaps += [(later - earlier) * 1e3 for earlier, later in itertools.pairwise(events)]
    seconds = max(r["events"][-1] for r in results) - min(r["begin"] for r in results)
    completion = sum(r["completion_tokens"] for r in results)
    return Measured(
        tokens_per_s=completion / seconds,
        first_p50_ms=percentile(firsts, 0.5),
        first_p95_ms=percentile(firsts, 0.95),
        between_p95_ms=percentile(gaps, 0.95),
        prompt_tokens=sum(r["prompt_tokens"] for r in results),
        cached_tokens=sum(r.get("cached_tokens", 0) for r in results),
        completion_tokens=completion,
        client_cpu_seconds=answer["cpu_seconds"],
        server_cpu_seconds=server_cpu_seconds,
        seconds=seconds,
    )


class _Server:
    """A server process on a free port, ready for requests; its output goes to a file."""

    def __init__(self, name: str, command: Sequence[str], ready_path: str, log: Path) -> None:
        self.name = name
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.log = log
        with log.open("w") as stream:
            self._process = subprocess.Popen(
                [*command, "--port", str(self.port)],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
        start = time.monotonic()
        while not self._answers(ready_path):
            if self._process.poll() is not None or time.monotonic() - start > START_SECONDS:
                self.stop()
                tail = log.read_text(errors="replace")[-500:]
                raise PeerError(
                    f"{name} did not start:\n{tail}", fix=f"see its output above: {' '.join(command)}"
                )
            time.sleep(0.05)

    def _answers(self, path: str) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5):
                return True
        except OSError:  # not listening yet, or 503
            return False

    def cpu_seconds(self) -> float:
        """Returns the user and system time of the process, and of those below it, so far."""
        return cpu_seconds(process_tree(self._process.pid))

    def run(self, bodies: Sequence[dict[str, Any]], asked: Sequence[Asked], clients: int) -> Measured:
        """Sends all requests once, `clients` at a time."""
        task = {"url": f"http://127.0.0.1:{self.port}/v1/completions", "clients": clients, "requests": bodies}
        before = self.cpu_seconds()
        done = subprocess.run(
            [sys.executable, str(CLIENT)], input=json.dumps(task), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise PeerError(f"the load on {self.name} failed: {done.stderr.strip()[-500:]}")
        return summarise(json.loads(done.stdout), asked, server_cpu_seconds=self.cpu_seconds() - before)

    def stop(self) -> None:
        """Ends the process."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def _body(model: str, text: str, asked: Asked) -> dict[str, Any]:
    """Returns one request, the same for both servers: text in, text out, token by token."""
    return {
        "model": model,
        "prompt": text,
        "max_tokens": asked.max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def bench_load(
    report: Report,
    model: Path,
    *,
    precision: Precision,
    threads: int,
    rounds: int = 3,
    requests: int = 64,
    clients: int = CLIENTS,
    peers: Sequence[str] = PEERS,
) -> dict[str, Any]:
    """Puts the mixed load on `deepwell serve` and on `llama-server`, in interleaved rounds.

    The peer first runs a shorter list in each format; the formats that did best in tokens a second and in time to the
    first token go on, and each figure is held against the best of them.
    """
    facts = machine(threads)
    report.note(f"{facts['cpu']}, {threads} threads, {facts['system']}, {facts['date']}")
    tokenizer = Tokenizer.load(model)

    def load(number: int, count: int) -> tuple[list[dict[str, Any]], list[Asked]]:
        asked = mixed_load(model, count, number)
        return [_body(model.stem, tokenizer.decode(one.prompt), one) for one in asked], asked

    with ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory()))

        def start(name: str, command: Sequence[str], ready: str) -> _Server:
            server = _Server(name, command, ready, logs / f"{name.replace(' ', '-')}.log")
            stack.callback(server.stop)
            return server

        kv_tokens = str(clients * SLOT_TOKENS)
        ours = start(
            f"deepwell {precision}",
            [
                *(sys.executable, "-m", "deepwell", "serve", str(model), "--precision", precision),
                *("--threads", str(threads), "--context", str(SLOT_TOKENS), "--kv-tokens", kv_tokens),
                *("--response-cache-mb", "0", "--speculation", "off"),
            ],
            "/readyz",
        )
        bodies, asked = load(0, clients)
        ours_name = json.loads(_get(ours.port, "/v1/models"))["data"][0]["id"]

        def run(server: _Server, bodies: list[dict[str, Any]], asked: list[Asked]) -> Measured:
            time.sleep(SETTLE_SECONDS)
            if server is ours:
                bodies = [{**body, "model": ours_name} for body in bodies]
            return server.run(bodies, asked, clients)

        run(ours, bodies, asked)  # pages touched, routes compiled
        chosen = (
            _best_peers(report, model, start, run, bodies, asked, threads, clients, peers) if peers else []
        )
        sides = [ours, *chosen]
        found: dict[str, list[Measured]] = {side.name: [] for side in sides}
        for number in range(1, rounds + 1):
            bodies, asked = load(number, requests)
            for side in sides if number % 2 else reversed(sides):
                found[side.name].append(run(side, bodies, asked))
            _same_work([found[side.name][-1] for side in sides])
    _tell(report, found, ours.name, clients, requests)
    return value_of(found, ours.name, [side.name for side in chosen])


def _tell(report: Report, found: dict[str, list[Measured]], ours: str, clients: int, requests: int) -> None:
    first = found[ours][0]
    figures = (
        "tokens_per_s",
        "first_p50_ms",
        "first_p95_ms",
        "between_p95_ms",
        "server_cpu_seconds",
        "client_cpu_seconds",
    )
    report.table(
        f"{clients} clients, prompts of 32 to {LONGEST} tokens; a round: {requests} requests, "
        f"{first.prompt_tokens:,} tokens of prompt, {first.completion_tokens:,} of answers",
        [
            "server",
            "tokens/s",
            "first p50 ms",
            "first p95 ms",
            "between p95 ms",
            "server CPU s",
            "client CPU s",
        ],
        [
            [name, *(statistics.median(getattr(one, figure) for one in runs) for figure in figures)]
            for name, runs in found.items()
        ],
    )


def _get(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
        return answer.read()


def _same_work(runs: Sequence[Measured]) -> None:
    """Makes sure that all servers read the same prompts and that nobody had any of one cached.

    Raises:
        DeepwellError: the comparison would not be one.
    """
    if any(run.cached_tokens for run in runs):
        raise DeepwellError(
            f"cached prompt tokens: {[run.cached_tokens for run in runs]}", fix="use distinct prompts"
        )
    if len({(run.prompt_tokens, run.completion_tokens) for run in runs}) > 1:
        counts = [(run.prompt_tokens, run.completion_tokens) for run in runs]
        raise DeepwellError(f"the servers did not do the same work: {counts}", fix="compare their tokenizers")


def _best_peers(
    report: Report,
    model: Path,
    start: Any,
    run: Any,
    bodies: list[dict[str, Any]],
    asked: list[Asked],
    threads: int,
    clients: int,
    peers: Sequence[str],
) -> list[_Server]:
    """Starts one server a format and keeps those that are best at something; flash attention as suits the first format."""
    program = llama_server(report.console)
    info = _system_info(program)
    report.note(f"llama-server: {info}")
    if missing := missing_instruction_sets(info):
        raise PeerError(
            f"this llama-server was built without {', '.join(missing)}, which this CPU has ({info})",
            fix="rebuild it on this machine: unset DEEPWELL_BENCH_LLAMA_SERVER",
        )
    worker = LlamaCpp(llama_python(report.console), threads=threads)  # it makes the files
    try:
        files = {kind: peer_file(model, kind, worker) for kind in peers}
    finally:
        worker.close()

    def launch(kind: str, *, flash: bool) -> _Server:
        given = flags(threads=threads, slots=clients, slot_tokens=SLOT_TOKENS, flash=flash)
        name = f"llama-server {kind}, flash attention {'on' if flash else 'off'}"
        return start(name, [str(program), "-m", str(files[kind]), "--host", "127.0.0.1", *given], "/health")

    tried: list[tuple[_Server, Measured]] = []
    flash = True
    for number, kind in enumerate(peers):
        for option in (True, False) if number == 0 else (flash,):
            server = launch(kind, flash=option)
            measured: Measured = run(server, bodies, asked)
            tried.append((server, measured))
            report.note(
                f"{server.name}: {measured.tokens_per_s:.0f} tokens/s, first token p95 {measured.first_p95_ms:.0f} ms"
            )
        if number == 0:
            flash = tried[0][1].tokens_per_s >= tried[1][1].tokens_per_s
    keep = {
        max(tried, key=lambda one: one[1].tokens_per_s)[0].name,
        min(tried, key=lambda one: one[1].first_p95_ms)[0].name,
    }
    for server, _ in tried:
        if server.name not in keep:
            server.stop()
    return [server for server, _ in tried if server.name in keep]


def _system_info(program: Path) -> str:
    """Returns llama.cpp's words on its build: only a start with more to say prints them, so one without a model is made."""
    command = [
        str(program),
        "-lv",
        "4",
        "--log-colors",
        "off",
        "--offline",
        "-m",
        "/none.gguf",
        "--port",
        "0",
    ]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerError(
            f"{program} does not run: {error}", fix="rebuild it: unset DEEPWELL_BENCH_LLAMA_SERVER"
        ) from None
    found = re.search(r"system_info: (.*)", done.stdout + done.stderr)
    return found[1] if found else ""


def value_of(found: dict[str, list[Measured]], ours: str, peers: Sequence[str]) -> dict[str, Any]:
    """Returns the row's figures: medians, and medians of the rounds' ratios to whichever peer is best at each."""

    def median(name: str, figure: str) -> float:
        return statistics.median(getattr(one, figure) for one in found[name])

    value: dict[str, Any] = {
        "tokens_per_s": rounded(median(ours, "tokens_per_s")),
        "first_token_p50_ms": rounded(median(ours, "first_p50_ms")),
        "first_token_p95_ms": rounded(median(ours, "first_p95_ms")),
        "inter_token_p95_ms": rounded(median(ours, "between_p95_ms")),
        "client_cpu_share": rounded(
            statistics.median(one.client_cpu_seconds / one.seconds for one in found[ours]), 2
        ),
    }
    if not peers:
        return value
    best_rate = max(peers, key=lambda name: median(name, "tokens_per_s"))
    best_first = min(peers, key=lambda name: median(name, "first_p95_ms"))
    best_between = min(peers, key=lambda name: median(name, "between_p95_ms"))

    def ratio(figure: str, upper: str, lower: str) -> float:
        return statistics.median(
            getattr(a, figure) / getattr(b, figure) for a, b in zip(found[upper], found[lower], strict=True)
        )

    return value | {
        "ratio": rounded(ratio("tokens_per_s", ours, best_rate), 3),
        "first_token_ratio": rounded(ratio("first_p95_ms", best_first, ours), 3),
        "inter_token_ratio": rounded(ratio("between_p95_ms", best_between, ours), 3),
        "peer": best_rate,
        "peer_tokens_per_s": rounded(median(best_rate, "tokens_per_s")),
        "peer_first_token_p50_ms": rounded(median(best_first, "first_p50_ms")),
        "peer_first_token_p95_ms": rounded(median(best_first, "first_p95_ms")),
        "peer_inter_token_p95_ms": rounded(median(best_between, "between_p95_ms")),
    }
