"""Server-sent events out of bytes that arrive in any pieces, with bounds on what a server may send."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from deepwell.engine.hosting.remote.faults import bad_answer

__all__ = ["MOST_LINE_BYTES", "EventReader"]

MOST_LINE_BYTES: Final = 1 << 20  # an event of 64 tokens with 20 alternatives each takes 100 KB
_DONE: Final = b"[DONE]"


class EventReader:
    """Splits a stream into the data of its events. Comments, names and ids of events are passed over.

    Attributes:
        done: whether the last event of OpenAI's streams, `[DONE]`, has come. Nothing is read behind it.
    """

    def __init__(self, url: str, most_line_bytes: int = MOST_LINE_BYTES) -> None:
        self.done = False
        self._url = url
        self._most = most_line_bytes
        self._rest = bytearray()
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yields the data of every event that is complete.

        Raises:
            EngineUnavailable: a line, or an event of many lines, is longer than the bound.
        """
        start = 0
        while not self.done and (end := data.find(b"\n", start)) >= 0:
            line = bytes(self._rest) + data[start:end]
            self._rest.clear()
            start = end + 1
            self._check(len(line))
            event = self._take(line.removesuffix(b"\r"))
            if event is not None:
                yield event
        if not self.done:
            self._rest += data[start:]
            self._check(len(self._rest))

    def end(self) -> bytes | None:
        """Returns the data of an event that the end of the stream completes, or None."""
        if self._rest:
            self._take(bytes(self._rest).removesuffix(b"\r"))
            self._rest.clear()
        return self._take(b"")

    def _take(self, line: bytes) -> bytes | None:
        if not line:
            event, self._data, self._size = b"\n".join(self._data), [], 0
            if event == _DONE:
                self.done = True
                return None
            return event or None
        if line.startswith(b"data:"):
            part = line[5:].removeprefix(b" ")
            self._size += len(part) + 1
            self._check(self._size)
            self._data.append(part)
        return None

    def _check(self, size: int) -> None:
        if size > self._most:
            raise bad_answer(self._url, f"a line of more than {self._most} bytes")
