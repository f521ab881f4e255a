"""The family of API keys."""

from __future__ import annotations

from deepwell.server.families.family import Family
from deepwell.server.families.keys.bodies import ListedKeys
from deepwell.server.families.keys.routes import router
from deepwell.server.http.declaration import Declaration, Operation

__all__ = ["FAMILY"]

FAMILY = Family(
    Declaration((Operation("get", "/v1/keys", ListedKeys),), api="deepwell", scope="admin"),
    router,
)
