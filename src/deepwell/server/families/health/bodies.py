"""The bodies of `/healthz` and `/readyz`."""

from __future__ import annotations

from msgspec import UNSET, Struct, UnsetType

__all__ = ["Health"]


class Health(Struct):
    """How the server is."""

    status: str
    model: str | UnsetType = UNSET
