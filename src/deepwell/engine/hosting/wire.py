"""The messages between an engine's process and its users, encoded by `process.frames`."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import msgspec

from deepwell.engine.protocol import (
    AdapterInfo,
    Capabilities,
    Delta,
    EngineStats,
    FinishReason,
    GenerateRequest,
    Grammar,
    TokenLogprob,
    Window,
)
from deepwell.errors import InvalidRequest
from deepwell.process.frames import Failure, WireError, encode

__all__ = [
    "MAX_ANSWER_BYTES",
    "MAX_REQUEST_BYTES",
    "Abort",
    "Adapters",
    "Done",
    "Embed",
    "Generate",
    "Hello",
    "LoadAdapter",
    "Prepare",
    "Rows",
    "Score",
    "Step",
    "UnloadAdapter",
    "decode_answer",
    "decode_request",
    "delta_of",
    "encode_request",
    "row_of",
]

MAX_REQUEST_BYTES: Final = 64 << 20  # several times the longest prompt that any model reads
MAX_ANSWER_BYTES: Final = 1 << 30  # log probabilities of a long prompt with many alternatives

# A TokenLogprob, and a Delta after the number of its request, as arrays.
_Entry = tuple[int, float, int, tuple[tuple[int, float], ...]]
_Row = tuple[
    int,  # number of the request
    tuple[int, ...],
    tuple[_Entry, ...],
    tuple[_Entry | None, ...] | None,
    FinishReason | None,
    int,
    int,
    int,
    int,
    str,
    str,
    float,
    int,
]


class Generate(msgspec.Struct, tag=1, array_like=True, frozen=True):
    """Continue a prompt; answered by rows of `Step`, or `Failure`."""

    number: int
    request: GenerateRequest


class Score(msgspec.Struct, tag=2, array_like=True, frozen=True):
    """Log probabilities; answered by `Rows`."""

    number: int
    tokens: list[int]
    adapter: str
    start: int
    window: Window | None = None


class Embed(msgspec.Struct, tag=3, array_like=True, frozen=True):
    """The pooled hidden state; answered by `Rows`."""

    number: int
    tokens: list[int]
    adapter: str


class Prepare(msgspec.Struct, tag=4, array_like=True, frozen=True):
    """Compile a grammar; answered by `Done`."""

    number: int
    grammar: Grammar
    tenant: str
    cache_salt: str


class Abort(msgspec.Struct, tag=5, array_like=True, frozen=True):
    """Stop a request of this connection; unknown numbers are ignored."""

    number: int


class LoadAdapter(msgspec.Struct, tag=6, array_like=True, frozen=True):
    """Answered by `Adapters` with all that are loaded, then `Done`."""

    number: int
    name: str
    path: str


class UnloadAdapter(msgspec.Struct, tag=7, array_like=True, frozen=True):
    """Answered as `LoadAdapter`."""

    number: int
    name: str


class Hello(msgspec.Struct, tag=20, array_like=True, frozen=True):
    """The first message of an engine on every connection."""

    pid: int
    capabilities: Capabilities
    stats: EngineStats


class Step(msgspec.Struct, tag=21, array_like=True, frozen=True):
    """Results of one step for the requests of a connection, at times with the counters after it."""

    rows: list[_Row]
    stats: EngineStats | None = None


class Adapters(msgspec.Struct, tag=22, array_like=True, frozen=True):
    """All loaded adapters. A message with a lower `version` than one seen before is old."""

    version: int
    adapters: tuple[AdapterInfo, ...]


class Rows(msgspec.Struct, tag=23, array_like=True, frozen=True):
    """A float32 vector."""

    number: int
    data: bytes


class Done(msgspec.Struct, tag=24, array_like=True, frozen=True):
    """A request without a result has ended well."""

    number: int


_REQUEST = Generate | Score | Embed | Prepare | Abort | LoadAdapter | UnloadAdapter
_ANSWER = Hello | Step | Adapters | Rows | Done | Failure
_requests = msgspec.msgpack.Decoder(_REQUEST)
_answers = msgspec.msgpack.Decoder(_ANSWER)


def encode_request(message: msgspec.Struct) -> bytes:
    """Encodes a caller's request as a frame.

    Raises:
        InvalidRequest: the request cannot be encoded: not integers, not Unicode, or far too long.
    """
    if isinstance(message, Generate):
        salt = _sendable(message.request.cache_salt)
        message = Generate(message.number, replace(message.request, request_id="", cache_salt=salt))
    elif isinstance(message, Prepare):
        message = Prepare(message.number, message.grammar, message.tenant, _sendable(message.cache_salt))
    try:
        frame = encode(message)
    except (TypeError, OverflowError, UnicodeEncodeError) as error:
        raise InvalidRequest(f"the request cannot be sent to the engine: {error}", fix="correct it") from None
    if len(frame) > MAX_REQUEST_BYTES:
        raise InvalidRequest(f"the request has {len(frame)} bytes", fix=f"send at most {MAX_REQUEST_BYTES}")
    return frame


def _sendable(salt: str) -> str:
    """Returns the salt as ASCII. Any string is a valid salt, but lone surrogates have no UTF-8."""
    return salt if salt.isascii() else "\0" + salt.encode("utf-8", "surrogatepass").hex()


def decode_request(body: bytes) -> _REQUEST:
    """Decodes a message to an engine.

    Raises:
        WireError: `body` is not such a message.
    """
    try:
        return _requests.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise WireError(str(error)) from None


def decode_answer(body: bytes) -> _ANSWER:
    """Decodes a message from an engine.

    Raises:
        WireError: `body` is not such a message.
    """
    try:
        return _answers.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise WireError(str(error)) from None


def row_of(number: int, delta: Delta) -> _Row:
    """Converts a delta to a row of a message."""
    return (
        number,
        delta.tokens,
        tuple(map(_entry, delta.logprobs)),
        None
        if delta.prompt_logprobs is None
        else tuple(None if one is None else _entry(one) for one in delta.prompt_logprobs),
        delta.finish_reason,
        delta.prompt_tokens,
        delta.cached_tokens,
        delta.completion_tokens,
        delta.accepted_tokens,
        delta.error,
        delta.error_code,
        delta.queue_seconds,
        delta.forgotten_tokens,
    )


def delta_of(row: _Row, request_id: str) -> Delta:
    """Converts a row of a message to a delta."""
    (
        _,
        tokens,
        logprobs,
        prompt_logprobs,
        reason,
        prompt,
        cached,
        completion,
        accepted,
        error,
        code,
        queued,
        forgotten,
    ) = row
    return Delta(
        request_id,
        tokens,
        tuple(TokenLogprob(*entry) for entry in logprobs),
        None
        if prompt_logprobs is None
        else tuple(None if entry is None else TokenLogprob(*entry) for entry in prompt_logprobs),
        reason,
        prompt,
        cached,
        completion,
        accepted,
        error,
        code,
        queued,
        forgotten,
    )


def _entry(one: TokenLogprob) -> _Entry:
    return one.token, one.logprob, one.rank, one.top
