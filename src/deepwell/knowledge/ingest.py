"""`Ingestor`: brings a file into a vector store by durable stages: parse, chunk, embed, publish.

Every stage keeps its result under the hash of what it was made from: the parsed document under that of the file, a vector
under that of its text. A job that is taken up after a crash therefore repeats nothing that was finished, and a document that
changed a little is embedded only where it changed.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path, PurePath
from typing import Any, Literal, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from deepwell.errors import DeepwellError, EngineUnavailable, MissingDependency, ModelNotFound, NotFound
from deepwell.knowledge.chunk import chunk_document
from deepwell.knowledge.documents import Chunk, Document, Section
from deepwell.knowledge.media.reading import MediaReader
from deepwell.knowledge.protocols import Embedder
from deepwell.storage.files import FileStore, StoredFile
from deepwell.storage.jobs.runner import JobOutcome, JobRun
from deepwell.storage.knowledge import KnowledgeStorage
from deepwell.storage.knowledge.chunks import NewChunk
from deepwell.storage.knowledge.files import StoredStoreFile
from deepwell.storage.knowledge.stores import StoredStore

__all__ = [
    "ChunkingStrategy",
    "Ingestor",
    "Parser",
    "Stage",
    "digest_of_text",
    "document_digest",
]

Stage = Literal["parse", "chunk", "embed", "publish"]

PARSER_VERSION = 1  # raised when parsers find other text in the same bytes
_BATCH = 32  # texts embedded and kept together: a crash loses no more


class Parser(Protocol):
    """Reads files in a process with limits."""

    async def parse(self, tenant: str, path: Path, filename: str) -> Document:
        """Returns the document in a file.

        Raises:
            DeepwellError: the file cannot be read. Other files are not affected.
        """
        ...


@dataclass(frozen=True, slots=True)
class ChunkingStrategy:
    """Lengths of chunks in tokens, and whether each record of a table is a chunk. None: see `chunk_document`."""

    max_tokens: int | None = None
    overlap_tokens: int | None = None
    by_record: bool = False

    @classmethod
    def of(cls, text: str | None) -> ChunkingStrategy:
        """Reads a strategy from its JSON."""
        return cls() if text is None else cls(**json.loads(text))

    def encoded(self) -> str:
        """Returns it as JSON."""
        return json.dumps(asdict(self))


@dataclass(frozen=True, slots=True)
class _Failure(Exception):
    """A file that can never be ingested as it is. `code` is OpenAI's."""

    code: Literal["server_error", "unsupported_file", "invalid_file"]
    message: str


class Ingestor:
    """The work of ingest jobs. Several may run in one process, and in several processes."""

    def __init__(
        self,
        kept: KnowledgeStorage,
        files: FileStore,
        parser: Parser,
        embedder_of: Callable[[StoredStore], Awaitable[Embedder]],
        media: MediaReader | None = None,
        *,
        observe: Callable[[Stage, float], None] = lambda _stage, _seconds: None,
    ) -> None:
        """Ingests the files of `files` into the stores of `kept`.

        Args:
            embedder_of: loads the embedder of a store; raises an error that names the fix if it is another than the store's.
            media: reads pictures and recordings; None: they are files like others, which the parser refuses.
            observe: called with every stage's duration in seconds.
        """
        self._kept = kept
        self._files = files
        self._parser = parser
        self._embedder_of = embedder_of
        self._media = media
        self._observe = observe

    async def run(self, run: JobRun) -> JobOutcome:
        """Ingests the file of a job, from the first stage whose result is not there."""
        job = run.job
        named = json.loads(job.payload)
        try:
            attached = await self._kept.files.get(job.tenant, named["store_id"], named["file_id"])
            store = await self._kept.stores.get(job.tenant, named["store_id"])
            if attached.job_id != job.id or attached.status == "cancelled":
                return JobOutcome("cancelled")
            try:
                return await self._ingest(run, store, attached)
            except _Failure as failure:
                await self._kept.files.fail(job.tenant, attached, failure.code, failure.message)
                return JobOutcome("failed", error=failure.message)
        except NotFound:  # the store or its file was deleted, before or meanwhile
            return JobOutcome("cancelled")

    async def _ingest(self, run: JobRun, store: StoredStore, attached: StoredStoreFile) -> JobOutcome:
        tenant = run.job.tenant
        try:
            stored = await self._files.get(tenant, attached.file_id)
        except NotFound:
            raise _Failure("invalid_file", "the file was deleted before it was read") from None
        self._tell(run, "parse", 0, 1)
        began = time.monotonic()
        read = await self._document(run, stored)
        if read is None:
            return JobOutcome("cancelled")
        digest, document = read
        began = self._timed("parse", began)

        self._tell(run, "chunk", 0, 1)
        try:
            embedder = await self._embedder_of(store)
        except DeepwellError as error:
            raise _Failure("server_error", str(error)) from None
        store = await self._kept.stores.adopt(
            tenant,
            store.id,
            embedder=embedder.name,
            embedder_hash=embedder.hash,
            dimensions=embedder.dimensions,
        )
        strategy = ChunkingStrategy.of(attached.chunking or store.chunking)
        new, own = await asyncio.to_thread(_chunks, document, embedder, strategy)
        if not new:
            raise _Failure("invalid_file", "there is no text in the file")
        if own is not None:
            await self._kept.chunks.keep_vectors(tenant, embedder.hash, [new[0].digest], own[None])
        began = self._timed("chunk", began)

        if not await self._embed(run, embedder, new):
            return JobOutcome("cancelled")
        began = self._timed("embed", began)

        self._tell(run, "publish", 0, 1)
        size = sum(len(chunk.text.encode()) + 4 * embedder.dimensions for chunk in new)
        replaced = await self._kept.files.complete(
            tenant, attached, digest, new, usage_bytes=size, embedder_hash=embedder.hash
        )
        self._timed("publish", began)
        if replaced is None:
            return JobOutcome("cancelled")
        await self._files.release(replaced)
        return JobOutcome("succeeded", result=json.dumps({"chunks": len(new)}))

    async def _document(self, run: JobRun, stored: StoredFile) -> tuple[str, Document] | None:
        """Returns the document of a file and the name under which it is kept; None: the job was cancelled."""
        tenant = run.job.tenant
        try:
            path = await self._files.local(stored.sha256)
        except FileNotFoundError:
            raise _Failure("invalid_file", "the bytes of the file are gone: send it again") from None
        kind = None if self._media is None else await self._media.kind(path)
        if self._media is None or kind is None:
            digest = document_digest(stored.sha256, stored.filename)
            read = partial(self._parser.parse, tenant, path, stored.filename)
        else:
            digest = document_digest(stored.sha256, "", await self._media.identity(kind))
            read = partial(self._media.read, tenant, kind, path)
        body = await self._kept.chunks.document(tenant, digest)
        if body is not None:
            return digest, msgspec.json.decode(body, type=Document)
        try:
            document = await _unless_cancelled(run, read())
        except DeepwellError as error:
            raise _Failure(_code_of(error), str(error)) from None
        if document is None:
            return None
        await self._kept.chunks.keep_document(tenant, digest, msgspec.json.encode(document).decode())
        return digest, document

    async def _embed(self, run: JobRun, embedder: Embedder, new: Sequence[NewChunk]) -> bool:
        """Embeds the texts that have no vector yet. Returns False if the job was cancelled on the way."""
        tenant, texts = run.job.tenant, {chunk.digest: chunk.text for chunk in new}
        there = await self._kept.chunks.embedded(tenant, embedder.hash, texts)
        missing = [digest for digest in texts if digest not in there]
        for begin in range(0, len(missing), _BATCH):
            if run.cancelled.is_set():
                return False
            self._tell(run, "embed", begin, len(missing))
            digests = missing[begin : begin + _BATCH]
            vectors = await embedder.embed([texts[one] for one in digests], "passage")
            await self._kept.chunks.keep_vectors(tenant, embedder.hash, digests, vectors)
        return True

    def _timed(self, stage: Stage, began: float) -> float:
        now = time.monotonic()
        self._observe(stage, now - began)
        return now

    def _tell(self, run: JobRun, stage: Stage, done: int, total: int) -> None:
        run.progress = json.dumps({"stage": stage, "done": done, "total": total})


