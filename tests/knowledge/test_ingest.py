"""Ingestion by stages: what each keeps, and what ends a job."""

import asyncio
import json

import pytest
import sqlalchemy as sa
from tests.knowledge.hashing import HashEmbedder

from deepwell.errors import EngineUnavailable, InvalidRequest, StorageError
from deepwell.knowledge.documents import Document, Section
from deepwell.knowledge.ingest import ChunkingStrategy, Ingestor
from deepwell.storage.database import LOCAL, Database
from deepwell.storage.files import FileStore
from deepwell.storage.jobs import JobStore
from deepwell.storage.jobs.runner import JobRun
from deepwell.storage.knowledge import KnowledgeStorage
from deepwell.storage.knowledge.files import INGEST_JOB, Attachment
from deepwell.storage.tables import embeddings


class PlainParser:
    """Reads files as text. `parsed` lists their names."""

    def __init__(self) -> None:
        self.parsed: list[str] = []

    async def parse(self, tenant, path, filename):
        self.parsed.append(filename)
        text = path.read_text()
        if "broken" in text:
            raise InvalidRequest("the file is broken", fix="mend it")
        return Document(text, (Section(0, len(text)),), "text/plain")


class House:
    """A database with one store, and everything that ingests into it."""

    def __init__(self, folder, database=None) -> None:
        self.database = database or Database.temporary()
        self.files = FileStore(self.database, folder)
        self.kept = KnowledgeStorage(self.database)
        self.jobs = JobStore(self.database)
        self.embedder, self.parser = HashEmbedder(), PlainParser()
        self.stages: list[str] = []

        async def embedder_of(store):
            if store.embedder_hash not in ("", self.embedder.hash):
                raise InvalidRequest("another embedder", fix="rebuild")
            return self.embedder

        self.ingestor = Ingestor(
            self.kept,
            self.files,
            self.parser,
            embedder_of,
            observe=lambda stage, _s: self.stages.append(stage),
        )

    async def open(self):
        self.store = await self.kept.stores.create(LOCAL, name="base", embedder="hash")
        return self

    async def file(self, text, name="a.txt"):
        async def content():
            yield text.encode()

        return await self.files.create(LOCAL, filename=name, purpose="assistants", content=content())

    async def ingest(self, file_id, **given):
        await self.kept.files.attach(LOCAL, self.store.id, [Attachment(file_id, **given)])
        return await self.run()

    async def run(self):
        job = await self.jobs.claim([INGEST_JOB], "me", 10)
        outcome = await self.ingestor.run(JobRun(job))
        await self.jobs.finish(job, outcome.status, error=outcome.error, result=outcome.result)
        return outcome

    async def texts(self):
        delta = await self.kept.chunks.delta(LOCAL, self.store.id, 0)
        return list(delta.texts)


@pytest.fixture
async def house(tmp_path):
    house = await House(tmp_path / "files").open()
    yield house
    house.database.close()


async def test_a_file_goes_through_every_stage_in_order(house):
    outcome = await house.ingest((await house.file("The cat sat. The dog ran.")).id)
    assert outcome.status == "succeeded"
    assert house.stages == ["parse", "chunk", "embed", "publish"]
    assert await house.texts() == ["The cat sat. The dog ran."]


async def test_equal_files_are_parsed_and_embedded_once(house):
    for name in ("a.txt", "b.txt"):
        await house.ingest((await house.file("The same text.", name)).id)
    assert len(house.parser.parsed) == 1
    assert house.embedder.embedded == ["The same text."]
    assert await house.texts() == ["The same text.", "The same text."]


async def test_a_changed_document_is_embedded_only_where_it_changed(house):
    strategy = ChunkingStrategy(16, 0).encoded()
    first = [f"Sentence number {n} says something quite different about topic {n}." for n in range(6)]
    await house.ingest((await house.file("\n\n".join(first))).id, chunking=strategy)
    before = len(house.embedder.embedded)
    first[3] = "This one says something new altogether about another topic."
    await house.ingest((await house.file("\n\n".join(first))).id, chunking=strategy)
    assert house.embedder.embedded[before:] == [first[3]]


