"""The family of metrics."""

from __future__ import annotations

from deepwell.server.families.family import Family
from deepwell.server.families.metrics.routes import router
from deepwell.server.http.declaration import Declaration, Operation

__all__ = ["FAMILY"]

FAMILY = Family(
    Declaration((Operation("get", "/metrics", "text"),), api="deepwell", scope="metrics", limited=False),
    router,
)
