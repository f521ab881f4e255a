"""Runs every speed comparison: several engines, one task, interleaved."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from deepwell.cli.bench.engine import Run

__all__ = ["Comparison", "TimedEngine", "compare"]

SETTLE_SECONDS = 0.05  # OpenMP threads of a peer spin for some milliseconds after their last region


class TimedEngine(Protocol):
    """An engine with a model, ready to be timed."""

    name: str
    weights_bytes: int

    def prefill(self, prompt: Sequence[int]) -> Run:
        """Times a prompt from submission, with an empty cache, to the first token."""
        ...

    def generate(self, prompts: Sequence[Sequence[int]], count: int) -> Run:
        """Continues every prompt by `count` tokens, greedily, EOS ignored; prefill is not timed."""
        ...


@dataclass(frozen=True, slots=True)
class Comparison:
    """Rates of several sides over the same rounds, in tokens a second."""

    rates: Mapping[str, tuple[float, ...]]

    def median(self, side: str) -> float:
        """Returns the median rate."""
        return statistics.median(self.rates[side])

    def spread(self, side: str) -> tuple[float, float]:
        """Returns the lowest and highest rate."""
        return min(self.rates[side]), max(self.rates[side])

    def ratio(self, ours: str, peer: str) -> float:
        """Returns the median of the ratios of each round: drift of a shared machine cancels."""
        return statistics.median(a / b for a, b in zip(self.rates[ours], self.rates[peer], strict=True))

    def best(self, peers: Sequence[str]) -> str:
        """Returns the fastest of the peers by median."""
        return max(peers, key=self.median)


def compare(
    sides: Mapping[str, Callable[[int], Run]],
    rounds: int | Callable[[float], int],
    each_round: Callable[[], None] = lambda: None,
) -> Comparison:
    """Runs every side once a round, after one untimed warm-up; the order turns round each time.

    Each callable takes the round's number, so that all sides see the same prompt and no prompt comes twice. While one runs, the
    others wait on a pipe or a futex. `each_round` is called before each: to measure the roofs of that moment.
    `rounds` may be a function of the seconds that the warm-up took.
    """
    names = list(sides)
    start = time.monotonic()
    for name in names:
        sides[name](0)
    if callable(rounds):
        rounds = rounds(time.monotonic() - start)
    rates: dict[str, list[float]] = {name: [] for name in names}
    for number in range(1, rounds + 1):
        each_round()
        for name in names if number % 2 else reversed(names):
            time.sleep(SETTLE_SECONDS)
            rates[name].append(sides[name](number).rate)
    return Comparison({name: tuple(values) for name, values in rates.items()})
