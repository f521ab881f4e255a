"""The family of live figures."""

from __future__ import annotations

from deepwell.server.families.family import Family
from deepwell.server.families.stats.bodies import ServerStats
from deepwell.server.families.stats.routes import router
from deepwell.server.http.declaration import Declaration, Operation

__all__ = ["FAMILY"]

FAMILY = Family(
    Declaration((Operation("get", "/v1/stats", ServerStats),), api="deepwell", scope="metrics"),
    router,
)
