"""`Chunks`: parsed documents, vectors by text, and the chunks that searches see.

Documents and vectors are named by their content, so that a stage of ingestion that was done once is never done again. A
document's chunks become visible, and those that they replace disappear, in one commit.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy import Connection

from deepwell.errors import StorageError
from deepwell.storage.clock import shared_time
from deepwell.storage.database import Database, Tenant
from deepwell.storage.knowledge.stores import StoredStore, find_store, next_generation
from deepwell.storage.pages import Order, Page, page_of
from deepwell.storage.tables import chunk_removals, chunks, documents, embeddings, files, vector_stores
from deepwell.storage.tables import vector_store_files as attached

__all__ = ["Chunks", "ChunksDelta", "FoundChunk", "NewChunk", "chunk_id", "remove_chunks"]

_PAGE = 2_000  # rows of a delta in one read: 3 MB of vectors
_REMOVALS_KEPT_S = 7 * 86_400
_KEPT_UNUSED_S = 86_400
_ROWS = 500  # deleted in one write
_CHUNK = "chunk_"
_MOST_VARIABLES = 500  # of one statement's IN list


@dataclass(frozen=True, slots=True)
class NewChunk:
    """One chunk to publish. `place` is JSON; `digest` names its vector."""

    digest: str
    text: str
    start: int
    end: int
    place: str
    tokens: int


@dataclass(frozen=True, slots=True)
class FoundChunk:
    """One visible chunk with its file. `place` and `attributes` are JSON."""

    key: int
    file_id: str
    filename: str
    uri: str | None
    position: int
    text: str
    start: int
    end: int
    place: str
    tokens: int
    attributes: str


@dataclass(frozen=True, slots=True)
class ChunksDelta:
    """The changes of a store's chunks since a generation, or a first part of them.

    Attributes:
        generation: the generation that an index has reached with these changes.
        complete: whether it is the store's newest.
        rebuild: whether older removals are forgotten, so that an index must drop everything first.
        keys: int64 [added], rising.
        vectors: float32 [added, dimensions].
        texts: the texts of the added chunks.
        removed: int64 [removed].
    """

    generation: int
    complete: bool
    rebuild: bool
    keys: NDArray[np.int64]
    vectors: NDArray[np.float32]
    texts: Sequence[str]
    removed: NDArray[np.int64]


class Chunks:
    """Documents, vectors and chunks by tenant."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def document(self, tenant: Tenant, digest: str) -> str | None:
        """Returns the JSON of a parsed document, or None if it was not parsed yet."""
        query = sa.select(documents.c.body).where(documents.c.tenant == tenant, documents.c.digest == digest)
        return await self._database.read(lambda connection: connection.execute(query).scalar_one_or_none())

    async def keep_document(self, tenant: Tenant, digest: str, body: str) -> None:
        """Keeps a parsed document. One that is kept already stays."""

        def work(connection: Connection) -> None:
            mine = (documents.c.tenant == tenant) & (documents.c.digest == digest)
            if connection.execute(sa.select(sa.literal(1)).where(mine)).scalar_one_or_none() is None:
                values = {"tenant": tenant, "digest": digest, "created_at": int(shared_time()), "body": body}
                connection.execute(sa.insert(documents).values(values))

        await self._database.write(work)

    async def embedded(self, tenant: Tenant, embedder_hash: str, digests: Collection[str]) -> set[str]:
        """Returns those digests whose texts have a vector of this embedder."""

        def work(connection: Connection) -> set[str]:
            found: set[str] = set()
            for part in _parts(sorted(set(digests))):
                query = sa.select(embeddings.c.digest).where(_vectors_of(tenant, embedder_hash, part))
                found.update(connection.scalars(query))
            return found

        return await self._database.read(work)

    async def keep_vectors(
        self, tenant: Tenant, embedder_hash: str, digests: Sequence[str], vectors: NDArray[np.float32]
    ) -> None:
        """Keeps the vectors [texts, dimensions] of texts with these digests. Vectors that are kept already stay."""
        now = int(shared_time())
        packed = dict(zip(digests, (row.astype("<f4").tobytes() for row in vectors), strict=True))

        def work(connection: Connection) -> None:
            there: set[str] = set()
            for part in _parts(list(packed)):
                query = sa.select(embeddings.c.digest).where(_vectors_of(tenant, embedder_hash, part))
                there.update(connection.scalars(query))
            rows = [
                {
                    "tenant": tenant,
                    "embedder_hash": embedder_hash,
                    "digest": digest,
                    "vector": vector,
                    "created_at": now,
                }
                for digest, vector in packed.items()
                if digest not in there
            ]
            if rows:
                connection.execute(sa.insert(embeddings), rows)

        await self._database.write(work)

    def require_vectors(
        self, connection: Connection, tenant: Tenant, embedder_hash: str, new: Sequence[NewChunk]
    ) -> None:
        """Checks inside the caller's transaction that every chunk has a vector.

        Raises:
            StorageError: one has none. Its vector was swept since it was found, because nothing had used it for long.
        """
        wanted = sorted({chunk.digest for chunk in new})
        for part in _parts(wanted):
            query = sa.select(sa.func.count()).where(_vectors_of(tenant, embedder_hash, part))
            if connection.execute(query).scalar_one() < len(part):
                raise StorageError(
                    "vectors of a file were swept while it was ingested", fix="ingest it again"
                )

    def publish(
        self,
        connection: Connection,
        tenant: Tenant,
        store_id: str,
        file_id: str,
        new: Sequence[NewChunk],
        replaces: Collection[str] = (),
    ) -> int:
        """Makes the chunks of a file visible inside the caller's transaction, in place of those that it had.

        Args:
            replaces: other files whose chunks disappear in the same moment.

        Returns:
            The store's new generation.
        """
        generation = next_generation(connection, tenant, store_id)
        _remove(connection, tenant, store_id, [file_id, *replaces], generation)
        rows = [
            {
                "tenant": tenant,
                "store_id": store_id,
                "file_id": file_id,
                "generation": generation,
                "position": position,
                "digest": chunk.digest,
                "text": chunk.text,
                "start": chunk.start,
                "end": chunk.end,
                "place": chunk.place,
                "tokens": chunk.tokens,
            }
            for position, chunk in enumerate(new)
        ]
        if rows:
            connection.execute(sa.insert(chunks), rows)
        return generation

    async def delta(self, tenant: Tenant, store_id: str, since: int, *, anew: bool = False) -> ChunksDelta:
        """Returns changes of a store's chunks after the generation `since`, at most a few thousand at a time.

        Args:
            anew: whether an earlier part of the same reading asked for a rebuild. What the index has then is of today, and no
                forgotten removal is missing in it.

        Raises:
            NotFound: the tenant has no such store.
        """

        return await self._database.read(lambda connection: _delta(connection, tenant, store_id, since, anew))

    async def found(self, tenant: Tenant, store_id: str, keys: Collection[int]) -> dict[int, FoundChunk]:
        """Returns the chunks of these keys that are visible now. A removed chunk, or one of a deleted file, is missing."""

        def work(connection: Connection) -> dict[int, FoundChunk]:
            found: dict[int, FoundChunk] = {}
            for part in _parts(list(keys)):
                query = _found_query(tenant, store_id).where(chunks.c.key.in_(part))
                for row in connection.execute(query):
                    chunk = FoundChunk(*row)
                    found[chunk.key] = chunk
            return found

        return await self._database.read(work)

    async def of_file(self, tenant: Tenant, store_id: str, file_id: str) -> list[FoundChunk]:
        """Returns the visible chunks of a file in their order."""
        query = _found_query(tenant, store_id).where(chunks.c.file_id == file_id).order_by(chunks.c.position)

        def work(connection: Connection) -> list[FoundChunk]:
            return [FoundChunk(*row) for row in connection.execute(query)]

        return await self._database.read(work)

    async def page_of_file(
        self, tenant: Tenant, store_id: str, file_id: str, *, after: str | None, limit: int, order: Order
    ) -> Page[FoundChunk]:
        """Returns one page of the visible chunks of a file in their order. `after` is a chunk's `chunk_id`.

        Raises:
            InvalidRequest: the file has no such chunk.
        """
        query = _found_query(tenant, store_id).where(chunks.c.file_id == file_id)
        id = sa.literal(_CHUNK).concat(sa.cast(chunks.c.key, sa.String))

        def work(connection: Connection) -> Page[FoundChunk]:
            page = page_of(connection, query, chunks.c.position, id, after=after, limit=limit, order=order)
            return Page([FoundChunk(*row) for row in page.data], page.has_more)

        return await self._database.read(work)

    async def keys_of(self, tenant: Tenant, store_id: str, file_ids: Collection[str]) -> NDArray[np.int64]:
        """Returns the keys of the chunks of these files, sorted."""

        def work(connection: Connection) -> NDArray[np.int64]:
            found: list[int] = []
            for part in _parts(sorted(file_ids)):
                found += connection.scalars(
                    sa.select(chunks.c.key).where(
                        chunks.c.tenant == tenant, chunks.c.store_id == store_id, chunks.c.file_id.in_(part)
                    )
                )
            return np.array(sorted(found), np.int64)

        return await self._database.read(work)

    async def sweep(self, *, at_once: bool = False) -> int:
        """Deletes what nobody needs any more, of all tenants: vectors and documents without chunks, and old removals.

        What is younger than a day stays, because its ingestion may be under way. With `at_once` it goes too, unless some file
        is being ingested. Returns the number of rows.
        """
        now = int(shared_time())
        total = 0

        def unused(connection: Connection) -> int:
            before = now + 1 if at_once and not _ingesting(connection) else now - _KEPT_UNUSED_S
            return _unused_vectors(connection, before) + _unused_documents(connection, before)

        def forgotten(connection: Connection) -> int:
            return _old_removals(connection, now)

        for remove in (unused, forgotten):
            while count := await self._database.free(remove):
                total += count
        return total


