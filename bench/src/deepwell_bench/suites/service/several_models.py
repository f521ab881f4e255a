"""Three models in one server: the same bits as alone, throughput beside work in turn, idle engines, memory, loads."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import re
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from deepwell.cli.bench.machine import cpu_seconds, process_tree
from deepwell.cli.bench.report import Report, percentile, rounded
from deepwell.errors import DeepwellError
from deepwell.settings import Settings
from deepwell_bench.harness.served import pss_bytes, served_process
from deepwell_bench.workloads.text import cranfield_text

__all__ = ["bench_several_models"]

GENERATORS: Final = ("smollm2", "qwen2.5-coder-0.5b")
EMBEDDER: Final = "minilm"
MODELS: Final = (*GENERATORS, EMBEDDER)

# Characters of the prompt and tokens of the answer of four streams of a model, which take some seconds.
_STREAMS: Final = {
    "smollm2": ((200, 500), (600, 400), (1200, 300), (100, 500)),
    "qwen2.5-coder-0.5b": ((150, 160), (400, 130), (600, 100), (100, 160)),
}
_EMBED_CLIENTS: Final = 4
_EMBED_REQUESTS: Final = 50  # of a client
_EMBED_TEXTS: Final = (120, 300, 500)  # characters of the texts of a request
_IDLE_S: Final = 10.0
_PROMPT_CHARACTERS: Final = 4000  # of a prompt that fills the cache, some 900 tokens
_SPARE_BLOCKS: Final = 4  # the last, partly filled blocks of sequences never enter the prefix cache
_CROWD: Final = 128  # streams at once: twice what a step takes, so that prompts and answers share its steps


class _Client:
    """A client of one server, with a connection of its own for each request."""

    def __init__(self, port: int) -> None:
        self._port = port

    @contextlib.contextmanager
    def _response(
        self, path: str, body: dict[str, Any] | None, method: str
    ) -> Generator[http.client.HTTPResponse]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=300)
        try:
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, path, data, {"Content-Type": "application/json"})
            response = connection.getresponse()
            if response.status != 200:
                raise DeepwellError(f"{method} {path}: {response.status} {response.read()[:300]!r}")
            yield response
        finally:
            connection.close()

    def call(self, path: str, body: dict[str, Any] | None = None, method: str = "") -> bytes:
        """Sends a request and returns the body of its answer."""
        with self._response(path, body, method or ("GET" if body is None else "POST")) as response:
            return response.read()

    def stream(self, body: dict[str, Any], on_event: Callable[[dict[str, Any]], None]) -> None:
        """Asks for a completion and hands over each event."""
        with self._response("/v1/completions", {**body, "stream": True}, "POST") as response:
            for line in response:
                if line.startswith(b"data: {"):
                    on_event(json.loads(line[6:]))

    def gauge(self, name: str, model: str) -> int:
        """Reads a gauge of a model from /metrics."""
        found = re.search(
            rf'^deepwell_{name}{{model="{re.escape(model)}"}} (\S+)', self.call("/metrics").decode(), re.M
        )
        if found is None:
            raise DeepwellError(f"/metrics has no {name} of {model}")
        return int(float(found.group(1)))


@dataclass
class _Work:
    """The requests of one pass. `mark` begins every text, so that no pass finds its prompts in the prefix cache."""

    mark: str
    logprobs: bool = False
    answers: dict[str, Any] = field(default_factory=dict[str, Any])

    def run(self, client: _Client, models: Sequence[str]) -> float:
        """Sends all requests of some models at once; returns the seconds until the last has its answer."""
        tasks = [task for model in models for task in self._tasks(client, model)]
        begin = time.perf_counter()
        with ThreadPoolExecutor(len(tasks)) as pool:
            for done in [pool.submit(task) for task in tasks]:
                done.result()
        return time.perf_counter() - begin

    def _tasks(self, client: _Client, model: str) -> list[Callable[[], None]]:
        if model == EMBEDDER:
            return [lambda number=number: self._embed(client, number) for number in range(_EMBED_CLIENTS)]
        return [
            lambda number=number, sizes=sizes: self._generate(client, model, number, *sizes)
            for number, sizes in enumerate(_STREAMS[model])
        ]

    def _text(self, number: int, characters: int) -> str:
        start = 7919 * number % 100_000
        return f"{self.mark} {cranfield_text()[start : start + characters]}"

    def _generate(self, client: _Client, model: str, number: int, characters: int, tokens: int) -> None:
        """Streams one answer. The even ones are greedy, the odd ones are drawn from a seed."""
        body: dict[str, Any] = {
            "model": model,
            "prompt": self._text(number, characters),
            "max_tokens": tokens,
            "ignore_eos": True,
            "temperature": 0.0 if number % 2 == 0 else 0.8,
            "seed": number,
        }
        if self.logprobs:
            body["logprobs"] = 2
        text: list[str] = []
        logprobs: list[tuple[str, float]] = []

        def keep(event: dict[str, Any]) -> None:
            for choice in event["choices"]:
                text.append(choice["text"])
                if found := choice.get("logprobs"):
                    logprobs.extend(zip(found["tokens"], found["token_logprobs"], strict=True))

        client.stream(body, keep)
        self.answers[f"{model} {number}"] = "".join(text), logprobs

    def _embed(self, client: _Client, number: int) -> None:
        vectors: list[str] = []
        for request in range(_EMBED_REQUESTS):
            texts = [self._text(100 * number + 10 * request + i, size) for i, size in enumerate(_EMBED_TEXTS)]
            body = {"model": EMBEDDER, "input": texts, "encoding_format": "base64"}
            vectors += [one["embedding"] for one in json.loads(client.call("/v1/embeddings", body))["data"]]
        self.answers[f"{EMBEDDER} {number}"] = vectors


def _command(*arguments: str) -> Callable[[int], list[str]]:
    """Returns the command of `deepwell serve`, by port. No answer comes from the response cache."""
    return lambda port: [
        *(sys.executable, "-m", "deepwell", "serve", *arguments),
        *("--port", str(port), "--response-cache-mb", "0"),
    ]


def _engines(pid: int) -> list[int]:
    """Returns the engines' processes of a server, in the order in which they were started."""

    def started(one: int) -> int:
        return int(Path(f"/proc/{one}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])

    return sorted((one for one in process_tree(pid) if "engine.hosting" in _arguments(one)), key=started)


def _arguments(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8").replace("\0", " ")
    return ""


def bench_several_models(report: Report, *, rounds: int = 5) -> dict[str, Any]:
    """Measures a server of smollm2, qwen2.5-coder-0.5b and minilm over HTTP, and servers of one model for the bits.

    Raises:
        PeerError: a server does not start.
        DeepwellError: a request fails, or a model is not in the store.
    """
    alone = _Work("The text:", logprobs=True)
    for model in MODELS:
        with served_process(_command(model)) as (port, _):
            alone.run(_Client(port), [model])
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with served_process(_command(*MODELS), log=log) as (port, pid):
            client = _Client(port)
            mixed = _Work("The text:", logprobs=True)
            mixed.run(client, MODELS)
            different = [name for name, answer in alone.answers.items() if answer != mixed.answers[name]]
            value: dict[str, Any] = {
                "answers": len(alone.answers),
                "different": len(different),
                **_throughput(report, client, rounds),
                "idle_percent": rounded(_idle_percent(client, pid), 3),
            }
            planned = _planned_mb(log)
            measured = _full_mb(client, pid)
    value |= {
        "planned_mb": rounded(planned),
        "measured_mb": rounded(measured),
        "plan_error_percent": rounded(100 * abs(planned - measured) / measured, 3),
        **_loading(report),
    }
    report.table("Several models", ["figure", "value"], [[key, figure] for key, figure in value.items()])
    if different:
        report.note(f"answers differ: {', '.join(different)}")
    return value


def _throughput(report: Report, client: _Client, rounds: int) -> dict[str, Any]:
    """Times the same amount of work in turn, one model after the other, and at once; the order turns round."""
    ratios: list[float] = []
    rows: list[list[Any]] = []
    for number in range(rounds):

        def in_turn(number: int = number) -> float:
            return sum(_Work(f"Part {2 * number:04}:").run(client, [model]) for model in MODELS)

        def at_once(number: int = number) -> float:
            return _Work(f"Part {2 * number + 1:04}:").run(client, MODELS)

        if number % 2:
            together, apart = at_once(), in_turn()
        else:
            apart, together = in_turn(), at_once()
        ratios.append(apart / together)
        rows.append([number + 1, f"{apart:.2f}", f"{together:.2f}", f"{apart / together:.3f}"])
    report.table("Three models, seconds", ["round", "in turn", "at once", "ratio"], rows)
    return {
        "throughput_ratio": rounded(statistics.median(ratios)),
        "lowest_ratio": rounded(min(ratios)),
        "highest_ratio": rounded(max(ratios)),
    }


def _idle_percent(client: _Client, pid: int) -> float:
    """Returns the share of a core that the busiest of the idle engines takes while the first model is under load.

    Raises:
        DeepwellError: the first engine did not compute, so the processes are others than thought.
    """
    ended = threading.Event()

    def load() -> None:
        number = 0
        while not ended.is_set():
            number += 1
            _Work(f"Load {number:04}:").run(client, MODELS[:1])

    thread = threading.Thread(target=load)
    engines = _engines(pid)
    thread.start()
    before = [cpu_seconds([one]) for one in engines]
    ended.wait(_IDLE_S)
    after = [cpu_seconds([one]) for one in engines]
    ended.set()
    thread.join()
    busy, *idle = (100 * (b - a) / _IDLE_S for a, b in zip(before, after, strict=True))
    if len(idle) != len(MODELS) - 1 or busy < 10:
        raise DeepwellError(f"the engines of {len(MODELS)} models are expected, the first of them busy")
    return max(idle)


def _planned_mb(log: Path) -> float:
    """Reads the sum of the plans from what the server printed.

    Raises:
        DeepwellError: it printed none.
    """
    found = re.search(r"all models: ([\d.]+) MB", log.read_text(encoding="utf-8"))
    if found is None:
        raise DeepwellError("the server printed no sum of its models' plans")
    return float(found.group(1))


def _full_mb(client: _Client, pid: int) -> float:
    """Returns the proportional set size of all processes once caches and workspaces are in full use."""
    text = cranfield_text()
    for model in GENERATORS:
        full = client.gauge("kv_blocks", model) - _SPARE_BLOCKS
        for start in range(0, len(text), _PROMPT_CHARACTERS):
            if client.gauge("kv_blocks_cached", model) >= full:
                break
            prompt = text[start : start + _PROMPT_CHARACTERS]
            client.call("/v1/completions", {"model": model, "prompt": prompt, "max_tokens": 8})
        with ThreadPoolExecutor(_CROWD) as pool:
            for number in range(_CROWD):
                body = {
                    "model": model,
                    "prompt": text[900 * number % 100_000 :][:400],
                    "max_tokens": 32,
                    "temperature": 1.0,
                    "logprobs": 5,
                    "echo": True,  # prompts' logits as well
                }
                pool.submit(client.call, "/v1/completions", body)
    for count in (3, 16):  # the largest step of few texts, and of many
        texts = [text[2000 * i : 2000 * (i + 1)] for i in range(count)]
        client.call("/v1/embeddings", {"model": EMBEDDER, "input": texts})
    for _ in range(60):  # the process that tokenises long texts ends itself after 20 s without any
        if not any("text_process" in _arguments(one) for one in process_tree(pid)):
            break
        time.sleep(1.0)
    return pss_bytes(process_tree(pid)) / 1e6


def _loading(report: Report) -> dict[str, Any]:
    """Times the events of one stream while another model is packed, and then while its packed file is read."""
    own, other = GENERATORS
    gaps: dict[str, list[float]] = {}
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        models.symlink_to(Settings.load().models_dir)  # packed weights lie beside it
        environment = {"DEEPWELL_MODELS_DIR": str(models)}
        with served_process(_command(own, "--models-on-demand"), env=environment) as (port, _):
            client = _Client(port)
            for phase in ("alone", "packing", "reading"):
                with _stream_of(client, own) as times:
                    begin = time.perf_counter()
                    if phase == "alone":
                        time.sleep(5.0)
                    else:
                        body = {"model": other, "prompt": "def f(", "max_tokens": 1}
                        client.call("/v1/completions", body)
                    end = time.perf_counter()
                inside = [at for at in times if begin <= at <= end]
                gaps[phase] = [1e3 * (b - a) for a, b in itertools.pairwise(inside)]
                seconds[phase] = end - begin
                if phase == "packing":
                    client.call(f"/v1/models/{other}", method="DELETE")
    rows = [
        [
            phase,
            f"{seconds[phase]:.1f}",
            *(f"{percentile(found, share):.1f}" for share in (0.5, 0.99, 1.0)),
        ]
        for phase, found in gaps.items()
    ]
    report.table(
        f"Milliseconds between events of {own} while {other} loads",
        ["phase", "seconds", "p50", "p99", "max"],
        rows,
    )
    return {
        f"{phase}_{name}_ms": rounded(percentile(found, share), 3)
        for phase, found in gaps.items()
        for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))
    }


@contextlib.contextmanager
def _stream_of(client: _Client, model: str) -> Generator[list[float]]:
    """Keeps one stream of a model going; yields the times of its events, which grow."""
    times: list[float] = []
    ended, begun = threading.Event(), threading.Event()

    class Enough(Exception):
        """Raised to leave the stream."""

    def keep(_: dict[str, Any]) -> None:
        times.append(time.perf_counter())
        begun.set()
        if ended.is_set():
            raise Enough

    def load() -> None:
        number = 0
        while not ended.is_set():
            number += 1
            body = {"model": model, "prompt": f"Part {number}:", "max_tokens": 2000, "ignore_eos": True}
            with contextlib.suppress(Enough):
                client.stream({**body, "temperature": 0.8, "seed": number}, keep)

    thread = threading.Thread(target=load)
    thread.start()
    begun.wait(60)
    try:
        yield times
    finally:
        ended.set()
        thread.join()
