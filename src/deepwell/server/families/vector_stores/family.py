"""The family of vector stores."""

from __future__ import annotations

from fastapi import FastAPI

from deepwell.server.context import ServerContext
from deepwell.server.families.family import Family
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
from deepwell.server.knowledge import IngestWorker

__all__ = ["FAMILY"]

_STORES = "/v1/vector_stores"
_STORE = "/v1/vector_stores/{vector_store_id}"
_FILE = f"{_STORE}/files/{{file_id}}"
_BATCH = f"{_STORE}/file_batches/{{file_batch_id}}"


def _ingestion(context: ServerContext, _app: FastAPI) -> IngestWorker:
    return IngestWorker(
        lambda: context.knowledge,
        context.kept,
        context.observer,
        lease_s=context.options.files.job_lease_s,
        first=context.options.worker == 0,
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
