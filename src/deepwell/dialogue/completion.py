"""Generation of one choice: engine deltas in, updates of final text with a finish reason out."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import msgspec

from deepwell.dialogue.text import ChoiceText, Codec, Entry, Piece
from deepwell.engine.protocol import Delta, Engine, GenerateRequest, SamplingParams, TokenLogprob
from deepwell.errors import DeepwellError, InvalidRequest

__all__ = [
    "Caller",
    "Choice",
    "ChoiceProgress",
    "Counts",
    "GenerationFailed",
    "Question",
    "Update",
    "complete",
    "complete_sync",
    "engine_request",
    "merge",
]


class GenerationFailed(DeepwellError):
    """Raised when the engine gives up on a request."""

    status = 503
    code = "generation_failed"


@dataclass(frozen=True, slots=True)
class Question:
    """The last question of a dialogue, and the messages before it."""

    text: str
    before: Sequence[Mapping[str, Any]] = ()
    variables: Mapping[str, Any] = field(default_factory=dict[str, Any])  # of the chat template

    def context(self) -> bytes:
        """Returns a digest of everything but the text."""
        return hashlib.sha256(msgspec.json.encode([self.before, self.variables])).digest()


@dataclass(frozen=True, slots=True)
class Choice:
    """One choice of a request to generate. Its text starts at `offset`, behind an echoed prompt."""

    index: int
    request: GenerateRequest
    stops: tuple[str, ...] = ()
    offset: int = 0
    visible: frozenset[int] = frozenset()  # control tokens that are part of the text, such as markup of calls
    question: Question | None = None  # set if the answer depends on nothing but text


@dataclass(frozen=True, slots=True)
class Caller:
    """The tenant and priority that the engine works for.

    Attributes:
        tenant: owner of the queue that the request waits in.
        salt: prefix cache entries are shared only between equal salts.
        priority: higher goes first. Below 0, the request can wait.
    """

    tenant: str = ""
    salt: str = ""
    priority: int = 0


def engine_request(
    id: str, prompt: Sequence[int], params: SamplingParams, choice: int, caller: Caller, adapter: str
) -> GenerateRequest:
    """Builds the engine's request for one choice."""
    return GenerateRequest(
        id,
        prompt,
        params,
        choice,
        cache_salt=caller.salt,
        tenant=caller.tenant,
        priority=caller.priority,
        adapter=adapter,
    )


@dataclass(frozen=True, slots=True)
class Counts:
    """Token counts of one choice."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    accepted: int = 0  # tokens of the completion that were drafted correctly
    forgotten: int = 0  # tokens that have left the request's window


@dataclass(frozen=True, slots=True)
class Update:
    """The text and entries that one step of one choice made final. The last update carries `finish_reason`."""

    index: int
    text: str
    entries: tuple[Entry, ...] = ()
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    finish_reason: Literal["stop", "length", "content_filter"] | None = None
    counts: Counts = Counts()
    stop: str | None = None  # the stop string that ended it


class ChoiceProgress:
    """Folds the deltas of one choice into updates, for every kind of iteration."""

    def __init__(self, choice: Choice, codec: Codec) -> None:
        params = choice.request.params
        self._choice = choice
        self._text = ChoiceText(codec, choice.stops, params.stop_token_ids, choice.offset, choice.visible)
        self._counts = Counts(prompt=len(choice.request.prompt))

    def fold(self, delta: Delta) -> Update:
        """Returns the update of a delta, which may be empty. After the one with a finish reason, no more deltas may come.

        Raises:
            GenerationFailed: the engine gave up on the request.
            InvalidRequest: the request's grammar cannot go on.
        """
        if delta.finish_reason in ("abort", "error"):
            raise _failure_of(delta)
        piece = self._text.push(delta)
        counted = self._counts
        completion = counted.completion + piece.tokens
        if not piece.stopped:
            completion = max(completion, delta.completion_tokens)
        self._counts = Counts(
            counted.prompt,
            max(counted.cached, delta.cached_tokens),
            completion,
            min(completion, max(counted.accepted, delta.accepted_tokens)),
            max(counted.forgotten, delta.forgotten_tokens),
        )
        finish: Literal["stop", "length"] | None = delta.finish_reason
        if piece.stopped:
            finish = "stop"
        elif finish is not None:
            tail = self._text.finish()
            finish = "stop" if tail.stopped else finish
            piece = Piece(piece.text + tail.text, piece.entries + tail.entries, stop=tail.stop)
        return Update(
            self._choice.index,
            piece.text,
            piece.entries,
            delta.prompt_logprobs,
            finish,
            self._counts,
            piece.stop,
        )


def _failure_of(delta: Delta) -> DeepwellError:
    """Returns the error of a delta that ends a request early. Only those that may succeed later ask for another try."""
    message = f"generation stopped early: {delta.error or 'the request was aborted'}"
    if not delta.error_code:
        return GenerationFailed(message, fix="send the request again")
    error = InvalidRequest(message)
    error.code = delta.error_code
    return error


async def complete(
    engine: Engine, codec: Codec, choice: Choice, on_queued: Callable[[float], None] | None = None
) -> AsyncGenerator[Update, None]:
    """Yields the updates of one choice. Steps that made nothing final yield none.

    `on_queued` is called with the seconds for which the request waited in the engine's queue.

    Closing the iterator, or a stop string, closes the engine's iterator, which ends the request within one step.

    Raises:
        GenerationFailed: the engine gave up on the request.
        InvalidRequest: the request's grammar cannot go on.
    """
    progress = ChoiceProgress(choice, codec)
    # The protocol promises that the iterator can be closed, which its type cannot say.
    closable = cast("AsyncGenerator[Delta, None]", engine.generate(choice.request))
    async with aclosing(closable) as deltas:
        async for delta in deltas:
            if delta.queue_seconds and on_queued is not None:
                on_queued(delta.queue_seconds)
            update = progress.fold(delta)
            if update.text or update.entries or update.finish_reason or update.prompt_logprobs:
                yield update
            if update.finish_reason:
                return
    raise GenerationFailed("generation ended without a reason", fix="send the request again")


def complete_sync(deltas: Iterable[Delta], codec: Codec, choice: Choice) -> Iterator[Update]:
    """Yields the updates of one choice as `complete` does, for a caller without an event loop."""
    progress = ChoiceProgress(choice, codec)
    for delta in deltas:
        update = progress.fold(delta)
        if update.text or update.finish_reason:
            yield update
        if update.finish_reason:
            return


def merge(streams: Sequence[AsyncGenerator[Update, None]]) -> AsyncGenerator[Update, None]:
    """Yields the updates of several choices as they come. Closing it, or an error in one stream, closes all streams."""
    return streams[0] if len(streams) == 1 else _merged(streams)


async def _merged(streams: Sequence[AsyncGenerator[Update, None]]) -> AsyncGenerator[Update, None]:
    # The queue needs no bound: it holds at most what the engine generates, which max_tokens bounds.
    queue: asyncio.Queue[Update | Exception | None] = asyncio.Queue()

    async def drain(stream: AsyncGenerator[Update, None]) -> None:
        try:
            async with aclosing(stream) as updates:
                async for update in updates:
                    queue.put_nowait(update)
        except Exception as error:  # the reader raises it
            queue.put_nowait(error)
        else:
            queue.put_nowait(None)

    tasks = [asyncio.create_task(drain(stream)) for stream in streams]
    try:
        running = len(tasks)
        while running:
            item = await queue.get()
            if item is None:
                running -= 1
            elif isinstance(item, Exception):
                raise item
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
