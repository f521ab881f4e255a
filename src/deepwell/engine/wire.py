"""What crosses between an engine's process and those that use it: length-prefixed msgpack, floats bit for bit.

A frame is its length as four little-endian bytes and one message. Every message is read against its type; what does not
fit ends the connection it came on.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec

from deepwell import errors
from deepwell.engine.protocol import (
    AdapterInfo,
    Capabilities,
    Delta,
    EngineStats,
    FinishReason,
    GenerateRequest,
    Grammar,
    TokenLogprob,
)
from deepwell.errors import DeepwellError, InvalidRequest

__all__ = [
    "MAX_ANSWER_BYTES",
    "MAX_REQUEST_BYTES",
    "Abort",
    "Adapters",
    "Done",
    "Embed",
    "Failure",
    "Frames",
    "Generate",
    "Hello",
    "LoadAdapter",
    "Prepare",
    "Rows",
    "Score",
    "Step",
    "UnloadAdapter",
    "WireError",
    "decode_answer",
    "decode_request",
    "delta_of",
    "encode",
    "encode_request",
    "error_of",
    "failure_of",
    "row_of",
]

MAX_REQUEST_BYTES: Final = 64 << 20  # several times the longest prompt that any model reads
MAX_ANSWER_BYTES: Final = 1 << 30  # log probabilities of a long prompt with many alternatives
_LENGTH = struct.Struct("<I")

# A TokenLogprob, and the parts of a Delta behind its request's number, as arrays.
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
    float,
]


class WireError(Exception):
    """Bytes that are no message."""


class Generate(msgspec.Struct, tag=1, array_like=True, frozen=True):
    """Continue a prompt; answered by rows of `Step`, or `Failure`."""

    number: int
    request: GenerateRequest


class Score(msgspec.Struct, tag=2, array_like=True, frozen=True):
    """Log probabilities; answered by `Rows`."""

    number: int
    tokens: list[int]
    adapter: str


class Embed(msgspec.Struct, tag=3, array_like=True, frozen=True):
    """The pooled hidden state; answered by `Rows`."""

    number: int
    tokens: list[int]
    adapter: str


class Prepare(msgspec.Struct, tag=4, array_like=True, frozen=True):
    """Compile a grammar; answered by `Done`."""

    number: int
    grammar: Grammar


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
    """What one step brought to the requests of a connection, and at times the counters after it."""

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


class Failure(msgspec.Struct, tag=25, array_like=True, frozen=True):
    """A request was refused, or its work failed."""

    number: int
    kind: str  # a name in deepwell.errors, or that of an error which belongs to the engine alone
    message: str
    fix: str = ""
    param: str | None = None
    status: int = 500
    type_: str = "server_error"
    code: str | None = None


_REQUEST = Generate | Score | Embed | Prepare | Abort | LoadAdapter | UnloadAdapter
_ANSWER = Hello | Step | Adapters | Rows | Done | Failure
_requests = msgspec.msgpack.Decoder(_REQUEST)
_answers = msgspec.msgpack.Decoder(_ANSWER)


def _plain(value: Any) -> Any:
    """Numpy's integers and arrays, which callers may hold tokens in."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} does not cross")


_encode = msgspec.msgpack.Encoder(enc_hook=_plain).encode


def encode(message: msgspec.Struct) -> bytes:
    """A frame."""
    body = _encode(message)
    return _LENGTH.pack(len(body)) + body


def encode_request(message: msgspec.Struct) -> bytes:
    """A frame of something that a caller gave.

    Raises:
        InvalidRequest: it cannot cross: not integers, not Unicode, or far too long.
    """
    if isinstance(message, Generate):
        salt = message.request.cache_salt
        if not salt.isascii():  # lone surrogates have no UTF-8, and any string is a salt
            salt = "\0" + salt.encode("utf-8", "surrogatepass").hex()
        message = Generate(message.number, replace(message.request, request_id="", cache_salt=salt))
    try:
        frame = encode(message)
    except (TypeError, OverflowError, UnicodeEncodeError) as error:
        raise InvalidRequest(f"the request cannot be sent to the engine: {error}", fix="correct it") from None
    if len(frame) > MAX_REQUEST_BYTES:
        raise InvalidRequest(f"the request has {len(frame)} bytes", fix=f"send at most {MAX_REQUEST_BYTES}")
    return frame


def decode_request(body: bytes) -> _REQUEST:
    """A message to an engine.

    Raises:
        WireError: it is none.
    """
    try:
        return _requests.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise WireError(str(error)) from None


def decode_answer(body: bytes) -> _ANSWER:
    """A message from an engine.

    Raises:
        WireError: it is none.
    """
    try:
        return _answers.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise WireError(str(error)) from None


class Frames:
    """Cuts a stream of bytes into the bodies of its frames."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The bodies that are complete now.

        Raises:
            WireError: a frame announces more bytes than the limit; they are not waited for.
        """
        rest = self._rest
        rest += data
        start = 0
        while len(rest) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(rest, start)
            if length > self._limit:
                raise WireError(f"a frame of {length} bytes")
            end = start + _LENGTH.size + length
            if len(rest) < end:
                break
            yield bytes(rest[start + _LENGTH.size : end])
            start = end
        del rest[:start]


def row_of(number: int, delta: Delta) -> _Row:
    """A delta as it crosses."""
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
        delta.queue_seconds,
    )


def delta_of(row: _Row, request_id: str) -> Delta:
    """The delta of a row."""
    _, tokens, logprobs, prompt_logprobs, reason, prompt, cached, completion, accepted, error, queued = row
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
        queued,
    )


def _entry(one: TokenLogprob) -> _Entry:
    return one.token, one.logprob, one.rank, one.top


def failure_of(number: int, error: Exception) -> Failure:
    """An error as it crosses: Deepwell's own keep their type."""
    if not isinstance(error, DeepwellError):
        return Failure(number, "DeepwellError", f"{type(error).__name__}: {error}")
    return Failure(
        number,
        type(error).__name__,
        error.message,
        error.fix,
        error.param,
        error.status,
        error.type,
        error.code,
    )


def error_of(failure: Failure) -> DeepwellError:
    """The error that crossed."""
    known: Sequence[str] = errors.__all__
    kind: type[DeepwellError] = getattr(errors, failure.kind) if failure.kind in known else DeepwellError
    error = kind(failure.message, fix=failure.fix, param=failure.param)
    error.status, error.type, error.code = failure.status, failure.type_, failure.code
    return error
