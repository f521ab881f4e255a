"""The family of aliases."""

from __future__ import annotations

from fastapi import FastAPI

from deepwell.server.context import ServerContext
from deepwell.server.families.aliases.bodies import Alias, AliasChangeList, AliasDeleted, AliasList
from deepwell.server.families.aliases.promoted import AliasWorker
from deepwell.server.families.aliases.routes import router
from deepwell.server.families.aliases.schema import AliasRequest
from deepwell.server.families.family import Family
from deepwell.server.http.declaration import Declaration, Operation

__all__ = ["FAMILY"]


def _worker(context: ServerContext, _app: FastAPI) -> AliasWorker:
    return AliasWorker(context)


FAMILY = Family(
    Declaration(
        (
            Operation("get", "/v1/aliases", AliasList),
            Operation("post", "/v1/aliases", Alias, request=AliasRequest),
            Operation("delete", "/v1/aliases/{name}", AliasDeleted),
            Operation("get", "/v1/aliases/{name}/history", AliasChangeList),
        ),
        api="deepwell",
    ),
    router,
    worker=_worker,
)
