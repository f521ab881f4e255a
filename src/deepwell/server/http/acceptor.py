"""`Acceptor`: takes connections from a listening socket, as many as the table and the open files allow."""

from __future__ import annotations

import asyncio
import errno
import logging
import select
import socket
from collections.abc import Callable

from deepwell.server.http.connection import Connection
from deepwell.server.http.connection_table import ConnectionTable
from deepwell.server.observe.logs import SparseLog

__all__ = ["Acceptor"]

_BACKLOG = 2048  # connections that wait in the kernel
_AT_ONCE = 32  # between which requests are read
_PAUSE_S = 0.05
_FREED_AT_ONCE = 8  # connections closed where the process has no descriptor left, in spite of the table
_OUT_OF = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

_log = logging.getLogger("deepwell.server")


class Acceptor:
    """Accepts connections on one socket while there is room for them. It stands for an `asyncio.Server`.

    That one logs an error for every connection that it has no descriptor for, 2,048 a second.

    Args:
        listener: a bound socket. It stays the caller's.
        table: holds the connections that were accepted.
        connect: makes the protocol of a connection.
    """

    def __init__(
        self, listener: socket.socket, table: ConnectionTable, connect: Callable[[], Connection]
    ) -> None:
        self._listener = listener
        self._table = table
        self._connect = connect
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[None]] = set()
        self._retry: asyncio.TimerHandle | None = None
        self._failed = SparseLog(_log)
        self._waiting = select.poll()
        self._closed = False

    def start(self) -> None:
        """Listens.

        Raises:
            OSError: another process listens on the address already.
        """
        self._listener.setblocking(False)
        self._listener.listen(_BACKLOG)
        self._waiting.register(self._listener, select.POLLIN)
        self._loop.add_reader(self._listener, self._accept)
        self._table.on_room(self._resume_soon)

    def close(self) -> None:
        """Accepts no more connections. Open ones go on."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._listener)
        if self._retry is not None:
            self._retry.cancel()

    async def wait_closed(self) -> None:
        """Waits for connections that were being opened when the acceptor closed."""
        await asyncio.gather(*self._opening, return_exceptions=True)

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            if self._table.is_full():
                # Nobody gives way to a connection that another process has taken.
                if not self._waiting.poll(0):
                    return
                if not self._table.make_room():
                    self._pause("no further connection may be opened")
                    return
                self._table.say_full("no further connection may be opened")
            try:
                sock, address = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionError:  # it has ended while it waited
                continue
            except OSError as error:
                if error.errno in _OUT_OF:
                    for _ in range(_FREED_AT_ONCE):
                        self._table.make_room()
                    self._pause(f"the system gives no further descriptor ({error.strerror})")
                    return
                self._failed.warning("a connection could not be accepted: %s", error)
                continue
            self._open(sock, address)

    def _open(self, sock: socket.socket, address: object) -> None:
        connection = self._connect()
        if not self._table.add(connection, address[0] if isinstance(address, tuple) else None):
            sock.close()
            return
        task = self._loop.create_task(self._serve(sock, connection))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _serve(self, sock: socket.socket, connection: Connection) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: connection, sock)
        except OSError as error:  # the client is gone
            _log.debug("a connection ended while it was opened: %s", error)
            self._table.discard(connection)
            sock.close()

    def _pause(self, why: str) -> None:
        self._table.say_full(why)
        if self._retry is None:
            self._loop.remove_reader(self._listener)
            self._retry = self._loop.call_later(_PAUSE_S, self._resume)

    def _resume_soon(self) -> None:
        # A descriptor is free as soon as the callbacks of its connection have run.
        if self._retry is not None:
            self._retry.cancel()
            self._retry = self._loop.call_later(0, self._resume)

    def _resume(self) -> None:
        self._retry = None
        if not self._closed:
            self._loop.add_reader(self._listener, self._accept)
