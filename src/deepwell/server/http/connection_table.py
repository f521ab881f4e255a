"""`ConnectionTable`: the open connections of one HTTP process, how many there may be, and which give way to newcomers."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from deepwell.server.observe.logs import SparseLog
from deepwell.server.options import ConnectionOptions

__all__ = ["ConnectionTable", "Member", "Wait"]

# A request that was sent with its connection is read within this time of the accept. Silence for longer may be evicted.
_GRACE_S = 0.05
_BODY_GRACE_S = 5.0
_LINGER_S = 2.0
_SWEEP_S = 1.0

_log = logging.getLogger("deepwell.server")


@dataclass(slots=True, eq=False)
class Wait:
    """Connections that wait for the same thing from their clients. The one that has waited longest is the first.

    Attributes:
        limit_s: how long a connection may wait before it expires.
        grace_s: how long it may wait before it gives way to a newcomer in a full table.
        since: when each began to wait.
    """

    limit_s: float
    grace_s: float = _GRACE_S
    since: dict[Member, float] = field(default_factory=dict["Member", float])


class Member(Protocol):
    """A connection, as the table sees it."""

    waits: Wait | None

    def expire(self, wait: Wait) -> None:
        """Ends a wait that took too long."""
        ...

    def evict(self) -> None:
        """Closes the connection at once."""
        ...

    def is_flushed(self) -> bool:
        """Returns whether nothing that was written to the client would be lost by a close."""
        ...


class ConnectionTable:
    """The connections of one event loop, each in at most one of the waits.

    A full table makes room by closing connections that wait for their clients: first those that never sent anything, last
    those within a request's body. Connections with a request that is being answered are never closed.

    Args:
        options: the limits.
        count: counts a connection that the server closes, with the reason.
        show: is told about once a second how many connections are open.
        clock: returns monotonic seconds.
    """

    def __init__(
        self,
        options: ConnectionOptions,
        *,
        count: Callable[[str], None] = lambda reason: None,
        show: Callable[[int], None] = lambda connections: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.most = options.most()
        self._most_per_address = options.max_connections_per_address or max(1, self.most // 2)
        self._trusted = options.trusted_networks()
        self.count = count
        self._show = show
        self._clock = clock
        self._members: dict[Member, str | None] = {}
        self._addresses: dict[str, dict[Member, None]] = {}
        self._on_room: list[Callable[[], None]] = []
        self._full = SparseLog(_log)
        self._greedy = SparseLog(_log)
        self._sweep_s = min(_SWEEP_S, options.client_timeout_s / 4)
        self.new = Wait(options.client_timeout_s)
        self.lingering = Wait(_LINGER_S)
        self.heads = Wait(options.client_timeout_s)
        self.draining = Wait(options.client_timeout_s)
        self.idle = Wait(options.keep_alive_s)
        self.bodies = Wait(float("inf"), _BODY_GRACE_S)  # `BodyLimit` limits their time, and answers
        self._waits = (self.new, self.lingering, self.heads, self.draining, self.idle, self.bodies)

    def __len__(self) -> int:
        return len(self._members)

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Sweeps on the loop, about once a second, until it is closed."""

        def tick() -> None:
            loop.call_later(self._sweep_s, tick)
            self.sweep()
            self._show(len(self))

        loop.call_later(self._sweep_s, tick)

    def on_room(self, call: Callable[[], None]) -> None:
        """Registers `call` to be made whenever a connection has ended."""
        self._on_room.append(call)

    def add(self, member: Member, address: str | None) -> bool:
        """Adds a connection that waits for its first byte.

        Returns False if its address has as many as it may have, and none of them can be closed. `address` is None, or a
        loopback address, for clients on this machine, which no such limit applies to.
        """
        group = self._group(address)
        if group is not None and len(own := self._addresses.get(group, ())) >= self._most_per_address:
            now = self._clock()
            oldest = next((one for one in own if _gives_way(one, now)), None)
            if oldest is None:
                self.count("address")
                self._greedy.warning(
                    "%s has %d connections, the most an address may have: further ones are closed. If it is a "
                    "reverse proxy, name it in trusted_proxies; otherwise raise max_connections_per_address",
                    group,
                    self._most_per_address,
                )
                return False
            self._evict(oldest)
        self._members[member] = group
        if group is not None:
            self._addresses.setdefault(group, {})[member] = None
        self.begin(member, self.new)
        return True

    def discard(self, member: Member) -> None:
        """Removes a connection that has ended. A second call does nothing."""
        if member not in self._members:
            return
        self.end(member)
        group = self._members.pop(member)
        if group is not None:
            own = self._addresses[group]
            del own[member]
            if not own:
                del self._addresses[group]
        for call in self._on_room:
            call()

    def begin(self, member: Member, wait: Wait) -> None:
        """Puts a connection into a wait, as the youngest there. If it is there already, its time goes on."""
        if member.waits is not wait:
            self.renew(member, wait)

    def renew(self, member: Member, wait: Wait) -> None:
        """Puts a connection into a wait, as the youngest there, even if it is there already."""
        self.end(member)
        member.waits = wait
        wait.since[member] = self._clock()

    def end(self, member: Member) -> None:
        """Takes a connection out of its wait: it is the server's turn."""
        if (wait := member.waits) is not None:
            member.waits = None
            del wait.since[member]

    def is_full(self) -> bool:
        """Returns whether a further connection needs room made for it."""
        return len(self._members) >= self.most

    def make_room(self) -> bool:
        """Closes the connection that has waited longest, in the order of the waits. Returns False if none can be closed."""
        now = self._clock()
        for wait in self._waits:
            for member, since in wait.since.items():
                if now - since < wait.grace_s:
                    break
                if member.is_flushed():
                    self._evict(member)
                    return True
        return False

    def say_full(self, why: str) -> None:
        """Logs, once a minute at most, that newcomers have to wait or to take the place of others."""
        self._full.warning(
            "%s, with %d connections open: idle ones are closed for new ones, and where there is none, new ones wait. "
            "Raise `ulimit -n`, or max_connections, or start more --workers",
            why,
            len(self._members),
        )

    def sweep(self) -> None:
        """Expires every connection that has waited too long."""
        now = self._clock()
        for wait in self._waits:
            while (first := next(iter(wait.since), None)) is not None:
                if now - wait.since[first] < wait.limit_s:
                    break
                self.end(first)
                self.count("timeout" if wait is not self.idle else "idle")
                first.expire(wait)

    def check_integrity(self) -> None:
        """Checks that members, addresses and waits agree.

        Raises:
            AssertionError: they do not.
        """
        for wait in self._waits:
            assert all(member.waits is wait and member in self._members for member in wait.since)
        for member, group in self._members.items():
            assert member.waits is None or member in member.waits.since
            assert group is None or member in self._addresses[group]
        named = sum(group is not None for group in self._members.values())
        assert named == sum(map(len, self._addresses.values())) and all(self._addresses.values())

    def _evict(self, member: Member) -> None:
        self.discard(member)
        self.count("evicted")
        member.evict()

    def _group(self, address: str | None) -> str | None:
        """Returns whom a connection counts for: an IPv4 address or an IPv6 network of 64 bits. None: nobody is counted."""
        if address is None:
            return None
        try:
            ip = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:  # a Unix socket's peer has no name
            return None
        if ip.version == 6 and ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        if ip.is_loopback or any(ip in network for network in self._trusted):
            return None
        if ip.version == 6:
            return str(ipaddress.ip_network((int(ip) >> 64 << 64, 64)))
        return str(ip)


def _gives_way(member: Member, now: float) -> bool:
    wait = member.waits
    return wait is not None and now - wait.since[member] >= wait.grace_s and member.is_flushed()
