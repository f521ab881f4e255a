"""`deepwell bench simulator`: simulated throughput and latencies beside measured ones, on one trace.

Replicas are calibrated first, by prompts alone and by batches that begin together. What is validated are other loads: requests
at random times, with mixed lengths, at half, 0.8 and 1.2 times what the replicas can do.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, Final

from deepwell.cli.bench.machine import cpu_seconds, process_tree
from deepwell.cli.bench.report import Report, percentile, rounded
from deepwell.fleet.simulate.calibration.http import HttpTarget, words
from deepwell.fleet.simulate.calibration.measure import Effort, calibrate
from deepwell.fleet.simulate.calibration.targets import Timed
from deepwell.fleet.simulate.figures import Figures
from deepwell.fleet.simulate.loads import Row, TraceLoad
from deepwell.fleet.simulate.profile import Profile
from deepwell.fleet.simulate.simulation import Fleet, simulate
from deepwell_bench.harness.served import served_process

__all__ = ["Lengths", "bench_simulator", "capacity", "mean_profile", "trace_of"]

SLOTS, FIRST_MS, TOKEN_MS = 4, 50, 20  # of the paced engine
SHARES: Final = (0.5, 0.8, 1.2)  # of the capacity
REPLICAS: Final = (1, 2, 3, 4)
_FIGURES: Final = ("requests_per_s", "first_p95_ms", "answer_p95_ms")


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths of requests in tokens, each drawn evenly between two bounds."""

    prompt: tuple[int, int]
    answer: tuple[int, int]


PACED: Final = Lengths((16, 48), (4, 24))
REAL: Final = Lengths((24, 240), (16, 96))


def trace_of(lengths: Lengths, rate: float, seconds: float, seed: int) -> list[Row]:
    """Returns requests at random times."""
    draw = random.Random(seed)  # noqa: S311
    rows: list[Row] = []
    now = 0.0
    while (now := now + draw.expovariate(rate)) < seconds:
        rows.append(Row(now, draw.randint(*lengths.prompt), draw.randint(*lengths.answer)))
    return rows


def capacity(profile: Profile, lengths: Lengths) -> float:
    """Returns the requests a second of one replica that never waits for work, as the simulator has it."""
    draw = random.Random(1)  # noqa: S311
    many = [Row(0.0, draw.randint(*lengths.prompt), draw.randint(*lengths.answer)) for _ in range(2000)]
    return simulate(Fleet(profile, 1, "round-robin"), TraceLoad(many)).requests_per_s


def mean_profile(profiles: Sequence[Profile]) -> Profile:
    """Returns the mean of measurements of the same replica at different times."""
    first = profiles[0]
    common = [rows for rows, _ in first.decode if all(rows in dict(one.decode) for one in profiles)]

    def mean(name: str) -> float:
        return statistics.fmean(getattr(one, name) or 0.0 for one in profiles)

    return replace(
        first,
        decode=tuple((rows, statistics.fmean(dict(one.decode)[rows] for one in profiles)) for rows in common),
        max_batch=min(one.max_batch for one in profiles),
        **{
            name: mean(name)
            for name in (
                "prefill_s",
                "prefill_s_per_token",
                "mixed_prefill_s_per_token",
                "context_s_per_token",
                "overhead_s",
            )
        },
    )


def bench_simulator(report: Report, model: Path, *, seconds: float = 30.0) -> dict[str, Any]:
    """Compares the simulator with servers of paced engines, and with one of a real model.

    Args:
        seconds: time over which each load arrives; at the real model, four times as long.

    Raises:
        PeerError: a server does not start.
        InvalidRequest: one refuses a request, or answers with fewer tokens.
    """
    paced, paced_cpu = _paced(report, model, seconds)
    # The engine takes 16 requests at a time: for a while, more than it can do fills it and makes nobody wait.
    real, real_cpu, drift = _real(report, model, seconds * 4)
    return {
        **{f"paced_{name}": value for name, value in _worst(paced).items()},
        **{f"real_{name}": value for name, value in _worst(real).items()},
        "real_speed_drift": rounded(drift, 3),
        "runs": len(paced) + len(real),
        "paced_cpu_share": rounded(paced_cpu, 2),
        "real_client_cpu_share": rounded(real_cpu, 2),
    }


@dataclass(frozen=True, slots=True)
class _Pair:
    """One load: what was measured, and what was simulated."""

    name: str
    measured: Mapping[str, float]
    simulated: Figures

    def error(self, figure: str) -> float:
        """Relative error of the simulation."""
        return getattr(self.simulated, figure) / self.measured[figure] - 1


