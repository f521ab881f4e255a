"""The family of the catalog."""

from __future__ import annotations

from fastapi import FastAPI

from deepwell.server.context import ServerContext
from deepwell.server.families.catalog.bodies import CatalogList, MemoryPlan, UpdateReport
from deepwell.server.families.catalog.routes import router
from deepwell.server.families.catalog.schema import LookRequest, PullRequest
from deepwell.server.families.catalog.worker import PullWorker
from deepwell.server.families.family import Family
from deepwell.server.families.jobs.bodies import Job
from deepwell.server.http.declaration import Declaration, Operation

__all__ = ["FAMILY"]


def _worker(context: ServerContext, _app: FastAPI) -> PullWorker:
    assert context.options.catalog is not None  # the family is enabled
    return PullWorker(context, context.options.catalog)


FAMILY = Family(
    Declaration(
        (
            Operation("get", "/v1/catalog", CatalogList),
            Operation("get", "/v1/catalog/{id}/plan", MemoryPlan),
            Operation("post", "/v1/catalog/pull", Job, request=PullRequest),
            Operation("get", "/v1/catalog/updates", UpdateReport),
            Operation("post", "/v1/catalog/updates", Job, request=LookRequest),
        ),
        api="deepwell",
    ),
    router,
    enabled=lambda context: context.options.catalog is not None,
    worker=_worker,
)