def _delta(connection: Connection, tenant: Tenant, store_id: str, since: int, anew: bool) -> ChunksDelta:
    store = find_store(connection, tenant, store_id)
    rebuild = not anew and since + 1 < store.removals_from
    begin = 0 if rebuild else since
    query = _delta_query(tenant, store, begin)
    rows: Sequence[Any] = connection.execute(query.limit(_PAGE + 1)).all()
    reached = store.generation
    if len(rows) > _PAGE:
        # As far as the last generation that is there as a whole. One that fills the page alone is read as a whole.
        last = rows[-1].generation
        whole = [row for row in rows if row.generation < last]
        rows = whole or connection.execute(query.where(chunks.c.generation == last)).all()
        reached = rows[-1].generation
    removals = sa.select(chunk_removals.c["keys"]).where(
        chunk_removals.c.tenant == tenant,
        chunk_removals.c.store_id == store_id,
        chunk_removals.c.generation > begin,
        chunk_removals.c.generation <= reached,
    )
    gone = [] if rebuild else [key for text in connection.scalars(removals) for key in json.loads(text)]
    missing = b"\0" * (4 * store.dimensions)
    packed = b"".join(row.vector or missing for row in rows)
    return ChunksDelta(
        generation=reached,
        complete=reached == store.generation,
        rebuild=rebuild,
        keys=np.array([row.key for row in rows], np.int64),
        vectors=np.frombuffer(packed, "<f4").reshape(len(rows), store.dimensions),
        texts=[row.text for row in rows],
        removed=np.array(sorted(gone), np.int64),
    )


