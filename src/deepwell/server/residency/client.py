"""`ModelHostClient`: one HTTP process's connection to the process that loads models."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Callable
from typing import Any

import msgspec

from deepwell.errors import DeepwellError, EngineUnavailable, ModelNotFound
from deepwell.models.store.store import ModelStore
from deepwell.process.channel import FramedChannel
from deepwell.process.frames import Failure, Frames, encode, error_of
from deepwell.server.residency.wire import (
    LIMIT_BYTES,
    Acquire,
    Done,
    Granted,
    HostState,
    List,
    Look,
    Offer,
    Offered,
    Release,
    Unload,
    decode_answer,
)

__all__ = ["ModelHostClient"]


class ModelHostClient:
    """Asks for models and leases. It belongs to the event loop that first uses it.

    Attributes:
        state: the state of the models, as last told.
        on_state: called with each new state.
    """

    def __init__(self, address: str) -> None:
        self.state = HostState()
        self.on_state: Callable[[HostState], None] | None = None
        self._address = address
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._channel: FramedChannel | None = None
        self._closed = False

    async def offers(self) -> tuple[Offer, ...]:
        """Returns every model that may be loaded."""
        answer: Offered = await self._ask(List)
        return answer.offers

    async def look(self, name: str) -> Offer:
        """Returns a model that may be loaded.

        Raises:
            ModelNotFound, InvalidModelFile, UnsupportedModel: it may not, or cannot be.
        """
        if not ModelStore.can_hold(
            name
        ):  # a message that is too long would end the connection, and with it all leases
            raise ModelNotFound("no model has such a name", param="model")
        answer: Offered = await self._ask(lambda number: Look(number, name))
        return answer.offers[0]

    async def acquire(self, name: str, tenant: str, wait_s: float, version: str = "") -> Granted:
        """Returns a lease on a model that was looked up, once it is loaded. `release` gives it back, or the wait up.

        Args:
            version: of the files that must be loaded; empty: any.

        Raises:
            DeepwellError: it cannot be loaded, or not before `wait_s` has passed (0: no limit).
        """
        return await self._ask(lambda number: Acquire(number, name, tenant, wait_s, version))

    def release(self, name: str) -> None:
        """Gives a lease back, or stops waiting for it."""
        if self._channel is not None:
            self._channel.send(encode(Release(name)))

    async def unload(self, name: str) -> bool:
        """Unloads a model that nobody uses. Returns whether it was loaded.

        Raises:
            ModelBusy: it is in use.
        """
        if not ModelStore.can_hold(name):
            return False
        answer: Done = await self._ask(lambda number: Unload(number, name))
        return answer.was_loaded

    def connect(self) -> None:
        """Connects, unless there is a connection. Called on the event loop.

        Raises:
            EngineUnavailable: the host is gone.
        """
        if self._channel is not None:
            return
        if self._closed:
            raise _gone()
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(self._address)
        except OSError:
            sock.close()
            raise _gone() from None
        self._channel = FramedChannel(
            sock,
            asyncio.get_running_loop(),
            Frames(LIMIT_BYTES),
            on_body=lambda body: self._take(decode_answer(body)),
            on_end=lambda _why: self._lost(),
        )
        self._channel.listen()

    def close(self) -> None:
        """Closes the connection, which ends all leases. Called on the event loop."""
        self._closed = True
        self._lost()

    async def _ask(self, message_of: Callable[[int], msgspec.Struct]) -> Any:
        self.connect()
        assert self._channel is not None
        number = next(self._numbers)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        self._channel.send(encode(message_of(number)))
        try:
            return await answer
        finally:
            self._asked.pop(number, None)

    def _take(self, message: Any) -> None:
        if isinstance(message, HostState):
            self.state = message
            if self.on_state is not None:
                self.on_state(message)
            return
        answer = self._asked.get(message.number)
        if answer is None or answer.done():
            return
        if isinstance(message, Failure):
            answer.set_exception(error_of(message))
        else:
            answer.set_result(message)

    def _lost(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(_gone())


def _gone() -> DeepwellError:
    return EngineUnavailable("the process that loads models is gone", fix="start the server again")
