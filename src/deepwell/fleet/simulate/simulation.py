"""The discrete-event simulation: clients, caches of answers, routing, replicas."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from deepwell.errors import InvalidRequest
from deepwell.fleet.simulate.figures import Figures, Samples, figures_of
from deepwell.fleet.simulate.loads import Load
from deepwell.fleet.simulate.profile import Profile
from deepwell.fleet.simulate.replicas import replica_of
from deepwell.fleet.simulate.requests import Request
from deepwell.fleet.simulate.routing import Routing, policy_of

__all__ = ["Fleet", "Simulation", "simulate"]


@dataclass(frozen=True, slots=True)
class Fleet:
    """Equal replicas behind a front.

    Attributes:
        max_wait_s: longest wait that a replica accepts, as it expects it; 0: any.
        max_waiting: requests that a replica has at most beyond its batch; 0: any number.
    """

    profile: Profile
    replicas: int
    routing: Routing = "least-loaded"
    max_wait_s: float = 0.0
    max_waiting: int = 0


def simulate(fleet: Fleet, load: Load, *, seed: int = 0, warmup_s: float = 0.0) -> Figures:
    """Runs a load on a fleet to its end, and returns figures of the requests that arrive after the warm-up.

    Raises:
        InvalidRequest: a recorded request does not fit the context, or no request arrives after the warm-up.
    """
    return Simulation(fleet, load, seed, warmup_s).run()


class Simulation:
    """One run."""

    def __init__(self, fleet: Fleet, load: Load, seed: int, warmup_s: float) -> None:
        profile = fleet.profile
        self._fleet = fleet
        self._warmup_s, self._horizon_s = warmup_s, load.horizon_s
        self._source = load.source(seed, min(profile.context, profile.kv_tokens))
        self._arrivals = self._source.arrivals()
        self._route = policy_of(fleet.routing, fleet.replicas)
        self._replicas = [
            replica_of(profile, load.shared_tokens, self._push, self._ended) for _ in range(fleet.replicas)
        ]
        self._loads = [0] * fleet.replicas
        self._most = profile.max_batch + fleet.max_waiting if fleet.max_waiting else math.inf
        self._calendar: list[tuple[float, int, Callable[[float, Any], None], Any]] = []
        self._order = itertools.count()
        self._numbers = itertools.count()
        self._samples = Samples(warmup_s, load.horizon_s)
        self.events = 0

    def run(self) -> Figures:
        """Runs to the end.

        Raises:
            InvalidRequest: no request arrives after the warm-up.
        """
        self._next_arrival()
        if self._warmup_s > 0:
            self._push(self._warmup_s, self._mark, 0)
        calendar, events, pop = self._calendar, 0, heapq.heappop
        now = 0.0
        marked = math.isinf(self._horizon_s)
        while calendar:
            now, _, call, argument = pop(calendar)
            if not marked and now >= self._horizon_s:
                marked = True
                self._mark(self._horizon_s, 1)
            call(now, argument)
            events += 1
        self.events = events
        if not marked:
            self._mark(self._horizon_s, 1)
        elif math.isinf(self._horizon_s):
            self._mark(now, 1)
        if not self._samples.requests:
            raise InvalidRequest.of("simulate_empty", seconds=f"{self._warmup_s:g}")
        return figures_of(self._samples, self._fleet.replicas, sum(one.preemptions for one in self._replicas))

    def _push(self, at: float, call: Callable[[float, Any], None], argument: Any) -> None:
        heapq.heappush(self._calendar, (at, next(self._order), call, argument))

    def _mark(self, now: float, which: int) -> None:
        """Notes what replicas did before the measured time, and in it."""
        self._samples.mark(now, which, sum(one.busy_s for one in self._replicas))

    def _next_arrival(self) -> None:
        request = next(self._arrivals, None)
        if request is not None:
            self._send(request, self._arrive_and_next)

    def _send(self, request: Request, call: Callable[[float, Request], None]) -> None:
        request.number = next(self._numbers)
        if request.hit_s >= 0:
            at = request.arrived + self._fleet.profile.overhead_s + request.hit_s
            self._push(at, self._answer, request)
            call = self._nothing if call is self._arrive else self._only_next
        # Time outside of the engine lies before it: a load in which requests are far apart cannot tell.
        self._push(request.arrived + self._fleet.profile.overhead_s, call, request)

    def _nothing(self, now: float, request: Request) -> None:
        """Does nothing: a cache answers."""

    def _only_next(self, now: float, request: Request) -> None:
        self._next_arrival()

    def _arrive_and_next(self, now: float, request: Request) -> None:
        self._next_arrival()
        self._arrive(now, request)

    def _answer(self, now: float, request: Request) -> None:
        """Ends a request that a cache has answered."""
        request.started = request.first = now
        self._leave(request, now)

    def _arrive(self, now: float, request: Request) -> None:
        chosen = self._route(request, self._loads)
        replica = self._replicas[chosen]
        fleet = self._fleet
        full = self._loads[chosen] >= self._most
        if full or (fleet.max_wait_s and replica.expected_wait_s(now) > fleet.max_wait_s):
            request.rejected = True
            self._leave(request, now)
            return
        request.replica = chosen
        self._loads[chosen] += 1
        self._samples.count(now, 1)
        replica.submit(request, now)

    def _ended(self, request: Request, now: float) -> None:
        self._loads[request.replica] -= 1
        self._samples.count(now, -1)
        self._leave(request, now)

    def _leave(self, request: Request, now: float) -> None:
        request.ended = now
        self._samples.end(request)
        following = self._source.after(request, now)
        if following is not None:
            self._send(following, self._arrive)
