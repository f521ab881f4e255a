"""The results of a batch's lines: lines of OpenAI's output and error files, or of Anthropic's results."""

from __future__ import annotations

from typing import Any, cast

import msgspec
from msgspec import Raw, Struct

from deepwell.server.families.batches.lines import InputLine
from deepwell.server.http.in_process import Reply
from deepwell.storage.batches import StoredBatch
from deepwell.storage.batches.lines import LineResult, Tokens

__all__ = ["CANCELLED", "EXPIRED", "ended", "never_run"]

CANCELLED, EXPIRED = "batch_cancelled", "batch_expired"
_encode = msgspec.json.Encoder().encode


class _Answered(Struct):
    """A line of an output or error file."""

    id: str
    custom_id: str
    response: _Response | None
    error: BatchFailure | None


class _Response(Struct):
    status_code: int
    request_id: str
    body: Raw


class BatchFailure(Struct):
    """Why a line was not run."""

    code: str
    message: str


class _MessageResult(Struct):
    """A line of the results of a message batch."""

    custom_id: str
    result: dict[str, Any]


class _Usage(Struct):
    """The families' names of the same counts. Anthropic's `input_tokens` leave out those that were read from the cache."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int = 0
    prompt_tokens_details: dict[str, int | None] | None = None
    input_tokens_details: dict[str, int | None] | None = None


class _Body(Struct):
    usage: _Usage | None = None


_bodies = msgspec.json.Decoder(_Body)


def ended(batch: StoredBatch, line: InputLine, reply: Reply) -> LineResult:
    """Returns the result of a line that was answered. A reply that is not 2xx is a failure, as it is with both APIs."""
    failed = not 200 <= reply.status < 300
    tokens = Tokens() if failed else _tokens(reply.body)
    if batch.without_files:
        kind, key = ("errored", "error") if failed else ("succeeded", "message")
        result = _MessageResult(line.custom_id, {"type": kind, key: Raw(reply.body)})
        return LineResult(line.number, failed, _encode(result).decode(), tokens, line.end_user)
    response = _Response(reply.status, reply.request_id, Raw(reply.body))
    return _result(batch, line, failed, tokens, response, None)


def never_run(batch: StoredBatch, line: InputLine, code: str) -> LineResult:
    """Returns the result of a line that was not run, because the batch is `CANCELLED` or `EXPIRED`."""
    if batch.without_files:
        kind = "canceled" if code == CANCELLED else "expired"
        result = _MessageResult(line.custom_id, {"type": kind})
        body = _encode(result).decode()
        return LineResult(line.number, True, body, end_user=line.end_user, counted=False)
    why = "the batch was cancelled" if code == CANCELLED else "the completion window ended"
    failure = BatchFailure(code, f"{why} before this request was run: send it in another batch")
    return _result(batch, line, True, Tokens(), None, failure)


def _result(
    batch: StoredBatch,
    line: InputLine,
    failed: bool,
    tokens: Tokens,
    response: _Response | None,
    error: BatchFailure | None,
) -> LineResult:
    id = f"batch_req_{batch.id.removeprefix('batch_')}_{line.number}"
    body = _encode(_Answered(id, line.custom_id, response, error)).decode()
    return LineResult(line.number, failed, body, tokens, line.end_user)


def _tokens(body: bytes) -> Tokens:
    usage = _bodies.decode(body).usage or _Usage()
    details = cast("dict[str, int | None]", usage.prompt_tokens_details or usage.input_tokens_details or {})
    cached = usage.cache_read_input_tokens
    return Tokens(
        usage.prompt_tokens or usage.input_tokens + cached,
        cached or details.get("cached_tokens") or 0,
        usage.completion_tokens or usage.output_tokens,
    )
