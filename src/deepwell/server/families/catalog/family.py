"""The family of the catalog."""

from __future__ import annotations

from deepwell.server.families.catalog.bodies import CatalogList, MemoryPlan, UpdateReport
from deepwell.server.families.catalog.routes import router
from deepwell.server.families.catalog.schema import LookRequest, PullRequest
from deepwell.server.families.catalog.worker import pull_worker
from deepwell.server.families.family import Family
from deepwell.server.families.jobs.bodies import Job
from deepwell.server.http.declaration import Declaration, Operation

__all__ = ["FAMILY"]


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
    worker=pull_worker,
)
