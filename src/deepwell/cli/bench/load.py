"""The mixed load: many clients on one server over HTTP, its throughput and latencies."""

from __future__ import annotations

import itertools
import json
import math
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from deepwell.cli.bench.machine import cpu_seconds, machine, process_tree
from deepwell.cli.bench.report import Report, percentile, rounded
from deepwell.cli.bench.text import text_tokens
from deepwell.engine.layouts import Precision
from deepwell.errors import DeepwellError
from deepwell.models.text.tokenizer import Tokenizer

__all__ = [
    "CLIENTS",
    "LONGEST",
    "SLOT_TOKENS",
    "START_SECONDS",
    "Asked",
    "Measured",
    "Server",
    "figures",
    "measure_load",
    "mixed_load",
    "requests_of",
    "serve_command",
    "show",
    "summarise",
]

CLIENT: Final = Path(__file__).with_name("load_client.py")
CLIENTS: Final = 16
SHORTEST, LONGEST = 32, 1500  # tokens of prompt
FEWEST, MOST = 32, 128  # tokens of answer
SEED: Final = 16
SLOT_TOKENS: Final = 2048  # of a client: the longest prompt, its answer, and room
START_SECONDS: Final = 120


@dataclass(frozen=True, slots=True)
class Asked:
    """One request of the load."""

    prompt: tuple[int, ...]
    max_tokens: int


def mixed_load(ids: Sequence[int], count: int, number: int, *, longest: int = LONGEST) -> list[Asked]:
    """Returns the `number`-th list of `count` requests, cut from a text in tokens.

    Lengths of prompts are log-uniform: many short ones, a few long ones that make most of the work. The lists
    differ only in where the text is cut, so that rounds do equal work; no two
    prompts of a run begin alike.
    """
    draw = random.Random(SEED)  # noqa: S311
    lengths = [round(math.exp(draw.uniform(math.log(SHORTEST), math.log(longest)))) for _ in range(count)]
    answers = [draw.randint(FEWEST, MOST) for _ in range(count)]
    # Cuts at multiples of a stride that shares no factor with the text's length visit every start once.
    room = len(ids) - LONGEST
    stride = next(s for s in range(room // 3, room) if math.gcd(s, room) == 1)
    starts = [(number * count + index) * stride % room for index in range(count)]
    return [
        Asked(tuple(ids[start : start + length]), answer)
        for start, length, answer in zip(starts, lengths, answers, strict=True)
    ]


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


class Server:
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
                raise DeepwellError(
                    f"{name} did not start:\n{tail}", fix=f"see its output above: {' '.join(command)}"
                )
            time.sleep(0.05)

    def _answers(self, path: str) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5):
                return True
        except OSError:  # not listening yet, or 503
            return False

    def model(self) -> str:
        """Returns the name by which the server knows its model."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/v1/models", timeout=30) as answer:
            return json.load(answer)["data"][0]["id"]

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
            raise DeepwellError(f"the load on {self.name} failed: {done.stderr.strip()[-500:]}")
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


def request_body(model: str, text: str, asked: Asked) -> dict[str, Any]:
    """Returns one request, the same for every server: text in, text out, token by token."""
    return {
        "model": model,
        "prompt": text,
        "max_tokens": asked.max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def requests_of(model: Path, asked: Sequence[Asked], name: str = "") -> list[dict[str, Any]]:
    """Returns the bodies of requests, for a server that calls the model `name`; unset: as the file is called."""
    tokenizer = Tokenizer.load(model)
    return [request_body(name or model.stem, tokenizer.decode(one.prompt), one) for one in asked]


def serve_command(model: Path, precision: Precision, threads: int, clients: int) -> list[str]:
    """Returns the command of `deepwell serve` under the load, without what would make a figure depend on repeated texts."""
    return [
        *(sys.executable, "-m", "deepwell", "serve", str(model), "--precision", precision),
        *(
            "--threads",
            str(threads),
            "--context",
            str(SLOT_TOKENS),
            "--kv-tokens",
            str(clients * SLOT_TOKENS),
        ),
        *("--response-cache-mb", "0", "--speculation", "off"),
    ]


def measure_load(
    report: Report,
    model: Path,
    *,
    precision: Precision,
    threads: int,
    rounds: int = 3,
    requests: int = 64,
    clients: int = CLIENTS,
) -> dict[str, Any]:
    """Starts `deepwell serve` and puts the mixed load on it, `rounds` times after a shorter one that warms up.

    Raises:
        DeepwellError: the server does not start, or a request fails.
    """
    facts = machine(threads)
    report.note(f"{facts['cpu']}, {threads} threads, {facts['system']}, {facts['date']}")
    ids, name = text_tokens(model), f"deepwell {precision}"
    with tempfile.TemporaryDirectory() as folder:
        command = serve_command(model, precision, threads, clients)
        server = Server(name, command, "/readyz", Path(folder) / "log")
        try:
            served = server.model()
            found: list[Measured] = []
            for number, count in enumerate([clients, *[requests] * rounds]):
                asked = mixed_load(ids, count, number)
                found.append(server.run(requests_of(model, asked, served), asked, clients))
        finally:
            server.stop()
    show(report, {name: found[1:]}, clients, requests)
    return figures(found[1:])


def show(report: Report, found: Mapping[str, Sequence[Measured]], clients: int, requests: int) -> None:
    """Prints the medians of every server's rounds."""
    first = next(iter(found.values()))[0]
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


def figures(runs: Sequence[Measured]) -> dict[str, Any]:
    """Returns the medians of a server's rounds."""

    def median(figure: str) -> float:
        return statistics.median(getattr(one, figure) for one in runs)

    return {
        "tokens_per_s": rounded(median("tokens_per_s")),
        "first_token_p50_ms": rounded(median("first_p50_ms")),
        "first_token_p95_ms": rounded(median("first_p95_ms")),
        "inter_token_p95_ms": rounded(median("between_p95_ms")),
        "client_cpu_share": rounded(
            statistics.median(one.client_cpu_seconds / one.seconds for one in runs), 2
        ),
    }
