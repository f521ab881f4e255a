"""The family of compliance reports."""

from __future__ import annotations

from deepwell.server.families.compliance.routes import router
from deepwell.server.families.compliance.schema import ComplianceRequest
from deepwell.server.families.compliance.worker import compliance_worker
from deepwell.server.families.family import Family
from deepwell.server.families.jobs.bodies import Job
from deepwell.server.http.declaration import Declaration, Operation

__all__ = ["FAMILY"]


FAMILY = Family(
    Declaration(
        (Operation("post", "/v1/compliance/reports", Job, request=ComplianceRequest),),
        api="deepwell",
        scope="admin",
    ),
    router,
    worker=compliance_worker,
)
