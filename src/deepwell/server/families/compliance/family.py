"""The family of compliance reports."""

from __future__ import annotations

from fastapi import FastAPI

from deepwell.server.context import ServerContext
from deepwell.server.families.compliance.routes import router
from deepwell.server.families.compliance.schema import ComplianceRequest
from deepwell.server.families.compliance.worker import ComplianceWorker
from deepwell.server.families.family import Family
from deepwell.server.families.jobs.bodies import Job
from deepwell.server.http.declaration import Declaration, Operation

__all__ = ["FAMILY"]


def _worker(context: ServerContext, _app: FastAPI) -> ComplianceWorker:
    return ComplianceWorker(context)


FAMILY = Family(
    Declaration(
        (Operation("post", "/v1/compliance/reports", Job, request=ComplianceRequest),),
        api="deepwell",
        scope="admin",
    ),
    router,
    worker=_worker,
)
