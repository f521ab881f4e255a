"""`Balancer`: chooses a replica for a request as haproxy does it: by likeness of the prompt, but load first."""

from __future__ import annotations

import bisect
import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

__all__ = ["Balancer", "Server"]

_POINTS: Final = 64  # of each server on the ring
_FACTOR: Final = 1.25  # of the mean of open requests, above which a server is passed over


@dataclass(slots=True)
class Server:
    """One replica, as a front sees it. `up` follows its connections and checks."""

    name: str
    port: int
    state: str = "maint"
    up: bool = True
    open_requests: int = 0
    answers: int = 0
    failed: int = 0
    checked: float = field(default_factory=time.monotonic)

    @property
    def takes(self) -> bool:
        """True if it takes new requests."""
        return self.up and self.state == "ready"


class Balancer:
    """The replicas of one slot."""

    def __init__(self, servers: Sequence[Server], *, by_prefix: bool = True) -> None:
        self.servers = list(servers)
        self._by_prefix = by_prefix
        self._turn = 0
        ring = [
            (_point(f"{one.name}/{number}"), place)
            for place, one in enumerate(self.servers)
            for number in range(_POINTS)
        ]
        self._ring = sorted(ring)
        self._keys = [point for point, _ in self._ring]

    def choose(self, affinity: str, tried: Sequence[Server] = ()) -> Server | None:
        """Returns the replica for a request; None: none takes requests.

        Args:
            affinity: what requests with the same beginning have in common; empty: nothing is known.
            tried: replicas that have failed this request.
        """
        takers = [one for one in self.servers if one.takes and not any(one is other for other in tried)]
        if not takers:
            return None
        if not affinity or not self._by_prefix:
            self._turn += 1
            return min(
                (takers[(self._turn + number) % len(takers)] for number in range(len(takers))),
                key=lambda one: one.open_requests if self._by_prefix else 0,
            )
        most = math.ceil(_FACTOR * (sum(one.open_requests for one in takers) + 1) / len(takers))
        start = bisect.bisect(self._keys, _point(affinity))
        for number in range(len(self._ring)):
            one = self.servers[self._ring[(start + number) % len(self._ring)][1]]
            if any(one is other for other in takers) and one.open_requests < most:
                return one
        return min(takers, key=lambda one: one.open_requests)


def _point(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")
