"""Outputs of a model as users keep them: plain text, or the JSON of a chat completion."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from deepwell.errors import InvalidRequest

__all__ = ["read_transcript"]

MAX_BYTES = 8 << 20


def read_transcript(path: Path) -> tuple[str, list[float] | None, str | None]:
    """The text of an output, the log probabilities of its tokens where it has them, and why it ended.

    Raises:
        InvalidRequest: nothing to read there, or no text in it.
    """
    try:
        data = sys.stdin.buffer.read(MAX_BYTES + 1) if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}", fix="name a file, or -") from error
    if len(data) > MAX_BYTES:
        raise InvalidRequest(f"{path} has more than {MAX_BYTES} bytes", fix="send one output")
    text = data.decode("utf-8", "replace")
    logprobs, finish = None, None
    if text.lstrip().startswith("{"):
        # Anything else in braces is an output that is JSON itself.
        with contextlib.suppress(ValueError, KeyError, IndexError, TypeError, RecursionError):
            text, logprobs, finish = _from_completion(json.loads(text))
    if not text.strip():
        raise InvalidRequest(f"{path} holds no text", fix="send what the model wrote")
    return text, logprobs, finish


def _from_completion(body: Any) -> tuple[str, list[float] | None, str | None]:
    choice = body["choices"][0]
    text = choice["message"]["content"] if "message" in choice else choice["text"]
    if not isinstance(text, str):
        raise TypeError("no text")
    rows = choice.get("logprobs") or {}
    found = (
        [row["logprob"] for row in rows["content"]]
        if rows.get("content")
        else [value for value in rows.get("token_logprobs") or () if value is not None]
    )
    return text, [float(value) for value in found] or None, choice.get("finish_reason")
