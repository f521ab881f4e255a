"""Two servers under the same load: throughput and latency, against `llama-server`."""

from __future__ import annotations

import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from deepwell.cli.bench.load import (
    CLIENTS,
    SLOT_TOKENS,
    START_SECONDS,
    Asked,
    Measured,
    Server,
    figures,
    mixed_load,
    requests_of,
    serve_command,
    show,
)
from deepwell.cli.bench.machine import machine
from deepwell.cli.bench.report import Report, rounded
from deepwell.engine.layouts import Precision
from deepwell.errors import DeepwellError
from deepwell_bench.harness.comparison import SETTLE_SECONDS
from deepwell_bench.harness.environments import PeerError
from deepwell_bench.peers.llama_cpp import LlamaCpp, llama_python, missing_instruction_sets, peer_file
from deepwell_bench.peers.llama_server import flags, llama_server
from deepwell_bench.workloads.text import text_tokens

__all__ = ["bench_load", "value_of"]

PEERS = ("Q4_0", "Q4_1", "Q8_0")


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

    def load(number: int, count: int) -> tuple[list[dict[str, Any]], list[Asked]]:
        asked = mixed_load(text_tokens(model), count, number)
        return requests_of(model, asked), asked

    with ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory()))

        def start(name: str, command: Sequence[str], ready: str) -> Server:
            server = Server(name, command, ready, logs / f"{name.replace(' ', '-')}.log")
            stack.callback(server.stop)
            return server

        ours = start(f"deepwell {precision}", serve_command(model, precision, threads, clients), "/readyz")
        bodies, asked = load(0, clients)
        ours_name = ours.model()

        def run(server: Server, bodies: list[dict[str, Any]], asked: list[Asked]) -> Measured:
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
    show(report, found, clients, requests)
    return value_of(found, ours.name, [side.name for side in chosen])


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
) -> list[Server]:
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

    def launch(kind: str, *, flash: bool) -> Server:
        given = flags(threads=threads, slots=clients, slot_tokens=SLOT_TOKENS, flash=flash)
        name = f"llama-server {kind}, flash attention {'on' if flash else 'off'}"
        return start(name, [str(program), "-m", str(files[kind]), "--host", "127.0.0.1", *given], "/health")

    tried: list[tuple[Server, Measured]] = []
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

    value = figures(found[ours])
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
