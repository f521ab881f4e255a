"""The family of aliases."""

from __future__ import annotations

from fastapi import FastAPI

from deepwell.server.access.alias_names import AliasWatcher
from deepwell.server.context import ServerContext
from deepwell.server.families.aliases.bodies import Alias, AliasChangeList, AliasDeleted, AliasList
from deepwell.server.families.aliases.routes import router
from deepwell.server.families.aliases.schema import AliasRequest
from deepwell.server.families.family import Family
from deepwell.server.http.declaration import Declaration, Operation
from deepwell.storage.registry.ledger import Ledger

__all__ = ["FAMILY"]


def _watcher(context: ServerContext, _app: FastAPI) -> AliasWatcher:
    async def tell() -> None:
        """Tells the metrics how roll-outs have ended, by whatever process."""
        context.metrics.rollouts.learn(await Ledger(context.state.database).readable())

    context.metrics.rollouts.watch(context.aliases, lambda: context.rollouts)
    return AliasWatcher(context.aliases, context.kept, tell)


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
    worker=_watcher,
)
