"""Names of models as ollama's clients write them: with a tag, which is `latest` if they give none."""

from __future__ import annotations

from deepwell.server.answering import Answering
from deepwell.server.context import ServerContext
from deepwell.storage.database import Tenant

__all__ = ["find", "generator", "served_name", "tagged"]

_LATEST = ":latest"


def tagged(name: str) -> str:
    """Returns the name under which a model is listed. Clients compare names with tags, so one without a tag gets `latest`."""
    return name if ":" in name else f"{name}{_LATEST}"


def served_name(context: ServerContext, name: str) -> str:
    """Returns the name without the tag that clients append."""
    if any(answering.model.name == name for answering in context.served):
        return name
    return name.removesuffix(_LATEST)


async def find(context: ServerContext, name: str, tenant: Tenant) -> tuple[Answering, str]:
    """Does as `ServerContext.find`, for a name that may have a tag."""
    return await context.find(served_name(context, name), tenant)


async def generator(context: ServerContext, name: str, tenant: Tenant) -> tuple[Answering, str]:
    """Does as `ServerContext.generator`, for a name that may have a tag."""
    return await context.generator(served_name(context, name), tenant)
