"""A client's connection that is cut if the client stops reading: the data that waits for it would only grow."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["connection_class"]


class _Connection(HttpToolsProtocol):
    patience_s = 30.0
    _watch: asyncio.TimerHandle | None = None
    _unread = 0

    def pause_writing(self) -> None:
        super().pause_writing()
        self._look()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._rest()

    def connection_lost(self, exc: Exception | None) -> None:
        self._rest()
        super().connection_lost(exc)

    def _look(self) -> None:
        self._unread = self.transport.get_write_buffer_size()
        self._watch = self.loop.call_later(self.patience_s, self._judge)

    def _judge(self) -> None:
        if self.transport.get_write_buffer_size() < self._unread:
            self._look()  # the client is slow, but it reads
        else:
            self.transport.abort()  # `close` would wait until everything is read

    def _rest(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None


def connection_class(patience_s: float) -> type[HttpToolsProtocol]:
    """Returns uvicorn's protocol, made to cut a connection whose client reads nothing of a full buffer for `patience_s`.

    To the application, such a client hangs up: its request is aborted within a step.
    """
    return type("Connection", (_Connection,), {"patience_s": patience_s})