async def test_a_broken_file_fails_alone_with_its_reason(house):
    bad, good = await house.file("broken"), await house.file("fine", "b.txt")
    assert (await house.ingest(bad.id)).status == "failed"
    assert (await house.ingest(good.id)).status == "succeeded"
    row = await house.kept.files.get(LOCAL, house.store.id, bad.id)
    assert (row.status, row.error_code) == ("failed", "invalid_file")
    assert "broken" in row.error


async def test_a_file_without_text_fails(house):
    assert (await house.ingest((await house.file(" \n ")).id)).status == "failed"


async def test_a_file_that_was_deleted_meanwhile_ends_its_job(house):
    stored = await house.file("text")
    await house.kept.files.attach(LOCAL, house.store.id, [Attachment(stored.id)])
    job = await house.jobs.claim([INGEST_JOB], "me", 10)
    await house.files.delete(LOCAL, stored.id)
    assert (await house.ingestor.run(JobRun(job))).status == "cancelled"
    assert await house.texts() == []


async def test_a_store_that_is_deleted_while_its_file_is_read_ends_the_job(house, monkeypatch):
    read = house.parser.parse

    async def deleted_meanwhile(*given):
        await house.kept.stores.delete(LOCAL, house.store.id)
        return await read(*given)

    monkeypatch.setattr(house.parser, "parse", deleted_meanwhile)
    assert (await house.ingest((await house.file("text")).id)).status == "cancelled"


async def test_another_embedder_is_an_error_that_names_the_fix(house):
    await house.ingest((await house.file("text")).id)
    house.embedder.hash = "hash-2"
    outcome = await house.ingest((await house.file("other", "b.txt")).id)
    assert outcome.status == "failed"
    assert "rebuild" in outcome.error


async def test_a_cancelled_job_stops_before_it_embeds(house):
    stored = await house.file("text")
    await house.kept.files.attach(LOCAL, house.store.id, [Attachment(stored.id)])
    run = JobRun(await house.jobs.claim([INGEST_JOB], "me", 10))
    run.cancelled.set()
    assert (await house.ingestor.run(run)).status == "cancelled"
    assert house.embedder.embedded == []


async def test_progress_names_the_stage(house):
    stored = await house.file("text")
    await house.kept.files.attach(LOCAL, house.store.id, [Attachment(stored.id)])
    run = JobRun(await house.jobs.claim([INGEST_JOB], "me", 10))
    await house.ingestor.run(run)
    assert json.loads(run.progress)["stage"] == "publish"


async def test_many_files_are_ingested_side_by_side(house):
    ids = [(await house.file(f"text {n}", f"{n}.txt")).id for n in range(8)]
    await house.kept.files.attach(LOCAL, house.store.id, [Attachment(id) for id in ids])
    await asyncio.gather(*(house.run() for _ in ids))
    assert sorted(await house.texts()) == [f"text {n}" for n in range(8)]


async def test_vectors_that_are_swept_meanwhile_are_never_missing(house, monkeypatch):
    old = await house.file("The same words.")
    await house.ingest(old.id)
    await house.kept.files.detach(LOCAL, house.store.id, [old.id])
    complete = house.kept.files.complete

    async def swept_first(*given, **named):
        age = sa.update(embeddings).values(created_at=0)
        await house.database.write(lambda connection: connection.execute(age).rowcount)
        await house.kept.chunks.sweep()
        return await complete(*given, **named)

    monkeypatch.setattr(house.kept.files, "complete", swept_first)
    stored = await house.file("The same words.", "b.txt")
    await house.kept.files.attach(LOCAL, house.store.id, [Attachment(stored.id)])
    job = await house.jobs.claim([INGEST_JOB], "me", 10)
    with pytest.raises(StorageError, match="swept"):
        await house.ingestor.run(JobRun(job))
    monkeypatch.undo()
    assert (await house.ingestor.run(JobRun(job))).status == "succeeded"
    delta = await house.kept.chunks.delta(LOCAL, house.store.id, 0)
    assert abs(delta.vectors).sum(axis=1).min() > 0


async def test_a_parser_that_cannot_run_is_no_fault_of_the_file(house, monkeypatch):
    async def parse(_tenant, _path, _filename):
        raise EngineUnavailable("the process that parses files ended early", fix="add the file again")

    monkeypatch.setattr(house.parser, "parse", parse)
    stored = await house.file("fine")
    assert (await house.ingest(stored.id)).status == "failed"
    assert (await house.kept.files.get(LOCAL, house.store.id, stored.id)).error_code == "server_error"
