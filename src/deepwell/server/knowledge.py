"""`ServerKnowledge`: searches and ingestion of one HTTP process, wired to its stores and metrics."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from deepwell.server.options import KnowledgeOptions
from deepwell.storage.database import Tenant
from deepwell.storage.knowledge.files import INGEST_JOB

if TYPE_CHECKING:
    from deepwell.knowledge.answer.cite import GroundedAnswer
    from deepwell.knowledge.documents import Passage
    from deepwell.knowledge.embedders import Embedders
    from deepwell.knowledge.ingest import Ingestor
    from deepwell.knowledge.media.senses import Senses
    from deepwell.knowledge.search import Searcher, SearchOptions
    from deepwell.knowledge.sources.options import Access
    from deepwell.server.observe.metrics import Metrics
    from deepwell.server.state import State
    from deepwell.storage.jobs.runner import JobOutcome, JobRun

__all__ = ["ServerKnowledge"]

_log = logging.getLogger("deepwell.server")


class ServerKnowledge:
    """Knowledge in one HTTP process. Models, indexes and parsers are opened when they are first needed.

    Attributes:
        default_embedder: name of the model of new vector stores.
    """

    def __init__(
        self,
        state: State,
        options: KnowledgeOptions,
        metrics: Metrics,
        senses: Callable[[], Senses] | None = None,
    ) -> None:
        """Serves the stores of `state`.

        Args:
            senses: opens what looks at pictures and listens to recordings; None: those are refused.
        """
        self._senses = senses
        self.default_embedder = options.embedder
        self.options = options
        self._state = state
        self._metrics = metrics
        self._embedders: Embedders | None = None
        self._searcher: Searcher | None = None
        self._ingestor: Ingestor | None = None
        self._closing: list[Callable[[], Awaitable[None]]] = []

    @property
    def embedders(self) -> Embedders:
        """The embedding models of this process."""
        if self._embedders is None:
            from deepwell.knowledge.embedders import Embedders

            self._embedders = Embedders(self.options.models_dir)
            self._closing.append(self._embedders.close)
        return self._embedders

    @property
    def searcher(self) -> Searcher:
        """The searches of this process."""
        if self._searcher is None:
            from deepwell.knowledge.search import Searcher, shared_vectors

            folder = self.options.folder or self._state.folder / "knowledge"
            self._searcher = Searcher(
                self._state.knowledge,
                folder,
                self.embedders.of_store,
                access=self._access(),
                shared=shared_vectors(self._state.knowledge, self.options.vectors),
            )
            self._closing.append(self._searcher.close)
        return self._searcher

    async def search(
        self, tenant: Tenant, store_id: str, query: str, options: SearchOptions | None = None
    ) -> list[Passage]:
        """Searches as `Searcher.find`, measured. The log has live sources that do not answer, and rerankers that fail."""
        began = time.monotonic()
        found = await self.searcher.find(tenant, store_id, query, options)
        self._metrics.knowledge.search_seconds.observe(time.monotonic() - began)
        self._metrics.knowledge.searches.labels("found" if found.passages else "empty").inc()
        for source, error in found.errors.items():
            _log.warning("a live source did not answer: %s: %s", source, error)
        if found.rerank_error is not None:
            self._metrics.knowledge.reranks.labels("failed").inc()
            _log.warning("a search was not reranked: %s", found.rerank_error)
        elif found.reranked:
            self._metrics.knowledge.reranks.labels("reranked").inc()
        return found.passages

    def answered(self, answer: GroundedAnswer) -> None:
        """Counts a grounded answer by its outcome, and what its checks found."""
        outcome = "declined" if answer.declined else "quoted" if answer.quoted else "written"
        self._metrics.knowledge.grounded_answers.labels(outcome).inc()
        for one in answer.dropped:
            self._metrics.knowledge.checked_sentences.labels(one.action).inc()

    def changed(self) -> None:
        """Tells the worker of this process that files were attached."""
        self._state.wake(INGEST_JOB)

    async def warm(self) -> None:
        """Loads the embedder if there is a vector store at all, so that the first search does not wait for it."""
        name = await self._state.knowledge.stores.newest_embedder()
        if name is not None:
            await self.embedders.named(name)

    async def follow(self, run: JobRun) -> JobOutcome:
        """Follows a source, as the job of `FOLLOW_JOB` says."""
        from deepwell.knowledge.refresh import Refresher

        refresher = Refresher(self._state.knowledge, self._state.files, self._access())
        return await refresher.follow(run, self.changed)

    async def ingest(self, run: JobRun) -> JobOutcome:
        """Ingests a file, as the job of `INGEST_JOB` says."""
        if self._ingestor is None:
            from deepwell.knowledge.ingest import Ingestor
            from deepwell.knowledge.media.reading import MediaReader
            from deepwell.knowledge.parse.process import ParseProcess

            parser = ParseProcess()
            self._closing.append(parser.close)
            media = None
            if self._senses is not None:
                senses = self._senses()
                self._closing.append(senses.close)
                media = MediaReader(parser, senses.viewer, senses.listener)
            self._ingestor = Ingestor(
                self._state.knowledge,
                self._state.files,
                parser,
                self.embedders.of_store,
                media,
                observe=lambda stage, seconds: self._metrics.knowledge.ingest_seconds.labels(stage).observe(
                    seconds
                ),
            )
        outcome = await self._ingestor.run(run)
        self._metrics.knowledge.ingested.labels(outcome.status).inc()
        return outcome

    def _access(self) -> Access:
        from deepwell.knowledge.sources.options import Access

        return Access(self.options.hosts, self.options.max_file_bytes)

    async def sweep(self) -> None:
        """Deletes what has expired, lost its file, or is needed by nobody, of all tenants, in rows and side files."""
        await self._state.knowledge.sweep()
        await self.searcher.sweep()

    async def close(self) -> None:
        """Closes what was opened, the last first."""
        while self._closing:
            await self._closing.pop()()
