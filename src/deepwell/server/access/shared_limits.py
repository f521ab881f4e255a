"""`SharedLimits`: rate-limit buckets in Valkey, for all hosts together."""

from __future__ import annotations

from typing import Any

from deepwell.server.access.limit_table import LimitTable
from deepwell.server.access.quota import WINDOW_S, Charge
from deepwell.server.valkey import ValkeyClient, ValkeyUnavailable

__all__ = ["SharedLimits"]

_DEEPEST_S = 3 * WINDOW_S + 1  # no bucket is further from full, and its clock may be a moment ahead
# The arithmetic of `quota.charge`, in seconds of the Valkey server's clock. 17 digits keep a double exact as text.
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


class SharedLimits:
    """A `LimitStore` for all hosts. While Valkey does not answer, each host counts for itself and allows the whole limit."""

    def __init__(self, valkey: ValkeyClient, local: LimitTable) -> None:
        self._valkey = valkey
        self._local = local

    async def charge(self, key: bytes, per_minute: int, cost: int) -> Charge:
        """See `quota.charge`."""
        unit_s = WINDOW_S / per_minute
        try:
            return await self._valkey.run(
                lambda client: client.eval(_CHARGE, 1, _name(key), repr(unit_s), per_minute, cost, WINDOW_S),
                lambda found: _charge(found, unit_s),
            )
        except ValkeyUnavailable:
            return await self._local.charge(key, per_minute, cost)

    async def settle(self, key: bytes, back_s: float) -> None:
        """See `quota.settle`."""
        try:
            await self._valkey.run(
                lambda client: client.eval(_SETTLE, 1, _name(key), repr(back_s), WINDOW_S), int
            )
        except ValkeyUnavailable:
            await self._local.settle(key, back_s)


def _charge(found: Any, unit_s: float) -> Charge:
    """Returns the charge that the script answered.

    Raises:
        ValueError: no bucket can be in such a state.
    """
    allowed, *texts = found
    reset, short, charged = map(float, texts)
    if allowed not in (0, 1) or not (
        0 <= reset <= _DEEPEST_S and 0 <= charged <= _DEEPEST_S and short <= _DEEPEST_S
    ):
        raise ValueError("a charge that no bucket gives")
    remaining = max(0, int((WINDOW_S - reset) / unit_s + 1e-6))
    return Charge(bool(allowed), remaining, reset, 0.0 if allowed else max(0.0, short), charged)


def _name(key: bytes) -> str:
    return f"deepwell:limit:{key.hex()}"
