"""`Shared`: what servers on several hosts know together, in Valkey. A server that loses it goes on alone.

Nothing here is waited for longer than `_ANSWER_S`. One command that fails ends the use of Valkey until a probe, sent in
the background every `_PROBED_EVERY_S`, is answered: requests pay for a dead Valkey at most once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import SecretStr

from deepwell.errors import DeepwellError, MissingDependency
from deepwell.server.limit_table import LimitTable
from deepwell.server.quota import WINDOW_S, Charge

__all__ = ["Shared", "SharedLimits", "SharedUnavailable"]

_ANSWER_S = 0.15
_PROBED_EVERY_S = 2.0
_log = logging.getLogger("deepwell.server")

# The arithmetic of `quota.charge`, in seconds of the server's clock; the text of a double keeps its 17 digits.
_CHARGE = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local unit, limit, cost, window = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local base = math.min(math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), now), now + 2 * window)
local short = base + math.min(cost, limit) * unit - (now + window)
local allowed = short <= 1e-9
local after = base
if allowed then
  after = math.min(base + cost * unit, now + 2 * window)
  if after > now then
    redis.call('SET', KEYS[1], string.format('%.17g', after), 'PX', math.ceil((after - now) * 1000) + 1000)
  end
end
return {allowed and 1 or 0, string.format('%.9f', after - now), string.format('%.9f', short),
        string.format('%.9f', after - base)}
"""
_SETTLE = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local window = tonumber(ARGV[2])
local base = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), now)
local after = math.min(math.max(base - tonumber(ARGV[1]), now), now + 2 * window)
if after > now then
  redis.call('SET', KEYS[1], string.format('%.17g', after), 'PX', math.ceil((after - now) * 1000) + 1000)
else
  redis.call('DEL', KEYS[1])
end
return 1
"""


class SharedUnavailable(DeepwellError):
    """Valkey does not answer, or has not answered a moment ago."""

    status = 503
    code = "valkey_unavailable"


class Shared:
    """A Valkey server. For one event loop, on which it is first used.

    Args:
        url: such as `valkey://:password@host:6379/0`.
        on_change: told True and False as Valkey comes and goes; and False at each command that fails.

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
            raise MissingDependency(
                "sharing limits and caches between hosts needs the client of Valkey",
                fix="pip install 'deepwell[valkey]', or unset DEEPWELL_VALKEY_URL",
            ) from None
        self._failures = (ValkeyError, OSError, TimeoutError)
        # A server that was restarted has left dead connections in the pool: one retry takes a new one.
        self._client: Any = Valkey.from_url(
            url.get_secret_value(), socket_connect_timeout=_ANSWER_S, retry=Retry(NoBackoff(), 1)
        )
        self._where = url.get_secret_value().rpartition("@")[2]
        self._on_change = on_change
        self.up = True
        self._probing: asyncio.Task[None] | None = None
        on_change(True)

    async def run(self, command: Callable[[Any], Awaitable[Any]]) -> Any:
        """What a command on the client gives.

        Raises:
            SharedUnavailable: it fails, takes too long, or the one before it did and no probe has been answered since.
        """
        if not self.up:
            raise SharedUnavailable("Valkey does not answer")
        try:
            return await asyncio.wait_for(command(self._client), _ANSWER_S)
        except self._failures as error:
            self._down(error)
            raise SharedUnavailable("Valkey does not answer") from error

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
        """Let go of the connections."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.gather(self._probing, return_exceptions=True)
        with contextlib.suppress(*self._failures):  # it was lost anyway
            await asyncio.wait_for(self._client.aclose(), _ANSWER_S)


class SharedLimits:
    """A `LimitStore` of all hosts; of this one while Valkey is away, when every host allows the whole limit."""

    def __init__(self, shared: Shared, local: LimitTable) -> None:
        self._shared = shared
        self._local = local

    async def charge(self, key: bytes, per_minute: int, cost: int) -> Charge:
        """See `quota.charge`."""
        unit_s = WINDOW_S / per_minute
        try:
            allowed, reset, short, charged = await self._shared.run(
                lambda client: client.eval(_CHARGE, 1, _name(key), repr(unit_s), per_minute, cost, WINDOW_S)
            )
        except SharedUnavailable:
            return await self._local.charge(key, per_minute, cost)
        remaining = max(0, int((WINDOW_S - float(reset)) / unit_s + 1e-6))
        return Charge(
            bool(allowed), remaining, float(reset), 0.0 if allowed else float(short), float(charged)
        )

    async def settle(self, key: bytes, back_s: float) -> None:
        """See `quota.settle`."""
        try:
            await self._shared.run(lambda client: client.eval(_SETTLE, 1, _name(key), repr(back_s), WINDOW_S))
        except SharedUnavailable:
            await self._local.settle(key, back_s)


def _name(key: bytes) -> str:
    return f"deepwell:limit:{key.hex()}"
