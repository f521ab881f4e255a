"""`Gate`: admits requests to an engine by queue length and token limit, and settles the tokens that they used."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager

from deepwell.dialogue.completion import Choice, Counts, Update
from deepwell.engine.protocol import Engine, EngineStats
from deepwell.errors import DeepwellError
from deepwell.server.access.principal import ANYONE
from deepwell.server.access.ticket import current_ticket

__all__ = ["Admission", "Gate", "Overloaded", "UsageCounter"]

_SAMPLED_EVERY_S = 0.02
_KEPT_EVERY_S = 0.5
_WINDOW_S = 30.0
_LEARNT_AFTER_S = 1.0  # a queue must have lasted this long before its rate counts


class Overloaded(DeepwellError):
    """Raised when a request would wait in the queue longer than is allowed."""

    status = 503
    code = "overloaded"


class Admission:
    """An admission check. A request is expected to wait for the requests ahead of it, at the engine's rate of admission.

    The queue is fair. Ahead of a tenant's new request are all `n` that it has waiting, and at most `n` + 1 of each other
    tenant. So a flood delays the tenant that causes it.

    Args:
        max_wait_s: a longer wait is refused; 0: never.
        clock: seconds.
    """

    def __init__(
        self, engine: Engine, max_wait_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine = engine
        self._max_wait_s = max_wait_s
        self._clock = clock
        self._stats = EngineStats()
        self._sampled = float("-inf")
        self._since: dict[str, int] = {}  # requests let in here since the sample, by tenant
        self._history: deque[tuple[float, int]] = (
            deque()
        )  # (time, sequences taken by then) while there is a queue

    def check(self, tenant: str, priority: int) -> None:
        """Lets a request in.

        Raises:
            Overloaded: it would wait too long.
        """
        if not self._max_wait_s or priority < 0:  # a negative priority can wait
            return
        now = self._clock()
        if now - self._sampled >= _SAMPLED_EVERY_S:
            self._sample(now)
        wait = self.expected_wait_s(tenant, now)
        if wait > self._max_wait_s:
            error = Overloaded(
                f"{self._stats.waiting} requests wait, and a new one would for about {wait:.0f} s, "
                f"more than the {self._max_wait_s:g} s that are allowed",
                fix="send it again later, or start the server with a higher DEEPWELL_MAX_WAIT_S",
            )
            error.retry_after = min(600, max(1, math.ceil(wait - self._max_wait_s)))
            raise error
        self._since[tenant] = self._since.get(tenant, 0) + 1

    def expected_wait_s(self, tenant: str, now: float) -> float:
        """Returns the expected wait in seconds, by the last sample; 0 until a queue has lasted for a second."""
        if not self._history or now - self._history[0][0] < _LEARNT_AFTER_S:
            return 0.0
        waiting = dict(self._stats.waiting_by_tenant)
        for name, count in self._since.items():
            waiting[name] = waiting.get(name, 0) + count
        own = waiting.pop(tenant, 0)
        ahead = own + sum(min(count, own + 1) for count in waiting.values())
        begun, taken = self._history[0]
        # Plus one for the admission under way: an engine that admitted none in ten seconds admits perhaps one in ten.
        rate = (self._stats.admitted - taken + 1) / (now - begun)
        return ahead / rate

    def _sample(self, now: float) -> None:
        stats = self._stats = self._engine.stats()
        self._sampled = now
        self._since = {}
        history = self._history
        if not stats.waiting_by_tenant:
            history.clear()
            return
        if history and stats.admitted < history[-1][1]:  # the engine was replaced
            history.clear()
        if not history or now - history[-1][0] >= _KEPT_EVERY_S:
            history.append((now, stats.admitted))
        while len(history) > 1 and now - history[0][0] > _WINDOW_S:
            history.popleft()


class UsageCounter:
    """A counter of the engine's tokens that a request uses, by the index of its choices."""

    def __init__(self, choices: Sequence[Choice]) -> None:
        self._counts: dict[int, Counts] = {choice.index: Counts() for choice in choices}
        # Choices of one prompt share the prompt object, so its id counts it once.
        self._prompts = {id(choice.request.prompt): len(choice.request.prompt) for choice in choices}
        self._prompt_of = {choice.index: id(choice.request.prompt) for choice in choices}

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompts, each counted once."""
        return sum(self._prompts.values())

    def count(self, update: Update) -> None:
        """Takes in an update's counts."""
        if update.index in self._counts:
            self._counts[update.index] = update.counts

    @property
    def begun(self) -> bool:
        """True once the engine has computed any of the prompts."""
        return any(counts.prompt for counts in self._counts.values())

    @property
    def completion_tokens(self) -> int:
        """Tokens of all completions so far."""
        return sum(counts.completion for counts in self._counts.values())

    @property
    def cached_tokens(self) -> int:
        """Tokens of the prompts that the prefix cache had. What one choice leaves there for the next does not count."""
        least: dict[int, int] = {}
        for index, counts in self._counts.items():
            if counts.prompt:
                prompt = self._prompt_of[index]
                least[prompt] = min(counts.cached, least.get(prompt, counts.cached))
        return sum(least.values())

    @property
    def tokens(self) -> int:
        """Tokens used so far: all prompts once any choice has begun, and all completions."""
        return self.completion_tokens + (self.prompt_tokens if self.begun else 0)


class Gate:
    """The admission of requests to one engine."""

    def __init__(self, engine: Engine, max_wait_s: float = 0.0) -> None:
        self.admission = Admission(engine, max_wait_s)

    @asynccontextmanager
    async def generation(self, choices: Sequence[Choice]) -> AsyncGenerator[UsageCounter]:
        """Guards the generation of `choices`: reserves tokens before it, and settles the used ones after it.

        Choices that need no generation are left out of `choices`. The caller reports every update to the counter.

        Raises:
            Overloaded: they would wait too long.
            RateLimited: they may use more tokens than are left.
        """
        used = UsageCounter(choices)
        if not choices:
            yield used
            return
        request = choices[0].request
        self.admission.check(request.tenant, request.priority)
        most = used.prompt_tokens + sum(choice.request.params.max_tokens for choice in choices)
        ticket = current_ticket()
        quota = ticket.quota if ticket is not None else None
        if quota is None:
            yield used
            return
        charged_s = await quota.reserve(most)
        try:
            yield used
        finally:
            await quota.settle(charged_s, used.tokens)

    async def embedding(self, tokens: int) -> None:
        """Admits a computation over `tokens` tokens, and charges them all.

        Raises:
            Overloaded: it would wait too long.
            RateLimited: it uses more tokens than are left.
        """
        ticket = current_ticket()
        principal = ticket.principal if ticket is not None else ANYONE
        self.admission.check(principal.tenant, principal.priority)
        if ticket is not None and ticket.quota is not None:
            await ticket.quota.reserve(tokens)
