"""Limits per minute, by the generic cell rate algorithm (ATM Forum, Traffic Management 4.0, 1996).

A bucket is one number, the time at which it will be full again. The whole minute's worth may be used at once, and refills
evenly. A request is charged in advance for the most that it can use, and settled by what it used.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Literal, Protocol

from deepwell.errors import DeepwellError
from deepwell.server.access.principal import Principal

__all__ = [
    "WINDOW_S",
    "Charge",
    "LimitStore",
    "Quota",
    "RateLimited",
    "RateLimits",
    "bucket_key",
    "charge",
    "settle",
]

WINDOW_S = 60.0
# A request larger than the limit needs a full bucket, and leaves a debt that lasts at most one more window.
_DEEPEST_S = 2 * WINDOW_S


@dataclass(frozen=True, slots=True)
class Charge:
    """The result of asking a bucket for `cost` units.

    Attributes:
        allowed: whether they were given.
        remaining: units that are left.
        reset_s: seconds until the bucket is full.
        retry_s: seconds until the same cost would be given; 0 if it was.
        charged_s: the charge, in seconds of refilling.
    """

    allowed: bool
    remaining: int
    reset_s: float
    retry_s: float
    charged_s: float


def charge(full_at: float, now: float, per_minute: int, cost: int) -> tuple[float, Charge]:
    """Charges a bucket that is full at `full_at`; returns its new `full_at` and the result."""
    unit_s = WINDOW_S / per_minute
    # The stored time may come from a clock that has since been set back. Nobody waits longer than the deepest debt.
    base = min(max(full_at, now), now + _DEEPEST_S) if math.isfinite(full_at) else now
    short_s = base + min(cost, per_minute) * unit_s - (now + WINDOW_S)
    allowed = short_s <= 1e-9
    after = min(base + cost * unit_s, now + _DEEPEST_S) if allowed else base
    remaining = max(0, math.floor((now + WINDOW_S - after) / unit_s + 1e-6))
    return after, Charge(allowed, remaining, after - now, 0.0 if allowed else short_s, after - base)


def settle(full_at: float, now: float, back_s: float) -> float:
    """Returns the new `full_at` after `back_s` seconds of an overcharge are given back (below 0: an undercharge is taken)."""
    return min(max(max(full_at, now) - back_s, now), now + _DEEPEST_S)


class LimitStore(Protocol):
    """Rate-limit buckets by key, wherever they are stored."""

    async def charge(self, key: bytes, per_minute: int, cost: int) -> Charge: ...

    async def settle(self, key: bytes, back_s: float) -> None: ...


class RateLimited(DeepwellError):
    """Raised when more requests or tokens are asked for than a minute allows."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


@dataclass(frozen=True, slots=True)
class RateLimits:
    """Limits of a tenant, per minute; 0: none."""

    requests_per_minute: int = 0
    tokens_per_minute: int = 0


def bucket_key(kind: str, owner: str) -> bytes:
    """Returns 16 bytes that name a bucket and do not reveal its owner."""
    return hashlib.blake2b(f"{kind} {owner}".encode(), digest_size=16).digest()


class Quota:
    """One request's use of the buckets of its key, or of its tenant."""

    __slots__ = ("_per_key", "_principal", "_store", "_tokens", "requests", "requests_left", "tokens_left")

    def __init__(self, store: LimitStore, defaults: RateLimits, principal: Principal) -> None:
        own_requests, own_tokens = principal.requests_per_minute, principal.tokens_per_minute
        self._store = store
        self._principal = principal
        self.requests = defaults.requests_per_minute if own_requests is None else own_requests
        self._tokens = defaults.tokens_per_minute if own_tokens is None else own_tokens
        self.requests_left: Charge | None = None
        self.tokens_left: Charge | None = None

    @property
    def limited(self) -> bool:
        """True if any limit applies."""
        return bool(self.requests or self._tokens)

    async def take_request(self) -> None:
        """Counts the request itself.

        Raises:
            RateLimited: there were too many.
        """
        if self._tokens:
            self.tokens_left = await self._store.charge(self._key("tokens"), self._tokens, 0)
        if self.requests:
            self.requests_left = await self._store.charge(self._key("requests"), self.requests, 1)
            if not self.requests_left.allowed:
                raise _refusal(self.requests_left, "requests", self.requests, 1)

    async def reserve(self, tokens: int) -> float:
        """Charges the most tokens that the request may use; returns the charge in seconds of refilling, for `settle`.

        Raises:
            RateLimited: that is more than is left.
        """
        if not self._tokens:
            return 0.0
        self.tokens_left = await self._store.charge(self._key("tokens"), self._tokens, tokens)
        if not self.tokens_left.allowed:
            raise _refusal(self.tokens_left, "tokens", self._tokens, tokens)
        return self.tokens_left.charged_s

    async def settle(self, charged_s: float, used: int) -> None:
        """Replaces the reserved tokens by those that were used."""
        if self._tokens:
            await self._store.settle(self._key("tokens"), charged_s - used * WINDOW_S / self._tokens)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Returns OpenAI's `x-ratelimit-*` headers."""
        headers: list[tuple[bytes, bytes]] = []
        for name, limit, left in (
            (b"requests", self.requests, self.requests_left),
            (b"tokens", self._tokens, self.tokens_left),
        ):
            if limit and left is not None:
                headers.append((b"x-ratelimit-limit-" + name, b"%d" % limit))
                headers.append((b"x-ratelimit-remaining-" + name, b"%d" % left.remaining))
                headers.append((b"x-ratelimit-reset-" + name, _duration(left.reset_s)))
        return headers

    def _key(self, kind: Literal["requests", "tokens"]) -> bytes:
        """Returns the bucket's key. A key with a limit of its own has a bucket of its own; a tenant's other keys share one."""
        principal = self._principal
        own = getattr(principal, f"{kind}_per_minute") is not None
        return bucket_key(kind, f"key {principal.key_id}" if own else f"tenant {principal.tenant}")


def _refusal(left: Charge, kind: str, limit: int, asked: int) -> RateLimited:
    error = RateLimited(
        f"the limit of {limit} {kind} a minute is reached: {asked} asked for, {left.remaining} left",
        fix=f"wait {math.ceil(left.retry_s)} s, or ask for a key with a higher limit",
    )
    error.retry_after = max(1, math.ceil(left.retry_s))
    return error


def _duration(seconds: float) -> bytes:
    """Formats a duration as OpenAI does: 20ms, 6s, 1m30s."""
    if seconds < 1:
        return b"%dms" % math.ceil(max(seconds, 0) * 1000)
    whole = math.ceil(seconds)
    return b"%dm%ds" % divmod(whole, 60) if whole >= 60 else b"%ds" % whole
