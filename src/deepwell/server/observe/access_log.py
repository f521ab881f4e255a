"""The access log: one line per request, as JSON or as logfmt, to a file or to standard error."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

from deepwell.safety.privacy.log_lines import person_of
from deepwell.server.observe.record import Record

__all__ = ["AccessLog", "fields_of"]

_PATH_CHARACTERS = 256  # of a path that is logged: clients choose its length
_encode = msgspec.json.Encoder().encode


class AccessLog:
    """A sink that writes records as lines. A file that was moved away, as logrotate does, is reopened.

    Args:
        style: "json", or "text" for logfmt.
        path: the file; None: standard error.
        database_id: id of the database, without which nobody tells whom the hash of an end user stands for.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(
        self, style: Literal["text", "json"], path: Path | None = None, database_id: str = ""
    ) -> None:
        self._style = style
        self._path = path
        self._database_id = database_id
        self._descriptor = -1
        if path is not None:
            self._open(path)

    def __call__(self, records: Sequence[Record]) -> None:
        """Writes a batch at once, so that appended lines stay whole beside those of other processes."""
        line = _json_line if self._style == "json" else _text_line
        # A record without a method is no request.
        text = "".join(line(fields_of(record, self._database_id)) for record in records if record.method)
        if self._path is None:
            sys.stderr.write(text)
            sys.stderr.flush()
            return
        self._reopen_if_moved(self._path)
        left = memoryview(text.encode())
        while left:
            left = left[os.write(self._descriptor, left) :]

    def close(self) -> None:
        """Closes the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The log tells who asked when, so not everybody on the machine may read it.
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)

    def _reopen_if_moved(self, path: Path) -> None:
        try:
            if self._descriptor >= 0 and os.path.samestat(os.fstat(self._descriptor), path.stat()):
                return
        except FileNotFoundError:
            pass
        self.close()
        self._open(path)


def fields_of(record: Record, database_id: str = "") -> dict[str, Any]:
    """Returns the fields of a line, in order. Fields that do not apply are left out. Times are in milliseconds."""
    when = datetime.fromtimestamp(record.at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    line: dict[str, Any] = {
        "time": when,
        "request_id": record.request_id,
        "tenant": record.tenant,
        "key_id": record.key_id,
        # Lines have ids that clients chose: an erasure finds those of an end user by it
        "person": person_of(database_id, record.tenant, record.end_user) if record.end_user else "",
        "method": record.method,
        "route": record.route,
        "path": record.path[:_PATH_CHARACTERS].encode(errors="replace").decode()
        if record.path != record.route
        else "",
        "status": record.status,
        "bytes": record.body_bytes,
        "duration_ms": _ms(record.duration_s),
        "model": record.model,
    }
    if record.model:
        line |= {
            "prompt_tokens": record.prompt_tokens,
            "cached_tokens": record.cached_tokens,
            "completion_tokens": record.completion_tokens,
            "queue_ms": _ms(record.queue_s),
            "first_token_ms": _ms(record.first_token_s),
            "finish_reason": record.finish_reason,
        }
    line |= {
        "alias": record.alias,
        "arm": record.arm,
        "prompt": f"{record.prompt}#{record.prompt_version}" if record.prompt else "",
        "intents": record.intents,
        "cache": record.cache,
        "error": record.error,
        "client_left": record.client_left or "",
        "trace_id": record.trace.trace_id if record.trace else "",
    }
    return {name: value for name, value in line.items() if value not in ("", None)}


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 3)


def _json_line(fields: dict[str, Any]) -> str:
    return _visible(_encode(fields).decode()) + "\n"


def _visible(encoded: str) -> str:
    """Escapes what some reader takes for the end of a line, or a terminal for a command."""
    if encoded.isprintable():
        return encoded
    return "".join(one if one.isprintable() else json.dumps(one)[1:-1] for one in encoded)


def _text_line(fields: dict[str, Any]) -> str:
    return " ".join(f"{name}={_word(value)}" for name, value in fields.items()) + "\n"


def _word(value: Any) -> str:
    """Returns a value for logfmt: quoted, with JSON's escapes, unless it is a plain word."""
    if value is True:
        return "true"
    text = str(value)
    if text and text.isascii() and text.isprintable() and not set(text) & set(' "=\\'):
        return text
    return _visible(_encode(text).decode())