def _delta_query(tenant: Tenant, store: StoredStore, begin: int) -> sa.Select[*tuple[Any, ...]]:
    """Returns the query for the chunks after a generation with their vectors, in the order of generations and keys."""
    columns = chunks.c
    same_text = (
        (embeddings.c.tenant == columns.tenant)
        & (embeddings.c.embedder_hash == store.embedder_hash)
        & (embeddings.c.digest == columns.digest)
    )
    return (
        sa.select(columns.key, columns.generation, columns.text, embeddings.c.vector)
        .select_from(sa.outerjoin(chunks, embeddings, same_text))
        .where(columns.tenant == tenant, columns.store_id == store.id, columns.generation > begin)
        .order_by(columns.generation, columns.key)
    )


def chunk_id(chunk: FoundChunk) -> str:
    """Returns the name by which the API knows a chunk."""
    return f"{_CHUNK}{chunk.key}"


def remove_chunks(connection: Connection, tenant: Tenant, store_id: str, file_ids: Collection[str]) -> int:
    """Removes the chunks of files inside the caller's transaction. Returns the store's generation afterwards."""
    generation = next_generation(connection, tenant, store_id)
    _remove(connection, tenant, store_id, file_ids, generation)
    return generation


def _remove(
    connection: Connection, tenant: Tenant, store_id: str, file_ids: Collection[str], generation: int
) -> None:
    gone: list[int] = []
    for part in _parts(list(file_ids)):
        gone += connection.scalars(
            sa.delete(chunks)
            .where(chunks.c.tenant == tenant, chunks.c.store_id == store_id, chunks.c.file_id.in_(part))
            .returning(chunks.c.key)
        )
    if gone:
        values = {
            "tenant": tenant,
            "store_id": store_id,
            "generation": generation,
            "created_at": int(shared_time()),
            "keys": json.dumps(sorted(gone)),
        }
        connection.execute(sa.insert(chunk_removals).values(values))


