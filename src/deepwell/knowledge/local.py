"""`LocalKnowledge`: all of knowledge in this process, over the database of the settings, with no server."""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from deepwell.errors import DeepwellError, NotFound
from deepwell.knowledge.documents import Passage
from deepwell.knowledge.embedders import Embedders
from deepwell.knowledge.ingest import Ingestor
from deepwell.knowledge.protocols import Embedder
from deepwell.knowledge.refresh import Refresher, Round
from deepwell.knowledge.search import Searcher, SearchOptions, shared_vectors
from deepwell.knowledge.sources.options import Access
from deepwell.knowledge.sources.source import SourceSpec
from deepwell.settings import Settings
from deepwell.storage.blobs import BlobPlace, open_blobs
from deepwell.storage.database import LOCAL, Database, Tenant
from deepwell.storage.files import FileStore
from deepwell.storage.jobs import JobStore
from deepwell.storage.jobs.runner import JobRunner
from deepwell.storage.knowledge import KnowledgeStorage
from deepwell.storage.knowledge.files import INGEST_JOB, Attachment, StoredStoreFile
from deepwell.storage.knowledge.sources import StoredSource
from deepwell.storage.knowledge.stores import StoredStore

if TYPE_CHECKING:
    from deepwell.knowledge.media.senses import Senses
    from deepwell.knowledge.models import LLMReranker
    from deepwell.llm import AsyncLLM

__all__ = ["IngestProgress", "LocalKnowledge", "Spread"]

_LOOK_S = 0.05
_AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class IngestProgress:
    """The state of a store's ingestion: files by outcome, and the stage of one that is under way."""

    completed: int
    failed: int
    waiting: int
    stage: str = ""
    done: int = 0
    total: int = 0


class Spread(Protocol):
    """Embeds the passages of files elsewhere, such as on a cluster.

    Attributes:
        at_once: files that are ingested at a time, so that every machine has passages to embed.
        error: the error that ends ingestion; what is not ingested stays queued.
    """

    at_once: int
    error: DeepwellError | None

    def embedder(self, near: Embedder) -> Embedder:
        """Returns an embedder whose vectors are those of `near`."""
        ...


