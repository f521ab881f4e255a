"""API keys: made once, shown once, kept as SHA-256. A key is 256 random bits, so nothing slower than one hash is needed.

These calls take no tenant where a key is what tells the tenant, and where an operator looks over all of them.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from deepwell.errors import InvalidRequest, NotFound
from deepwell.storage.database import Database, Tenant
from deepwell.storage.tables import api_keys as table

__all__ = ["KEY_PATTERN", "ApiKey", "KeyStore", "digest_of", "new_tenant"]

KEY_PATTERN = re.compile(rb"dw-[A-Za-z0-9_-]{43}")  # 32 bytes in base64url, without padding
_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is known of a key. Times are Unix seconds; limits are a minute, None: the tenant's, 0: none."""

    id: str
    tenant: Tenant
    name: str
    hint: str
    scopes: tuple[str, ...]
    created_at: int
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    last_used_at: int | None = None
    expires_at: int | None = None
    revoked_at: int | None = None

    def usable(self, now: float) -> bool:
        """Whether it opens anything."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


def digest_of(key: bytes) -> bytes:
    """What is kept of a key."""
    return hashlib.sha256(key).digest()


def new_tenant() -> Tenant:
    """The name of a tenant that nobody else is."""
    return Tenant(f"tenant-{secrets.token_hex(8)}")


class KeyStore:
    """Keys of all tenants."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        tenant: Tenant,
        name: str,
        scopes: Sequence[str],
        *,
        expires_at: int | None = None,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
    ) -> tuple[ApiKey, str]:
        """A new key, and its text, which cannot be had again.

        Raises:
            InvalidRequest: the tenant's name, or the key's, cannot be kept.
        """
        if not _TENANT.fullmatch(tenant):
            raise InvalidRequest(
                f"{tenant!r} is not the name of a tenant",
                fix="use at most 64 letters, digits, dots, hyphens and underscores, a letter or digit first",
                param="tenant",
            )
        if not name or len(name) > 256 or not name.isprintable():
            raise InvalidRequest(
                "a key's name is 1 to 256 printable characters", fix="choose another", param="name"
            )
        text = f"dw-{secrets.token_urlsafe(32)}"
        key = ApiKey(
            id=f"key_{secrets.token_hex(8)}",
            tenant=tenant,
            name=name,
            hint=f"{text[:7]}...{text[-4:]}",
            scopes=tuple(scopes),
            created_at=int(time.time()),
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            expires_at=expires_at,
        )
        row = {name: getattr(key, name) for name in ApiKey.__dataclass_fields__}
        row |= {"scopes": " ".join(scopes), "digest": digest_of(text.encode()).hex()}
        self._database.write_now(lambda connection: connection.execute(sa.insert(table).values(row)))
        return key, text

    async def find(self, digest: bytes) -> ApiKey | None:
        """The key with this digest, usable or not."""

        def work(connection: Connection) -> ApiKey | None:
            row = connection.execute(sa.select(table).where(table.c.digest == digest.hex())).one_or_none()
            return None if row is None else _key(row)

        return await self._database.read(work)

    async def any(self) -> bool:
        """Whether there has ever been a key. A revoked one counts: taking the last key away must not open the server."""
        return await self._database.read(
            lambda connection: connection.execute(sa.select(table.c.id).limit(1)).first() is not None
        )

    async def list(self, tenant: Tenant | None = None) -> Sequence[ApiKey]:
        """The keys of one tenant, or of all, oldest first."""
        query = sa.select(table).order_by(table.c.created_at, table.c.id)
        if tenant is not None:
            query = query.where(table.c.tenant == tenant)
        return await self._database.read(
            lambda connection: [_key(row) for row in connection.execute(query).all()]
        )

    def revoke(self, id: str) -> ApiKey:
        """End a key for ever. Twice is fine.

        Raises:
            NotFound: there is none with this id.
        """

        def work(connection: Connection) -> ApiKey:
            connection.execute(
                sa.update(table)
                .where(table.c.id == id, table.c.revoked_at.is_(None))
                .values(revoked_at=int(time.time()))
            )
            row = connection.execute(sa.select(table).where(table.c.id == id)).one_or_none()
            if row is None:
                raise NotFound(f"there is no key {id!r}", fix="`deepwell keys list` shows those there are")
            return _key(row)

        return self._database.write_now(work)

    async def touch(self, used: Mapping[str, int]) -> None:
        """Note when keys, by id, were used last. A time that is known to be later stays."""

        def work(connection: Connection) -> None:
            for id, when in used.items():
                connection.execute(
                    sa.update(table)
                    .where(
                        table.c.id == id, sa.or_(table.c.last_used_at.is_(None), table.c.last_used_at < when)
                    )
                    .values(last_used_at=when)
                )

        await self._database.write(work)


def _key(row: Any) -> ApiKey:
    values: dict[str, Any] = {name: getattr(row, name) for name in ApiKey.__dataclass_fields__}
    values["scopes"] = tuple(row.scopes.split())
    return ApiKey(**values)
