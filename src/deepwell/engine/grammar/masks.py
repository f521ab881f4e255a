"""Masks of running requests: where each is computed, what it may cost, and when a grammar costs too much.

A cheap mask takes less time than handing it to another thread, so it is computed on the step thread, by a matcher whose
limits keep it short and within a budget for each tenant and step. All others leave the step thread: a worker of low
priority computes them, tenant by tenant, and the sequence takes part in steps again when its mask is ready. Where a mask is
computed never changes it, so tokens do not depend on it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final, Protocol, cast

import numpy as np
from llguidance import LLExecutor, LLMatcher
from numpy.typing import NDArray

from deepwell.engine.grammar.fair_worker import FairWorker
from deepwell.errors import DeepwellError, GrammarFailed

__all__ = [
    "MOST_MASK_S",
    "MOST_REQUEST_S",
    "CompiledGrammar",
    "GrammarState",
    "MaskBudget",
    "Matcher",
    "Place",
    "UnlockedConsumer",
    "first_line",
    "stuck",
    "unpacked",
]

CHEAP_S: Final = (
    1e-3  # an expected cost up to this keeps a mask on the step thread; ordinary ones take 0.1 to 0.2 ms
)
# Processor time of masks that leave the step thread. More ends the request.
MOST_MASK_S: Final = 1.0  # of one mask
MOST_REQUEST_S: Final = 20.0  # of all of one request
# A step's masks may take this on the step thread, and this share of the time that the model takes for the step.
_BUDGET_S: Final = 1e-3
_BUDGET_SHARE: Final = 0.25
_WEIGHT: Final = 0.25  # of the last mask in the expected cost


class Matcher(Protocol):
    """The part of llguidance's `LLMatcher` that runs a grammar."""

    def compute_bitmask(self) -> bytes: ...

    def consume_token(self, sampled_token: int, /) -> bool: ...

    def is_error(self) -> bool: ...

    def get_error(self) -> str: ...

    def deep_copy(self) -> Matcher: ...


class CompiledGrammar:
    """A grammar at its beginning, with the cost of the masks that its requests have computed so far.

    Attributes:
        thorough: what a request copies that needs the full limits.
        quick: the same with limits so low that no token takes the step thread long; None: the first mask exceeds them.
        first: the mask of the first position, one bit a token.
        expected_s: seconds that the next mask is expected to take, a moving average.
        failure: why the grammar was given up; None: it was not.
        kept_bytes: memory that it takes, as its trial found.
    """

    __slots__ = ("expected_s", "failure", "first", "kept_bytes", "quick", "thorough")

    def __init__(self, thorough: Matcher, quick: Matcher | None, first: bytes, kept_bytes: int = 0) -> None:
        self.kept_bytes = kept_bytes
        self.thorough = thorough
        self.quick = quick
        self.first = first
        self.expected_s = 0.0
        self.failure: GrammarFailed | None = None

    def observe(self, seconds: float) -> None:
        """Records the cost of a mask."""
        self.expected_s += _WEIGHT * (seconds - self.expected_s)


class MaskBudget:
    """The time that masks may take on the step thread. Each step gives its tenants equal shares of its budget.

    A mask that takes more than is left is paid from the shares of the next steps. A share that is not used is not saved up.
    """

    def __init__(self) -> None:
        self._left: dict[str, float] = {}

    def begin(self, tenants: Collection[str], step_s: float) -> None:
        """Begins a step whose model took `step_s` seconds. `tenants` are those with a grammar in it."""
        share = (_BUDGET_S + _BUDGET_SHARE * step_s) / max(len(tenants), 1)
        owing = {tenant: left + share for tenant, left in self._left.items() if left < 0}
        self._left = {
            tenant: min(share, left) for tenant, left in owing.items() if left < 0 or tenant in tenants
        }
        for tenant in tenants:
            self._left.setdefault(tenant, share)

    def has_left(self, tenant: str) -> bool:
        """Returns whether a tenant may compute one more mask in this step."""
        return self._left.get(tenant, 0.0) > 0

    def charge(self, tenant: str, seconds: float) -> None:
        """Subtracts the cost of a mask from what its tenant has left."""
        self._left[tenant] = self._left.get(tenant, 0.0) - seconds


