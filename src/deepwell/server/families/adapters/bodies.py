"""The bodies of loading and unloading adapters."""

from __future__ import annotations

from msgspec import Struct

__all__ = ["LoadedAdapter", "UnloadedAdapter"]


class LoadedAdapter(Struct):
    """A loaded adapter."""

    name: str
    rank: int
    digest: str
    parent: str


class UnloadedAdapter(Struct):
    """An adapter that is gone."""

    name: str
    unloaded: bool
