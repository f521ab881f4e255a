"""`GenerationMeter`: records the cost of one request to a model, in the metrics and in the request's record."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from time import perf_counter

from deepwell.dialogue.completion import Choice, Counts, Update
from deepwell.errors import DeepwellError
from deepwell.server.observe.metrics import Metrics
from deepwell.server.observe.record import Phase, current

__all__ = ["GenerationMeter", "embedding", "error_type"]


class GenerationMeter:
    """A meter of a request's choices, begun when it is made: `take` every update, then `end`."""

    def __init__(self, metrics: Metrics, model: str, choices: Sequence[Choice]) -> None:
        self._metrics = metrics
        self._model = model
        self._choices = len(choices)
        self._prompts = {id(choice.request.prompt): len(choice.request.prompt) for choice in choices}
        self._record = current()
        self._begin = perf_counter()
        self._last: dict[int, float] = {}
        self._counts: dict[int, Counts] = {}
        self._first = 0.0
        self._finish = ""
        metrics.waiting.begin(self, self._begin)
        if self._record is not None:
            self._record.model = model

    def take(self, update: Update) -> None:
        """Counts one update."""
        now = perf_counter()
        before = self._last.get(update.index)
        if before is not None:
            self._metrics.inter_token.observe(now - before)
        elif not self._last:
            self._first = now
            self._metrics.waiting.end(self)
            self._metrics.first_token.observe(now - self._begin)
        self._last[update.index] = now
        if update.finish_reason is not None:
            self._finish = update.finish_reason
        self._counts[update.index] = update.counts

    def end(self, failure: BaseException | None = None) -> None:
        """Ends the measurement. `failure` is what ended the request early; a client's hang-up is one too."""
        metrics, record = self._metrics, self._record
        metrics.waiting.end(self)
        now = perf_counter()
        begin = self._begin
        operation = "chat"
        if record is not None:
            begin, operation = record.started, record.operation
        instruments = metrics.generation(operation, self._model)
        counts = self._counts.values()
        completion = sum(one.completion for one in counts)
        prompt = sum(self._prompts.values())
        kind = error_type(failure)
        instruments.duration(kind).observe(now - begin)
        if self._first:
            instruments.input_tokens.observe(prompt)
            instruments.output_tokens.observe(completion)
            instruments.first_token.observe(self._first - begin)
            between = completion - self._choices
            if between > 0 and not kind:
                instruments.per_token.observe((now - self._first) * self._choices / between)
        if record is None:
            return
        if record.queue_s is not None:
            metrics.queue.observe(record.queue_s)
        record.prompt_tokens += prompt
        record.cached_tokens += max((one.cached for one in counts), default=0)
        record.completion_tokens += completion
        record.finish_reason = record.finish_reason or self._finish
        record.error = record.error or kind
        self._note_phases(now)

    def _note_phases(self, now: float) -> None:
        """Records the parts of the request that a trace shows: preparation, queue, prefill, decoding."""
        record = self._record
        assert record is not None
        record.phases.append(Phase("prepare", record.started, self._begin))
        admitted = self._begin
        if record.queue_s is not None:
            admitted += record.queue_s
            record.phases.append(Phase("queue", self._begin, admitted))
        if self._first:
            record.first_token_s = self._first - record.started
            record.phases.append(Phase("prefill", admitted, max(admitted, self._first)))
            record.phases.append(Phase("decode", self._first, now))
        else:
            record.phases.append(Phase("prefill", admitted, max(admitted, now)))


@contextmanager
def embedding(metrics: Metrics, model: str, tokens: int, operation: str = "embeddings") -> Generator[None]:
    """Measures the work inside, which embeds or scores `tokens` tokens with a served model."""
    record = current()
    begin = perf_counter() if record is None else record.started
    who = object()
    metrics.waiting.begin(who, perf_counter())
    kind = ""
    try:
        yield
    except BaseException as failure:
        kind = error_type(failure)
        raise
    finally:
        metrics.waiting.end(who)
        instruments = metrics.generation(operation, model)
        instruments.duration(kind).observe(perf_counter() - begin)
        instruments.input_tokens.observe(tokens)
        if record is not None:
            record.model, record.prompt_tokens, record.error = model, tokens, kind


def error_type(failure: BaseException | None) -> str:
    """Returns `error.type`: a domain error's code, else the class; "cancelled" if the client left or the server stopped.

    The set of values is small. Empty: no failure.
    """
    if failure is None:
        return ""
    if isinstance(failure, (asyncio.CancelledError, GeneratorExit)):
        return "cancelled"
    if isinstance(failure, DeepwellError) and failure.code:
        return failure.code
    return type(failure).__name__
