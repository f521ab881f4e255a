"""Capacity: the fewest replicas whose p95 keeps a target."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Literal

from deepwell.errors import InvalidRequest
from deepwell.fleet.simulate.figures import Figures
from deepwell.fleet.simulate.loads import Load, PoissonLoad, TraceLoad, UserLoad
from deepwell.fleet.simulate.profile import Profile
from deepwell.fleet.simulate.simulation import Fleet, simulate

__all__ = ["Goal", "Metric", "Plan", "fewest_replicas", "first_guess", "measured_time"]

Metric = Literal["first", "answer"]

_REQUESTS: Final = 20_000  # of the measured time, unless it becomes too long or too short
_MOST_REQUESTS: Final = 50_000_000  # of one run
_SHORTEST_S, _LONGEST_S, _WARMUP_S = 120.0, 3600.0, 60.0
_STEP: Final = 1.3  # from a number of replicas to the next one, until one is enough


@dataclass(frozen=True, slots=True)
class Goal:
    """A promise to users.

    Attributes:
        target_p95_ms: 95 of 100 requests are no later.
        metric: "first": the time to the first token; "answer": to the last one.
        most_rejected: share of the requests that may be refused.
        most_replicas: replicas that can be had.
        repeats: seeds for each of which the target is kept.
    """

    target_p95_ms: float
    metric: Metric = "first"
    most_rejected: float = 0.01
    most_replicas: int = 4096
    repeats: int = 3

    def p95_ms(self, figures: Figures) -> float:
        """Returns the p95 that is promised."""
        return figures.first_p95_ms if self.metric == "first" else figures.answer_p95_ms

    def holds(self, figures: Figures) -> bool:
        """Tells whether a run keeps the promise."""
        return self.p95_ms(figures) <= self.target_p95_ms and figures.rejected <= self.most_rejected


@dataclass(frozen=True, slots=True)
class Plan:
    """The fewest replicas, and every run that was made, by number of replicas. `confirmed` are those of further seeds."""

    replicas: int
    runs: tuple[Figures, ...]
    confirmed: tuple[Figures, ...]


def fewest_replicas(
    fleet: Fleet, load: Load, goal: Goal, *, seed: int, warmup_s: float, say: Callable[[Figures], None]
) -> Plan:
    """Finds the fewest replicas that keep a promise for every seed. `fleet.replicas` is not looked at.

    Raises:
        InvalidRequest: the most replicas do not keep it.
    """
    runs: dict[int, Figures] = {}

    def run(replicas: int, number: int = 0) -> Figures:
        found = simulate(replace(fleet, replicas=replicas), load, seed=seed + number, warmup_s=warmup_s)
        say(found)
        return found

    def enough(replicas: int) -> bool:
        if replicas not in runs:
            runs[replicas] = run(replicas)
        return goal.holds(runs[replicas])

    def wider(replicas: int) -> int:
        return min(goal.most_replicas, max(replicas + 1, math.ceil(replicas * _STEP)))

    high = min(goal.most_replicas, first_guess(fleet.profile, load))
    low = 0  # is not enough
    while not enough(high):
        low = high
        if high >= goal.most_replicas:
            raise _unreachable(fleet.profile, load, goal, runs[high])
        high = wider(high)
    while high - low > 1:
        middle = (low + high) // 2 if low else min(high - 1, math.floor(high / _STEP))
        low, high = (low, middle) if enough(middle) else (middle, high)
    confirmed = [run(high, number) for number in range(1, goal.repeats)]
    while not all(map(goal.holds, confirmed)):
        if high >= goal.most_replicas:
            raise _unreachable(fleet.profile, load, goal, max(confirmed, key=goal.p95_ms))
        high += 1
        if not enough(high):
            continue
        confirmed = [run(high, number) for number in range(1, goal.repeats)]
    return Plan(high, tuple(runs[one] for one in sorted(runs)), tuple(confirmed))


def _unreachable(profile: Profile, load: Load, goal: Goal, figures: Figures) -> InvalidRequest:
    prompt, answer = _lengths(load)
    least = profile.overhead_s + profile.prefill_s + prompt * profile.prefill_s_per_token
    if goal.metric == "answer":
        least += (answer - 1) * profile.step_table()[1]
    return InvalidRequest.of(
        "simulate_unreachable",
        most=goal.most_replicas,
        target=f"{goal.target_p95_ms:g}",
        found=f"{goal.p95_ms(figures):.0f}",
        least=f"{1e3 * least:.0f}",
    )


def _lengths(load: Load) -> tuple[float, float]:
    """Returns the mean lengths of prompts and answers; of users, without the conversation before."""
    if isinstance(load, TraceLoad):
        count = len(load.rows)
        return (
            sum(one.prompt_tokens for one in load.rows) / count,
            sum(one.answer_tokens for one in load.rows) / count,
        )
    if isinstance(load, PoissonLoad | UserLoad):
        return load.mix.shared_tokens + load.mix.prompt_tokens, load.mix.answer_tokens
    return 1.0, 1.0


def _rate(load: Load) -> float:
    """Returns the requests a second that would come if answers took no time."""
    if isinstance(load, PoissonLoad):
        return load.rate
    if isinstance(load, UserLoad):
        return load.users / max(load.think_s, 1e-3)
    if isinstance(load, TraceLoad):
        return len(load.rows) / max(1e-3, load.rows[-1].at_s - load.rows[0].at_s)
    return 1.0


def first_guess(profile: Profile, load: Load) -> int:
    """Returns about the replicas that would be busy all the time: where the search begins."""
    prompt, answer = _lengths(load)
    if profile.kind == "slots":
        hold = profile.prefill_s + prompt * profile.prefill_s_per_token
        seconds = (hold + answer * profile.step_table()[-1]) / profile.max_batch
    else:
        seconds = prompt * profile.prefill_s_per_token + answer / profile.best_tokens_per_s
    busy = _rate(load) * seconds
    if isinstance(load, UserLoad):  # they wait for an answer before they think again
        busy *= load.think_s / (load.think_s + answer * profile.step_table()[-1])
    return max(1, math.ceil(busy))


def measured_time(load: Load, seconds: float | None, warmup_s: float | None) -> tuple[float, float]:
    """Returns seconds of arrivals and of warm-up: as given, else what shows the p95 of rare long answers too.

    Raises:
        InvalidRequest: so many requests would come that no machine simulates them.
    """
    long, warm = _measured_time(load, seconds, warmup_s)
    if not (requests := _rate(load) * long) <= _MOST_REQUESTS:
        raise InvalidRequest(
            f"about {requests:.3g} requests would come within {long:g} s, and at most {_MOST_REQUESTS:,} are simulated",
            fix="lower the load, or lower --seconds",
        )
    return long, warm


def _measured_time(load: Load, seconds: float | None, warmup_s: float | None) -> tuple[float, float]:
    think_s = load.think_s if isinstance(load, UserLoad) else 0.0
    warm = max(_WARMUP_S, 2 * think_s) if warmup_s is None else warmup_s
    if seconds is not None:
        return seconds, warm if warmup_s is not None else min(warm, seconds / 3)
    return warm + min(_LONGEST_S, max(_SHORTEST_S, _REQUESTS / _rate(load))), warm
