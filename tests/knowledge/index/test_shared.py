"""Searches over vectors in PostgreSQL: the passages of flat side files, shared by every server, in step with the store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from tests.knowledge.test_ingest import House
from tests.knowledge.two_languages import QUERIES, published
from tests.needs import PGVECTOR, require
from tests.postgres import running

from deepwell.errors import StorageError
from deepwell.knowledge.index.shared import SharedVectors
from deepwell.knowledge.search import Searcher, SearchOptions
from deepwell.models.store.languages import is_chinese
from deepwell.settings import InvalidSettings, Settings
from deepwell.storage.database import LOCAL, Database
from deepwell.storage.tables import chunk_removals


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    require(PGVECTOR)
    with running() as server:
        yield server.create()


@pytest.fixture
async def house(url, tmp_path):
    house = await House(tmp_path / "files", Database.connect(url)).open()
    yield house
    house.database.close()


def searcher_of(house, folder, **options):
    async def embedder_of(_store):
        return house.embedder

    shared = SharedVectors(house.kept, **options)
    return Searcher(house.kept, folder, embedder_of, shared=shared)


@pytest.fixture
async def searcher(house, tmp_path):
    searcher = searcher_of(house, tmp_path / "one")
    yield searcher
    await searcher.close()


async def added(house, text, name="a.txt", **attributes):
    stored = await house.file(text, name)
    outcome = await house.ingest(stored.id, attributes=json.dumps(attributes))
    assert outcome.status == "succeeded"
    return stored.id


async def found(searcher, house, query, ranker="dense", **options):
    passages = await searcher.search(LOCAL, house.store.id, query, SearchOptions(ranker=ranker, **options))
    return [one.text for one in passages]


async def rows(house):
    query = sa.text("SELECT count(*) FROM chunk_vectors WHERE store_id = :store")
    return await house.database.read(
        lambda connection: connection.execute(query, {"store": house.store.id}).scalar_one()
    )


@pytest.mark.parametrize("ranker", ["hybrid", "dense", "lexical"])
async def test_searches_give_the_passages_and_scores_of_side_files(house, searcher, tmp_path, ranker):
    for number in range(12):
        await added(
            house, f"The ferry of pier {number} leaves at {number % 5}.", f"{number}.txt", pier=number
        )

    async def embedder_of(_store):
        return house.embedder

    files = Searcher(house.kept, tmp_path / "files-alone", embedder_of)
    recent = {"type": "gte", "key": "pier", "value": 6}
    for query in ("when does the ferry leave", "pier 7", "leaves at 3"):
        for filters in (None, recent):
            options = SearchOptions(ranker=ranker, filters=filters)
            expected = await files.search(LOCAL, house.store.id, query, options)
            assert expected
            assert await searcher.search(LOCAL, house.store.id, query, options) == expected
    await files.close()


async def test_two_servers_see_each_others_work(house, searcher, tmp_path):
    other = searcher_of(house, tmp_path / "two")
    for number, one in enumerate((searcher, other, searcher, other)):
        text = f"The ferry of kestrel{number} leaves."
        await added(house, text, f"{number}.txt")
        assert text in await found(one, house, f"kestrel{number} ferry")
    assert await rows(house) == 4
    await other.close()


async def test_searches_at_once_from_two_servers_keep_each_vector_once(house, searcher, tmp_path):
    other = searcher_of(house, tmp_path / "two")
    for number in range(5):
        await added(house, f"The ferry of pier {number} leaves.", f"{number}.txt")
    answers = await asyncio.gather(*(found(one, house, "ferry") for one in (searcher, other) * 3))
    assert all(sorted(one) == sorted(answers[0]) and len(one) == 5 for one in answers)
    assert await rows(house) == 5
    await other.close()


async def test_removed_passages_leave_the_database(house, searcher):
    first = await added(house, "The ferry leaves at nine.", "a.txt")
    await added(house, "The ferry returns at ten.", "b.txt")
    assert len(await found(searcher, house, "ferry")) == 2
    await house.kept.files.detach(LOCAL, house.store.id, [first])
    assert await found(searcher, house, "ferry") == ["The ferry returns at ten."]
    assert await rows(house) == 1


async def test_another_embedder_replaces_the_vectors(house, searcher):
    await added(house, "The ferry leaves at nine.")
    assert await found(searcher, house, "ferry")
    house.embedder.hash, house.embedder.dimensions = "hash-2", 32
    await house.kept.rebuild(LOCAL, house.store.id, embedder="hash", embedder_hash="hash-2", dimensions=32)
    assert await found(searcher, house, "ferry") == []
    assert (await house.run()).status == "succeeded"
    assert await found(searcher, house, "ferry") == ["The ferry leaves at nine."]
    assert await rows(house) == 1


async def test_forgotten_removals_rebuild_the_vectors_in_pages(house, searcher, monkeypatch):
    first = await added(house, "The ferry leaves at nine.", "first.txt")
    assert await found(searcher, house, "ferry")
    await house.kept.files.detach(LOCAL, house.store.id, [first])
    for number in range(6):
        await added(house, f"The ferry of pier {number} leaves.", f"{number}.txt")
    gone = await added(house, "The ferry sinks.", "gone.txt")
    await house.kept.files.detach(LOCAL, house.store.id, [gone])
    await house.database.write(
        lambda connection: connection.execute(sa.update(chunk_removals).values(created_at=0)).rowcount
    )
    assert await house.kept.chunks.sweep() >= 2
    monkeypatch.setattr("deepwell.storage.knowledge.chunks._PAGE", 2)
    assert sorted(await found(searcher, house, "ferry", "hybrid")) == [
        f"The ferry of pier {number} leaves." for number in range(6)
    ]
    assert await rows(house) == 6


async def test_a_deleted_store_leaves_no_vectors(house, searcher):
    await added(house, "The ferry leaves at nine.")
    await found(searcher, house, "ferry")
    await searcher.sweep()
    assert await rows(house) == 1
    await house.kept.stores.delete(LOCAL, house.store.id)
    await searcher.sweep()
    assert await rows(house) == 0


async def test_a_large_store_is_searched_by_hnsw(house, tmp_path):
    searcher = searcher_of(house, tmp_path / "one", hnsw_from=3)
    for number in range(4):
        await added(house, f"The ferry of pier {number} leaves.", f"{number}.txt")
    assert len(await found(searcher, house, "ferry")) == 4
    assert searcher._shared is not None
    [build] = searcher._shared._builds.values()
    build.join(60)
    valid = sa.text(
        "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('ix_chunk_vectors_hnsw_64')"
    )
    assert await house.database.read(lambda connection: connection.execute(valid).scalar_one())
    assert len(await found(searcher, house, "ferry")) == 4
    await searcher.close()


async def test_sqlite_is_refused_with_the_fix(tmp_path):
    house = await House(tmp_path / "files").open()
    await added(house, "The ferry leaves at nine.")
    searcher = searcher_of(house, tmp_path / "side")
    with pytest.raises(StorageError, match="PostgreSQL") as caught:
        await found(searcher, house, "ferry")
    assert "DEEPWELL_DATABASE_URL" in (caught.value.fix or "")
    await searcher.close()
    house.database.close()


def test_settings_without_postgresql_are_refused(monkeypatch):
    monkeypatch.delenv("DEEPWELL_DATABASE_URL", raising=False)
    with pytest.raises(InvalidSettings, match="PostgreSQL"):
        Settings.load(knowledge_vectors="pgvector")
    given = Settings.load(knowledge_vectors="pgvector", database_url="postgresql://me@/base")
    assert given.knowledge_vectors == "pgvector"


async def test_two_languages_are_searched_as_in_side_files(url, tmp_path):
    expected = {}
    for name, database in (
        ("files", Database.temporary()),
        ("shared", await asyncio.to_thread(Database.connect, url)),
    ):
        kept, store, embedder = await published(database, tmp_path / name, hash=f"turned-{name}")

        async def embedder_of(_store, embedder=embedder):
            return embedder

        shared = SharedVectors(kept) if name == "shared" else None
        searcher = Searcher(kept, tmp_path / "side" / name, embedder_of, shared=shared)
        await searcher.synchronise(LOCAL, store.id)
        for query in QUERIES:
            passages = await searcher.search(LOCAL, store.id, query)
            found = [(one.text, one.score) for one in passages]
            assert {is_chinese(text) for text, _ in found[:2]} == {True, False}
            assert expected.setdefault(query, found) == found
        await searcher.close()
        database.close()