def _worst(pairs: Sequence[_Pair]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for figure in _FIGURES:
        short = figure.removesuffix("_ms").removesuffix("_per_s")
        errors = [abs(pair.error(figure)) for pair in pairs]
        found[f"{short}_error"] = rounded(max(errors), 3)
        found[f"{short}_mean_error"] = rounded(statistics.fmean(errors), 3)
    return found


def _table(report: Report, title: str, pairs: Sequence[_Pair]) -> None:
    rows: list[list[Any]] = []
    for pair in pairs:
        cells: list[Any] = [pair.name]
        for figure in _FIGURES:
            measured, simulated = pair.measured[figure], getattr(pair.simulated, figure)
            cells.append(f"{measured:.4g} / {simulated:.4g} ({100 * pair.error(figure):+.1f} %)")
        rows.append(cells)
    columns = ["load", "requests/s", "first token p95, ms", "answer p95, ms"]
    report.table(title, columns, rows)


def _paced(report: Report, model: Path, seconds: float) -> tuple[list[_Pair], float]:
    """Validates 1 to 4 paced replicas, which were calibrated by one of them; returns the processors' busy share, too."""
    figures = [str(FIRST_MS), str(TOKEN_MS), "64", str(SLOTS)]

    def command(port: int) -> list[str]:
        return [sys.executable, "-m", "deepwell_bench.workers.fleet.slotted", str(model), str(port), *figures]

    pairs: list[_Pair] = []
    shares: list[float] = []
    with ExitStack() as stack:
        servers = [stack.enter_context(served_process(command)) for _ in range(max(REPLICAS))]
        targets = [HttpTarget(_url(port), model="paced") for port, _ in servers]
        profile = asyncio.run(calibrate(targets[0], Effort(longest_prompt=256), report.note))
        each = capacity(profile, PACED)
        report.note(f"paced: {profile.kind}, {profile.max_batch} at a time, {each:.2f} requests/s")
        seeds = count(1)
        for replicas in REPLICAS:
            used, pids = targets[:replicas], [pid for _, pid in servers[:replicas]]
            for share in SHARES:
                rows = trace_of(PACED, share * each * replicas, seconds, next(seeds))
                before, begun = cpu_seconds(pids) + time.process_time(), time.perf_counter()
                measured = _figures(rows, asyncio.run(_replay(used, rows)))
                spent = cpu_seconds(pids) + time.process_time() - before
                shares.append(spent / (time.perf_counter() - begun))
                simulated = simulate(Fleet(profile, replicas, "round-robin"), TraceLoad(rows))
                pairs.append(_Pair(f"{replicas} x {share:g}", measured, simulated))
    _table(report, "Paced engines behind real servers, in turn: replicas x load; measured / simulated", pairs)
    return pairs, max(shares)


def _real(report: Report, model: Path, seconds: float) -> tuple[list[_Pair], float, float]:
    """Validates one server of a real model; returns the client's share of a processor, and how the speed drifted, too."""

    def command(port: int) -> list[str]:
        return [
            *(sys.executable, "-m", "deepwell", "serve", str(model), "--port", str(port)),
            *("--context", "1024", "--kv-tokens", "32768", "--batch-size", "16"),
            *("--response-cache-mb", "0", "--speculation", "off"),
        ]

    effort = Effort(longest_prompt=256, most_batch=16, prompt_tokens=sum(REAL.prompt) // 2)
    with served_process(command, env={"DEEPWELL_MAX_WAIT_S": "0"}) as (port, pid):
        target = HttpTarget(_url(port))
        profiles = [asyncio.run(calibrate(target, effort, report.note))]
        name = profiles[0].name
        rate = capacity(profiles[0], REAL)
        report.note(f"{name}: {rate:.2f} requests/s")
        measured: list[tuple[str, list[Row], Mapping[str, float]]] = []
        shares: list[float] = []
        for number, share in enumerate(SHARES):
            rows = trace_of(REAL, share * rate, seconds, 100 + number)
            before, begun = time.process_time(), time.perf_counter()
            answers = asyncio.run(_replay([target], rows))
            found = _figures(rows, answers)
            rows = [
                replace(row, prompt_tokens=timed.prompt_tokens)
                for row, (_, timed) in zip(rows, answers, strict=True)
            ]
            shares.append((time.process_time() - before) / (time.perf_counter() - begun))
            measured.append((f"1 x {share:g}", rows, found))
            # A shared machine changes its speed: the mean of a measurement before and one behind each load is simulated.
            profiles.append(asyncio.run(calibrate(target, effort, lambda _: None)))
        busy = cpu_seconds(process_tree(pid))
    pairs = [
        _Pair(label, found, simulate(Fleet(mean_profile(around), 1, "round-robin"), TraceLoad(rows)))
        for (label, rows, found), *around in zip(measured, profiles, profiles[1:], strict=False)
    ]
    _table(
        report, f"{name} behind `deepwell serve`, {busy:.0f} processor seconds; measured / simulated", pairs
    )
    speeds = [capacity(one, REAL) for one in profiles]
    return pairs, max(shares), max(speeds) / min(speeds) - 1


def _url(port: int) -> str:
    return f"http://127.0.0.1:{port}"


async def _replay(targets: Sequence[HttpTarget], rows: Sequence[Row]) -> list[tuple[float, Timed]]:
    """Sends a trace in real time, in turn to each target; returns the answers with the times at which they were due."""
    draw = random.Random(len(rows))  # noqa: S311
    prompts = [words(draw, row.prompt_tokens) for row in rows]
    begin = time.perf_counter() + 0.2

    async def one(number: int, row: Row) -> tuple[float, Timed]:
        due = begin + row.at_s
        await asyncio.sleep(due - time.perf_counter())
        return due, await targets[number % len(targets)].timed(prompts[number], row.answer_tokens)

    return await asyncio.gather(*(one(number, row) for number, row in enumerate(rows)))


def _figures(rows: Sequence[Row], answers: Sequence[tuple[float, Timed]]) -> dict[str, float]:
    """Returns measured figures as the simulator defines its own."""
    last = max(timed.events[-1] for _, timed in answers)
    return {
        "requests_per_s": len(rows) / (last - answers[0][0]),
        "first_p95_ms": 1e3 * percentile([timed.events[0] - due for due, timed in answers], 0.95),
        "answer_p95_ms": 1e3 * percentile([timed.events[-1] - due for due, timed in answers], 0.95),
    }
