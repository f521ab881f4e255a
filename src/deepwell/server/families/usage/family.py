"""The family of usage."""

from __future__ import annotations

from fastapi import FastAPI

from deepwell.server.context import ServerContext
from deepwell.server.families.family import Family
from deepwell.server.families.usage.bodies import UsagePage
from deepwell.server.families.usage.routes import UsageWriter, router
from deepwell.server.http.declaration import Declaration, Operation

__all__ = ["FAMILY"]


def _writer(context: ServerContext, _app: FastAPI) -> UsageWriter:
    return UsageWriter(context)


FAMILY = Family(
    Declaration(
        tuple(
            Operation("get", f"/v1/organization/usage/{name}", UsagePage)
            for name in ("completions", "audio_speeches", "audio_transcriptions", "images")
        )
    ),
    router,
    worker=_writer,
)
