"""Stored uploads: files that arrive in parts."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import sqlalchemy as sa
from sqlalchemy import Connection

from deepwell.errors import InvalidRequest, NotFound
from deepwell.storage.blobs import Draft
from deepwell.storage.clock import shared_time
from deepwell.storage.database import Database, Tenant
from deepwell.storage.files import FileStore, StoredFile
from deepwell.storage.tables import upload_parts, uploads

__all__ = ["MAX_PARTS", "StoredPart", "StoredUpload", "UploadStore"]

LIFETIME_S = 3600  # as at OpenAI
MAX_PARTS = 10_000  # per upload; 8 GB in parts of 64 MB are 128 parts


@dataclass(frozen=True, slots=True)
class StoredUpload:
    """One upload. `bytes` is the announced size; `file_expires_after` is in seconds from the creation of the file."""

    id: str
    created_at: int
    expires_at: int
    status: Literal["pending", "completed", "cancelled", "expired"]
    filename: str
    purpose: str
    mime_type: str
    bytes: int
    file_expires_after: int | None = None
    file_id: str | None = None


@dataclass(frozen=True, slots=True)
class StoredPart:
    """One part; `sha256` names its blob."""

    id: str
    created_at: int
    bytes: int
    sha256: str


_COLUMNS = [uploads.c[name] for name in StoredUpload.__dataclass_fields__]
_PART_COLUMNS = [upload_parts.c[name] for name in StoredPart.__dataclass_fields__]


class UploadStore:
    """Uploads by tenant and id. Calls with an id raise `NotFound` if the tenant has no such upload."""

    def __init__(self, database: Database, files: FileStore) -> None:
        self._database = database
        self._files = files

    async def create(
        self,
        tenant: Tenant,
        *,
        filename: str,
        purpose: str,
        mime_type: str,
        bytes: int,
        file_expires_after: int | None = None,
    ) -> StoredUpload:
        """Announces a file of `bytes` bytes."""
        now = int(shared_time())
        upload = StoredUpload(
            id=f"upload_{uuid.uuid4().hex}",
            created_at=now,
            expires_at=now + LIFETIME_S,
            status="pending",
            filename=filename,
            purpose=purpose,
            mime_type=mime_type,
            bytes=bytes,
            file_expires_after=file_expires_after,
        )
        values = {name: getattr(upload, name) for name in StoredUpload.__dataclass_fields__}
        statement = sa.insert(uploads).values(tenant=tenant, **values)
        await self._database.write(lambda connection: connection.execute(statement).rowcount)
        return upload

    async def get(self, tenant: Tenant, id: str) -> StoredUpload:
        """Returns the upload."""
        return await self._database.read(lambda connection: _find(connection, tenant, id))

    async def room(self, tenant: Tenant, id: str) -> int:
        """Returns the number of bytes that may still be sent.

        Raises:
            InvalidRequest: the upload takes no more parts.
        """
        return await self._database.read(lambda connection: _room(connection, tenant, id))

    async def add_part(self, tenant: Tenant, id: str, draft: Draft) -> StoredPart:
        """Stores a part. The draft is consumed.

        Raises:
            InvalidRequest: the upload takes no more parts, or has no room for the bytes.
        """

        def work(connection: Connection) -> StoredPart:
            room = _room(connection, tenant, id, lock=True)
            # A part whose answer was lost comes again, and must find room; its bytes are one blob.
            if draft.bytes > room and not _has(connection, tenant, id, draft.sha256):
                raise InvalidRequest(
                    f"the part has {draft.bytes} bytes, the upload {id!r} has room for {room}",
                    fix="announce as many bytes as will be sent",
                    param="data",
                )
            part = StoredPart(
                id=f"part_{uuid.uuid4().hex}",
                created_at=int(shared_time()),
                bytes=draft.bytes,
                sha256=self._files.place(connection, draft),
            )
            values = {name: getattr(part, name) for name in StoredPart.__dataclass_fields__}
            connection.execute(sa.insert(upload_parts).values(tenant=tenant, upload_id=id, **values))
            return part

        try:
            async with self._files.placing(draft):
                return await self._database.write(work)
        finally:
            draft.discard()

    async def complete(
        self, tenant: Tenant, id: str, part_ids: Sequence[str], md5: str | None = None
    ) -> tuple[StoredUpload, StoredFile]:
        """Joins the parts, in the given order, into a file.

        Raises:
            InvalidRequest: a part is missing, unknown or named twice, or the bytes do not match the announced size or `md5`.
                The upload stays unchanged.
        """
        parts = await self._database.read(lambda connection: _parts(connection, tenant, id, part_ids))
        draft = await asyncio.to_thread(self._files.draft)
        try:
            await asyncio.to_thread(self._join, draft, parts)
            if md5 is not None and md5.lower() != draft.md5:
                raise InvalidRequest(
                    f"the parts' MD5 is {draft.md5}, not {md5[:64]!r}",
                    fix="check the order of part_ids, and send parts that were damaged again",
                    param="md5",
                )

            def work(connection: Connection) -> tuple[StoredUpload, StoredFile, list[str]]:
                upload = _pending(connection, tenant, id, lock=True)
                lasts = upload.file_expires_after
                stored = self._files.insert(
                    connection,
                    tenant,
                    draft,
                    filename=upload.filename,
                    purpose=upload.purpose,
                    lasts_s=lasts,
                )
                done = replace(upload, status="completed", file_id=stored.id)
                return done, stored, _close(connection, tenant, done)

            async with self._files.placing(draft):
                upload, stored, hashes = await self._database.write(work)
        finally:
            draft.discard()
        await self._files.release(hashes)
        return upload, stored

    def _join(self, draft: Draft, parts: Sequence[StoredPart]) -> None:
        for part in parts:
            draft.copy(self._files.blobs.fetch(part.sha256))

    async def cancel(self, tenant: Tenant, id: str) -> StoredUpload:
        """Cancels the upload and deletes its parts.

        Raises:
            InvalidRequest: the upload has ended.
        """

        def work(connection: Connection) -> tuple[StoredUpload, list[str]]:
            upload = replace(_pending(connection, tenant, id, lock=True), status="cancelled")
            return upload, _close(connection, tenant, upload)

        upload, hashes = await self._database.write(work)
        await self._files.release(hashes)
        return upload

    async def sweep(self) -> int:
        """Deletes the parts of uploads that were not completed in time, and returns the number of uploads."""

        def work(connection: Connection) -> tuple[int, list[str]]:
            late = connection.execute(
                sa.select(uploads.c.tenant, *_COLUMNS).where(
                    uploads.c.status == "pending", uploads.c.expires_at <= int(shared_time())
                )
            ).all()
            hashes: list[str] = []
            for row in late:
                values = dict(row._mapping)
                tenant = Tenant(values.pop("tenant"))
                expired = replace(StoredUpload(**values), status="expired")
                hashes += _close(connection, tenant, expired)
            return len(late), hashes

        count, hashes = await self._database.write(work)
        await self._files.release(hashes)
        return count


def _find(connection: Connection, tenant: Tenant, id: str, *, lock: bool = False) -> StoredUpload:
    query = sa.select(*_COLUMNS).where(uploads.c.tenant == tenant, uploads.c.id == id)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise NotFound(f"there is no upload {id!r}", fix="create it with POST /v1/uploads")
    upload = StoredUpload(**row._mapping)
    if upload.status == "pending" and upload.expires_at <= shared_time():
        return replace(upload, status="expired")
    return upload


def _pending(connection: Connection, tenant: Tenant, id: str, *, lock: bool = False) -> StoredUpload:
    upload = _find(connection, tenant, id, lock=lock)
    if upload.status != "pending":
        raise InvalidRequest(f"the upload {id!r} is {upload.status}", fix="create another one")
    return upload


def _room(connection: Connection, tenant: Tenant, id: str, *, lock: bool = False) -> int:
    upload = _pending(connection, tenant, id, lock=lock)
    mine = (upload_parts.c.tenant == tenant) & (upload_parts.c.upload_id == id)
    count = connection.scalar(sa.select(sa.func.count()).where(mine)) or 0
    different = sa.select(upload_parts.c.sha256, upload_parts.c.bytes).where(mine).distinct().subquery()
    received = connection.scalar(sa.select(sa.func.coalesce(sa.func.sum(different.c.bytes), 0))) or 0
    if count >= MAX_PARTS:
        raise InvalidRequest(
            f"the upload {id!r} has {count} parts and may have no more",
            fix=f"send the file again in fewer, larger parts: at most {MAX_PARTS}",
        )
    return upload.bytes - int(received)


def _has(connection: Connection, tenant: Tenant, id: str, sha256: str) -> bool:
    """Returns whether the upload has a part of these bytes."""
    same = (upload_parts.c.tenant == tenant, upload_parts.c.upload_id == id, upload_parts.c.sha256 == sha256)
    return connection.execute(sa.select(upload_parts.c.id).where(*same).limit(1)).first() is not None


def _parts(connection: Connection, tenant: Tenant, id: str, part_ids: Sequence[str]) -> list[StoredPart]:
    """Returns the named parts, in order, after checking that they add up to the announced bytes."""
    upload = _pending(connection, tenant, id)
    rows = connection.execute(
        sa.select(*_PART_COLUMNS).where(upload_parts.c.tenant == tenant, upload_parts.c.upload_id == id)
    )
    parts = {row.id: StoredPart(**row._mapping) for row in rows}
    unknown = [one for one in part_ids if one not in parts]
    if unknown:
        raise InvalidRequest(
            f"the upload {id!r} has no part {unknown[0][:64]!r}",
            fix="name the ids that POST /v1/uploads/UPLOAD/parts answered with",
            param="part_ids",
        )
    if len(set(part_ids)) < len(part_ids):
        raise InvalidRequest("part_ids names a part twice", fix="name each once", param="part_ids")
    total = sum(parts[one].bytes for one in part_ids)
    if total != upload.bytes:
        raise InvalidRequest(
            f"the parts have {total} bytes, {upload.bytes} were announced",
            fix="name every part, or create an upload of as many bytes as the file has",
            param="part_ids",
        )
    return [parts[one] for one in part_ids]


def _close(connection: Connection, tenant: Tenant, upload: StoredUpload) -> list[str]:
    """Records the end of an upload and deletes its parts. Returns their hashes, which may no longer be referenced."""
    connection.execute(
        sa.update(uploads)
        .where(uploads.c.tenant == tenant, uploads.c.id == upload.id)
        .values(status=upload.status, file_id=upload.file_id)
    )
    mine = (upload_parts.c.tenant == tenant) & (upload_parts.c.upload_id == upload.id)
    hashes = list(connection.scalars(sa.select(upload_parts.c.sha256).where(mine)))
    connection.execute(sa.delete(upload_parts).where(mine))
    return hashes
