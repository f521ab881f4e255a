"""`OllamaAnswer`: one generated answer, as JSON lines or as a whole, with ollama's figures in the last object."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

import msgspec

from deepwell.dialogue.completion import Choice
from deepwell.dialogue.dialogue import Call, Plan, Turn, new_call_id
from deepwell.dialogue.parsers.events import CallArguments, CallStart, Content, Reasoning
from deepwell.errors import DeepwellError
from deepwell.server.answering import Answering
from deepwell.server.families.generation_bodies import ChatLogprob, arguments_object, logprobs_of
from deepwell.server.families.ollama.bodies import (
    OllamaAnsweredCall,
    OllamaAnsweredMessage,
    OllamaCall,
    OllamaChatAnswer,
    OllamaGenerateAnswer,
    rfc3339,
)
from deepwell.server.http.errors import ollama_error
from deepwell.storage.clock import shared_time

__all__ = [
    "NDJSON",
    "Clock",
    "OllamaAnswer",
    "OllamaBody",
    "Piece",
    "chat_body",
    "failed",
    "generate_body",
]

NDJSON = "application/x-ndjson"
_encode = msgspec.json.Encoder().encode
# Ends of lines to readers that know Unicode's, such as httpx's, and plain characters to JSON.
_LINE_ENDS = tuple((end.encode(), f"\\u{ord(end):04x}".encode()) for end in "\x85\u2028\u2029")
OllamaBody = OllamaChatAnswer | OllamaGenerateAnswer


class Clock:
    """The times of a request in nanoseconds: when it came, when its model was found, and when its first token was there."""

    def __init__(self) -> None:
        self._came = self._found = self._first = time.perf_counter_ns()

    def found(self) -> None:
        """Notes that the model is there: it was loaded, or is now."""
        self._found = self._first = time.perf_counter_ns()

    def first(self) -> None:
        """Notes the first token."""
        self._first = time.perf_counter_ns()

    @property
    def load(self) -> int:
        """Time until the model was found."""
        return self._found - self._came

    @property
    def prompt(self) -> int:
        """Time from then until the first token."""
        return self._first - self._found

    def rest(self) -> tuple[int, int]:
        """Returns the time since the request came, and since the first token. Both are above 0: clients divide by them."""
        now = time.perf_counter_ns()
        return max(now - self._came, 1), max(now - self._first, 1)


@dataclass(slots=True)
class Piece:
    """The part of an answer that one object carries."""

    content: str = ""
    thinking: str = ""
    calls: list[OllamaAnsweredCall] = field(default_factory=list[OllamaAnsweredCall])
    logprobs: list[ChatLogprob] = field(default_factory=list[ChatLogprob])

    @property
    def is_empty(self) -> bool:
        """True if there is nothing to tell."""
        return not (self.content or self.thinking or self.calls or self.logprobs)

    def add(self, other: Piece) -> None:
        """Adds the piece that follows."""
        self.content += other.content
        self.thinking += other.thinking
        self.calls += other.calls
        self.logprobs += other.logprobs


def chat_body(model: str, piece: Piece, done: bool) -> OllamaChatAnswer:
    """Returns an object of `/api/chat`."""
    message = OllamaAnsweredMessage(
        piece.content, thinking=piece.thinking or msgspec.UNSET, tool_calls=piece.calls or msgspec.UNSET
    )
    return OllamaChatAnswer(model, rfc3339(shared_time()), message, done)


def generate_body(model: str, piece: Piece, done: bool) -> OllamaGenerateAnswer:
    """Returns an object of `/api/generate`."""
    return OllamaGenerateAnswer(
        model, rfc3339(shared_time()), piece.content, done, thinking=piece.thinking or msgspec.UNSET
    )


def _line(body: OllamaBody) -> bytes:
    """Returns an object as one line, by any notion of lines."""
    data = _encode(body)
    for end, escaped in _LINE_ENDS:
        data = data.replace(end, escaped)
    return data + b"\n"


def failed(error: DeepwellError) -> bytes:
    """Returns the line that ends a stream which cannot go on."""
    return ollama_error(str(error)) + b"\n"


class OllamaAnswer:
    """One answer.

    Args:
        body: makes an object of a piece, for the model's name as the request has it.
    """

    def __init__(
        self,
        answering: Answering,
        plan: Plan,
        choices: Sequence[Choice],
        clock: Clock,
        body: Callable[[Piece, bool], OllamaBody],
        *,
        with_logprobs: bool,
    ) -> None:
        self._answering = answering
        self._plan = plan
        self._choices = choices
        self._clock = clock
        self._body = body
        self._with_logprobs = with_logprobs
        self._open: Call | None = None  # the call whose arguments are still coming
        self._called = 0
        self._last: Turn | None = None

    async def whole(self) -> bytes:
        """Returns the answer as one object."""
        said = Piece()
        async for piece in self._pieces():
            said.add(piece)
        return _encode(self._ended(said))

    async def lines(self) -> AsyncGenerator[bytes, None]:
        """Yields the answer as lines; the last has no text."""
        async for piece in self._pieces():
            if not piece.is_empty:
                yield _line(self._object(piece, False))
        yield _line(self._ended(Piece()))

    async def _pieces(self) -> AsyncGenerator[Piece, None]:
        async with aclosing(self._answering.converse(self._plan, self._choices)) as turns:
            async for turn in turns:
                if self._last is None:
                    self._clock.first()
                self._last = turn
                yield self._piece(turn)

    def _piece(self, turn: Turn) -> Piece:
        piece = Piece()
        for event in turn.events:
            match event:
                case Content(text):
                    piece.content += text
                case Reasoning(text):
                    piece.thinking += text
                case CallStart(_, name):
                    self._close(piece)
                    self._open = Call(new_call_id(), name)
                case CallArguments(_, text):
                    assert self._open is not None
                    self._open.arguments += text
        if turn.finish_reason is not None:
            self._close(piece)
        if self._with_logprobs:
            piece.logprobs = logprobs_of(turn.entries, self._answering.model.codec)
        return piece

    def _close(self, piece: Piece) -> None:
        """Adds the open call to a piece: arguments are an object, so they are sent whole."""
        if (call := self._open) is not None:
            function = OllamaCall(call.name, arguments_object(call.arguments), self._called)
            piece.calls.append(OllamaAnsweredCall(call.id, function))
            self._called += 1
            self._open = None

    def _object(self, piece: Piece, done: bool) -> OllamaBody:
        body = self._body(piece, done)
        if piece.logprobs:
            body.logprobs = piece.logprobs
        return body

    def _ended(self, piece: Piece) -> OllamaBody:
        """Returns the last object."""
        assert self._last is not None
        body, clock, counts = self._object(piece, True), self._clock, self._last.counts
        body.done_reason = "length" if self._last.finish_reason == "length" else "stop"
        body.load_duration, body.prompt_eval_duration = clock.load, clock.prompt
        body.prompt_eval_count, body.eval_count = counts.prompt, counts.completion
        body.total_duration, body.eval_duration = clock.rest()
        return body
