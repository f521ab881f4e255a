"""Knowledge without a server."""

import pytest
import sqlalchemy as sa
from tests.knowledge.hashing import HashEmbedder

from deepwell.knowledge.local import LocalKnowledge
from deepwell.knowledge.sources.opening import parse_source
from deepwell.settings import Settings
from deepwell.storage.tables import chunks, documents, embeddings, files

ROWS = (chunks, documents, embeddings, files)


class _Embedders:
    def __init__(self, _models_dir):
        self._one = HashEmbedder()

    async def named(self, _name):
        return self._one

    async def of_store(self, _store):
        return self._one

    async def close(self): ...


@pytest.fixture
async def knowledge(tmp_path, monkeypatch):
    monkeypatch.setattr("deepwell.knowledge.local.Embedders", _Embedders)
    async with LocalKnowledge(Settings(data_dir=tmp_path / "data")) as knowledge:
        yield knowledge


async def counts(knowledge):
    def work(connection):
        return [connection.scalar(sa.select(sa.func.count()).select_from(table)) for table in ROWS]

    return await knowledge.database.read(work)


def left_on_disk(folder):
    return [path for path in folder.rglob("*") if path.is_file() and "deepwell." not in path.name]


async def filled(knowledge, folder):
    folder.mkdir()
    (folder / "a.txt").write_text("The ferry leaves at nine.")
    store = await knowledge.create("base")
    source = await knowledge.add_source(store, parse_source(str(folder)))
    await knowledge.refresh(source)
    assert await knowledge.ingest(store.id) == []
    assert await knowledge.search(store.id, "ferry")
    assert await counts(knowledge) == [1, 1, 1, 1]
    return store, source


async def test_what_is_removed_leaves_no_text_no_vector_and_no_file(knowledge, tmp_path):
    store, _source = await filled(knowledge, tmp_path / "docs")
    assert await knowledge.remove(store) == 1
    assert await counts(knowledge) == [0, 0, 0, 0]
    assert left_on_disk(tmp_path / "data") == []


async def test_a_source_is_removed_with_its_texts_and_vectors(knowledge, tmp_path):
    store, source = await filled(knowledge, tmp_path / "docs")
    assert await knowledge.remove_source(store, source.id) == 1
    assert await counts(knowledge) == [0, 0, 0, 0]
    assert await knowledge.search(store.id, "ferry") == []
