"""A cache of whole answers to requests that repeat exactly: generated once, replayed later, shared while in flight.

The engine gives equal tokens for equal requests, whatever runs beside them, so a cached answer is the answer. Only
deterministic answers are cached: those of greedy requests, and of sampled ones with a seed.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

import numpy as np

from deepwell.dialogue.completion import Choice, Update
from deepwell.engine.core.sampler import GREEDY_BELOW
from deepwell.server.access.ticket import Lookup, Ticket, current_ticket

__all__ = ["AnswerKey", "AnswerStore", "ByteLru", "Exchange", "Lookup", "ResponseCache"]

K = TypeVar("K")
V = TypeVar("V")


# Measured with `sys.getsizeof` on 64-bit CPython, rounded up: one update, one entry, one alternative, one key.
_UPDATE_BYTES = 320
_ENTRY_BYTES = 240
_ALTERNATIVE_BYTES = 120
_KEY_BYTES = 1024
_REPLAYED_AT_ONCE = 32  # updates between two yields to other tasks


@dataclass(frozen=True, slots=True)
class AnswerKey:
    """All that shapes the answer to one choice, and the tenant that may share it."""

    fingerprint: str  # of the weights and what runs them
    adapter: str  # digest of its weights, whatever its name; empty for the base
    # Answers are shared within one tenant only: a fast answer would reveal another tenant's question.
    tenant: str
    prompt: bytes  # token ids, int32
    sampling: tuple[object, ...]
    stops: tuple[str, ...]
    offset: int  # where the text starts: log probabilities count characters from there

    @classmethod
    def of(cls, choice: Choice, *, fingerprint: str, adapter: str) -> AnswerKey | None:
        """Returns the key of a choice, or None if its answer is not deterministic."""
        params = choice.request.params
        greedy = params.temperature < GREEDY_BELOW
        if not greedy and params.seed is None:
            return None
        sampling = (
            params.max_tokens,
            params.min_tokens,
            # A greedy answer depends neither on the seed nor on filters that always keep the likeliest token.
            *(
                ("greedy",)
                if greedy
                else (
                    params.temperature,
                    params.top_k,
                    params.top_p,
                    params.min_p,
                    params.seed,
                    choice.request.choice,
                )
            ),
            params.presence_penalty,
            params.frequency_penalty,
            params.repetition_penalty,
            tuple(sorted(params.logit_bias.items())),
            params.logprobs,
            params.prompt_logprobs,
            params.prompt_logprobs_start,
            tuple(sorted(params.stop_token_ids)),
            params.ignore_eos,
            params.grammar,
            tuple(sorted(choice.visible)),
            choice.request.window,
        )
        return cls(
            fingerprint=fingerprint,
            adapter=adapter,
            tenant=choice.request.cache_salt,
            prompt=np.asarray(choice.request.prompt, np.int32).tobytes(),
            sampling=sampling,
            stops=choice.stops,
            offset=choice.offset,
        )


class ByteLru(Generic[K, V]):
    """An LRU cache bounded in bytes, with an expiry for each value. `nbytes` never exceeds `capacity_bytes`."""

    def __init__(self, capacity_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.capacity_bytes = capacity_bytes
        self.nbytes = 0
        self._clock = clock
        self._kept: OrderedDict[K, tuple[V, int, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, key: K) -> tuple[V, float] | None:
        """Returns the value and its expiry, and marks it as the most recently used; None if it is missing or expired."""
        found = self._kept.get(key)
        if found is None:
            return None
        if self._clock() >= found[2]:
            del self._kept[key]
            self.nbytes -= found[1]
            return None
        self._kept.move_to_end(key)
        return found[0], found[2]

    def clear(self) -> None:
        """Drops every value."""
        self._kept.clear()
        self.nbytes = 0

    def keep(self, key: K, value: V, size: int, expires: float) -> None:
        """Keeps a value until `expires`. A value larger than the capacity is not kept, and evicts no other."""
        if (replaced := self._kept.pop(key, None)) is not None:
            self.nbytes -= replaced[1]
        if size > self.capacity_bytes:
            return
        self._kept[key] = (value, size, expires)
        self.nbytes += size
        while self.nbytes > self.capacity_bytes:
            _, (_, oldest, _) = self._kept.popitem(last=False)
            self.nbytes -= oldest


class AnswerStore(ByteLru[AnswerKey, "tuple[Update, ...]"]):
    """Finished answers, kept for `ttl_s` seconds each."""

    def __init__(
        self,
        capacity_bytes: int,
        ttl_s: float = float("inf"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(capacity_bytes, clock)
        self._ttl_s = ttl_s

    def get(self, key: AnswerKey) -> tuple[Update, ...] | None:
        """Returns the answer, if there is one, and marks it as the most recently used."""
        found = self.find(key)
        return None if found is None else found[0]

    def put(self, key: AnswerKey, updates: tuple[Update, ...], lives_s: float = float("inf")) -> None:
        """Keeps an answer for `ttl_s`, but no longer than `lives_s`."""
        self.keep(key, updates, answer_bytes(key, updates), self._clock() + min(self._ttl_s, lives_s))


def answer_bytes(key: AnswerKey, updates: tuple[Update, ...]) -> int:
    """Returns the approximate memory of an answer, in bytes."""
    total = _KEY_BYTES + len(key.prompt)
    for update in updates:
        total += _UPDATE_BYTES + 4 * len(update.text)
        for entry in update.entries:
            total += _ENTRY_BYTES + _ALTERNATIVE_BYTES * len(entry.info.top)
        for info in update.prompt_logprobs or ():
            total += _ENTRY_BYTES + (_ALTERNATIVE_BYTES * len(info.top) if info else 0)
    return total


class Exchange(Protocol):
    """The answers of other servers."""

    async def fetch(self, key: AnswerKey) -> tuple[tuple[Update, ...], float] | None:
        """Returns an answer and the seconds until it expires, or None."""
        ...

    async def offer(self, key: AnswerKey, updates: tuple[Update, ...]) -> None:
        """Offers an answer to the other servers."""
        ...


class _Flight:
    """An answer that is being generated, and the readers that wait for it."""

    __slots__ = ("ended", "error", "readers", "task", "updates", "waiters")

    def __init__(self) -> None:
        self.updates: list[Update] = []
        self.ended = False
        self.error: Exception | None = None
        self.readers = 0
        self.waiters: list[asyncio.Future[None]] = []
        self.task: asyncio.Task[None] | None = None

    def wake(self) -> None:
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


class ResponseCache:
    """Answers by key: cached ones are replayed, those in flight are joined, others are generated. For one event loop.

    All readers of an answer in flight are equal: its generation goes on until the last one leaves. A failure reaches them
    all and is not cached.
    """

    def __init__(
        self,
        capacity_bytes: int,
        on_lookup: Callable[[Lookup], object] = lambda _result: None,
        *,
        ttl_s: float = float("inf"),
        exchange: Exchange | None = None,
    ) -> None:
        self.store = AnswerStore(capacity_bytes, ttl_s)
        self._on_lookup = on_lookup
        self._exchange = exchange
        self._flights: dict[AnswerKey, _Flight] = {}

    @property
    def in_flight(self) -> int:
        """Number of answers that are being generated."""
        return len(self._flights)

    async def keeps(self, key: AnswerKey) -> bool:
        """Returns whether the current request will find this answer whole. Another server's answer is copied first."""
        ticket = current_ticket()
        if ticket is not None and ticket.cache != "use":
            return False
        if self.store.find(key) is not None:
            return True
        if self._exchange is None or key in self._flights:
            return False
        fetched = await self._exchange.fetch(key)
        if fetched is None:
            return False
        self.store.put(key, *fetched)
        return self.store.find(key) is not None

    def _note(self, result: Lookup, ticket: Ticket | None) -> None:
        self._on_lookup(result)
        if ticket is not None:
            ticket.lookups.append(result)

    async def stream(
        self, key: AnswerKey, index: int, generate: Callable[[], AsyncGenerator[Update, None]]
    ) -> AsyncGenerator[Update, None]:
        """Yields the updates of one choice, numbered `index`, whoever generated them.

        A request that did not start the generation has its whole prompt counted as cached.
        """
        ticket = current_ticket()
        renew = ticket is not None and ticket.cache == "renew"
        kept = None if renew else self.store.find(key)
        if kept is not None:
            self._note("hit", ticket)
            if ticket is not None:
                ticket.expires = min(ticket.expires, kept[1])
            for number, update in enumerate(kept[0], 1):
                yield _reused(update, index)
                if number % _REPLAYED_AT_ONCE == 0:
                    await asyncio.sleep(0)
            return
        flight = None if renew else self._flights.get(key)
        joined = flight is not None
        self._note("joined" if joined else "miss", ticket)
        if flight is None:
            flight = self._flights[key] = _Flight()
            flight.task = asyncio.create_task(self._fly(key, flight, generate))
        flight.readers += 1
        try:
            position = 0
            while True:
                while position < len(flight.updates):
                    update = flight.updates[position]
                    position += 1
                    yield _reused(update, index) if joined else replace(update, index=index)
                if flight.error is not None:
                    raise flight.error
                if flight.ended:
                    return
                waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                flight.waiters.append(waiter)
                await waiter
        finally:
            flight.readers -= 1
            if not flight.readers and not flight.ended:
                await self._give_up(key, flight)

    async def _fly(
        self, key: AnswerKey, flight: _Flight, generate: Callable[[], AsyncGenerator[Update, None]]
    ) -> None:
        try:
            async with aclosing(generate()) as updates:
                async for update in updates:
                    flight.updates.append(update)
                    flight.wake()
            self.store.put(key, tuple(flight.updates))
            flight.ended = True
            self._land(key, flight)
            flight.wake()
            if self._exchange is not None:
                await self._exchange.offer(key, tuple(flight.updates))
        except Exception as error:  # passed to the readers, who raise it
            flight.error = error
        finally:
            flight.ended = True
            self._land(key, flight)
            flight.wake()

    async def _give_up(self, key: AnswerKey, flight: _Flight) -> None:
        """Ends a generation that nobody reads. A request that comes meanwhile begins a new one."""
        self._land(key, flight)
        assert flight.task is not None
        flight.task.cancel()
        await asyncio.wait((flight.task,))

    def _land(self, key: AnswerKey, flight: _Flight) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]


def _reused(update: Update, index: int) -> Update:
    return replace(update, index=index, counts=replace(update.counts, cached=update.counts.prompt))
