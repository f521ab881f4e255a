"""Speed of this checkout beside an earlier commit's: paired runs on one machine in one run, each in its own environment."""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from deepwell.cli.bench.engine import Run
from deepwell.cli.bench.machine import machine
from deepwell.cli.bench.report import Report, percentile, rounded
from deepwell_bench.harness.assets import WORKERS, bench_cache
from deepwell_bench.harness.environments import PeerError
from deepwell_bench.harness.open_loop import FIRST_MS, TOKEN_MS, TOKENS, load_client, run_load
from deepwell_bench.harness.pairs import Bar, Estimate, Measure, bootstrap_median, run_pairs
from deepwell_bench.harness.revisions import Revision, open_revision, this_checkout
from deepwell_bench.harness.served import served
from deepwell_bench.harness.worker import Worker, WorkerEngine
from deepwell_bench.workloads.media.small import pdf_part, png_part, tone
from deepwell_bench.workloads.text import prompts

__all__ = ["TASKS", "bench_regression"]

PROMPT_TOKENS, DECODED = 64, 64  # short runs, many of them: what disturbs one hits its neighbours as well
SEQUENCES, PROMPT_TOKENS_TOGETHER, DECODED_TOGETHER = 16, 32, 32
PREFILL_TOKENS = 512
RATE, LOAD_SECONDS, WARM_SECONDS = 100.0, 1.25, 1.0
MEDIA_REQUESTS, SOUND_S = 5, 3.0
BUSY_LOAD = 0.5
_WORKER = WORKERS / "revision_worker.py"
_RATIO = Bar(0.98, 0.95)
_ADDED = Bar(0.15, higher_is_better=False)
_LONGER = Bar(1.05, higher_is_better=False)


@dataclass(frozen=True, slots=True)
class Task:
    """One comparison: how its sides are opened, and how the figures of a pair become the one that is judged."""

    title: str
    unit: str
    bar: Bar
    sides: Callable[[_Setting], AbstractContextManager[tuple[Measure, Measure]]]
    figure: Callable[[float, float], float]  # of the earlier commit's and of this checkout's


@dataclass(frozen=True, slots=True)
class _Setting:
    old: Revision
    new: Revision
    model: Path
    threads: int
    logs: Path
    different: list[str]  # runs in which the two gave different tokens


def bench_regression(
    report: Report,
    model: Path,
    *,
    against: str,
    threads: int,
    pairs: int = 20,
    tasks: Sequence[str] = (),
) -> dict[str, Any]:
    """Compares speeds with an earlier commit's, task by task; all tasks where none is named.

    A figure is the median over pairs of this checkout's rate over the earlier one's, or of its time less the earlier one's,
    with a bootstrap 95 % interval. A task whose median is good enough and whose interval reaches too far is run once more, and
    the second run decides.

    Raises:
        PeerError: the commit's environment cannot be made, or one of the sides fails.
    """
    old, new = open_revision(against, report.console), this_checkout()
    facts = machine(threads)
    report.note(f"{facts['cpu']}, {threads} threads, {facts['system']}, {facts['date']}")
    load = os.getloadavg()[0]
    if load > BUSY_LOAD:
        report.note(
            f"the load average is {load:.1f} before the first run: intervals will be wide, and ratios may miss"
        )
    value: dict[str, Any] = {"against": old.name, "pairs": pairs, "load_before": rounded(load, 2)}
    rows: list[list[Any]] = []
    slower = 0
    with tempfile.TemporaryDirectory() as folder:
        setting = _Setting(old, new, model, threads, Path(folder), [])
        for name in tasks or TASKS:
            task = TASKS[name]
            results = [_measured(report, task.title, task, setting, pairs)]
            if results[0].verdict == "undecided":
                value[f"{name}_first"] = results[0].plain()
                results.append(_measured(report, f"{task.title}, again", task, setting, pairs))
            value |= dict(zip((name, f"{name}_low", f"{name}_high"), results[-1].plain(), strict=True))
            slower += results[-1].verdict != "holds"
            rows += [result.row() for result in results]
    report.table(
        f"This checkout beside {old.name}, {pairs} pairs",
        ["", "before", "now", "ratio, difference", "95 % interval", ""],
        rows,
    )
    return value | {"slower": slower, "different_answers": len(setting.different)}


@dataclass(frozen=True, slots=True)
class _Result:
    title: str
    before: float
    now: float
    found: Estimate
    verdict: str

    def plain(self) -> list[float]:
        return [rounded(one) for one in (self.found.median, self.found.low, self.found.high)]

    def row(self) -> list[Any]:
        median, low, high = self.plain()
        return [self.title, self.before, self.now, median, f"{low:.4g} to {high:.4g}", self.verdict]


def _measured(report: Report, title: str, task: Task, setting: _Setting, pairs: int) -> _Result:
    start = time.monotonic()
    with report.console.status(title) as status:
        figures = run_pairs(
            lambda: task.sides(setting),
            pairs,
            lambda number: status.update(f"{title}: pair {number} of {pairs}"),
        )
    before, now = map(statistics.median, zip(*figures, strict=True))
    found = bootstrap_median([task.figure(*pair) for pair in figures])
    result = _Result(title, before, now, found, task.bar.judge(found))
    median, low, high = result.plain()
    report.note(
        f"{title}: {before:.4g} {task.unit} before, {now:.4g} now; {median:.4g}, 95 % interval {low:.4g} to {high:.4g}: "
        f"{result.verdict} ({time.monotonic() - start:.0f} s)"
    )
    return result


