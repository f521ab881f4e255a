"""The bodies of the health checks and of `/version`."""

from __future__ import annotations

from msgspec import UNSET, Struct, UnsetType

__all__ = ["Health", "Version"]


class Health(Struct):
    """The state of the server."""

    status: str
    model: str | UnsetType = UNSET


class Version(Struct):
    """The version of Deepwell."""

    version: str
