"""`ValkeyClient`: the connection to the data that servers on several hosts share. A server that loses it goes on alone.

Nothing here waits longer than `_ANSWER_S`. After one command has failed, Valkey is not used until it answers a probe, which
is sent in the background every `_PROBED_EVERY_S`. So requests pay for a dead Valkey at most once. One that answers what no
Valkey answers is left alone for `_AVOIDED_S`: whatever listens there, it costs no request more than a wait, and no memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from pydantic import SecretStr

from deepwell.errors import DeepwellError, MissingDependency

__all__ = ["ValkeyClient", "ValkeyUnavailable"]

T = TypeVar("T")

_ANSWER_S = 0.15
_PROBED_EVERY_S = 2.0
_AVOIDED_S = 60.0
# Bounds of one answer. The largest that the server asks for is an answer of 256 KB, in an array with a number.
_MOST_BYTES = 512 << 10
_MOST_LINES = 32
_COUNT = re.compile(rb"-1|[0-9]{1,7}")
_INTEGER = re.compile(rb"-?[0-9]{1,19}")
_log = logging.getLogger("deepwell.server")


class ValkeyUnavailable(DeepwellError):
    """Raised when Valkey does not answer, or did not answer a moment ago."""

    status = 503
    code = "valkey_unavailable"


class ValkeyClient:
    """A client of one Valkey server. It belongs to the event loop on which it is first used.

    Args:
        url: address of the server, such as `valkey://:password@host:6379/0`.
        on_change: called with True when Valkey comes and False when it goes, and with False for each command that fails.

    Raises:
        MissingDependency: the client is not installed.
    """

    def __init__(self, url: SecretStr, on_change: Callable[[bool], object] = lambda _up: None) -> None:
        try:
            from valkey.exceptions import InvalidResponse, ValkeyError
        except ImportError:
            raise MissingDependency(
                "sharing limits and caches between hosts needs the client of Valkey",
                fix="pip install 'deepwell[valkey]', or unset DEEPWELL_VALKEY_URL",
            ) from None
        self._failures = (ValkeyError, OSError, TimeoutError)
        self._nonsense = InvalidResponse
        self._client = _client(url.get_secret_value())
        self._where = url.get_secret_value().rpartition("@")[2]
        self._on_change = on_change
        self.up = True
        self._probing: asyncio.Task[None] | None = None
        on_change(True)

    async def run(self, command: Callable[[Any], Awaitable[Any]], read: Callable[[Any], T]) -> T:
        """Runs a command on the client and returns what `read` makes of its result.

        Args:
            read: checks the result, since anything may answer; it raises `TypeError`, `ValueError` or `OverflowError` where
                the result is not what the command gives.

        Raises:
            ValkeyUnavailable: the command fails or takes too long, or an earlier one did and no probe was answered since.
        """
        if not self.up:
            raise ValkeyUnavailable("Valkey does not answer")
        try:
            found = await asyncio.wait_for(command(self._client), _ANSWER_S)
        except self._failures as error:
            self._down(error, _AVOIDED_S if isinstance(error, self._nonsense) else _PROBED_EVERY_S)
            raise ValkeyUnavailable("Valkey does not answer") from error
        try:
            return read(found)
        except (TypeError, ValueError, OverflowError) as error:
            self._down(ValueError(f"it answers nonsense: {error}"), _AVOIDED_S)
            raise ValkeyUnavailable("Valkey answers nonsense") from error

    def _down(self, error: BaseException, pause_s: float) -> None:
        self._on_change(False)
        if self.up:
            self.up = False
            reason = str(error)[:200] or f"no answer within {_ANSWER_S:g} s"
            _log.warning(
                "Valkey at %s fails (%s): limits are counted and answers kept for this host alone until it is back",
                self._where,
                reason,
            )
            self._probing = asyncio.create_task(self._probe(pause_s))

    async def _probe(self, pause_s: float) -> None:
        while True:
            await asyncio.sleep(pause_s)
            try:
                await asyncio.wait_for(self._client.ping(), _ANSWER_S)
            except self._failures:
                continue
            self.up = True
            self._on_change(True)
            _log.warning("Valkey at %s is back", self._where)
            return

    async def close(self) -> None:
        """Closes the connections."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.gather(self._probing, return_exceptions=True)
        with contextlib.suppress(*self._failures):  # it was lost anyway
            await asyncio.wait_for(self._client.aclose(), _ANSWER_S)


def _client(url: str) -> Any:
    """Returns a client whose parser bounds what it reads."""
    from valkey._parsers import _AsyncRESP2Parser
    from valkey.asyncio import Valkey
    from valkey.asyncio.retry import Retry
    from valkey.backoff import NoBackoff
    from valkey.exceptions import InvalidResponse

    class Bounded(_AsyncRESP2Parser):
        """The client's own parser believes any length, any depth and any number."""

        async def read_response(self, disable_decoding: bool = False) -> Any:
            self.lines = 0
            return await super().read_response(disable_decoding)

        async def _readline(self) -> bytes:
            line = await super()._readline()
            self.lines += 1
            if self.lines > _MOST_LINES or not _is_bounded(line):
                raise InvalidResponse(f"no answer of Valkey: {line[:32]!r}")
            return line

    # A restart of Valkey leaves dead connections in the pool. One retry takes a new connection.
    retry = Retry(NoBackoff(), 1)
    return Valkey.from_url(url, socket_connect_timeout=_ANSWER_S, retry=retry, parser_class=Bounded)


def _is_bounded(line: bytes) -> bool:
    """Returns whether the first line of an answer, or of a part of it, may be believed (RESP2)."""
    kind, rest = line[:1], line[1:]
    if kind in (b"$", b"*"):
        return bool(_COUNT.fullmatch(rest)) and int(rest) <= (_MOST_BYTES if kind == b"$" else _MOST_LINES)
    return bool(_INTEGER.fullmatch(rest)) if kind == b":" else True
