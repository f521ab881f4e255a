"""Owners of API keys, as fronts need them to draw a user as the servers do: tenants and ids by the hash of a key."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import SecretStr

from deepwell.fleet.front.routes import KeyOwner
from deepwell.server.access.auth import static_principal
from deepwell.storage.keys import KeyStore, digest_of

__all__ = ["owners_of"]


async def owners_of(keys: Sequence[SecretStr], store: KeyStore) -> dict[str, KeyOwner] | None:
    """Returns the owners of all keys; None: no key was ever made, and the servers need none."""
    found: dict[str, KeyOwner] = {}
    for key in keys:
        digest = digest_of(key.get_secret_value().encode())
        principal = static_principal(digest)
        found[digest.hex()] = KeyOwner(principal.tenant, principal.key_id)
    found |= {digest: KeyOwner(key.tenant, key.id) for digest, key in (await store.digests()).items()}
    return found or None
