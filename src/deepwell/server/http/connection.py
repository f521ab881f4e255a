"""A client's connection: what it may send before somebody has read it, and how long it may stall, either way."""

from __future__ import annotations

import contextvars
from contextlib import suppress
from enum import Enum, auto
from typing import Any, NoReturn

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from deepwell.errors import DeepwellError
from deepwell.server.http.connection_table import ConnectionTable, Wait
from deepwell.server.http.errors import encode_error

__all__ = ["Connection"]

# Of a request's head, and again of its trailers.
_MOST_FIELDS = 128
_FIELD_BYTES = 16 << 10
_HEAD_BYTES = 64 << 10
_TARGET_BYTES = 8 << 10

# The parser tells of a field when the next one begins, so it may hold two.
_SILENT_BYTES = 2 * _FIELD_BYTES
_PIPELINED_BYTES = (
    64 << 10
)  # of requests behind the one that is being answered; further ones stay in the socket
_MOST_PIPELINED = 16  # requests that are parsed while an earlier one is being answered
_STEP_BYTES = 16 << 10  # that are parsed at a time where the end of a request is not known beforehand
_DRAINED_BYTES = 64 << 10  # of a body that nobody reads, for each time that its connection may take
_LINGER_BYTES = 1 << 20  # that a refused client may go on to send, while it reads why
_PROGRESS_BYTES = 1024  # of a full buffer; a client that reads fewer within its time does not read
_FRAMING = "send one Transfer-Encoding of 'chunked', or Content-Length, and not both"
_HEAD_END = b"\r\n\r\n"


class _Phase(Enum):
    """The part of a request that the next byte belongs to."""

    BETWEEN = auto()
    HEAD = auto()
    BODY = auto()
    REFUSED = auto()


class _Refusal(DeepwellError):
    """Raised for a request whose head or trailers nobody will read. The connection ends with it."""

    type = "invalid_request_error"

    def __init__(self, status: int, message: str, fix: str) -> None:
        super().__init__(message, fix=fix)
        self.status = status

    @classmethod
    def too_large(cls, what: str) -> _Refusal:
        """Returns the refusal of a head or of trailers. `what` says which limit they break."""
        return cls(431, what, "send fewer or shorter headers")


def _excess(field_bytes: int, fields: int) -> str:
    """Returns which limit a field breaks."""
    if field_bytes > _FIELD_BYTES:
        return f"a header of the request is longer than {_FIELD_BYTES} bytes"
    if fields > _MOST_FIELDS:
        return f"the request has more than {_MOST_FIELDS} headers"
    return f"the request's headers are longer than {_HEAD_BYTES} bytes together"


