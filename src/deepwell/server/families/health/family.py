"""The family of health checks. They need no key, because a supervisor has none."""

from __future__ import annotations

from deepwell.server.families.family import Family
from deepwell.server.families.health.bodies import Health
from deepwell.server.families.health.routes import router
from deepwell.server.http.declaration import OPEN, Declaration, Operation

__all__ = ["FAMILY"]

FAMILY = Family(
    Declaration(
        (Operation("get", "/healthz", Health), Operation("get", "/readyz", Health)),
        api="deepwell",
        scope=OPEN,
    ),
    router,
)
