"""`PromptStore`: prompts of a tenant, and their versions, which never change once they are written.

A version is found by the id of its prompt and its number. One of them is current: a request that names no version gets it.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Final

import sqlalchemy as sa
from sqlalchemy import Connection

from deepwell.errors import DeepwellError, InvalidRequest, NotFound, StorageDamaged
from deepwell.storage.clock import shared_time
from deepwell.storage.database import Database, Tenant
from deepwell.storage.pages import Order, Page, page_of
from deepwell.storage.tables import prompt_versions, prompts

__all__ = ["MOST_PROMPTS", "MOST_VERSIONS", "PromptConflict", "PromptStore", "StoredPrompt"]

MOST_PROMPTS: Final = 1000  # of a tenant
MOST_VERSIONS: Final = 1000  # of a prompt
_LAST: Final = 999_999_999  # number of a version: requests name it by nine digits


class PromptConflict(DeepwellError):
    """Raised when an id or a version number is taken by another text."""

    status = 409
    type = "invalid_request_error"
    code = "prompt_conflict"


@dataclass(frozen=True, slots=True)
class StoredPrompt:
    """One version of a prompt.

    Attributes:
        id: of the prompt.
        number: of the version, from 1.
        body: JSON of its texts.
        sha256: hash of the body.
        created_at: Unix seconds at which this version was written.
        is_current: whether requests without a version get it.
    """

    id: str
    number: int
    body: str
    sha256: str
    created_at: int
    is_current: bool

    def __post_init__(self) -> None:
        """Compares the body with its hash.

        Raises:
            StorageDamaged: it is not what was written.
        """
        if sha256(self.body.encode()).hexdigest() != self.sha256:
            raise StorageDamaged.of("row_damaged", table="prompt_versions", id=f"{self.id!r}, {self.number}")


_COLUMNS = (
    prompts.c.id,
    prompt_versions.c.number,
    prompt_versions.c.body,
    prompt_versions.c.sha256,
    prompt_versions.c.created_at,
    (prompts.c.current == prompt_versions.c.number).label("is_current"),
)
_JOINED = prompts.join(
    prompt_versions,
    (prompts.c.tenant == prompt_versions.c.tenant) & (prompts.c.id == prompt_versions.c.prompt_id),
)


class PromptStore:
    """Prompts by tenant and id. Calls with an id raise `NotFound` if the tenant has no such prompt or version."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, tenant: Tenant, id: str, body: str, *, number: int = 1) -> StoredPrompt:
        """Stores a prompt with its first version.

        Raises:
            PromptConflict: the tenant has a prompt of this id.
            InvalidRequest: it has as many as it may.
        """

        def work(connection: Connection) -> StoredPrompt:
            mine = sa.select(sa.func.count()).where(prompts.c.tenant == tenant)
            if connection.execute(mine.where(prompts.c.id == id)).scalar_one():
                raise PromptConflict(
                    f"there is a prompt {id!r} already",
                    fix=f"add a version with POST /v1/prompts/{id}/versions, or choose another id",
                    param="id",
                )
            if connection.execute(mine).scalar_one() >= MOST_PROMPTS:
                raise InvalidRequest(
                    f"there are {MOST_PROMPTS} prompts, which is the most of a tenant",
                    fix="delete those that are not used",
                )
            now = int(shared_time())
            values = {"tenant": tenant, "id": id, "current": number, "created_at": now}
            connection.execute(sa.insert(prompts).values(values))
            return _insert(connection, tenant, id, number, body, is_current=True)

        return await self._database.write(work)

    async def add(
        self, tenant: Tenant, id: str, body: str, *, number: int | None = None, current: bool = True
    ) -> StoredPrompt:
        """Stores a further version, and makes it the current one unless `current` is false.

        A text that the prompt has already is not stored twice: that version is returned, and made current likewise.

        Args:
            number: number of the version, above that of all others; None: the next one.

        Raises:
            PromptConflict: the number is that of another text, or below the newest.
            InvalidRequest: the prompt has as many versions as it may.
        """

        def work(connection: Connection) -> StoredPrompt:
            _lock(connection, tenant, id)
            inside = prompt_versions.c
            mine = (inside.tenant == tenant) & (inside.prompt_id == id)
            rows = connection.execute(sa.select(inside.number, inside.sha256).where(mine)).all()
            hashes: dict[int, str] = {row.number: row.sha256 for row in rows}
            chosen = _number_for(id, hashes, sha256(body.encode()).hexdigest(), number)
            if chosen not in hashes:
                if len(hashes) >= MOST_VERSIONS:
                    raise InvalidRequest(
                        f"the prompt {id!r} has {MOST_VERSIONS} versions, which is the most",
                        fix="begin a new prompt",
                    )
                _insert(connection, tenant, id, chosen, body, is_current=current)
            if current:
                _make_current(connection, tenant, id, chosen)
            return _find(connection, tenant, id, chosen)

        return await self._database.write(work)

    async def get(self, tenant: Tenant, id: str, number: int | None = None) -> StoredPrompt:
        """Returns a version of a prompt; without a number, the current one."""
        return await self._database.read(lambda connection: _find(connection, tenant, id, number))

    async def list(
        self, tenant: Tenant, *, after: str | None = None, limit: int = 20, order: Order = "desc"
    ) -> Page[StoredPrompt]:
        """Returns one page of the tenant's prompts as their current versions, by default the newest prompt first."""
        query = (
            sa.select(*_COLUMNS)
            .select_from(_JOINED)
            .where(prompts.c.tenant == tenant, prompts.c.current == prompt_versions.c.number)
        )

        def work(connection: Connection) -> Page[StoredPrompt]:
            page = page_of(
                connection, query, prompts.c.seq, prompts.c.id, after=after, limit=limit, order=order
            )
            return Page([StoredPrompt(*row) for row in page.data], page.has_more)

        return await self._database.read(work)

    async def versions(
        self, tenant: Tenant, id: str, *, before: int | None = None, limit: int = 20
    ) -> Page[StoredPrompt]:
        """Returns one page of the versions of a prompt, the newest first: those with numbers below `before`."""
        query = sa.select(*_COLUMNS).select_from(_JOINED)
        query = query.where(prompts.c.tenant == tenant, prompts.c.id == id)
        if before is not None:
            query = query.where(prompt_versions.c.number < before)
        query = query.order_by(prompt_versions.c.number.desc()).limit(limit + 1)

        def work(connection: Connection) -> Page[StoredPrompt]:
            _find(connection, tenant, id)
            found = [StoredPrompt(*row) for row in connection.execute(query)]
            return Page(found[:limit], len(found) > limit)

        return await self._database.read(work)

    async def numbers(self, tenant: Tenant, id: str) -> list[tuple[int, bool]]:
        """Returns the numbers of all versions of a prompt, the newest first, and which is the current one."""
        inside = prompt_versions.c
        query = sa.select(inside.number, prompts.c.current == inside.number).select_from(_JOINED)
        query = query.where(prompts.c.tenant == tenant, prompts.c.id == id).order_by(inside.number.desc())

        def work(connection: Connection) -> list[tuple[int, bool]]:
            found = [(int(number), bool(is_current)) for number, is_current in connection.execute(query)]
            if not found:
                raise _missing(id)
            return found

        return await self._database.read(work)

    async def choose(self, tenant: Tenant, id: str, number: int) -> StoredPrompt:
        """Makes a version the current one."""

        def work(connection: Connection) -> StoredPrompt:
            _lock(connection, tenant, id)
            _find(connection, tenant, id, number)
            _make_current(connection, tenant, id, number)
            return _find(connection, tenant, id, number)

        return await self._database.write(work)

    async def delete(self, tenant: Tenant, id: str) -> None:
        """Deletes a prompt with all of its versions."""

        def work(connection: Connection) -> None:
            _lock(connection, tenant, id)
            inside = prompt_versions.c
            connection.execute(
                sa.delete(prompt_versions).where(inside.tenant == tenant, inside.prompt_id == id)
            )
            connection.execute(sa.delete(prompts).where(prompts.c.tenant == tenant, prompts.c.id == id))

        await self._database.free(work)


