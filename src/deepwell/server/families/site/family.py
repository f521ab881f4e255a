"""The family of pages for a browser. They need no key: a browser has none, and they tell nothing that a key protects."""

from __future__ import annotations

from deepwell.server.families.family import Family
from deepwell.server.families.site.routes import router
from deepwell.server.http.declaration import OPEN, Declaration, Operation

__all__ = ["FAMILY"]

FAMILY = Family(
    Declaration(
        (
            Operation("get", "/", "html"),
            Operation("head", "/", "html"),
            Operation("get", "/assets/{name}", "bytes"),
            Operation("get", "/start", "html"),
            Operation("get", "/docs", "html"),
        ),
        api="deepwell",
        scope=OPEN,
    ),
    router,
)
