"""The protocol of what can be measured, and the engine in this process."""

from __future__ import annotations

import itertools
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from deepwell.engine.protocol import Engine

__all__ = ["EngineTarget", "Target", "TargetLimits", "Timed"]


@dataclass(frozen=True, slots=True)
class Timed:
    """One streamed answer. Times are seconds of `perf_counter`.

    Attributes:
        events: times at which text or tokens came; a token may come without any text.
        answer_tokens: tokens of the answer, as the server counts them.
    """

    begin: float
    events: tuple[float, ...]
    prompt_tokens: int
    cached_tokens: int
    answer_tokens: int

    @property
    def first_s(self) -> float:
        """Seconds to the first token."""
        return self.events[0] - self.begin

    @property
    def answer_s(self) -> float:
        """Seconds to the last token."""
        return self.events[-1] - self.begin

    @property
    def token_s(self) -> float:
        """Mean seconds between two tokens; 0 for an answer of one."""
        return (self.events[-1] - self.events[0]) / max(1, self.answer_tokens - 1)


@dataclass(frozen=True, slots=True)
class TargetLimits:
    """The limits that a target tells; None where it does not."""

    name: str
    context: int | None = None
    kv_tokens: int | None = None


class Target(Protocol):
    """A replica that streams answers of a wanted length."""

    async def limits(self) -> TargetLimits:
        """Returns its name and its limits."""
        ...

    async def stream(self, prompt_tokens: int, answer_tokens: int) -> Timed:
        """Streams one answer to a prompt of about that length, which no cache has."""
        ...


class EngineTarget:
    """An engine in this process: nothing is around it."""

    def __init__(self, engine: Engine, seed: int = 0) -> None:
        self._engine = engine
        self._draw = random.Random(seed)  # noqa: S311
        self._numbers = itertools.count()

    async def limits(self) -> TargetLimits:
        able = self._engine.capabilities()
        return TargetLimits(able.model, able.max_model_len, able.kv_cache_tokens)

    async def stream(self, prompt_tokens: int, answer_tokens: int) -> Timed:
        from deepwell.engine.protocol import GenerateRequest, SamplingParams

        vocabulary = self._engine.capabilities().vocab_size
        prompt = [self._draw.randrange(vocabulary) for _ in range(prompt_tokens)]
        params = SamplingParams(max_tokens=answer_tokens, temperature=0, ignore_eos=True)
        name = f"calibration-{next(self._numbers)}"
        events: list[float] = []
        cached = answered = 0
        begin = time.perf_counter()
        async for delta in self._engine.generate(GenerateRequest(name, prompt, params)):
            events += [time.perf_counter()] * len(delta.tokens)
            cached, answered = delta.cached_tokens, delta.completion_tokens
        return Timed(begin, tuple(events), len(prompt), cached, answered)
