"""`mcp_asked`: what a request asks of MCP servers: the tools it offers, and the calls that it approves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from deepwell.dialogue.dialogue import Dialogue
from deepwell.errors import InvalidRequest
from deepwell.server.context import ServerContext
from deepwell.server.families.responses.mcp.bodies import (
    McpApprovalRequest,
    McpApprovalResponse,
    McpCall,
    McpListTools,
)
from deepwell.server.families.responses.mcp.calling import Approved
from deepwell.server.families.responses.mcp.offers import McpOffers, mcp_offers
from deepwell.server.families.responses.mcp.schema import McpChoice, McpSpec
from deepwell.server.families.responses.schema import InputTokensRequest, ResponseRequest
from deepwell.server.families.responses.tool_schema import AllowedTools
from deepwell.server.guarding.guard import ServerGuard
from deepwell.server.guarding.requests import language_of

__all__ = ["McpWish", "mcp_asked"]


@dataclass(frozen=True, slots=True)
class McpWish:
    """The tools that a request offers, and the calls that it approves."""

    offers: McpOffers
    approved: Sequence[Approved]


async def mcp_asked(
    context: ServerContext,
    body: ResponseRequest | InputTokensRequest,
    items: tuple[Sequence[Any], Sequence[Any]],
    dialogue: Dialogue,
    guarded: tuple[ServerGuard, str] | None,
) -> tuple[McpWish | None, Dialogue]:
    """Returns what a request asks of MCP servers, None if nothing, and the dialogue with the tools it offers.

    Args:
        items: those before the request, and its own.
        guarded: the guard that reads the servers' words, and the tenant.

    Raises:
        InvalidRequest: a server must not be reached, or an approval fits no call.
        McpMissing: the extra [agents] is not installed.
        McpFailed: a server does not list its tools.
    """
    before, own = items
    specs = [tool for tool in body.tools or () if isinstance(tool, McpSpec)]
    choices, only, required = _chosen(body)
    if not specs or body.tool_choice == "none":
        specs = []
    lists = [one for one in (*before, *own) if isinstance(one, McpListTools)]
    offers = await mcp_offers(context, specs, lists)
    if guarded is not None:
        offers = await _read(offers, *guarded)
    approved = _approved(own, before, offers)
    if not specs and not choices:
        return None, dialogue
    return McpWish(offers, approved), offers.added(dialogue, choices, only=only, required=required)


def _chosen(body: ResponseRequest | InputTokensRequest) -> tuple[list[McpChoice], bool, bool]:
    """Returns the tools that `tool_choice` names, whether these alone are offered, and whether one must be called."""
    match body.tool_choice:
        case McpChoice() as choice:
            return [choice], False, True
        case AllowedTools(mode=mode, tools=some):
            named = [one for one in some if isinstance(one, McpChoice)]
            return named, mode == "auto", mode == "required"
        case _:
            return [], False, False


async def _read(offers: McpOffers, guard: ServerGuard, tenant: str) -> McpOffers:
    """Returns the offers with descriptions as the guard lets the model see them."""
    read = dict(offers.offers)
    for name, offer in offers.offers.items():
        text = offer.tool.description
        told = await guard.foreign(text, tenant, language_of(text)) if text else text
        if told != text:
            read[name] = replace(offer, tool=replace(offer.tool, description=told))
    return replace(offers, offers=read)


def _approved(own: Sequence[Any], before: Sequence[Any], offers: McpOffers) -> list[Approved]:
    """Returns the calls that a request approves and that were not made yet.

    Raises:
        InvalidRequest: it answers a request that is not there, or one for a tool that it does not offer.
    """
    items = [*before, *own]
    asked = {one.id: one for one in items if isinstance(one, McpApprovalRequest)}
    made = {one.approval_request_id for one in items if isinstance(one, McpCall)}
    found: list[Approved] = []
    for one in own:
        if not isinstance(one, McpApprovalResponse) or one.approval_request_id in made:
            continue
        request = asked.get(one.approval_request_id)
        if request is None:
            raise InvalidRequest(
                f"there is no approval request {one.approval_request_id!r}",
                fix="send it with the response, or name its response in previous_response_id",
                param="input",
            )
        if not one.approve:
            continue
        made.add(request.id)
        offer = offers.of(request.server_label, request.name)
        if offer is None:
            raise InvalidRequest(
                f"the approved tool {request.name!r} of {request.server_label!r} is not among the tools",
                fix="send the same MCP server in tools again",
                param="tools",
            )
        found.append(Approved(request.id, offer, request.arguments))
    return found
