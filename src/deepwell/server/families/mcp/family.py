"""The family of MCP."""

from __future__ import annotations

from deepwell.server.context import ServerContext
from deepwell.server.families.family import Family
from deepwell.server.families.mcp.bodies import RpcAnswer
from deepwell.server.families.mcp.routes import router
from deepwell.server.http.declaration import Declaration, Operation

__all__ = ["FAMILY"]


def _enabled(context: ServerContext) -> bool:
    return context.options.mcp.serves


FAMILY = Family(
    Declaration(
        (Operation("post", "/mcp", RpcAnswer),),
        api="deepwell",
        in_one_process=True,  # its tools call routes that may live there
    ),
    router,
    enabled=_enabled,
)
