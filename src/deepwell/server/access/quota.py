"""Limits per minute, by the generic cell rate algorithm (ATM Forum, Traffic Management 4.0, 1996).

A bucket is one number, the time at which it will be full again. The whole minute's worth may be used at once, and refills
evenly. A request is charged in advance for the most that it can use, and settled by what it used.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from deepwell.errors import DeepwellError
from deepwell.server.access.principal import Principal

__all__ = [
    "WINDOW_S",
    "Charge",
    "LimitKind",
    "LimitStore",
    "Quota",
    "RateLimited",
    "RateLimits",
    "bucket_key",
    "charge",
    "limits_of",
    "settle",
]

WINDOW_S = 60.0
# A request larger than the limit needs a full bucket, and leaves a debt that lasts at most one more window.
_DEEPEST_S = 2 * WINDOW_S

LimitKind = Literal["requests", "tokens", "audio_seconds", "images"]
"""Things that a limit counts: requests, tokens of text models, seconds of sound that is recognised or made, drawn images."""
_NAMES: Final[dict[LimitKind, str]] = {
    "requests": "requests",
    "tokens": "tokens",
    "audio_seconds": "seconds of sound",
    "images": "images",
}


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
    """Raised when more is asked for than a minute allows."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


@dataclass(frozen=True, slots=True)
class RateLimits:
    """Limits of a tenant, per minute; 0: none."""

    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    audio_seconds_per_minute: int = 0
    images_per_minute: int = 0


def limits_of(defaults: RateLimits, principal: Principal) -> dict[LimitKind, int]:
    """Returns the limits that apply to a principal: those of its key, or of its tenant. Those that are 0 are left out."""
    found: dict[LimitKind, int] = {}
    for kind in _NAMES:
        own: int | None = getattr(principal, f"{kind}_per_minute")
        if limit := getattr(defaults, f"{kind}_per_minute") if own is None else own:
            found[kind] = limit
    return found


def bucket_key(kind: str, owner: str) -> bytes:
    """Returns 16 bytes that name a bucket and do not reveal its owner."""
    return hashlib.blake2b(f"{kind} {owner}".encode(), digest_size=16).digest()


class Quota:
    """One request's use of the buckets of its key, or of its tenant."""

    __slots__ = ("_left", "_limits", "_principal", "_refused", "_store")

    def __init__(
        self,
        store: LimitStore,
        defaults: RateLimits,
        principal: Principal,
        refused: Callable[[LimitKind], None] | None = None,
    ) -> None:
        self._refused = refused  # told of the limit by which a request is refused
        self._store = store
        self._principal = principal
        self._limits = limits_of(defaults, principal)
        self._left: dict[LimitKind, Charge] = {}

    @property
    def limited(self) -> bool:
        """True if any limit applies."""
        return bool(self._limits)

    async def take_request(self) -> None:
        """Counts the request itself.

        Raises:
            RateLimited: there were too many.
        """
        if "tokens" in self._limits:
            self._left["tokens"] = await self._store.charge(self._key("tokens"), self._limits["tokens"], 0)
        await self.reserve(1, "requests")

    async def reserve(self, amount: int, kind: LimitKind = "tokens") -> float:
        """Charges the most that the request may use; returns the charge in seconds of refilling, for `settle`.

        Raises:
            RateLimited: that is more than is left.
        """
        limit = self._limits.get(kind)
        if not limit:
            return 0.0
        left = self._left[kind] = await self._store.charge(self._key(kind), limit, amount)
        if not left.allowed:
            if self._refused is not None:
                self._refused(kind)
            raise _refusal(left, _NAMES[kind], limit, amount)
        return left.charged_s

    async def settle(self, charged_s: float, used: float, kind: LimitKind = "tokens") -> None:
        """Replaces what was reserved by what was used."""
        if limit := self._limits.get(kind):
            await self._store.settle(self._key(kind), charged_s - used * WINDOW_S / limit)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Returns OpenAI's `x-ratelimit-*` headers of the limits that the request touched."""
        headers: list[tuple[bytes, bytes]] = []
        for kind, limit in self._limits.items():
            if (left := self._left.get(kind)) is not None:
                name = kind.replace("_", "-").encode()
                headers.append((b"x-ratelimit-limit-" + name, b"%d" % limit))
                headers.append((b"x-ratelimit-remaining-" + name, b"%d" % left.remaining))
                headers.append((b"x-ratelimit-reset-" + name, _duration(left.reset_s)))
        return headers

    def _key(self, kind: LimitKind) -> bytes:
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
