"""Messages between processes: length-prefixed msgpack, with floats kept bit for bit.

A frame is a length in four little-endian bytes and one message. Every message is checked against its type. Bytes that do
not fit end the connection on which they arrived.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Annotated, Any

import msgspec

from deepwell import errors
from deepwell.errors import DeepwellError
from deepwell.messages import render

__all__ = ["Failure", "Frames", "WireError", "encode", "error_of", "failure_of"]

_LENGTH = struct.Struct("<I")


class WireError(Exception):
    """Raised for bytes that are not a message."""


class Failure(msgspec.Struct, tag=25, array_like=True, frozen=True):
    """A request was refused, or its work failed."""

    number: int
    kind: str  # a name in deepwell.errors, or the name of an error defined elsewhere
    message: str
    fix: str = ""
    param: str | None = None
    status: Annotated[int, msgspec.Meta(ge=400, le=599)] = 500
    type_: str = "server_error"
    code: str | None = None
    retry_after: Annotated[int, msgspec.Meta(ge=0)] | None = None
    # Where the catalogue of messages has the texts, so that the server can say them in the client's language.
    key: str = ""
    values: dict[str, str | int | float] = msgspec.field(default_factory=dict[str, str | int | float])


def _plain(value: Any) -> Any:
    """Converts numpy integers and arrays, in which callers may hold tokens."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} does not cross")


_encode = msgspec.msgpack.Encoder(enc_hook=_plain).encode


def encode(message: msgspec.Struct) -> bytes:
    """Encodes a message as a frame."""
    body = _encode(message)
    return _LENGTH.pack(len(body)) + body


class Frames:
    """Splits a stream of bytes into the bodies of its frames."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rest = bytearray()

    @property
    def pending(self) -> bool:
        """True while the beginning of a frame is held."""
        return bool(self._rest)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yields the bodies that are now complete.

        Raises:
            WireError: a frame announces more bytes than the limit. It is raised before they arrive.
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


def failure_of(number: int, error: Exception) -> Failure:
    """Converts an error to a message. Deepwell's own errors keep their type."""
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
        error.retry_after,
        *error.texts,
    )


def error_of(failure: Failure) -> DeepwellError:
    """Converts a message back to an error."""
    known: Sequence[str] = errors.__all__
    kind: type[DeepwellError] = getattr(errors, failure.kind) if failure.kind in known else DeepwellError
    error = kind(failure.message, fix=failure.fix, param=failure.param)
    if failure.key:
        with suppress(
            KeyError, ValueError
        ):  # no text of the catalogue: the process may be a stranger's by now
            render(failure.key, "en", failure.values)
            error.texts = failure.key, failure.values
    error.status, error.type, error.code = failure.status, failure.type_, failure.code
    error.retry_after = failure.retry_after
    return error