class Connection(HttpToolsProtocol):
    """uvicorn's protocol with limits on everything that a client can make it hold, and on the times a client can take.

    Heads and trailers are limited in number, size and sum of their fields. Requests behind one that is being answered stay
    bytes. The table says how long the connection may wait for its client, and closes it for another when it is full. A
    client that reads nothing of a full buffer for `client_timeout_s` is cut off. To the application, all of these hang up.
    """

    waits: Wait | None = None
    _phase = _Phase.BETWEEN
    _fields = 0
    _field_bytes = 0
    _silent_bytes = 0  # fed to the parser since it last called back: it holds them, or has skipped them
    _body_left: int | None = None  # bytes to the end of the body; None: the body is chunked
    _unparsed = False  # whether the body goes past the parser, which takes it for another protocol
    _past_end = 0  # bytes of a body, or behind a refusal, that nobody reads
    _pipelined = b""
    _refusal: _Refusal | None = None  # why a callback stopped the parser
    _unread = 0
    _watch = None

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        table: ConnectionTable,
        patience_s: float,
    ) -> None:
        super().__init__(config, server_state, app_state)
        self._table = table
        self._patience_s = patience_s

    def connection_lost(self, exc: Exception | None) -> None:
        self._table.discard(self)
        self._rest()
        self._pipelined = b""
        super().connection_lost(exc)
        # The cycle's callback names this object. Without it, both are freed at once, with what they hold of the client's.
        self.cycle = None  # type: ignore[assignment]

    # The table's side

    def expire(self, wait: Wait) -> None:
        """Ends a wait that took too long. A client within a head is told so."""
        if wait is self._table.heads:
            self._refuse(
                _Refusal(
                    408,
                    "the request's head did not come in time",
                    "send it faster, or raise client_timeout_s",
                )
            )
        elif wait is self._table.idle and self.is_flushed():
            self.transport.close()
        elif self.transport is not None:
            self.transport.abort()

    def evict(self) -> None:
        """Closes the connection at once."""
        self.transport.abort()

    def is_flushed(self) -> bool:
        """Returns whether everything that was written has gone to the kernel, which delivers it after a close as well."""
        return self.transport is not None and not self.transport.get_write_buffer_size()

    def _settle(self) -> None:
        """Begins to wait for what the client has to send next."""
        table = self._table
        if self._phase is _Phase.REFUSED:
            table.begin(self, table.lingering)
        elif self._is_answering():
            if self._phase is _Phase.BODY and not self.flow.read_paused:
                table.renew(self, table.bodies)
            else:
                table.end(self)
        elif self._phase is _Phase.HEAD:
            table.begin(self, table.heads)
        elif self._phase is _Phase.BODY:
            table.begin(self, table.draining)
        elif self.cycle is not None:
            table.begin(self, table.idle)

    def _is_answering(self) -> bool:
        """Returns whether the last request whose head is whole is being answered, or waits for an earlier one's answer."""
        return self.cycle is not None and not self.cycle.response_complete

    # The client's side

    def data_received(self, data: bytes) -> None:
        if self._phase is _Phase.REFUSED:
            self._discard(len(data))
        elif self._pipelined:
            self._keep(data)
        else:
            self._read(data)

    def _read(self, data: bytes) -> None:
        """Parses up to the end of a request that is still to be answered, and keeps what follows it."""
        at, end = 0, len(data)
        try:
            while at < end:
                if self._phase is _Phase.BETWEEN and self._is_answering():
                    self._keep(data[at:])
                    break
                until = self._next_stop(data, at)
                if self._unparsed:
                    self.on_body(data[at:until])
                    if not self._body_left:
                        self.on_message_complete()
                else:
                    until = at + self._feed(data[at:until])
                if self._silent_bytes > _SILENT_BYTES:
                    self._refuse(
                        _Refusal.too_large(f"a line of the head is longer than {_FIELD_BYTES} bytes")
                    )
                    return
                at = until
        except httptools.HttpParserError as error:
            malformed = _Refusal(
                400, f"this is not an HTTP request that can be read: {error}", "send HTTP/1.1"
            )
            refusal, self._refusal = self._refusal or malformed, None
            self._refuse(refusal)
            # Frames that hold the data and this object, which would be garbage in a cycle, are let go.
            refusal.__traceback__ = error.__context__ = None
        else:
            self._settle()

    def _feed(self, data: bytes) -> int:
        """Parses data, and returns how much of it."""
        self._silent_bytes += len(data)
        assert self.parser is not None
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            # No other protocol is spoken here, so the request is answered as any other one (RFC 9110, 7.8).
            return max(upgrade.args[0], 1)
        return len(data)

    def _next_stop(self, data: bytes, at: int) -> int:
        """Returns up to where the data is parsed before looking whether a request has ended."""
        if self._phase is _Phase.BODY and self._body_left:
            return min(at + self._body_left, len(data))
        until = min(at + _STEP_BYTES, len(data))
        if self._phase is not _Phase.BODY and (found := data.find(_HEAD_END, at, until)) >= 0:
            return found + len(_HEAD_END)
        return until

    def _keep(self, data: bytes) -> None:
        self._pipelined += data
        if len(self._pipelined) > _PIPELINED_BYTES:
            self.flow.pause_reading()

    def _go_on(self) -> None:
        if self.transport.is_closing():
            return
        data, self._pipelined = self._pipelined, b""
        self._read(data)

    def _discard(self, size: int) -> None:
        self._past_end += size
        if self._past_end > _LINGER_BYTES:
            self.transport.abort()

    def _refuse(self, refusal: DeepwellError) -> None:
        """Answers a request that cannot be read, if no other answer is under way, and closes the connection."""
        self._pipelined = b""
        in_body, cycle = self._phase is _Phase.BODY, self.cycle
        self._phase = _Phase.REFUSED
        self._past_end = 0
        if refusal.status != 408:  # the table has counted those
            self._table.count("refused")
        if self._is_answering() and not in_body:
            # Earlier requests are still to be answered. The connection ends with them.
            cycle.keep_alive = False
            return
        if in_body:
            if cycle.response_started:
                self.transport.close()
                return
            cycle.disconnected = True
            cycle.waiting_for_100_continue = False
            cycle.message_event.set()
        body = encode_error(refusal)
        lines = [STATUS_LINE[refusal.status]]
        for name, value in self.server_state.default_headers:
            lines += [name, b": ", value, b"\r\n"]
        lines += [
            b"content-type: application/json\r\nconnection: close\r\n",
            b"content-length: %d\r\n\r\n" % len(body),
            body,
        ]
        self.transport.write(b"".join(lines))
        # Closing at once would reset the connection if the client is still sending, and it might never read the reason.
        self.flow.resume_reading()
        with suppress(OSError):  # the client has reset the connection
            self.transport.write_eof()
        self._settle()

    # The parser's side

    def _stop(self, refusal: _Refusal) -> NoReturn:
        """Stops the parser, which does not pass on the reason."""
        self._refusal = refusal
        raise refusal

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= _MOST_PIPELINED:
            self._stop(
                _Refusal(400, "too many requests at once on one connection", "wait for answers in between")
            )
        if not self.flow.write_paused:
            self._rest()  # an answer will be written behind what the client has not read
        super().on_message_begin()
        self._phase = _Phase.HEAD
        self._fields = self._field_bytes = self._silent_bytes = 0
        self._body_left = None

    def on_url(self, url: bytes) -> None:
        self._silent_bytes = 0
        if len(self.url) + len(url) > _TARGET_BYTES:
            what = f"the request's target is longer than {_TARGET_BYTES} bytes"
            self._stop(_Refusal(414, what, "send parameters in the body"))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._silent_bytes = 0
        size = len(name) + len(value) + 4
        self._fields += 1
        self._field_bytes += size
        if size > _FIELD_BYTES or self._fields > _MOST_FIELDS or self._field_bytes > _HEAD_BYTES:
            self._stop(_Refusal.too_large(_excess(size, self._fields)))
        if self._phase is _Phase.BODY:
            return  # a trailer: no field that the server reads may come as one (RFC 9110, 6.5.1)
        name = name.lower()
        if name == b"content-length":
            self._body_left = int(value)
        elif name == b"expect":
            self.expect_100_continue = value.lower() == b"100-continue"
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        assert self.parser is not None
        codings = [value for name, value in self.headers if name == b"transfer-encoding"]
        # The parser takes the last coding of several for the framing; a proxy in front may take another one (RFC 9112, 6.1).
        if codings and (len(codings) > 1 or codings[0].strip(b" ").lower() != b"chunked"):
            self._stop(_Refusal(400, "a body can be framed by 'chunked' alone", _FRAMING))
        if codings and self._body_left is not None:
            self._stop(_Refusal(400, "a chunked body has no Content-Length", _FRAMING))
        if self.parser.should_upgrade():
            # The parser says next that this request is complete. Its body would be read as further requests.
            if codings:
                self._stop(
                    _Refusal(400, "a chunked body cannot come with an Upgrade header", "leave Upgrade out")
                )
            self._unparsed = bool(self._body_left)
        super().on_headers_complete()
        self._phase = _Phase.BODY
        self._fields = self._field_bytes = self._silent_bytes = self._past_end = 0

    def on_body(self, body: bytes) -> None:
        self._silent_bytes = 0
        if self._body_left is not None:
            self._body_left -= len(body)
        if self.cycle.response_complete:
            self._past_end += len(body)
            if self._past_end > _DRAINED_BYTES:
                self._past_end = 0
                self._table.renew(self, self._table.draining)
            return
        super().on_body(body)

    def on_chunk_header(self) -> None:
        self._silent_bytes = 0

    def on_chunk_complete(self) -> None:
        self._silent_bytes = 0

    def on_message_complete(self) -> None:
        self._silent_bytes = 0
        if self._unparsed and self._body_left:
            return
        self._unparsed = False
        super().on_message_complete()
        self._phase = _Phase.BETWEEN

    # The application's side

    def on_response_complete(self) -> None:
        """Goes on with the next request. In place of uvicorn's timer for each request, the table times idle connections."""
        self.server_state.total_requests += 1
        closing = self.transport.is_closing()
        if self._watch is None and (closing or not (self.pipeline or self._pipelined)):
            self._look()
        if closing:
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        else:
            self.cycle.body = bytearray()  # what nobody has read of it
            if self._pipelined:
                self.loop.call_soon(self._go_on, context=contextvars.Context())
        self._settle()

    # A client that does not read

    def pause_writing(self) -> None:
        super().pause_writing()
        self._look()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._rest()
        if self.transport.is_closing() or not self._is_answering():
            self._look()  # nothing more is written, so nothing else would notice a client that reads no further

    def _look(self) -> None:
        self._rest()
        if self.is_flushed():
            return
        self._unread = self.transport.get_write_buffer_size()
        self._watch = self.loop.call_later(self._patience_s, self._judge)

    def _judge(self) -> None:
        self._watch = None
        if self.transport is None or self.is_flushed():
            return
        read = self._unread - self.transport.get_write_buffer_size()
        if read >= min(_PROGRESS_BYTES, self._unread):
            self._look()  # the client is slow, but it reads
        else:
            self.transport.abort()  # `close` would wait until everything is read

    def _rest(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
