"""Deepwell against other engines on one model and machine: decode, prefill, batch 16, memory, perplexity."""

from __future__ import annotations

import datetime
import json
import statistics
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deepwell.cli.bench.engine import Run
from deepwell.cli.bench.machine import cpu_model, machine
from deepwell.cli.bench.report import Report, rounded
from deepwell.cli.bench.roofs import Roofs, Work, measure_roofs, work_of
from deepwell.engine.layouts import Precision
from deepwell.errors import DeepwellError, InvalidRequest
from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell.settings import Settings
from deepwell_bench.harness.assets import bench_cache
from deepwell_bench.harness.comparison import Comparison, compare
from deepwell_bench.harness.environments import PeerError
from deepwell_bench.harness.worker import WorkerEngine
from deepwell_bench.peers.engines import ENGINES, Engine, open_engine_side, open_ours, start_worker
from deepwell_bench.peers.llama_cpp import LlamaCpp, llama_python
from deepwell_bench.workloads.text import prompts, text_tokens

__all__ = ["PEER_NAMES", "Task", "bench_versus", "fastest", "ratios", "rounds_within"]

LLAMA_FILES = ("Q8_0", "Q4_0")
PEER_NAMES = ("llama.cpp", *ENGINES)
PRECISIONS: tuple[Precision, ...] = ("int8", "int4")
PERPLEXITY_WINDOW = 512
HOPELESS = 0.4  # a variant this much slower than the best in decode and prefill is not tried further


@dataclass(frozen=True, slots=True)
class Task:
    """A task that is timed: `tokens` of 1 is a prefill."""

    name: str
    sequences: int
    prompt_tokens: int
    tokens: int
    share: float  # of the time for measuring

    def run(self, side: WorkerEngine | LlamaCpp, model: Path, number: int) -> Run:
        """Runs once on the prompts of round `number`."""
        given = prompts(model, self.prompt_tokens, number, self.sequences)
        return side.prefill(given[0]) if self.tokens == 1 else side.generate(given, self.tokens)

    def title(self) -> str:
        """Returns the title of its table."""
        if self.tokens == 1:
            return f"Prefill, {self.prompt_tokens} tokens"
        return f"Decode, batch {self.sequences}, {self.prompt_tokens} tokens of prompt, {self.tokens} generated each"


TASKS = (
    Task("decode", 1, 128, 64, 0.25),
    Task("prefill", 1, 512, 1, 0.25),
    Task("batch16", 16, 128, 64, 0.5),
)
# Shorter, to choose a variant by.
TRIALS = (Task("decode", 1, 64, 16, 0), Task("prefill", 1, 512, 1, 0), Task("batch16", 16, 64, 12, 0))


def rounds_within(seconds: float, most: int) -> Callable[[float], int]:
    """Counts the rounds of a warm-up's length that fit into `seconds`: at least one, at most `most`."""
    return lambda warm_up: max(1, min(most, int(seconds / max(warm_up, 1e-9))))


