"""The family of graders."""

from __future__ import annotations

from deepwell.server.families.family import Family
from deepwell.server.families.graders.bodies import GraderRun, GraderValidation
from deepwell.server.families.graders.routes import GRADERS, router
from deepwell.server.families.graders.schema import GraderRunRequest, GraderValidateRequest
from deepwell.server.http.declaration import Declaration, Operation

__all__ = ["FAMILY"]

FAMILY = Family(
    Declaration(
        (
            Operation("post", f"{GRADERS}/run", GraderRun, request=GraderRunRequest),
            Operation("post", f"{GRADERS}/validate", GraderValidation, request=GraderValidateRequest),
        ),
        scope="tuning",
    ),
    router,
)
