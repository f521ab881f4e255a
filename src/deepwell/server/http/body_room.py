"""`BodyRoom`: the memory for large bodies, and the share of it that each request holds until its body is parsed."""

from __future__ import annotations

from starlette.types import Scope

from deepwell.server.access.principal import principal_in
from deepwell.server.http.errors import BodiesFull

__all__ = ["SMALL_BODY_BYTES", "BodyRoom", "BodyShare", "free_body_in", "owner_of"]

SMALL_BODY_BYTES = 64 << 10
"""A body up to this size is small: every connection may have one in memory."""


class BodyRoom:
    """A number of bytes for the bodies of all requests. Those of one owner take half of it at most."""

    def __init__(self, size_bytes: int) -> None:
        self._free_bytes = size_bytes
        self._most_bytes = size_bytes // 2
        self._taken: dict[str, int] = {}  # by owner

    def share(self, owner: str) -> BodyShare:
        """Returns an empty share for one request."""
        return BodyShare(self, owner)

    def take(self, owner: str, size_bytes: int) -> None:
        """Takes bytes for an owner.

        Raises:
            BodiesFull: there are fewer, or the owner has its half already.
        """
        taken = self._taken.get(owner, 0) + size_bytes
        if taken > self._most_bytes:
            raise BodiesFull("too many of your large requests come in at once")
        if size_bytes > self._free_bytes:
            raise BodiesFull
        self._taken[owner] = taken
        self._free_bytes -= size_bytes

    def give_back(self, owner: str, size_bytes: int) -> None:
        """Gives bytes of an owner back."""
        self._free_bytes += size_bytes
        left = self._taken[owner] - size_bytes
        if left:
            self._taken[owner] = left
        else:
            del self._taken[owner]


class BodyShare:
    """The bytes of a room that one body takes. Those of a small body are not counted."""

    __slots__ = ("_bytes", "_owner", "_room")

    def __init__(self, room: BodyRoom, owner: str) -> None:
        self._room = room
        self._owner = owner
        self._bytes = 0

    def grow(self, body_bytes: int) -> None:
        """Makes room for a body that has `body_bytes` now.

        Raises:
            BodiesFull: there is none.
        """
        more = body_bytes - SMALL_BODY_BYTES - self._bytes
        if more > 0:
            self._room.take(self._owner, more)
            self._bytes += more

    def free(self) -> None:
        """Gives all of it back."""
        if self._bytes:
            self._room.give_back(self._owner, self._bytes)
            self._bytes = 0


def owner_of(scope: Scope) -> str:
    """Returns who a body counts for: the tenant, or where the server has no keys the client's address."""
    principal = principal_in(scope)
    if principal.key_id:
        return f"tenant {principal.tenant}"
    client = scope.get("client")
    return f"address {client[0]}" if client else "address"


def free_body_in(scope: Scope) -> None:
    """Frees the share of a request whose body was parsed and is no longer in memory, if it has one."""
    share: BodyShare | None = scope.get("state", {}).get("body_share")
    if share is not None:
        share.free()