def fastest(rates: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    """Returns for each task the variant with the highest rate, of `rates[variant][task]`."""
    best: dict[str, str] = {}
    for variant, of_tasks in rates.items():
        for task, rate in of_tasks.items():
            if task not in best or rate > rates[best[task]][task]:
                best[task] = variant
    return best


def ratios(result: Comparison, ours: Sequence[str], peer: str) -> dict[str, float]:
    """Returns our median ratio to a peer, for each of our sides."""
    return {name: rounded(result.ratio(name, peer), 3) for name in ours}


@dataclass(slots=True)
class _Cast:
    """The sides that take part, by task, and why others do not."""

    ours: dict[Precision, WorkerEngine] = field(default_factory=dict[Precision, WorkerEngine])
    llama: list[LlamaCpp] = field(default_factory=list[LlamaCpp])
    engines: dict[str, dict[str, WorkerEngine]] = field(default_factory=dict[str, dict[str, WorkerEngine]])
    failures: dict[str, str] = field(default_factory=dict[str, str])

    def for_task(self, task: str) -> dict[str, tuple[str, WorkerEngine | LlamaCpp]]:
        """Returns by side's name the peer it belongs to ("" for ours), and the side."""
        cast: dict[str, tuple[str, WorkerEngine | LlamaCpp]] = {
            side.name: ("", side) for side in self.ours.values()
        }
        cast |= {side.name: ("llama.cpp", side) for side in self.llama}
        cast |= {
            chosen[task].name: (name, chosen[task]) for name, chosen in self.engines.items() if task in chosen
        }
        return cast

    def everyone(self) -> dict[str, WorkerEngine | LlamaCpp]:
        """Returns every side once, by name."""
        return {name: side for task in TASKS for name, (_, side) in self.for_task(task.name).items()}


def bench_versus(
    report: Report,
    model: Path,
    *,
    threads: int,
    peers: Sequence[str] = PEER_NAMES,
    rounds: int = 5,
    minutes: float = 8.0,
    perplexity_tokens: int = 3072,
    tune: bool = False,
    prepare: bool = False,
) -> dict[str, Any]:
    """Runs interleaved rounds of every engine, as many as fit into `minutes`; a peer that fails is reported, the others go on.

    Of every engine each task runs the variant that was fastest in short trials; these are made once and kept in the cache,
    unless `tune` asks for new ones. With `prepare` there are the environments, the models and the trials, and no comparison.

    Raises:
        InvalidRequest: an unknown peer.
    """
    if unknown := set(peers) - set(PEER_NAMES):
        raise InvalidRequest(
            f"no peer is called {', '.join(sorted(unknown))}", fix=f"use {', '.join(PEER_NAMES)}"
        )
    facts = machine(threads)
    report.note(f"{model.name}: {facts['cpu']}, {threads} threads, {facts['system']}, {facts['date']}")
    cast = _Cast()
    choices: dict[str, dict[str, str]] = {}
    for name in peers:
        if engine := ENGINES.get(name):
            with _reported(report, cast, name):
                choices[name] = _choose(report, engine, model, threads=threads, tune=tune)
    if prepare:
        return {"fastest": choices, "failures": cast.failures}
    deadline = time.monotonic() + minutes * 60
    with ExitStack() as stack:
        _open(report, cast, stack, model, choices, threads=threads, llama="llama.cpp" in peers)
        config = open_checkpoint(model).config
        kv_dtype = Settings.load().kv_dtype
        works: dict[Precision, Work] = {
            precision: work_of(config, precision, kv_dtype=kv_dtype) for precision in PRECISIONS
        }
        value: dict[str, Any] = {}
        left = 1.0
        for task in TASKS:
            seconds = max(0.0, deadline - time.monotonic()) * task.share / left * 0.8
            left -= task.share
            value |= _measure(
                report, cast, model, task, works, threads=threads, seconds=seconds, rounds=rounds
            )
        memory = {name: side.peak_rss_bytes() / 1e6 for name, side in cast.everyone().items()}
        value |= _quality(report, cast, model, memory, perplexity_tokens, deadline)
    mine = [engine for engine in ENGINES if all(f"{engine}_{task.name}" in value for task in TASKS)]
    held = [value[f"{engine}_{task.name}"] for engine in mine for task in TASKS]
    return {
        "minimum_ratio": min(held, default=0.0),
        "engines_measured": len(mine),
        **value,
        "failures": cast.failures,
    }


@contextmanager
def _reported(report: Report, cast: _Cast, name: str) -> Generator[None]:
    """Turns a peer's failure into a line of the report; whatever is not the peer's fault passes."""
    try:
        yield
    except PeerError as error:
        cast.failures[name] = str(error)
        report.note(f"{name} left out: {error}")


def _choose(report: Report, engine: Engine, model: Path, *, threads: int, tune: bool) -> dict[str, str]:
    """Returns the fastest variant for each task, from the cache or from trials.

    Raises:
        PeerError: no variant works.
    """
    worker = start_worker(engine, report.console, threads=threads)
    try:
        about = worker.call("info")
    finally:
        worker.close()
    remark = f" ({engine.remark})" if engine.remark else ""
    report.note(f"{engine.name} {about['version']}{remark}: {about['system_info']}")
    key = "|".join([about["version"], model.name, str(threads), cpu_model()])
    entry = _trials(report, engine, model, key, threads=threads, tune=tune)
    for task, variant in entry["fastest"].items():
        others = {
            other: rate[task]
            for other, rate in entry["tokens_per_s"].items()
            if task in rate and other != variant
        }
        told = ", ".join(f"{other} {rate:.1f}" for other, rate in others.items())
        chosen = entry["tokens_per_s"][variant][task]
        report.note(
            f"{engine.name} {task}: {variant} at {chosen:.1f} tokens/s in trials of {entry['date']} ({told})"
        )
    return dict(entry["fastest"])


def _trials(
    report: Report, engine: Engine, model: Path, key: str, *, threads: int, tune: bool
) -> dict[str, Any]:
    """Tries every variant that the cache knows nothing of; each is kept at once, so that an interrupted run goes on.

    Raises:
        PeerError: no variant works.
    """
    store = bench_cache() / "versus" / f"{engine.name}.json"
    known: dict[str, Any] = json.loads(store.read_text(encoding="utf-8")) if store.exists() else {}
    tried: dict[str, dict[str, float]] = {} if tune else known.get(key, {}).get("tokens_per_s", {})
    reasons: list[str] = []
    if missing := [variant for variant in engine.variants if variant not in tried]:
        report.note(f"{engine.name}: trying {len(missing)} variants, once: {', '.join(missing)}")
    for variant in missing:
        try:
            tried[variant] = _try(report, engine, variant, model, tried, threads=threads)
        except PeerError as error:
            reasons.append(f"{variant}: {error}")
            report.note(f"{engine.name}, {variant}: {error}")
            continue
        report.note(f"{engine.name}, {variant}: {tried[variant]} tokens/s")
        today = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
        known[key] = {"tokens_per_s": tried, "date": today}
        store.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    rates = {variant: tried[variant] for variant in engine.variants if variant in tried}
    if not rates:
        raise PeerError(f"no variant of {engine.name} works: {'; '.join(reasons)}")
    return {**known[key], "fastest": fastest(rates)}


def _try(
    report: Report,
    engine: Engine,
    variant: str,
    model: Path,
    others: Mapping[str, Mapping[str, float]],
    *,
    threads: int,
) -> dict[str, float]:
    """Returns the rates of one variant in the trials it serves."""
    reached: dict[str, float] = {}
    side = open_engine_side(engine, variant, model, report.console, threads=threads, sequences=16)
    try:
        for trial in TRIALS:
            hopeless = [name for name, rate in reached.items() if rate < HOPELESS * _best(others, name)]
            if len(hopeless) == 2:
                break
            trial.run(side, model, 0)
            reached[trial.name] = rounded(max(trial.run(side, model, number).rate for number in (1, 2)))
    except PeerError as error:
        if not reached:
            raise
        report.note(f"{engine.name}, {variant}: {error}")
    finally:
        side.close()
    return reached


def _best(rates: Mapping[str, Mapping[str, float]], task: str) -> float:
    return max((of_tasks[task] for of_tasks in rates.values() if task in of_tasks), default=0.0)


def _open(
    report: Report,
    cast: _Cast,
    stack: ExitStack,
    model: Path,
    choices: Mapping[str, Mapping[str, str]],
    *,
    threads: int,
    llama: bool,
) -> None:
    for precision in PRECISIONS:
        side = open_ours(model, precision, threads=threads, sequences=16)
        stack.callback(side.close)
        cast.ours[precision] = side
    if llama:
        with _reported(report, cast, "llama.cpp"):
            python = llama_python(report.console)
            for file_type in LLAMA_FILES:
                peer = LlamaCpp(python, threads=threads)
                stack.callback(peer.close)
                peer.load(model, file_type)
                cast.llama.append(peer)
            report.note(f"llama.cpp in llama-cpp-python {cast.llama[0].version}: {cast.llama[0].system_info}")
    for name, chosen in choices.items():
        with _reported(report, cast, name):
            opened: dict[str, WorkerEngine] = {}
            for variant in sorted(set(chosen.values())):
                engine_side = open_engine_side(
                    ENGINES[name], variant, model, report.console, threads=threads, sequences=16
                )
                stack.callback(engine_side.close)
                opened[variant] = engine_side
            cast.engines[name] = {task: opened[variant] for task, variant in chosen.items()}


class _SideFailed(Exception):
    """Names the side, so that the others can be measured without it."""

    def __init__(self, name: str, error: PeerError) -> None:
        super().__init__(str(error))
        self.name = name


def _measure(
    report: Report,
    cast: _Cast,
    model: Path,
    task: Task,
    works: Mapping[Precision, Work],
    *,
    threads: int,
    seconds: float,
    rounds: int,
) -> dict[str, Any]:
    for peer in cast.llama:
        _open_llama(peer, task, model)
    taking_part = cast.for_task(task.name)
    peaks: list[Roofs] = []

    def runner(name: str) -> Callable[[int], Run]:
        def run(number: int) -> Run:
            try:
                return task.run(taking_part[name][1], model, number)
            except PeerError as error:
                raise _SideFailed(name, error) from error

        return run

    read = [work.decode_bytes(task.prompt_tokens + task.tokens / 2) for work in works.values()]

    def each_round() -> None:
        peaks.append(measure_roofs(threads, seconds=0.2, nbytes=min(read)))

    while True:
        peaks.clear()
        try:
            result = compare(
                {name: runner(name) for name in taking_part},
                rounds_within(seconds, rounds),
                each_round,
            )
            break
        except _SideFailed as failed:
            owner = taking_part.pop(failed.name)[0]
            if not owner:
                raise DeepwellError(str(failed)) from failed
            cast.failures[owner] = f"{task.name}: {failed}"
            report.note(f"{failed.name} left out: {failed}")
    return _tell(report, cast, task, result, taking_part, works, peaks)


def _open_llama(peer: LlamaCpp, task: Task, model: Path) -> None:
    """Leaves llama.cpp with the faster of flash attention off and on."""
    length = task.prompt_tokens + task.tokens + 16
    rates: dict[bool, float] = {}
    for flash in (False, True):
        peer.open(flash=flash, context=length, sequences=task.sequences)
        rates[flash] = max(task.run(peer, model, 0).rate for _ in range(2))
    if rates[False] > rates[True]:
        peer.open(flash=False, context=length, sequences=task.sequences)


def _tell(
    report: Report,
    cast: _Cast,
    task: Task,
    result: Comparison,
    taking_part: Mapping[str, tuple[str, WorkerEngine | LlamaCpp]],
    works: Mapping[Precision, Work],
    peaks: Sequence[Roofs],
) -> dict[str, Any]:
    """Prints the task's table; returns its figures."""
    ours = [side.name for side in cast.ours.values()]
    value: dict[str, Any] = {}
    rows: list[list[Any]] = []
    shares = {
        side.name: _roof_share(task, works[precision], result.rates[side.name], peaks)
        for precision, side in cast.ours.items()
    }
    for name, (owner, _) in taking_part.items():
        low, high = result.spread(name)
        against = ratios(result, ours, name)
        share = shares.get(name)
        rows.append(
            [
                name,
                result.median(name),
                f"{low:,.0f}-{high:,.0f}",
                *(rounded(against[mine], 3) if owner else "" for mine in ours),
                "" if share is None else f"{share:.0%}",
            ]
        )
        entry: dict[str, Any] = {"tokens_per_s": rounded(result.median(name))}
        if share is not None:
            entry["roof"] = rounded(share, 3)
        if owner:
            entry |= {f"ours_over_it_{mine.removeprefix('deepwell ')}": against[mine] for mine in ours}
        value.setdefault(task.name, {})[name] = entry
        if owner in ENGINES:
            value[f"{owner}_{task.name}"] = min(against.values())  # the slower of our precisions
    report.table(
        f"{task.title()}; {len(peaks)} rounds",
        ["engine", "tokens/s", "spread", *(f"{mine} / this" for mine in ours), "of its roof"],
        rows,
    )
    return {f"{task.name}_rounds": len(peaks), **value}


def _roof_share(task: Task, work: Work, rates: Sequence[float], peaks: Sequence[Roofs]) -> float | None:
    """Returns the share of the memory roof in decode, of the arithmetic roof in prefill; batches have neither alone."""
    if task.sequences > 1:
        return None
    if task.tokens == 1:
        limits = [work.prefill_roof(peak, task.prompt_tokens) for peak in peaks]
    else:
        context = task.prompt_tokens + task.tokens / 2
        limits = [work.decode_roof(peak.memory, context) for peak in peaks]
    return statistics.median(rate / limit for rate, limit in zip(rates, limits, strict=True))


def _quality(
    report: Report,
    cast: _Cast,
    model: Path,
    memory: Mapping[str, float],
    tokens: int,
    deadline: float,
) -> dict[str, Any]:
    """Measures perplexity of every side that states probabilities of a prompt, while time lasts."""
    ids = text_tokens(model)[:tokens]
    windows = [ids[start : start + PERPLEXITY_WINDOW] for start in range(0, len(ids) - 1, PERPLEXITY_WINDOW)]
    for peer in cast.llama:
        peer.open(flash=True, context=PERPLEXITY_WINDOW + 16, sequences=1)
    rows: list[list[Any]] = []
    figures: dict[str, Any] = {}
    for name, side in cast.everyone().items():
        entry: dict[str, Any] = {"peak_rss_mb": rounded(memory[name])}
        told = "n/a"
        if time.monotonic() > deadline:
            told = "not measured: out of time"
        else:
            try:
                loss, count = side.score(windows)
                entry["perplexity"] = rounded(float(np.exp(loss / count)), 5)
                told = f"{entry['perplexity']:.2f}"
            except PeerError as error:
                report.note(f"{name}: no perplexity: {error}")
        rows.append([name, side.weights_bytes / 1e6, memory[name], told])
        figures[name] = entry
    report.table(
        f"Memory, and perplexity over {len(ids)} tokens of Cranfield text, window {PERPLEXITY_WINDOW}",
        ["engine", "weights MB", "peak RSS MB", "perplexity"],
        rows,
    )
    return {"memory_and_perplexity": figures}
