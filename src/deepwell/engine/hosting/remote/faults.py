"""Faults of a server: each answer's status and body as a domain error with its fix, and never with a key."""

from __future__ import annotations

from typing import Any, Final, cast

import msgspec

from deepwell.errors import (
    ContextLengthExceeded,
    DeepwellError,
    EngineRestarted,
    EngineUnavailable,
    InvalidRequest,
    ModelNotFound,
)

__all__ = [
    "TOO_MANY",
    "Retry",
    "bad_answer",
    "broken",
    "lacking",
    "plain_of",
    "refused",
    "said_by",
    "unreachable",
]

_MOST_SAID: Final = 300
TOO_MANY: Final = 429
_AGAIN: Final = (TOO_MANY, 502, 503, 504)


class Retry(Exception):
    """Raised where no token had left, so the request may be sent again.

    Attributes:
        error: the error if it is not.
        sent: whether the server had taken the request, which then may be what breaks it.
        busy: whether the server said that it has too much to do, so that it is there.
        wait_s: seconds that the server asks for.
    """

    def __init__(self, error: DeepwellError, *, sent: bool, busy: bool = False, wait_s: float = 0.0) -> None:
        super().__init__(error.message)
        self.busy = busy
        self.error = error
        self.sent = sent
        self.wait_s = wait_s


def unreachable(url: str, why: str) -> EngineUnavailable:
    """Returns the error for a server that cannot be reached."""
    return EngineUnavailable.of("engine_unreachable", url=url, reason=plain_of(why))


def bad_answer(url: str, what: str) -> EngineUnavailable:
    """Returns the error for an answer that no server of its kind gives."""
    return EngineUnavailable.of("engine_bad_answer", url=url, what=plain_of(what))


def broken(url: str, why: str) -> EngineRestarted:
    """Returns the error for a stream that ended in the middle, when tokens had already left."""
    return EngineRestarted.of("engine_broken", url=url, reason=plain_of(why))


def lacking(url: str, what: str, param: str | None = None) -> InvalidRequest:
    """Returns the error for a part of the protocol that the server does not offer."""
    return InvalidRequest.of("engine_lacks", url=url, what=what, param=param)


def refused(url: str, status: int, body: bytes, wait_s: float = 0.0) -> DeepwellError | Retry:
    """Returns the error, or the reason to try again, for a response that is not 200."""
    said = said_by(body)
    if status in _AGAIN:
        reason = f"HTTP {status}: {said}" if said else f"HTTP {status}"
        return Retry(unreachable(url, reason), sent=False, busy=status == TOO_MANY, wait_s=wait_s)
    if status in (401, 403):
        return EngineUnavailable.of("engine_key_refused", url=url, status=status)
    if status == 404:
        return ModelNotFound.of("engine_not_there", url=url, reason=said or "HTTP 404", param="model")
    if status in (400, 413, 422):
        longer = "context length" in said or "maximum context" in said or "max_model_len" in said
        kind = ContextLengthExceeded if longer else InvalidRequest
        return kind.of("engine_refuses", url=url, reason=said or f"HTTP {status}")
    return EngineUnavailable.of("engine_failed", url=url, reason=f"HTTP {status}: {said}".rstrip(": "))


def said_by(body: bytes) -> str:
    """Returns the message of an error body as one short line; empty if there is none."""
    try:
        value: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return plain_of(body[: 4 * _MOST_SAID].decode("utf-8", "replace"))
    for _ in range(3):
        if not isinstance(value, dict):
            break
        table = cast("dict[str, Any]", value)
        value = next((table[name] for name in ("error", "message", "detail") if name in table), "")
    return plain_of(value if isinstance(value, str) else msgspec.json.encode(value).decode())


def plain_of(text: str) -> str:
    """Returns a text from elsewhere as one line of printable characters, at most 300."""
    line = " ".join("".join(one if one.isprintable() else " " for one in text[: 8 * _MOST_SAID]).split())
    return line if len(line) <= _MOST_SAID else f"{line[:_MOST_SAID]}…"
