"""The family of vector stores."""

from __future__ import annotations

from fastapi import FastAPI

from deepwell.server.context import ServerContext
from deepwell.server.families.family import Family
from deepwell.server.families.job_worker import Chore, JobWorker, Work
from deepwell.server.families.vector_stores.bodies import (
    FileBatch,
    FileChunkList,
    FileContentPage,
    SearchPage,
    StoreFile,
    StoreFileDeleted,
    StoreFileList,
    VectorStore,
    VectorStoreDeleted,
    VectorStoreList,
)
from deepwell.server.families.vector_stores.routes import router
from deepwell.server.families.vector_stores.schema import (
    FileBatchRequest,
    FileRequest,
    FileUpdate,
    SearchRequest,
    StoreRequest,
    StoreUpdate,
)
from deepwell.server.http.declaration import Declaration, Operation
from deepwell.storage.jobs.runner import JobOutcome, JobRun
from deepwell.storage.knowledge.files import INGEST_JOB
from deepwell.storage.knowledge.sources import FOLLOW_JOB

__all__ = ["FAMILY"]

_SWEEP_S = 600.0
_MOST_FOLLOWED = 256  # sources that one process follows
_STORES = "/v1/vector_stores"
_STORE = "/v1/vector_stores/{vector_store_id}"
_FILE = f"{_STORE}/files/{{file_id}}"
_BATCH = f"{_STORE}/file_batches/{{file_batch_id}}"


def _ingestion(context: ServerContext, _app: FastAPI) -> JobWorker:
    async def ingest(run: JobRun) -> JobOutcome:
        return await context.knowledge.ingest(run)

    async def follow(run: JobRun) -> JobOutcome:
        return await context.knowledge.follow(run)

    async def warm() -> None:
        await context.knowledge.warm()

    async def sweep() -> None:
        await context.knowledge.sweep()

    most = context.options.knowledge.ingest_jobs
    return JobWorker(
        context,
        [
            Work([INGEST_JOB], ingest, most),
            Work([FOLLOW_JOB], follow, _MOST_FOLLOWED if most else 0, traced=False),
        ],
        [
            Chore("the embedder cannot be loaded", warm),
            Chore("old knowledge cannot be swept", sweep, _SWEEP_S),
        ],
    )


FAMILY = Family(
    Declaration(
        (
            Operation("post", _STORES, VectorStore, request=StoreRequest),
            Operation("get", _STORES, VectorStoreList),
            Operation("get", _STORE, VectorStore),
            Operation("post", _STORE, VectorStore, request=StoreUpdate),
            Operation("delete", _STORE, VectorStoreDeleted),
            Operation("post", f"{_STORE}/search", SearchPage, request=SearchRequest),
            Operation("post", f"{_STORE}/files", StoreFile, request=FileRequest),
            Operation("get", f"{_STORE}/files", StoreFileList),
            Operation("get", _FILE, StoreFile),
            Operation("post", _FILE, StoreFile, request=FileUpdate),
            Operation("delete", _FILE, StoreFileDeleted),
            Operation("get", f"{_FILE}/content", FileContentPage),
            Operation("get", f"{_FILE}/chunks", FileChunkList),
            Operation("post", f"{_STORE}/file_batches", FileBatch, request=FileBatchRequest),
            Operation("get", _BATCH, FileBatch),
            Operation("post", f"{_BATCH}/cancel", FileBatch),
            Operation("get", f"{_BATCH}/files", StoreFileList),
        ),
        scope="files",
    ),
    router,
    worker=_ingestion,
)
