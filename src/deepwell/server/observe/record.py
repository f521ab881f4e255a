"""`Record`: the facts about one HTTP request, filled in on its way, and given to log and tracer when it has ended."""

from __future__ import annotations

import re
import time
import uuid
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deepwell.server.observe.trace_context import TraceContext

if TYPE_CHECKING:
    from deepwell.knowledge.context.fitting.ledger import Ledger

__all__ = ["Phase", "Record", "current", "observing", "queued", "request_id_of"]

# Printable, without characters that a log line, a header or a shell would interpret.
_SANE_ID = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:\-]{0,127}")


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a request's time, in seconds of `time.perf_counter`."""

    name: str
    begin: float
    end: float
    attributes: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(slots=True)
class Record:
    """The record of one request. Times in seconds; `started` by `time.perf_counter`, `at` by the wall clock."""

    request_id: str
    method: str
    path: str
    started: float
    at: float
    trace: TraceContext | None = None
    operation: str = "chat"  # `gen_ai.operation.name` of what its path computes
    route: str = "none"
    status: int = 499  # stays if the client left before an answer began
    body_bytes: int = 0
    duration_s: float = 0.0
    tenant: str = ""
    key_id: str = ""
    end_user: str = ""  # as the request names one; the audit trail has a pseudonym for it, the log a hash
    job: str = ""  # kind of the job whose claim this is
    model: str = ""
    alias: str = ""  # by which the request named the model
    arm: str = ""  # its user's side of the alias's roll-out
    prompt: str = ""  # id of the stored prompt that opened the dialogue, and the version that was taken
    prompt_version: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    queue_s: float | None = None
    first_token_s: float | None = None
    finish_reason: str = ""
    error: str = ""
    client_left: bool = False
    cache: str = ""  # "hit", "joined", "miss" or "semantic"
    intents: str = ""  # of a request for the model `auto`, joined by "+"
    label: str = ""  # embedded label of generated content, for the headers of the answer
    noted: set[object] | None = (
        None  # texts whose decisions are in the audit trail: a request may read one twice
    )
    ledger: Ledger | None = None  # what became of the tokens of its prompt
    phases: list[Phase] = field(default_factory=list[Phase])

    @classmethod
    def begin(cls, method: str, path: str, request_id: bytes | None, trace: TraceContext | None) -> Record:
        """Returns the record of a request that has just come in."""
        return cls(request_id_of(request_id), method, path, time.perf_counter(), time.time(), trace)


_current: ContextVar[Record | None] = ContextVar("deepwell_request", default=None)


def current() -> Record | None:
    """Returns the record of the request that this code works for, if it works for one."""
    return _current.get()


def observing(record: Record) -> None:
    """Makes `record` the current one, for this task and those it starts."""
    _current.set(record)


def queued(seconds: float) -> None:
    """Notes how long the current request waited for the engine. Of several choices the longest counts."""
    record = _current.get()
    if record is not None:
        record.queue_s = max(record.queue_s or 0.0, seconds)


def request_id_of(given: bytes | None) -> str:
    """Returns the client's `x-request-id` if it is a plain word of at most 128 characters, else a new id."""
    if given and _SANE_ID.fullmatch(given):
        return given.decode()
    return f"req_{uuid.uuid4().hex}"
