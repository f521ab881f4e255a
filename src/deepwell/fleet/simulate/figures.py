"""Figures of a run: throughput, waits, latencies, busy replicas."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepwell.fleet.simulate.requests import Request

__all__ = ["Figures", "Samples", "figures_of"]


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures of the requests that arrived in the measured time.

    Attributes:
        requests: those that arrived, refused ones included.
        rejected: share of them that was refused because the queue was too long.
        requests_per_s: requests that ended in the measured time, a second.
        tokens_per_s: tokens of their answers, a second.
        first_p50_ms: time to the first token; percentiles are of requests that were answered.
        answer_p50_ms: time to the last token.
        wait_ms: mean wait for the engine's first step.
        in_system: requests at the replicas, waiting ones included, as a mean over time.
        busy: share of the time that replicas computed.
        cached: share of the prompt tokens that prefix caches had.
        preemptions: sequences that gave way because a KV cache was full, warm-up included.
    """

    replicas: int
    requests: int
    rejected: float
    requests_per_s: float
    tokens_per_s: float
    first_p50_ms: float
    first_p95_ms: float
    answer_p50_ms: float
    answer_p95_ms: float
    wait_ms: float
    in_system: float
    busy: float
    cached: float
    preemptions: int


class Samples:
    """Collects what happens between the end of the warm-up and the horizon."""

    def __init__(self, warmup_s: float, horizon_s: float) -> None:
        self._begin, self._end = warmup_s, horizon_s
        self.requests: list[Request] = []
        self.completed = 0
        self.tokens = 0
        self.busy_s = [0.0, 0.0]
        self.measured_s = 0.0
        self.first_arrival = math.inf
        self.area_s = 0.0  # requests at the replicas, summed over the measured time
        self._inside = 0
        self._changed = 0.0

    def count(self, now: float, change: int) -> None:
        """Takes in that a request comes to a replica, or leaves it."""
        overlap = min(now, self._end) - max(self._changed, self._begin)
        if overlap > 0:
            self.area_s += self._inside * overlap
        self._inside += change
        self._changed = now

    def end(self, request: Request) -> None:
        """Takes in a request that has ended or was refused."""
        ended = request.ended
        if request.arrived < self.first_arrival:
            self.first_arrival = request.arrived
        if self._begin <= request.arrived <= self._end:
            self.requests.append(request)
        if not request.rejected and self._begin <= ended <= self._end:
            self.completed += 1
            self.tokens += request.answer

    def mark(self, now: float, which: int, busy_s: float) -> None:
        """Notes the busy time of all replicas at the begin (0) or the end (1) of the measured time."""
        self.busy_s[which] = busy_s
        if which:
            begin = max(self._begin, self.first_arrival) if math.isinf(self._end) else self._begin
            self.measured_s = now - begin


def figures_of(samples: Samples, replicas: int, preemptions: int) -> Figures:
    """Returns the figures of a run with at least one request in the measured time."""
    requests, seconds = samples.requests, samples.measured_s
    answered = [one for one in requests if not one.rejected]
    served = [one for one in answered if one.replica >= 0]
    arrived = np.array([one.arrived for one in answered])
    first = np.array([one.first for one in answered]) - arrived
    last = np.array([one.ended for one in answered]) - arrived
    waits = [one.started - one.arrived for one in served]
    prompts = sum(one.prompt for one in served)
    return Figures(
        replicas=replicas,
        requests=len(requests),
        rejected=1 - len(answered) / len(requests),
        requests_per_s=samples.completed / seconds,
        tokens_per_s=samples.tokens / seconds,
        first_p50_ms=_percentile_ms(first, 0.5),
        first_p95_ms=_percentile_ms(first, 0.95),
        answer_p50_ms=_percentile_ms(last, 0.5),
        answer_p95_ms=_percentile_ms(last, 0.95),
        wait_ms=1e3 * sum(waits) / len(waits) if waits else 0.0,
        in_system=samples.area_s / seconds,
        busy=(samples.busy_s[1] - samples.busy_s[0]) / seconds / replicas,
        cached=sum(one.cached for one in served) / prompts if prompts else 0.0,
        preemptions=preemptions,
    )


def _percentile_ms(seconds: NDArray[np.float64], share: float) -> float:
    """Returns the smallest value that at least `share` of them do not exceed, in milliseconds; NaN without any."""
    if not len(seconds):
        return math.nan
    place = max(0, math.ceil(share * len(seconds)) - 1)
    return float(np.partition(seconds, place)[place]) * 1e3
