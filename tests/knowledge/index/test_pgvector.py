"""pgvector holds the suite of indexes, compared one by one and by HNSW, and gives the hits of the flat index."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import numpy as np
import pytest
from tests.needs import PGVECTOR, require
from tests.postgres import running

from deepwell.errors import StorageError
from deepwell.knowledge.index.flat import FlatIndex
from deepwell.knowledge.index.pgvector import PgVectorIndex, build_hnsw
from deepwell.knowledge.index.testing import VectorIndexTests, keys_of, unit_vectors
from deepwell.storage.database import LOCAL, Database, Tenant


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    require(PGVECTOR)
    with running() as server:
        database = Database.connect(server.create())
        yield database
        database.close()


class _OfOneStore(VectorIndexTests):
    expansion: int | None = None

    @pytest.fixture(autouse=True)
    def _store(self, database: Database) -> None:
        self.database = database
        self.store = uuid.uuid4().hex

    def make_index(self, dimensions: int) -> PgVectorIndex:
        return PgVectorIndex(self.database, LOCAL, self.store, dimensions, expansion=self.expansion)

    reopen_index = make_index


class TestExact(_OfOneStore):
    pass


class TestHnsw(_OfOneStore):
    expansion = 200
    min_recall = 0.95

    def make_index(self, dimensions: int) -> PgVectorIndex:
        build_hnsw(self.database, dimensions)
        return super().make_index(dimensions)

    reopen_index = make_index


def test_exact_search_gives_the_hits_of_the_flat_index(database: Database) -> None:
    flat, index = FlatIndex.open(384), PgVectorIndex(database, LOCAL, "same", 384)
    vectors = unit_vectors(800, 384)
    vectors[400:420] = vectors[:20]
    for one in (flat, index):
        one.add(np.arange(1000, 1800), vectors)
        one.remove(np.arange(1000, 1800, 13))
    allowed = np.arange(900, 1700, 3)
    for query in [*vectors[:10], *unit_vectors(10, 384, 1)]:
        for more in ({}, {"allowed": allowed}):
            expected, found = flat.search(query, 25, **more), index.search(query, 25, **more)
            assert found.keys.tolist() == expected.keys.tolist()
            assert found.scores.tolist() == expected.scores.tolist()


def test_the_hnsw_index_is_what_answers(database: Database) -> None:
    index = PgVectorIndex(database, LOCAL, "planned", 24, expansion=100)
    index.add(np.arange(500), unit_vectors(500, 24))
    build_hnsw(database, 24)
    statements: list[str] = []

    def work(connection):
        import sqlalchemy as sa

        connection.execute(sa.text("SET LOCAL enable_sort = off"))
        query = (
            "EXPLAIN SELECT key FROM chunk_vectors WHERE tenant = 'local' AND store_id = 'planned'"
            " AND vector_dims(vector) = 24"
            f" ORDER BY CAST(vector AS vector(24)) <#> '{unit_vectors(1, 24)[0].tolist()}' LIMIT 10"
        )
        statements.extend(connection.scalars(sa.text(query)))

    database.read_now(work)
    assert "ix_chunk_vectors_hnsw_24" in "\n".join(statements)


def test_stores_and_tenants_do_not_see_each_other(database: Database) -> None:
    vectors = unit_vectors(3, 4)
    places = [(LOCAL, "one"), (LOCAL, "two"), (Tenant("other"), "one")]
    indexes = [PgVectorIndex(database, tenant, store, 4) for tenant, store in places]
    for index, vector in zip(indexes, vectors, strict=True):
        index.add(keys_of(7), vector[None])
    indexes[1].remove(keys_of(7))
    assert [len(index) for index in indexes] == [1, 0, 1]
    assert indexes[0].search(vectors[0], 5).scores.tolist() == pytest.approx([1.0])
    assert indexes[2].search(vectors[2], 5).scores.tolist() == pytest.approx([1.0])


def test_sqlite_has_no_pgvector() -> None:
    database = Database.temporary()
    with pytest.raises(StorageError, match="PostgreSQL"):
        PgVectorIndex(database, LOCAL, "one", 4)
    database.close()
