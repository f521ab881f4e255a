"""W3C Trace Context: the `traceparent` header, level 1 (https://www.w3.org/TR/trace-context/)."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

__all__ = ["TraceContext"]

_HEADER = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_random = random.SystemRandom()


@dataclass(frozen=True, slots=True)
class TraceContext:
    """Ids in lower-case hex. `span_id` is this server's span, `parent_id` the caller's (empty where the trace begins here)."""

    trace_id: str
    span_id: str
    parent_id: str
    sampled: bool

    @classmethod
    def begin(cls, header: bytes | None, *, share: float = 1.0) -> TraceContext:
        """Continues the caller's trace, or begins one. Of those that begin here, `share` are sampled.

        A header that the standard calls invalid counts as none.
        """
        span_id = f"{_random.getrandbits(64) or 1:016x}"
        found = _parse(header) if header else None
        if found is not None:
            trace_id, parent_id, sampled = found
            return cls(trace_id, span_id, parent_id, sampled)
        return cls(f"{_random.getrandbits(128) or 1:032x}", span_id, "", _random.random() < share)

    def header(self) -> str:
        """Returns `traceparent` for the next server, and for a caller who wants to find the trace."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"


def _parse(header: bytes) -> tuple[str, str, bool] | None:
    match = _HEADER.fullmatch(header.strip())
    if match is None:
        return None
    version, trace_id, parent_id, flags, more = match.groups()
    if version == b"ff" or (version == b"00" and more) or not int(trace_id, 16) or not int(parent_id, 16):
        return None
    return trace_id.decode(), parent_id.decode(), bool(int(flags, 16) & 1)