def _number_for(id: str, hashes: dict[int, str], digest: str, number: int | None) -> int:
    """Returns the number of a version: that of the same text, the one asked for, or the next."""
    if number is None:
        same = next((one for one, known in hashes.items() if known == digest), None)
        if same is None and max(hashes) >= _LAST:
            raise InvalidRequest(
                f"the prompt {id!r} has version {_LAST}, which is the last that there can be",
                fix="begin a new prompt",
                param="version",
            )
        return max(hashes) + 1 if same is None else same
    if number in hashes:
        if hashes[number] != digest:
            raise PromptConflict(
                f"version {number} of the prompt {id!r} has another text, and versions never change",
                fix=f"give the new text the version {max(hashes) + 1}",
                param="version",
            )
        return number
    if number < max(hashes):
        raise PromptConflict(
            f"the prompt {id!r} has version {max(hashes)} already, and numbers only rise",
            fix=f"give the new text the version {max(hashes) + 1}",
            param="version",
        )
    return number


def _missing(id: str, number: int | None = None) -> NotFound:
    if number is None:
        # OpenAI's words
        return NotFound(
            f"Prompt with id {id!r} not found",
            fix="list them with `deepwell prompts list` or GET /v1/prompts",
        )
    return NotFound(
        f"Prompt with id {id!r} and version '{number}' not found",
        fix=f"list them with `deepwell prompts show {id}` or GET /v1/prompts/{id}/versions",
    )


def _lock(connection: Connection, tenant: Tenant, id: str) -> None:
    query = sa.select(prompts.c.seq).where(prompts.c.tenant == tenant, prompts.c.id == id)
    if connection.execute(query.with_for_update()).one_or_none() is None:
        raise _missing(id)


def _find(connection: Connection, tenant: Tenant, id: str, number: int | None = None) -> StoredPrompt:
    query = sa.select(*_COLUMNS).select_from(_JOINED)
    query = query.where(prompts.c.tenant == tenant, prompts.c.id == id)
    wanted = prompts.c.current if number is None else number
    row = connection.execute(query.where(prompt_versions.c.number == wanted)).one_or_none()
    if row is not None:
        return StoredPrompt(*row)
    known = sa.select(prompts.c.seq).where(prompts.c.tenant == tenant, prompts.c.id == id)
    raise _missing(id, number if connection.execute(known).one_or_none() else None)


def _insert(
    connection: Connection, tenant: Tenant, id: str, number: int, body: str, *, is_current: bool
) -> StoredPrompt:
    digest, now = sha256(body.encode()).hexdigest(), int(shared_time())
    values = {
        "tenant": tenant,
        "prompt_id": id,
        "number": number,
        "body": body,
        "sha256": digest,
        "created_at": now,
    }
    connection.execute(sa.insert(prompt_versions).values(values))
    return StoredPrompt(id, number, body, digest, now, is_current)


def _make_current(connection: Connection, tenant: Tenant, id: str, number: int) -> None:
    mine = (prompts.c.tenant == tenant) & (prompts.c.id == id)
    connection.execute(sa.update(prompts).where(mine).values(current=number))