def _found_query(tenant: Tenant, store_id: str) -> sa.Select[*tuple[Any, ...]]:
    columns = chunks.c
    together = (
        (attached.c.tenant == columns.tenant)
        & (attached.c.store_id == columns.store_id)
        & (attached.c.file_id == columns.file_id)
    )
    alive = sa.or_(files.c.expires_at.is_(None), files.c.expires_at > int(shared_time()))
    stored = (files.c.tenant == columns.tenant) & (files.c.id == columns.file_id) & alive
    return (
        sa.select(
            columns.key,
            columns.file_id,
            files.c.filename,
            attached.c.uri,
            columns.position,
            columns.text,
            columns.start,
            columns.end,
            columns.place,
            columns.tokens,
            attached.c.attributes,
        )
        .select_from(chunks.join(attached, together).join(files, stored))
        .where(columns.tenant == tenant, columns.store_id == store_id)
    )


def _vectors_of(tenant: Tenant, embedder_hash: str, digests: Sequence[str]) -> sa.ColumnElement[bool]:
    return sa.and_(
        embeddings.c.tenant == tenant,
        embeddings.c.embedder_hash == embedder_hash,
        embeddings.c.digest.in_(digests),
    )


def _parts(items: Sequence[Any]) -> list[Sequence[Any]]:
    return [items[begin : begin + _MOST_VARIABLES] for begin in range(0, len(items), _MOST_VARIABLES)]


def _ingesting(connection: Connection) -> bool:
    query = sa.select(attached.c.seq).where(attached.c.status == "in_progress").limit(1)
    return connection.execute(query).first() is not None


def _unused_vectors(connection: Connection, before: int) -> int:
    columns = embeddings.c
    used = sa.exists().where(chunks.c.tenant == columns.tenant, chunks.c.digest == columns.digest)
    chosen = (
        sa.select(columns.tenant, columns.embedder_hash, columns.digest)
        .where(~used, columns.created_at < before)
        .limit(_ROWS)
    )
    rows = connection.execute(chosen).all()
    for row in rows:
        connection.execute(
            sa.delete(embeddings).where(
                columns.tenant == row.tenant,
                columns.embedder_hash == row.embedder_hash,
                columns.digest == row.digest,
            )
        )
    return len(rows)


def _unused_documents(connection: Connection, before: int) -> int:
    columns = documents.c
    used = sa.exists().where(attached.c.tenant == columns.tenant, attached.c.digest == columns.digest)
    chosen = sa.select(columns.tenant, columns.digest).where(~used, columns.created_at < before).limit(_ROWS)
    rows = connection.execute(chosen).all()
    for row in rows:
        connection.execute(
            sa.delete(documents).where(columns.tenant == row.tenant, columns.digest == row.digest)
        )
    return len(rows)


def _old_removals(connection: Connection, now: int) -> int:
    columns = chunk_removals.c
    chosen = (
        sa.select(columns.seq, columns.tenant, columns.store_id, columns.generation)
        .where(columns.created_at < now - _REMOVALS_KEPT_S)
        .order_by(columns.seq)
        .limit(_ROWS)
    )
    rows = connection.execute(chosen).all()
    forgotten: Mapping[tuple[str, str], int] = {
        (row.tenant, row.store_id): row.generation for row in rows
    }  # rising, so the last counts
    for (tenant, store_id), generation in forgotten.items():
        connection.execute(
            sa.update(vector_stores)
            .where(
                vector_stores.c.tenant == tenant,
                vector_stores.c.id == store_id,
                vector_stores.c.removals_from <= generation,
            )
            .values(removals_from=generation + 1)
        )
    connection.execute(sa.delete(chunk_removals).where(columns.seq.in_([row.seq for row in rows])))
    return len(rows)
