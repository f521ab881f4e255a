"""The family of the audit trail."""

from __future__ import annotations

from deepwell.server.families.audit.bodies import AuditEntryList, AuditVerification
from deepwell.server.families.audit.routes import router
from deepwell.server.families.family import Family
from deepwell.server.http.declaration import Declaration, Operation

__all__ = ["FAMILY"]

FAMILY = Family(
    Declaration(
        (
            Operation("get", "/v1/audit/entries", AuditEntryList),
            Operation("post", "/v1/audit/verify", AuditVerification),
        ),
        api="deepwell",
        scope="admin",
    ),
    router,
)
