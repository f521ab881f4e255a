"""`named_or_auto`: the model of a request that generates text, or the default one where it leaves the choice to the server."""

from __future__ import annotations

from deepwell.errors import InvalidRequest, ModelNotFound
from deepwell.server.access.ticket import current_ticket
from deepwell.server.answering import Answering
from deepwell.server.context import ServerContext
from deepwell.server.routing.wording import AUTO
from deepwell.storage.database import Tenant

__all__ = ["named_or_auto"]


async def named_or_auto(context: ServerContext, name: str, tenant: Tenant) -> tuple[bool, Answering, str]:
    """Returns whether the server chooses what answers, the model that answers in text, and its adapter.

    The text model of `auto` is the first one that the server was started with, or else the first that it may load. A model, an
    adapter or an alias of this name goes before.

    Raises:
        ModelNotFound: the tenant sees no model of this name.
        InvalidRequest: the model generates no text, or the server has none that does.
    """
    if name != AUTO:
        return False, *await context.generator(name, tenant)
    try:
        return False, *await context.generator(name, tenant)
    except ModelNotFound:
        pass
    if (ticket := current_ticket()) is not None:
        ticket.replayable = False  # the same words may get another answer
    default = next((one.model.name for one in context.served if one.model.answers), None)
    if default is None and context.on_demand is not None:
        default = next(
            (one.name for one in await context.on_demand.offers() if "generate" in one.tasks), None
        )
    if default is None:
        raise InvalidRequest.of("auto_no_text_model", param="model")
    return True, *await context.generator(default, tenant)
