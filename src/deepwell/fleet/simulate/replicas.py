"""Replicas: an engine with continuous batching, and a server whose slots have a pace of their own.

NOTE: nothing changes in a batch that only decodes until a sequence ends, the cache is full, or a request arrives. So its steps
are one event, which an arrival cuts at the next boundary. That makes a few events of each request, however long its answer.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from deepwell.fleet.simulate.prefixes import BLOCK_TOKENS, PrefixCache, in_blocks
from deepwell.fleet.simulate.profile import Profile
from deepwell.fleet.simulate.requests import Request

__all__ = ["Ended", "Push", "Replica", "SlotReplica", "StepReplica", "WaitEstimate", "replica_of"]

_EXACT: Final = 1e-9  # of a step: an arrival so close behind a boundary belongs to it

Push = Callable[[float, Callable[[float, int], None], int], None]
"""Calls back at a time, with the time and a number."""
Ended = Callable[[Request, float], None]
"""Takes a request whose last token is there."""


class Replica(Protocol):
    """A replica, which tells the ends of its requests itself."""

    busy_s: float
    preemptions: int

    def submit(self, request: Request, now: float) -> None:
        """Takes a request."""
        ...

    def expected_wait_s(self, now: float) -> float:
        """Returns how long a new request would wait."""
        ...


class WaitEstimate:
    """The wait that a replica expects, by the requests ahead and the rate at which it started others: as the server does.

    The rate is that of the last 30 seconds, and counts once a queue has lasted for one.
    """

    def __init__(self) -> None:
        self.started = 0
        self._history: deque[tuple[float, int]] = deque()

    def seconds(self, now: float, waiting: int) -> float:
        """Returns the expected wait of a new request behind so many."""
        history = self._history
        if not waiting:
            history.clear()
            return 0.0
        if not history or now - history[-1][0] >= 0.5:
            history.append((now, self.started))
        while len(history) > 1 and now - history[0][0] > 30.0:
            history.popleft()
        begun, started = history[0]
        if now - begun < 1.0:
            return 0.0
        return waiting / ((self.started - started + 1) / (now - begun))


class SlotReplica:
    """A server that answers `max_batch` requests at a time, each at its own pace. Others wait in the order of their arrival."""

    def __init__(self, profile: Profile, shared: int, push: Push, ended: Ended) -> None:
        del shared  # it has no prefix cache
        self._profile = profile
        self._table = profile.step_table()
        self._push = push
        self._ended = ended
        self._running: dict[int, Request] = {}
        self._waiting: deque[Request] = deque()
        self._wait = WaitEstimate()
        self.busy_s = 0.0
        self.preemptions = 0

    def submit(self, request: Request, now: float) -> None:
        if len(self._running) < self._profile.max_batch:
            self._start(request, now)
        else:
            self._waiting.append(request)

    def expected_wait_s(self, now: float) -> float:
        return self._wait.seconds(now, len(self._waiting))

    def _start(self, request: Request, now: float) -> None:
        profile = self._profile
        self._running[request.number] = request
        self._wait.started += 1
        request.started = now
        request.first = now + profile.prefill_s + profile.prefill_s_per_token * request.prompt
        end = request.first + (request.answer - 1) * self._table[len(self._running)]
        self.busy_s += (end - now) / profile.max_batch
        self._push(end, self._end, request.number)

    def _end(self, now: float, number: int) -> None:
        request = self._running.pop(number)
        if self._waiting:
            self._start(self._waiting.popleft(), now)
        self._ended(request, now)


class StepReplica:
    """An engine with continuous batching, chunked prefill, a prefix cache, and preemption where the KV cache is full.

    It follows the order of Deepwell's scheduler: a step has one row of each decoding sequence, then prompt tokens up to a
    budget, of sequences in the order of their arrival. A sequence is admitted if its known tokens and one more fit.
    """

    def __init__(self, profile: Profile, shared: int, push: Push, ended: Ended) -> None:
        self._profile = profile
        self._table = profile.step_table()
        mixed_s = profile.mixed_prefill_s_per_token
        self._mixed_s = profile.prefill_s_per_token if mixed_s is None else mixed_s
        self._push = push
        self._ended = ended
        self._shared = shared - shared % BLOCK_TOKENS  # tokens at the beginning of every prompt
        self._shared_loaded = False
        self._waiting: deque[Request] = deque()
        self._running: dict[int, Request] = {}  # by admission, oldest first
        self._ends: list[
            tuple[int, int, Request]
        ] = []  # steps with last tokens; preempted requests are left in
        self._decoding = 0
        self._partial: Request | None = None  # a prompt of which a part is computed
        self._kv = 0  # tokens that running sequences hold, and the shared ones
        self._cache = PrefixCache()
        self._wait = WaitEstimate()
        self._step = 0  # steps so far
        self._begun = 0.0  # of the event under way
        self._planned = 0  # steps of it; 0: idle
        self._taking: list[tuple[Request, int]] = []  # prompt tokens of its one step
        self._cuttable = False
        self._epoch = 0
        self.busy_s = 0.0
        self.preemptions = 0

    def submit(self, request: Request, now: float) -> None:
        self._waiting.append(request)
        if not self._planned:
            self._plan(now)
        elif self._cuttable:
            self._cut(now)

    def expected_wait_s(self, now: float) -> float:
        return self._wait.seconds(now, len(self._waiting))

    def _cut(self, now: float) -> None:
        """Ends steps that only decode at the next boundary, for a request that may join there."""
        self._cuttable = False
        steps = self._steps_until(now - self._begun)
        if steps < self._planned:
            self._planned = steps
            self._epoch += 1
            self._push(self._begun + self._seconds(steps), self._wake, self._epoch)

    def _seconds(self, steps: int) -> float:
        """Returns the seconds of steps that only decode. Each has one token more of each sequence to read."""
        context_s = self._profile.context_s_per_token
        more = context_s * self._decoding * steps * (steps - 1) / 2
        return steps * (self._table[self._decoding] + context_s * self._kv) + more

    def _steps_until(self, seconds: float) -> int:
        """Returns the fewest steps that take at least so long."""
        slope = self._profile.context_s_per_token * self._decoding / 2
        linear = self._table[self._decoding] + self._profile.context_s_per_token * self._kv - slope
        if slope * seconds < 1e-12:
            steps = seconds / linear
        else:
            steps = (math.sqrt(linear * linear + 4 * slope * seconds) - linear) / (2 * slope)
        return max(1, math.ceil(steps - _EXACT))

    def _plan(self, now: float) -> None:
        """Chooses the next step, or the next steps if they only decode."""
        capacity, preemptions = self._profile.kv_tokens, self.preemptions
        while self._decoding and self._kv + self._decoding > capacity and len(self._running) > 1:
            self._preempt()
        if self._cache.tokens + self._kv > capacity - self._decoding:
            self._cache.trim(capacity - self._decoding - self._kv)
        preempted = self.preemptions > preemptions
        taking = self._taking = self._prompts(now, admits=not preempted)
        self._begun = now
        self._epoch += 1
        if taking:
            self._planned, self._cuttable = 1, False
            tokens = sum(count for _, count in taking)
            seconds = (
                self._table[self._decoding]
                + (self._mixed_s if self._decoding else self._profile.prefill_s_per_token) * tokens
                + self._profile.context_s_per_token * self._kv
            )
        elif self._decoding:
            room = (capacity - self._kv) // self._decoding
            self._planned = 1 if preempted else max(1, min(self._next_end() - self._step, room))
            self._cuttable = not self._waiting and len(self._running) < self._profile.max_batch
            seconds = self._seconds(self._planned)
        else:
            self._planned = 0
            return
        self._push(now + seconds, self._wake, self._epoch)

    def _next_end(self) -> int:
        ends = self._ends
        while ends[0][2].last_step != ends[0][0]:  # it was preempted
            heapq.heappop(ends)
        return ends[0][0]

    def _prompts(self, now: float, *, admits: bool) -> list[tuple[Request, int]]:
        """Returns the prompt tokens of the next step; admits sequences for them, if it may."""
        profile, partial, waiting = self._profile, self._partial, self._waiting
        most = profile.max_batch
        if partial is None and (not waiting or len(self._running) >= most):
            return []
        budget = profile.mixed_prefill_tokens if self._decoding else profile.prefill_tokens
        taking: list[tuple[Request, int]] = []
        if partial is not None:
            count = min(partial.known - partial.computed, budget)
            taking.append((partial, count))
            budget -= count
        while (
            admits and waiting and budget > 0 and len(self._running) < most and self._admit(waiting[0], now)
        ):
            request = waiting.popleft()
            count = min(request.known - request.computed, budget)
            taking.append((request, count))
            budget -= count
        return taking

    def _admit(self, request: Request, now: float) -> bool:
        """Gives a sequence room for its known tokens and the next one; False if there is none."""
        shared = min(self._shared, in_blocks(request.known) - BLOCK_TOKENS) if self._shared_loaded else 0
        need = in_blocks(request.known + 1 - shared)
        room = self._profile.kv_tokens - self._kv - self._decoding
        if need > room and self._running:
            return False
        kept = self._cache.take(request.conversation)
        # The last token is always computed, because its row yields the next one.
        hit = (shared + min(kept, request.known - 1 - shared)) // BLOCK_TOKENS * BLOCK_TOKENS
        if self._cache.tokens > room - need:
            self._cache.trim(room - need)
        self._kv += need
        self._running[request.number] = request
        request.held = need
        request.computed = hit
        if request.started < 0:
            request.started = now
            request.cached = hit
            self._wait.started += 1
        return True

    def _preempt(self) -> None:
        """Puts the youngest sequence back to the head of the queue, without its tokens in the cache."""
        request = self._running.pop(next(reversed(self._running)))
        self._waiting.appendleft(request)
        self.preemptions += 1
        if request is self._partial:
            self._partial = None
            self._kv -= request.held
        else:
            request.drawn = request.answer - (request.last_step - self._step)
            self._kv -= request.held + self._step - request.decodes_since
            self._decoding -= 1
        request.known = request.prompt + request.drawn
        request.computed, request.last_step = 0, -1

    def _wake(self, now: float, epoch: int) -> None:
        """Takes in the steps that have ended, and plans the next."""
        if epoch != self._epoch:
            return
        steps, ends = self._planned, self._ends
        self.busy_s += now - self._begun
        self._step += steps
        self._kv += steps * self._decoding
        ended: list[Request] = []
        while ends and ends[0][0] <= self._step:
            number, _, request = heapq.heappop(ends)
            if request.last_step == number:
                request.last_step = -1  # a preempted request may have left an equal entry
                self._decoding -= 1
                ended.append(request)
        if self._taking:
            self._take_in(now, ended)
        for request in ended:
            del self._running[request.number]
            self._kv -= request.held + self._step - request.decodes_since
            self._cache.put(request.conversation, request.prompt + request.answer - 1 - self._shared)
        self._plan(now)
        for request in ended:
            self._ended(request, now)

    def _take_in(self, now: float, ended: list[Request]) -> None:
        """Takes in the prompt tokens of a step; a prompt that is whole has drawn one token more."""
        self._partial = None
        for request, count in self._taking:
            request.computed += count
            if request.computed < request.known:
                self._partial = request
                continue
            request.drawn += 1
            request.decodes_since = self._step
            if request.first < 0:
                request.first = now
                self._load_shared(request)
            if request.drawn >= request.answer:
                ended.append(request)
                continue
            request.last_step = self._step + request.answer - request.drawn
            heapq.heappush(self._ends, (request.last_step, request.number, request))
            self._decoding += 1

    def _load_shared(self, request: Request) -> None:
        """Keeps the beginning that all prompts share for good, once the first of them is computed."""
        if self._shared and not self._shared_loaded and request.prompt > self._shared:
            self._shared_loaded = True
            request.held -= self._shared  # the sequence's own tokens, from now on everybody's


def replica_of(profile: Profile, shared: int, push: Push, ended: Ended) -> Replica:
    """Returns an idle replica of a profile's kind. `shared`: tokens that all prompts begin with."""
    kind = StepReplica if profile.kind == "steps" else SlotReplica
    return kind(profile, shared, push, ended)
