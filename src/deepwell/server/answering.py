"""`Answering`: takes checked choices to their updates, through admission, the caches and the meters."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from deepwell.dialogue.completion import Choice, Update, complete, merge
from deepwell.dialogue.dialogue import Plan, Turn, converse
from deepwell.dialogue.model import ServedModel
from deepwell.server.access.admission import Gate, UsageCounter
from deepwell.server.access.principal import ANYONE, Principal
from deepwell.server.access.ticket import current_ticket
from deepwell.server.caches.response_cache import AnswerKey, ResponseCache
from deepwell.server.caches.semantic_cache import SemanticCache, is_limited, replayed, shelf_of
from deepwell.server.guarding.checked import Checked
from deepwell.server.guarding.guard import ServerGuard
from deepwell.server.observe.generation import GenerationMeter
from deepwell.server.observe.metrics import Metrics
from deepwell.server.observe.record import current, queued
from deepwell.server.observe.usage import UsageMeter
from deepwell.storage.usage import Usage

__all__ = ["AnswerCaches", "Answering"]


@dataclass(frozen=True, slots=True)
class AnswerCaches:
    """The caches that are asked before the engine, in this order. None means that there is no such cache."""

    exact: ResponseCache | None = None
    semantic: SemanticCache | None = None


@dataclass(frozen=True, slots=True)
class _Source:
    """The source of a choice's answer.

    If `kept`, it is the exact cache under `key`. If `found`, it is the semantic cache on `shelf`. Otherwise it is the engine.
    """

    choice: Choice
    key: AnswerKey | None
    kept: bool = False
    shelf: AnswerKey | None = None
    found: tuple[Update, ...] | None = None


class Answering:
    """The answers of one served model, generated or reused, and read by the guard where there is one.

    `converse` and `complete` are the only ways to a text.
    """

    def __init__(
        self,
        model: ServedModel,
        metrics: Metrics,
        gate: Gate,
        caches: AnswerCaches | None = None,
        guard: ServerGuard | None = None,
        usage: UsageMeter | None = None,
    ) -> None:
        self.guard = guard
        self.model = model
        self.metrics = metrics
        self.gate = gate
        self.caches = caches or AnswerCaches()
        self._usage = usage

    def converse(self, plan: Plan, choices: Sequence[Choice]) -> AsyncGenerator[Turn, None]:
        """Runs the choices of a dialogue together and parses their updates. Closing the iterator ends the choices.

        Raises:
            GenerationFailed: the engine gave up on a request.
        """
        if plan.answers is not None:
            turns = plan.answers(choices)
        else:
            turns = converse(plan, choices, self._updates(choices), _note_tool_calls)
        return turns if self.guard is None else self.guard.turns(plan.checked, turns)

    def complete(self, checked: Checked | None, choices: Sequence[Choice]) -> AsyncGenerator[Update, None]:
        """Runs plain completions together. `checked` is the guard's, None if there is none. Raises as `converse`."""
        updates = self._updates(choices)
        return updates if self.guard is None else self.guard.updates(checked, choices, updates)

    async def _updates(self, choices: Sequence[Choice]) -> AsyncGenerator[Update, None]:
        """Runs the choices together. They are metered, and either reused from a cache or admitted to the engine.

        Raises:
            Overloaded: the choices would wait too long.
            RateLimited: the choices may use more tokens than are left.
            GenerationFailed: the engine gave up on a request.
        """
        meter = GenerationMeter(self.metrics, self.model.name, choices)
        ticket = current_ticket()
        principal = ANYONE if ticket is None else ticket.principal
        try:
            sources = [await self._source(choice) for choice in choices]
            made = [source.choice for source in sources if source.found is None and not source.kept]
            async with (
                self.gate.generation(made) as used,
                aclosing(merge([self._stream(source) for source in sources])) as updates,
            ):
                try:
                    async for update in updates:
                        used.count(update)
                        meter.take(update)
                        yield update
                finally:
                    self._note_usage(principal, used)
        except BaseException as failure:
            meter.end(failure)
            raise
        meter.end()

    def _note_usage(self, principal: Principal, used: UsageCounter) -> None:
        """Counts what the engine has computed. Answers from the caches use nothing."""
        if self._usage is not None and used.begun:
            counts = Usage(1, used.prompt_tokens, used.completion_tokens, used.cached_tokens)
            self._usage.note(principal, self.model.name, counts)

    async def _source(self, choice: Choice) -> _Source:
        """Looks a choice up in the caches.

        The id that the engine gets begins with the HTTP request's id, so that the engine's log leads to the request.
        """
        if (record := current()) is not None:
            named = f"{record.request_id}/{choice.request.request_id}"
            choice = replace(choice, request=replace(choice.request, request_id=named))
        cache, semantic, ticket = self.caches.exact, self.caches.semantic, current_ticket()
        key = self._answer_key(choice)
        kept = key is not None and cache is not None and await cache.keeps(key)
        use = "use" if ticket is None else ticket.cache
        if kept or semantic is None or choice.question is None or use == "off":
            return _Source(choice, key, kept)
        shelf = shelf_of(
            choice,
            choice.question,
            fingerprint=self.model.fingerprint,
            adapter=self.model.adapter_digest(choice.request.adapter),
            window=self.model.capabilities.max_model_len,
        )
        found = None
        if shelf is not None and use == "use":
            found = await semantic.find(shelf, choice.question.text)
            if found is None:
                self.metrics.semantic_misses.inc()
        if found is not None and ticket is not None:
            ticket.lookups.append("semantic")
        return _Source(choice, key, kept, shelf, found)

    def _answer_key(self, choice: Choice) -> AnswerKey | None:
        """Returns the cache key of a choice's answer, or None if it is not cached."""
        ticket = current_ticket()
        if self.caches.exact is None or (ticket is not None and ticket.cache == "off"):
            return None
        adapter = self.model.adapter_digest(choice.request.adapter)
        return AnswerKey.of(choice, fingerprint=self.model.fingerprint, adapter=adapter)

    def _stream(self, source: _Source) -> AsyncGenerator[Update, None]:
        """Returns the updates of one choice, generated or reused."""
        choice, cache, semantic = source.choice, self.caches.exact, self.caches.semantic
        if source.found is not None:
            return replayed(source.found, choice)

        def generate() -> AsyncGenerator[Update, None]:
            return complete(self.model.engine, self.model.codec, choice, queued)

        if cache is None or source.key is None:
            stream = generate()
        else:
            stream = cache.stream(source.key, choice.index, generate)
        if semantic is None or source.shelf is None or choice.question is None:
            return stream
        limited = is_limited(choice, self.model.capabilities.max_model_len)
        return semantic.keeping(source.shelf, choice.question.text, stream, limited=limited)


def _note_tool_calls() -> None:
    """Writes into the request's record that the model called tools. The engine only knows that it stopped."""
    if (record := current()) is not None:
        record.finish_reason = "tool_calls"
