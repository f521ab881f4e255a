"""`ValkeyClient`: the connection to the data that servers on several hosts share. A server that loses it goes on alone.

Nothing here waits longer than `_ANSWER_S`. After one command has failed, Valkey is not used until it answers a probe, which
is sent in the background every `_PROBED_EVERY_S`. So requests pay for a dead Valkey at most once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import SecretStr

from deepwell.errors import DeepwellError, MissingDependency

__all__ = ["ValkeyClient", "ValkeyUnavailable"]

_ANSWER_S = 0.15
_PROBED_EVERY_S = 2.0
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
            from valkey.asyncio import Valkey
            from valkey.asyncio.retry import Retry
            from valkey.backoff import NoBackoff
            from valkey.exceptions import ValkeyError
        except ImportError:
            raise MissingDependency.of(
                "extra_missing",
                feature="Valkey",
                package="valkey",
                extra="valkey",
                variable="DEEPWELL_VALKEY_URL",
            ) from None
        self._failures = (ValkeyError, OSError, TimeoutError)
        # A restart of Valkey leaves dead connections in the pool. One retry takes a new connection.
        self._client: Any = Valkey.from_url(
            url.get_secret_value(), socket_connect_timeout=_ANSWER_S, retry=Retry(NoBackoff(), 1)
        )
        self._where = url.get_secret_value().rpartition("@")[2]
        self._on_change = on_change
        self.up = True
        self._probing: asyncio.Task[None] | None = None
        on_change(True)

    async def run(self, command: Callable[[Any], Awaitable[Any]]) -> Any:
        """Runs a command on the client and returns its result.

        Raises:
            ValkeyUnavailable: the command fails or takes too long, or an earlier one did and no probe was answered since.
        """
        if not self.up:
            raise ValkeyUnavailable("Valkey does not answer")
        try:
            return await asyncio.wait_for(command(self._client), _ANSWER_S)
        except self._failures as error:
            self._down(error)
            raise ValkeyUnavailable("Valkey does not answer") from error

    def _down(self, error: BaseException) -> None:
        self._on_change(False)
        if self.up:
            self.up = False
            reason = str(error) or f"no answer within {_ANSWER_S:g} s"
            _log.warning(
                "Valkey at %s fails (%s): limits are counted and answers kept for this host alone until it is back",
                self._where,
                reason,
            )
            self._probing = asyncio.create_task(self._probe())

    async def _probe(self) -> None:
        while True:
            await asyncio.sleep(_PROBED_EVERY_S)
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
