"""`FramedChannel`: one end of a connection between processes, run by an event loop."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable

from deepwell.process.frames import Frames, WireError

__all__ = ["FramedChannel"]

_RECEIVE_BYTES = 1 << 18


class FramedChannel:
    """Sends whole frames and receives the bodies of frames. It never blocks; bytes that the socket refuses are buffered.

    Args:
        sock: a connected socket, which `close` closes.
        frames: splits received bytes into bodies, beginning with any bytes it already holds.
        on_body: called on the event loop with the body of each frame. It may raise `WireError`.
        on_end: called on the event loop when the other end is gone, with "" or the reason why it cannot be read.
        max_unread_bytes: limit of bytes that the other end leaves unread, above which the channel ends; None: no limit.
    """

    def __init__(
        self,
        sock: socket.socket,
        loop: asyncio.AbstractEventLoop,
        frames: Frames,
        *,
        on_body: Callable[[bytes], None],
        on_end: Callable[[str], None],
        max_unread_bytes: int | None = None,
    ) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._loop = loop
        self._frames = frames
        self._on_body = on_body
        self._on_end = on_end
        self._max_unread_bytes = max_unread_bytes
        self._lock = threading.Lock()
        self._unsent = bytearray()
        self._closed = False

    def listen(self) -> None:
        """Starts reading. Called on the event loop."""
        self._loop.add_reader(self._socket.fileno(), self._readable)

    def send(self, frame: bytes) -> None:
        """Writes a frame, and buffers what the socket does not accept. May be called from any thread."""
        with self._lock:
            if self._closed:
                return
            if self._unsent:
                self._unsent += frame
                if self._max_unread_bytes is not None and len(self._unsent) > self._max_unread_bytes:
                    unread = len(self._unsent)
                    self._unsent.clear()
                    self._loop.call_soon_threadsafe(self._on_end, f"it leaves {unread} bytes unread")
                return
            try:
                sent = self._socket.send(frame)
            except BlockingIOError:
                sent = 0
            except OSError:  # the other end is gone, which the reader will notice
                return
            if sent < len(frame):
                self._unsent += frame[sent:]
                self._loop.call_soon_threadsafe(self._await_room)

    def close(self) -> None:
        """Closes the connection. Called on the event loop; closing twice is harmless."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._unsent.clear()
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        self._socket.close()

    def abandon(self) -> None:
        """Closes the socket when the event loop is already closed."""
        self._socket.close()

    def _await_room(self) -> None:
        if not self._closed:
            self._loop.add_writer(self._socket.fileno(), self._writable)

    def _writable(self) -> None:
        with self._lock:
            if self._closed:
                return
            try:
                while self._unsent:
                    sent = self._socket.send(memoryview(self._unsent)[:_RECEIVE_BYTES])
                    del self._unsent[:sent]
            except BlockingIOError:
                return
            except OSError:
                self._unsent.clear()
            self._loop.remove_writer(self._socket.fileno())

    def _readable(self) -> None:
        try:
            data = self._socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._on_end("")
            return
        try:
            for body in self._frames.feed(data):
                self._on_body(body)
        except WireError as error:
            self._on_end(f"it sent what is no message: {error}")