class Place:
    """The thread that computes the masks of one request when they leave the step thread, and how it answers.

    Args:
        tenant: the owner of the request.
        worker: the thread that computes them.
        consumer: advances a matcher on that thread.
        on_ready: called on that thread when a mask is ready.
        clock: returns the seconds of processor time that the calling thread has used.
    """

    __slots__ = ("clock", "consumer", "on_ready", "tenant", "worker")

    def __init__(
        self,
        tenant: str,
        worker: FairWorker,
        consumer: UnlockedConsumer,
        on_ready: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self.tenant = tenant
        self.worker = worker
        self.consumer = consumer
        self.on_ready = on_ready
        self.clock = clock


class GrammarState:
    """The position of one request in its grammar.

    It belongs to the step thread. While `ready` is False the worker has the matcher, and the step thread leaves it alone. A
    request begins with the quick matcher; the first position that exceeds its limits sends it to the worker for good.
    """

    __slots__ = (
        "_behind",
        "_closed",
        "_compiled",
        "_drawn",
        "_error",
        "_matcher",
        "_packed",
        "_place",
        "_quick",
        "_spent_s",
        "_vocab_size",
        "ready",
    )

    def __init__(self, compiled: CompiledGrammar, vocab_size: int, place: Place) -> None:
        self._compiled = compiled
        self._quick = compiled.quick is not None
        self._matcher = (compiled.quick or compiled.thorough).deep_copy()
        self._vocab_size = vocab_size
        self._place = place
        self._packed: bytes | None = compiled.first  # the mask of this position; None: not computed yet
        self._drawn: list[int] = []  # all drawn tokens
        self._behind = 0  # how many of them the matcher has not seen
        self._error: DeepwellError | None = None
        self._spent_s = 0.0
        self._closed = False
        self.ready = True  # False: the worker computes the mask of this position

    @property
    def slow(self) -> bool:
        """True if masks of this request are expected to cost more than the step thread computes itself."""
        return not self._quick or self._compiled.expected_s > CHEAP_S

    def allowed(self, budget: MaskBudget | None = None) -> NDArray[np.bool_] | None:
        """Returns the mask of allowed next tokens: [vocab]. End tokens are allowed if the text is complete.

        The mask is None if it is left to the worker; the token is then drawn in a later step, once `ready` is True.

        Args:
            budget: the step's budget; None: the mask is computed here whatever it takes.

        Raises:
            GrammarFailed: the grammar exceeded a limit, or the vocabulary has no token that it allows.
        """
        if not self.ready:
            return None
        if self._error is not None:
            raise self._error
        if self._packed is None:
            if budget is None:
                self._packed = self._compute(_consume)
            elif self.slow or not budget.has_left(self._place.tenant) or not self._compute_here(budget):
                self._hand_over()
                return None
        assert self._packed is not None
        bits = unpacked(self._packed, self._vocab_size)
        if not bits.any():
            raise stuck("no token of the vocabulary may come next")
        return bits

    def advance(self, token: int) -> None:
        """Advances by a drawn token. If the next mask is expected to be slow, the worker begins with it at once."""
        self._packed = None
        self._drawn.append(token)
        self._behind += 1
        if self.slow:
            self._hand_over()

    def close(self) -> None:
        """Gives up what the worker has not begun. No mask is asked for any more."""
        self._closed = True

    def _hand_over(self) -> None:
        self.ready = False
        self._place.worker.submit(self._place.tenant, self._work)

    def _compute_here(self, budget: MaskBudget) -> bool:
        """Computes the mask with the quick matcher; False if that exceeds its limits."""
        clock = self._place.clock
        started = clock()
        self._packed = self._advanced(_consume)
        seconds = clock() - started
        self._compiled.observe(seconds)
        budget.charge(self._place.tenant, seconds)
        if self._packed is None:
            self._fall_back()
        return self._packed is not None

    def _work(self) -> None:
        """Computes the mask of this position on the worker."""
        if self._closed:
            return
        compiled, clock, consumer = self._compiled, self._place.clock, self._place.consumer
        started = clock() + consumer.seconds
        try:
            if compiled.failure is not None:
                raise compiled.failure
            self._packed = self._compute(consumer.consume)
        except DeepwellError as error:
            self._error = error
        except BaseException as error:  # a panic too: a request must never wait for a mask that does not come
            self._error = stuck(f"{type(error).__name__}: {error}")
        seconds = clock() + consumer.seconds - started
        compiled.observe(seconds)
        self._spent_s += seconds
        if self._error is None and (seconds > MOST_MASK_S or self._spent_s > MOST_REQUEST_S):
            self._error = _too_costly(seconds, self._spent_s)
            if seconds > MOST_MASK_S:  # the other requests of the grammar need not find out
                compiled.failure = self._error
        self.ready = True
        self._place.on_ready()

    def _compute(self, consume: Callable[[Matcher, int], bool]) -> bytes:
        """Returns the mask of this position, from the thorough matcher where the quick one exceeds its limits."""
        packed = self._advanced(consume)
        if packed is None and self._quick:
            self._fall_back()
            packed = self._advanced(consume)
        if packed is None:
            raise stuck(first_line(self._matcher.get_error()))
        return packed

    def _advanced(self, consume: Callable[[Matcher, int], bool]) -> bytes | None:
        """Returns the mask behind the tokens that the matcher has not seen; None if it fails."""
        matcher = self._matcher
        if self._behind:
            for token in self._drawn[-self._behind :]:
                if not consume(matcher, token):
                    return None
            self._behind = 0
        packed = matcher.compute_bitmask()
        return None if matcher.is_error() else packed

    def _fall_back(self) -> None:
        """Replaces the quick matcher by the thorough one, at the beginning of the grammar."""
        self._quick = False
        self._matcher = self._compiled.thorough.deep_copy()
        self._behind = len(self._drawn)


class UnlockedConsumer:
    """Advances matchers without the interpreter's lock, which `LLMatcher.consume_token` holds.

    llguidance releases it only to advance several matchers at once, on threads of its own. So each is advanced beside one that
    has failed and takes no time. For one thread, whose priority llguidance's thread inherits.

    Attributes:
        seconds: processor time that has been spent on llguidance's thread.
    """

    def __init__(self, failed: Callable[[], LLMatcher]) -> None:
        self._make_failed = failed
        self._failed: LLMatcher | None = None
        self._executor: LLExecutor | None = None
        self._clock_id: int | None = None
        self.seconds = 0.0

    def consume(self, matcher: Matcher, token: int) -> bool:
        """Advances a matcher by a token; False if the matcher fails."""
        if self._executor is None or self._failed is None:
            self._failed = self._make_failed()
            before = _thread_ids()
            self._executor = LLExecutor(1)
            started = _thread_ids() - before
            # Linux: the clock of a thread's processor time, from the thread's id (clock_getcpuclockid's encoding).
            self._clock_id = (~started.pop() << 3) | 6 if len(started) == 1 else None
        begun = self._now()
        advanced = self._executor.consume_token_par([(cast("LLMatcher", matcher), token), (self._failed, 0)])[
            0
        ]
        self.seconds += self._now() - begun
        return advanced

    def _now(self) -> float:
        return time.monotonic() if self._clock_id is None else time.clock_gettime(self._clock_id)


def _thread_ids() -> set[int]:
    """Returns the ids of the process's threads; none where there is no /proc."""
    folder = Path("/proc/self/task")
    return {int(entry.name) for entry in folder.iterdir()} if folder.is_dir() else set()


def _consume(matcher: Matcher, token: int) -> bool:
    return matcher.consume_token(token)


def unpacked(packed: bytes, vocab_size: int) -> NDArray[np.bool_]:
    """Returns a mask of one bit a token as booleans: [vocab]."""
    bits = np.frombuffer(packed, np.uint8)
    return np.unpackbits(bits, count=vocab_size, bitorder="little").view(np.bool_)


def first_line(message: str) -> str:
    """Returns an error message of llguidance on one line, cut to 300 characters."""
    return " ".join(message.split())[:300]


def stuck(reason: str) -> GrammarFailed:
    """Returns the error of a grammar that cannot go on."""
    return GrammarFailed(f"the grammar cannot go on: {reason}", fix="simplify the grammar or the schema")


def _too_costly(mask_s: float, request_s: float) -> GrammarFailed:
    found = (
        f"the choice of one token took {mask_s:.1f} s, the limit is {MOST_MASK_S:g} s"
        if mask_s > MOST_MASK_S
        else f"the choice of its tokens took {request_s:.1f} s, the limit is {MOST_REQUEST_S:g} s"
    )
    return GrammarFailed(
        f"the grammar is too ambiguous: {found}",
        fix="leave out rules that match the same text in several ways, or ask for fewer tokens",
    )
