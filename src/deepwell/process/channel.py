"""`FramedChannel`: one end of a connection between processes, on an event loop."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable

from deepwell.process.frames import Frames, WireError

__all__ = ["FramedChannel"]

_RECEIVE_BYTES = 1 << 18


class FramedChannel:
    """Whole frames out, the bodies of frames in. It never waits: what the socket does not take now is kept.

    Args:
        sock: a connected socket, which the channel closes in the end.
        frames: cuts what comes into bodies; what it holds already comes first.
        on_body: takes the body of each frame, on the event loop. It may raise `WireError`.
        on_end: told, on the event loop, that the other end has gone, or why it cannot be listened to.
        max_unread_bytes: with more than this unread by the other end the channel gives up; None: never.
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
        """Begins to read. Called on the event loop."""
        self._loop.add_reader(self._socket.fileno(), self._readable)

    def send(self, frame: bytes) -> None:
        """Writes a frame, or keeps what the socket does not take now. From any thread."""
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
            except OSError:  # the other end has gone, which the reader finds out
                return
            if sent < len(frame):
                self._unsent += frame[sent:]
                self._loop.call_soon_threadsafe(self._await_room)

    def close(self) -> None:
        """Lets go of the connection. Called on the event loop; closing twice is fine."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._unsent.clear()
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        self._socket.close()

    def abandon(self) -> None:
        """Closes the socket of a loop that is closed already."""
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
