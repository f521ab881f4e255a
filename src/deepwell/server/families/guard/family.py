"""The family of the guard."""

from __future__ import annotations

from deepwell.server.families.family import Family
from deepwell.server.families.guard.bodies import GuardState
from deepwell.server.families.guard.routes import router
from deepwell.server.http.declaration import Declaration, Operation

__all__ = ["FAMILY"]

FAMILY = Family(
    Declaration((Operation("get", "/v1/guard", GuardState),), api="deepwell", scope="admin"),
    router,
)
