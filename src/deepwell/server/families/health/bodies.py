"""The bodies of `/healthz` and `/readyz`."""

from __future__ import annotations

from msgspec import UNSET, Struct, UnsetType

__all__ = ["Health"]


class Health(Struct):
    """The state of the server."""

    status: str
    model: str | UnsetType = UNSET
