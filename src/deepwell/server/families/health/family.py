"""The family of health checks. They need no key, because a supervisor has none.

`/version` needs none either, as at vLLM: the page at `/` shows the same version to everybody, so a key would hide nothing. To
hide it, keep `/` and `/version` from the outside in a reverse proxy.
"""

from __future__ import annotations

from deepwell.server.families.family import Family
from deepwell.server.families.health.bodies import Health, Version
from deepwell.server.families.health.routes import router
from deepwell.server.http.declaration import OPEN, Declaration, Operation

__all__ = ["FAMILY"]

FAMILY = Family(
    Declaration(
        (
            Operation("get", "/healthz", Health),
            Operation("get", "/readyz", Health),
            Operation("get", "/health", "text"),
            Operation("get", "/version", Version),
        ),
        api="deepwell",
        scope=OPEN,
    ),
    router,
)