def _code_of(error: DeepwellError) -> Literal["server_error", "unsupported_file", "invalid_file"]:
    """Returns OpenAI's code for a parser's error. What the server lacks is no fault of the file."""
    if error.status >= 500 or isinstance(error, EngineUnavailable | MissingDependency | ModelNotFound):
        return "server_error"
    return "unsupported_file" if error.code == "unsupported_file" else "invalid_file"


async def _unless_cancelled(run: JobRun, reading: Coroutine[Any, Any, Document]) -> Document | None:
    """Returns what is read, or None if the job is cancelled on the way: a recording may take an hour."""
    work, cancelled = asyncio.ensure_future(reading), asyncio.ensure_future(run.cancelled.wait())
    try:
        await asyncio.wait((work, cancelled), return_when=asyncio.FIRST_COMPLETED)
        return await work if work.done() else None
    finally:
        for task in (work, cancelled):
            task.cancel()
        await asyncio.gather(work, cancelled, return_exceptions=True)


def _chunks(
    document: Document, embedder: Embedder, strategy: ChunkingStrategy
) -> tuple[list[NewChunk], NDArray[np.float32] | None]:
    """Returns the chunks of a document, and the first one's own vector where it describes a picture that has one.

    The description is then a chunk of its own, found by what the picture shows. The text in the picture is another.
    """

    def cut(sections: Sequence[Section]) -> list[NewChunk]:
        windows = chunk_document(
            replace(document, sections=tuple(sections)),
            embedder,
            max_tokens=strategy.max_tokens,
            overlap_tokens=strategy.overlap_tokens,
            by_record=strategy.by_record,
        )
        return [_new_chunk(window) for window in windows]

    vector = np.frombuffer(document.vector, "<f4").astype(np.float32)
    if document.anchor != embedder.name or len(vector) != embedder.dimensions:
        return cut(document.sections), None
    described, *further = cut(document.sections[:1])
    digest = hashlib.sha256(b"picture\0" + document.vector).hexdigest()
    return [replace(described, digest=digest), *further, *cut(document.sections[1:])], vector


def document_digest(sha256: str, filename: str, means: str = "") -> str:
    """Returns the name of the document that this version of the parsers finds in a file.

    Args:
        means: what a picture or recording is read with.
    """
    text = f"{sha256}\0{PurePath(filename).suffix.lower()}\0{PARSER_VERSION}"
    text += f"\0{means}" if means else ""
    return hashlib.sha256(text.encode()).hexdigest()


def digest_of_text(text: str) -> str:
    """Returns the name of the vector of a chunk's text."""
    return hashlib.sha256(text.encode()).hexdigest()


def _new_chunk(window: Chunk) -> NewChunk:
    return NewChunk(
        digest=digest_of_text(window.text),
        text=window.text,
        start=window.start,
        end=window.end,
        place=msgspec.json.encode(window.place).decode(),
        tokens=window.tokens,
    )
