"""Latency of two models side by side: time to the first token and tokens a second, in turns on the same prompts.

A shared machine drifts by more than two models differ. Each round therefore asks both, in an order that alternates, and the
result is the ratio within rounds. Every prompt begins with its own number, so no round finds its prompt in a prefix cache.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepwell.tuning.evaluate.statistics import Estimate, difference, mean_of
from deepwell.tuning.evaluate.subjects import Subject

__all__ = ["Latency", "compare_latency", "latency_of", "peak_bytes", "reset_peak"]

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_PROMPT = (
    "Read the following note and answer in a few sentences. The harbour office opens at eight on weekdays. Boats that "
    "arrive in the night wait at the outer quay, and their papers are read in the order of arrival. "
)


@dataclass(frozen=True, slots=True)
class Latency:
    """The medians of one model, and the ratios of the other to it.

    Attributes:
        first_ms, rate: medians of time to the first token and of tokens a second, of the first and the second model.
        first_ratio, rate_ratio: geometric mean of the second over the first within rounds, with its 95 % interval.
    """

    rounds: int
    first_ms: tuple[float, float]
    rate: tuple[float, float]
    first_ratio: Estimate
    rate_ratio: Estimate


def compare_latency(
    one: Subject,
    other: Subject,
    *,
    rounds: int,
    tokens: int = 48,
    counted: Callable[[int], None] = lambda _: None,
) -> Latency:
    """Measures two models in turns. The first round warms up and does not count."""
    firsts: list[tuple[float, float]] = []
    rates: list[tuple[float, float]] = []
    for number in range(rounds + 1):
        sides = (one, other) if number % 2 else (other, one)
        timed = {id(side): _timed(side, f"Note {number}. {_PROMPT}", tokens) for side in sides}
        if number:
            firsts.append((timed[id(one)][0], timed[id(other)][0]))
            rates.append((timed[id(one)][1], timed[id(other)][1]))
        counted(1)
    return latency_of(firsts, rates)


def latency_of(firsts: Sequence[tuple[float, float]], rates: Sequence[tuple[float, float]]) -> Latency:
    """Returns the medians and the ratios of pairs of measurements: seconds to the first token, and tokens a second."""
    first, rate = np.asarray(firsts, np.float64), np.asarray(rates, np.float64)
    milliseconds, speed = 1000 * np.median(first, axis=0), np.median(rate, axis=0)
    return Latency(
        len(first),
        (float(milliseconds[0]), float(milliseconds[1])),
        (float(speed[0]), float(speed[1])),
        _ratio(first[:, 0].tolist(), first[:, 1].tolist()),
        _ratio(rate[:, 0].tolist(), rate[:, 1].tolist()),
    )


def peak_bytes() -> int | None:
    """Returns the most memory that this process has used since `reset_peak`; None where the system does not say."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    sizes = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(sizes[0]) * 1024 if sizes else None


def reset_peak() -> None:
    """Lets `peak_bytes` start at the present use."""
    try:
        _CLEAR.write_text("5")
    except OSError:  # not on this system: the peak is then that of the whole process
        return


def _timed(side: Subject, prompt: str, tokens: int) -> tuple[float, float]:
    """Returns the seconds to the first token, and the tokens a second after it."""
    start = time.perf_counter()
    first = last = start
    count = 0
    with side.llm.generate(
        prompt, adapter=side.adapter, stream=True, max_tokens=tokens, temperature=0, ignore_eos=True
    ) as stream:
        for _ in stream:
            last = time.perf_counter()
            first = last if not count else first
            count += 1
    return first - start, (tokens - 1) / max(last - first, 1e-9)


def _ratio(one: Sequence[float], other: Sequence[float]) -> Estimate:
    logs = [[math.log(value) for value in values] for values in (one, other)]
    change = difference(mean_of("log", logs[0]), mean_of("log", logs[1]))
    return Estimate(math.exp(change.value), math.exp(change.low), math.exp(change.high), len(one))
