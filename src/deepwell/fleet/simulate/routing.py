"""Routing policies: which replica gets a request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Literal

from deepwell.fleet.simulate.requests import ALONE, Request

__all__ = ["Policy", "Routing", "policy_of"]

Routing = Literal["round-robin", "least-loaded", "prefix"]

Policy = Callable[[Request, Sequence[int]], int]
"""Chooses a replica for a request, by the requests that each replica has."""

_BALANCE: Final = (
    1.25  # a replica may have so many times the mean load, and one request more, before others help
)


def policy_of(routing: Routing, replicas: int) -> Policy:
    """Returns a policy without memory of earlier runs."""
    if routing == "round-robin":
        return _RoundRobin(replicas)
    if routing == "least-loaded":
        return _least_loaded
    return _Prefix()


class _RoundRobin:
    def __init__(self, replicas: int) -> None:
        self._replicas = replicas
        self._next = -1

    def __call__(self, request: Request, loads: Sequence[int]) -> int:
        self._next = (self._next + 1) % self._replicas
        return self._next


def _least_loaded(request: Request, loads: Sequence[int]) -> int:
    # The number turns ties over all replicas; the first would get most otherwise.
    begin = request.number % len(loads)
    turned = [*loads[begin:], *loads[:begin]] if begin else loads
    return (begin + turned.index(min(turned))) % len(loads)


class _Prefix:
    """Load first: a conversation stays where its prefix is, unless that replica has too much to do."""

    def __init__(self) -> None:
        self._homes: dict[int, int] = {}
        self._total = 0

    def __call__(self, request: Request, loads: Sequence[int]) -> int:
        conversation = request.conversation
        home = self._homes.get(conversation, -1)
        if home < 0 or loads[home] > _BALANCE * sum(loads) / len(loads) + 1:
            home = _least_loaded(request, loads)
        if conversation != ALONE:
            self._homes[conversation] = home
        return home
