"""API keys, which are shown once and stored as SHA-256. A key has 256 random bits, so one fast hash is enough.

Calls take no tenant if the key itself determines the tenant, or if an operator acts on the keys of all tenants.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from deepwell.errors import InvalidRequest, NotFound, StorageDamaged
from deepwell.storage.clock import shared_time
from deepwell.storage.database import Database, Tenant
from deepwell.storage.pages import Order, Page, page_of_list
from deepwell.storage.tables import api_keys as table

__all__ = ["KEY_PATTERN", "ApiKey", "KeyStore", "digest_of", "new_tenant", "seal_keys", "seal_of"]

KEY_PATTERN = re.compile(rb"dw-[A-Za-z0-9_-]{43}")  # 32 bytes in base64url, without padding
_SEALED = tuple(one.name for one in table.c if one.name not in ("last_used_at", "seal"))
_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """The record of a key. Times are Unix seconds. Limits are per minute; None means the tenant's limit, 0 no limit."""

    id: str
    tenant: Tenant
    name: str
    hint: str
    scopes: tuple[str, ...]
    created_at: int
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    audio_seconds_per_minute: int | None = None
    images_per_minute: int | None = None
    last_used_at: int | None = None
    expires_at: int | None = None
    revoked_at: int | None = None

    def usable(self, now: float) -> bool:
        """Returns whether the key is neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


def digest_of(key: bytes) -> bytes:
    """Returns the SHA-256 of a key, the only part of it that is stored."""
    return hashlib.sha256(key).digest()


def seal_of(row: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of what a row of the table says of a key, besides its last use."""
    return hashlib.sha256(json.dumps([row[name] for name in _SEALED]).encode()).hexdigest()


def seal_keys(connection: Connection, chosen: sa.ColumnElement[bool]) -> None:
    """Seals rows that the caller's transaction has changed."""
    for row in connection.execute(sa.select(table).where(chosen)).all():
        sealed = sa.update(table).where(table.c.id == row.id).values(seal=seal_of(row._asdict()))
        connection.execute(sealed)


def new_tenant() -> Tenant:
    """Returns a new, unique tenant name."""
    return Tenant(f"tenant-{secrets.token_hex(8)}")


class KeyStore:
    """API keys of all tenants."""

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
        audio_seconds_per_minute: int | None = None,
        images_per_minute: int | None = None,
    ) -> tuple[ApiKey, str]:
        """Creates a key; returns it and its text, which cannot be read again.

        Raises:
            InvalidRequest: the name of the tenant or of the key is not valid.
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
            created_at=int(shared_time()),
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            audio_seconds_per_minute=audio_seconds_per_minute,
            images_per_minute=images_per_minute,
            expires_at=expires_at,
        )
        row = {name: getattr(key, name) for name in ApiKey.__dataclass_fields__}
        row |= {"scopes": " ".join(scopes), "digest": digest_of(text.encode()).hex()}
        row["seal"] = seal_of(row)
        self._database.write_now(lambda connection: connection.execute(sa.insert(table).values(row)))
        return key, text

    async def find(self, digest: bytes) -> ApiKey | None:
        """Returns the key with this digest, usable or not, or None."""

        def work(connection: Connection) -> ApiKey | None:
            row = connection.execute(sa.select(table).where(table.c.digest == digest.hex())).one_or_none()
            return None if row is None else _key(row)

        return await self._database.read(work)

    async def any(self) -> bool:
        """Returns whether a key was ever made. Revoked keys count, because revoking the last one must not open the server."""
        return await self._database.read(
            lambda connection: connection.execute(sa.select(table.c.id).limit(1)).first() is not None
        )

    async def list(self, tenant: Tenant | None = None) -> Sequence[ApiKey]:
        """Returns the keys of one tenant, or of all, oldest first."""
        query = sa.select(table).order_by(table.c.created_at, table.c.id)
        if tenant is not None:
            query = query.where(table.c.tenant == tenant)
        return await self._database.read(
            lambda connection: [_key(row) for row in connection.execute(query).all()]
        )

    async def digests(self) -> Mapping[str, ApiKey]:
        """Returns the keys of all tenants by their SHA-256 in hexadecimal, revoked ones among them."""
        return await self._database.read(
            lambda connection: {row.digest: _key(row) for row in connection.execute(sa.select(table)).all()}
        )

    async def page(self, *, after: str | None, limit: int, order: Order) -> Page[ApiKey]:
        """Returns one page of the keys of all tenants. There are few, so all are read.

        Raises:
            InvalidRequest: no key has the id `after`.
        """
        return page_of_list(await self.list(), lambda key: key.id, after=after, limit=limit, order=order)

    def revoke(self, id: str) -> ApiKey:
        """Revokes a key permanently. Revoking it again is harmless.

        Raises:
            NotFound: no key has this id.
        """

        def work(connection: Connection) -> ApiKey:
            fresh = (table.c.id == id) & table.c.revoked_at.is_(None)
            for one in connection.execute(sa.select(table).where(fresh)):
                _key(one)
            connection.execute(sa.update(table).where(fresh).values(revoked_at=int(shared_time())))
            seal_keys(connection, table.c.id == id)
            row = connection.execute(sa.select(table).where(table.c.id == id)).one_or_none()
            if row is None:
                raise NotFound.of("key_unknown", id=id)
            return _key(row)

        return self._database.write_now(work)

    async def touch(self, used: Mapping[str, int]) -> None:
        """Records the last use of keys, by id. A later time that is already recorded stays."""

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
    """Returns the key of a row.

    Raises:
        StorageDamaged: the row is not as it was written.
    """
    if seal_of(row._asdict()) != row.seal:
        raise StorageDamaged.of("row_damaged", table=table.name, id=repr(row.id))
    values: dict[str, Any] = {name: getattr(row, name) for name in ApiKey.__dataclass_fields__}
    values["scopes"] = tuple(row.scopes.split())
    return ApiKey(**values)
