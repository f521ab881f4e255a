"""The bodies of `/v1/keys`."""

from __future__ import annotations

from msgspec import Struct

__all__ = ["ListedKey", "ListedKeys"]


class ListedKey(Struct, tag_field="object", tag="api_key"):
    """A key, without anything by which it could be guessed. Limits are per minute; null: the tenant's, 0: none."""

    id: str
    name: str
    tenant: str
    scopes: list[str]
    created_at: int
    last_used_at: int | None
    expires_at: int | None
    revoked: bool
    requests_per_minute: int | None
    tokens_per_minute: int | None
    audio_seconds_per_minute: int | None
    images_per_minute: int | None


class ListedKeys(Struct, tag_field="object", tag="list"):
    """A page of keys."""

    data: list[ListedKey]
    first_id: str | None
    last_id: str | None
    has_more: bool