class LocalKnowledge:
    """Knowledge bases of one tenant, from Python and from the command line. It belongs to one event loop.

    async with LocalKnowledge(Settings.load()) as knowledge:
        store = await knowledge.create("handbook")
        await knowledge.add_files(store.id, [Path("handbook.pdf")])
        passages = await knowledge.search(store.id, "How many days of leave?")
    """

    def __init__(
        self,
        settings: Settings,
        *,
        tenant: Tenant = LOCAL,
        senses: Callable[[], Senses] | None = None,
        spread: Spread | None = None,
    ) -> None:
        """Opens the database of the settings. Models are loaded when they are first needed.

        Args:
            senses: opens what looks at pictures and listens to recordings; None: those are refused.
            spread: embeds what is ingested; None: this process does.
        """
        self.tenant = tenant
        self.spread = spread
        self._open_senses = senses
        self._senses: Senses | None = None
        self.settings = settings
        self.database = Database.of(settings)
        self.files = FileStore(self.database, open_blobs(settings.data_dir / "files", BlobPlace.of(settings)))
        self.kept = KnowledgeStorage(self.database)
        self.jobs = JobStore(self.database)
        self.embedders = Embedders(settings.models_dir)
        access = Access(tuple(settings.knowledge_hosts), settings.max_file_bytes)
        self.searcher = Searcher(
            self.kept,
            settings.data_dir / "knowledge",
            self.embedders.of_store,
            access=access,
            shared=shared_vectors(self.kept, settings.knowledge_vectors),
        )
        self.refresher = Refresher(self.kept, self.files, access)
        self._rerankers: list[AsyncLLM] = []
        self._owner = f"{os.uname().nodename[:40]}/{os.getpid()}/{uuid.uuid4().hex[:8]}"

    async def __aenter__(self) -> LocalKnowledge:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes indexes, models and the database."""
        await self.searcher.close()
        await self.embedders.close()
        if self._senses is not None:
            await self._senses.close()
        while self._rerankers:
            await self._rerankers.pop().close()
        self.database.close()

    async def create(
        self, name: str, *, embedder: str | None = None, chunking: str | None = None
    ) -> StoredStore:
        """Creates a knowledge base, for whose embedder the model must be there.

        Raises:
            InvalidRequest: there is one of this name.
            ModelNotFound: the embedder is not in the store of models.
        """
        found = await self.embedders.named(embedder or self.settings.knowledge_embedder)
        return await self.kept.stores.create(
            self.tenant, name=name, embedder=found.name, chunking=chunking, unique=True
        )

    async def find(self, name: str) -> StoredStore:
        """Returns the knowledge base of a name or id.

        Raises:
            NotFound: there is none. The fix lists those that there are.
        """
        return await self.kept.stores.named(self.tenant, name)

    async def add_files(self, store_id: str, paths: Sequence[Path], **attributes: str | float | bool) -> None:
        """Copies files into the knowledge base and ingests them. A file that fails does not stop the others."""
        attachments: list[Attachment] = []
        for path in paths:
            stored = await self.files.create(
                self.tenant, filename=path.name, purpose="assistants", content=path
            )
            attachments.append(Attachment(stored.id, json.dumps(attributes)))
        await self.kept.files.attach(self.tenant, store_id, attachments)
        await self.ingest(store_id)

    async def ingest(
        self, store_id: str, progress: Callable[[IngestProgress], None] = lambda _progress: None
    ) -> list[StoredStoreFile]:
        """Ingests what is queued for a store, and returns the files that failed. A server may take some of the jobs.

        Raises:
            DeepwellError: what embeds elsewhere is lost; finished passages are kept, and the rest stays queued.
        """
        async with self.running():
            while True:
                if self.spread is not None and self.spread.error is not None:
                    raise self.spread.error
                now = await self.progress(store_id)
                progress(now)
                if not now.waiting:
                    break
                await asyncio.sleep(_LOOK_S)
        return await self.failed(store_id)

    async def failed(self, store_id: str) -> list[StoredStoreFile]:
        """Returns the files of a store whose ingestion failed."""
        page = await self.kept.files.list(self.tenant, store_id, status="failed", limit=10_000)
        return list(page.data)

    @property
    def senses(self) -> Senses | None:
        """Reader of pictures and recordings. It is closed with this."""
        if self._senses is None and self._open_senses is not None:
            self._senses = self._open_senses()
        return self._senses

    async def embedder_of(self, store: StoredStore) -> Embedder:
        """Returns the embedder by which files are ingested into a store; raises as `Embedders.of_store`."""
        near = await self.embedders.of_store(store)
        return near if self.spread is None else self.spread.embedder(near)

    def running(self) -> _Running:
        """Returns a context in which this process ingests what is queued."""
        return _Running(self)

    async def progress(self, store_id: str) -> IngestProgress:
        """Returns the state of a store's ingestion."""
        counts = (await self.kept.stores.counts(self.tenant, [store_id]))[store_id]
        stage: dict[str, object] = {}
        if counts.get("in_progress"):
            page = await self.kept.files.list(
                self.tenant, store_id, status="in_progress", limit=1, order="asc"
            )
            for one in page.data:
                if one.job_id is not None:
                    job = await self.jobs.get(self.tenant, one.job_id)
                    stage = json.loads(job.progress or "{}")
        return IngestProgress(
            counts.get("completed", 0),
            counts.get("failed", 0),
            counts.get("in_progress", 0),
            str(stage.get("stage", "")),
            int(str(stage.get("done", 0))),
            int(str(stage.get("total", 0))),
        )

    async def search(self, store_id: str, query: str, options: SearchOptions | None = None) -> list[Passage]:
        """Returns the passages that fit a query best; see `Searcher.search`."""
        return await self.searcher.search(self.tenant, store_id, query, options)

    async def reranker(self, name: str) -> LLMReranker:
        """Loads a language model to rerank with, for as long as this is open.

        Raises:
            ModelNotFound: it is not in the store of models.
            InvalidRequest: it is an encoder.
        """
        from deepwell.knowledge.models import LLMReranker
        from deepwell.llm import AsyncLLM

        models_dir = self.settings.models_dir
        llm = await asyncio.to_thread(lambda: AsyncLLM(name, models_dir=models_dir))
        self._rerankers.append(llm)
        return LLMReranker(await llm.open())

    async def filename(self, file_id: str) -> str:
        """Returns the name of a file, or its id if it is gone."""
        try:
            return (await self.files.get(self.tenant, file_id)).filename
        except NotFound:
            return file_id

    async def add_source(self, store: StoredStore, spec: SourceSpec) -> StoredSource:
        """Adds a source to a knowledge base, or returns the one that it has already."""
        text = json.dumps(spec.as_json(), sort_keys=True, ensure_ascii=False)
        return await self.kept.sources.add(self.tenant, store.id, text, followed=not spec.is_live)

    async def refresh(self, source: StoredSource) -> Round:
        """Looks at a source once and queues what changed. A live source is asked at query time and has nothing to look at."""
        if SourceSpec.from_json(json.loads(source.spec)).is_live:
            return Round()
        return await self.refresher.refresh(self.tenant, source)

    async def chosen(
        self, store: StoredStore, *, file: str | None = None, source: str | None = None
    ) -> list[str]:
        """Returns the ids of the files of a store that have an id, a name, an address, or a source.

        Raises:
            NotFound: there is none.
        """
        found: list[str] = []
        async for one in self._attached(store):
            named = file is not None and (
                file in (one.file_id, one.uri) or await self.filename(one.file_id) == file
            )
            if named or (source is not None and one.source_id == source):
                found.append(one.file_id)
        if not found and file is not None:
            raise NotFound(
                f"{store.name} has no file {file!r}", fix=f"`deepwell knowledge show {store.name}` lists them"
            )
        return found

    async def remove_files(self, store: StoredStore, file_ids: Sequence[str]) -> None:
        """Removes files from a store, and those that no other store uses from the disk, with their texts and vectors."""
        await self.kept.files.detach(self.tenant, store.id, file_ids)
        await self._delete_unattached(file_ids)

    async def _delete_unattached(self, file_ids: Sequence[str]) -> None:
        for file_id in await self.kept.files.unattached(self.tenant, file_ids):
            with suppress(NotFound):  # somebody else was faster
                await self.files.delete(self.tenant, file_id)
        # No server may be there that sweeps.
        await self.kept.sweep(at_once=True)
        await self.searcher.sweep()

    async def remove_source(self, store: StoredStore, source_id: str) -> int:
        """Removes a source from a store with its files, and returns their number.

        Raises:
            NotFound: the store has no such source.
        """
        # The source first: whoever follows it can attach nothing any more.
        await self.kept.sources.remove(self.tenant, store.id, source_id)
        file_ids = await self.chosen(store, source=source_id)
        await self.remove_files(store, file_ids)
        return len(file_ids)

    async def remove(self, store: StoredStore) -> int:
        """Removes a store with its files, and returns their number."""
        file_ids = [one.file_id async for one in self._attached(store)]
        await self.kept.stores.delete(self.tenant, store.id)
        await self._delete_unattached(file_ids)
        return len(file_ids)

    async def queue_rebuild(self, store: StoredStore, embedder: str | None = None) -> None:
        """Gives a store another embedder, or the present one again, and queues all its files."""
        found = await self.embedders.named(embedder or store.embedder)
        await self.kept.rebuild(
            self.tenant, store.id, embedder=found.name, embedder_hash=found.hash, dimensions=found.dimensions
        )

    async def _attached(self, store: StoredStore) -> AsyncIterator[StoredStoreFile]:
        after = None
        while True:
            page = await self.kept.files.list(self.tenant, store.id, limit=500, after=after, order="asc")
            for one in page.data:
                yield one
            if not page.has_more:
                return
            after = page.data[-1].file_id


class _Running:
    """The runner of ingest jobs while a block runs."""

    def __init__(self, local: LocalKnowledge) -> None:
        from deepwell.knowledge.media.reading import MediaReader
        from deepwell.knowledge.parse.process import ParseProcess

        self._parser, senses = ParseProcess(), local.senses
        media = None if senses is None else MediaReader(self._parser, senses.viewer, senses.listener)
        ingestor = Ingestor(local.kept, local.files, self._parser, local.embedder_of, media)
        self._runner = JobRunner(
            local.jobs,
            [INGEST_JOB],
            local._owner,
            ingestor.run,
            lease_s=local.settings.job_lease_s,
            most=_AT_ONCE
            if local.spread is None
            else local.spread.at_once + 1,  # one place is other tenants'
        )

    def wake(self) -> None:
        """Tells the runner that something was queued."""
        self._runner.wake()

    async def __aenter__(self) -> _Running:
        self._runner.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.stop()
        await self._parser.close()