@contextmanager
def _engines(
    precision: str, run: Callable[[WorkerEngine, Path, int], Run], setting: _Setting
) -> Generator[tuple[Measure, Measure]]:
    """Opens the engines of both revisions, each in a process of its own interpreter."""
    outputs: dict[int, tuple[tuple[int, ...], ...]] = {}

    def measure(side: WorkerEngine, number: int) -> float:
        done = run(side, setting.model, number)
        if outputs.setdefault(number, done.outputs) != done.outputs:
            setting.different.append(f"{precision}, pair {number}")
        return done.rate

    with ExitStack() as stack:
        sides: list[Measure] = []
        for revision in (setting.old, setting.new):
            worker = Worker(
                revision.name,
                [str(revision.python), str(_WORKER)],
                {},
                setting.logs / f"{revision.commit}-{precision}.log",
            )
            stack.callback(worker.close)
            answer = worker.call(
                "load",
                path=str(setting.model),
                threads=setting.threads,
                precision=precision,
                kv_tokens=(SEQUENCES + 2) * 256,
                cache=str(bench_cache()),
            )
            sides.append(partial(measure, WorkerEngine(revision.name, worker, int(answer["bytes"]))))
        yield sides[0], sides[1]


@contextmanager
def _servers(setting: _Setting) -> Generator[tuple[Measure, Measure]]:
    """Opens both revisions' servers over an engine that keeps exact time."""
    client = load_client()
    body = setting.logs / "body"
    body.write_text(
        json.dumps(
            {
                "model": "paced",
                "messages": [{"role": "user", "content": "Why is the sky blue? Answer in one sentence."}],
                "max_tokens": TOKENS,
                "stream": True,
            }
        ),
        encoding="utf-8",
    )

    def first_token_ms(port: int, number: int) -> float:
        times, failed = run_load(client, port, RATE, LOAD_SECONDS if number else WARM_SECONDS, body)
        if failed or not times:
            raise PeerError(
                f"{failed} of {failed + len(times)} requests failed", fix="run it again on a quiet machine"
            )
        return percentile(times, 0.5)

    def command(revision: Revision, port: int) -> list[str]:
        return [
            *(str(revision.python), "-m", revision.module("paced")),
            *(str(setting.model), str(port), str(FIRST_MS), str(TOKEN_MS), str(TOKENS), "served"),
        ]

    with ExitStack() as stack:
        old, new = (
            stack.enter_context(served(partial(command, revision))) for revision in (setting.old, setting.new)
        )
        yield partial(first_token_ms, old), partial(first_token_ms, new)


@contextmanager
def _media(
    send: Callable[[httpx.Client, str], httpx.Response], setting: _Setting
) -> Generator[tuple[Measure, Measure]]:
    """Opens both revisions' servers as `deepwell serve` does."""

    def request_ms(http: httpx.Client, model: str, number: int) -> float:
        times: list[float] = []
        for _ in range(MEDIA_REQUESTS):
            begun = time.perf_counter()
            send(http, model).raise_for_status()
            times.append((time.perf_counter() - begun) * 1e3)
        return statistics.median(times)

    def command(revision: Revision, port: int) -> list[str]:
        return [str(revision.python), "-m", "deepwell", "serve", str(setting.model), "--port", str(port)]

    with ExitStack() as stack:
        sides: list[Measure] = []
        for revision in (setting.old, setting.new):
            port = stack.enter_context(served(partial(command, revision)))
            http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120, trust_env=False)
            stack.enter_context(http)
            model = http.get("/v1/models").json()["data"][0]["id"]
            sides.append(partial(request_ms, http, model))
        yield sides[0], sides[1]


def _attach(part: Callable[[], dict[str, Any]], http: httpx.Client, model: str) -> httpx.Response:
    content = [{"type": "text", "text": "What is it?"}, part()]
    body = {"model": model, "max_tokens": 1, "messages": [{"role": "user", "content": content}]}
    return http.post("/v1/chat/completions", json=body)


def _sound(http: httpx.Client, model: str) -> httpx.Response:
    form = {"files": {"file": ("a.wav", tone(SOUND_S))}, "data": {"model": "whisper-tiny.en"}}
    return http.post("/v1/audio/transcriptions", **form)


def _decode(side: WorkerEngine, model: Path, number: int) -> Run:
    return side.generate(prompts(model, PROMPT_TOKENS, number), DECODED)


def _prefill(side: WorkerEngine, model: Path, number: int) -> Run:
    return side.prefill(prompts(model, PREFILL_TOKENS, number)[0])


def _batch(side: WorkerEngine, model: Path, number: int) -> Run:
    return side.generate(prompts(model, PROMPT_TOKENS_TOGETHER, number, SEQUENCES), DECODED_TOGETHER)


def _over(before: float, now: float) -> float:
    return now / before


def _beyond(before: float, now: float) -> float:
    return now - before


TASKS: dict[str, Task] = {
    "decode_int8": Task("decode int8", "tokens/s", _RATIO, partial(_engines, "int8", _decode), _over),
    "decode_int4": Task("decode int4", "tokens/s", _RATIO, partial(_engines, "int4", _decode), _over),
    "prefill": Task("prefill int4", "tokens/s", _RATIO, partial(_engines, "int4", _prefill), _over),
    "batch16": Task("batch 16 int4", "tokens/s", _RATIO, partial(_engines, "int4", _batch), _over),
    "added_latency_ms": Task("added latency", "ms", _ADDED, _servers, _beyond),
    "image": Task("image attached", "ms", _LONGER, partial(_media, partial(_attach, png_part)), _over),
    "document": Task("document attached", "ms", _LONGER, partial(_media, partial(_attach, pdf_part)), _over),
    "sound": Task("recording transcribed", "ms", _LONGER, partial(_media, _sound), _over),
}
