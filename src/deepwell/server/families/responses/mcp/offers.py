"""The tools of MCP servers that a request offers to the model, and what the request lets the model do with them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from deepwell.agents.mcp.client import McpSession, open_session
from deepwell.agents.mcp.config import RemoteServer
from deepwell.agents.mcp.listing import ListedTool, offered_name, plain_text
from deepwell.agents.mcp.needed import require_mcp
from deepwell.agents.mcp.schemas import SchemaRefused, checked_schema, is_plain
from deepwell.agents.mcp.transport import check_headers, check_host
from deepwell.dialogue.dialogue import Dialogue
from deepwell.dialogue.tools import FunctionTool
from deepwell.errors import InvalidRequest
from deepwell.server.context import ServerContext
from deepwell.server.families.responses.mcp.bodies import McpListedTool, McpListTools
from deepwell.server.families.responses.mcp.parts import McpListed
from deepwell.server.families.responses.mcp.schema import McpChoice, McpSpec, ToolFilter

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

__all__ = ["McpOffers", "Offer", "mcp_offers", "shown_spec"]


@dataclass(frozen=True, slots=True)
class Offer:
    """A tool that the model may call.

    Attributes:
        approval: whether a person must approve each call.
    """

    label: str
    tool: ListedTool
    approval: bool

    @property
    def function(self) -> FunctionTool:
        """The tool as the model sees it. The words of its server are marked as such."""
        description = f"[{self.label}] {self.tool.description}".strip()
        name, schema = offered_name(self.label, self.tool.name), self.tool.schema
        return FunctionTool(name, description, schema, is_plain(schema))


@dataclass(frozen=True, slots=True)
class McpOffers:
    """The servers of a request, and the offered tools by the names that the model has for them."""

    servers: Mapping[str, RemoteServer] = field(default_factory=dict[str, RemoteServer])
    offers: Mapping[str, Offer] = field(default_factory=dict[str, Offer])
    listed: Sequence[McpListed] = ()

    def of(self, label: str, name: str) -> Offer | None:
        """Returns the offer of a tool by the names of its server and its own."""
        return self.offers.get(offered_name(label, name))

    def added(
        self, dialogue: Dialogue, choices: Sequence[McpChoice], *, only: bool, required: bool
    ) -> Dialogue:
        """Returns the dialogue with the offered tools.

        Args:
            choices: tools that `tool_choice` names.
            only: whether these alone are offered, of all.
            required: whether one of them must be called, or one of the functions that the dialogue's choice names.

        Raises:
            InvalidRequest: `tool_choice` names a tool that is not offered.
        """
        named: list[str] = []
        for choice in choices:
            found = [
                key
                for key, one in self.offers.items()
                if one.label == choice.server_label and choice.name in (None, one.tool.name)
            ]
            if not found:
                what = choice.server_label if choice.name is None else f"{choice.server_label}: {choice.name}"
                raise InvalidRequest(
                    f"tool_choice names the MCP tool {what!r}, which is not among the tools",
                    fix="send its server in tools, and check allowed_tools",
                    param="tool_choice",
                )
            named += found
        shown = [one.function for key, one in self.offers.items() if not only or key in named]
        choice = dialogue.tool_choice
        if required:
            choice = (*(choice if isinstance(choice, tuple) else ()), *named)
        return replace(dialogue, tools=(*dialogue.tools, *shown), tool_choice=choice)

    @asynccontextmanager
    async def sessions(self, context: ServerContext) -> AsyncGenerator[Sessions]:
        """Opens sessions as they are needed, and closes all of them at the end of the block."""
        sessions = Sessions(context, self)
        try:
            yield sessions
        finally:
            await sessions.close()


class Sessions:
    """The sessions of one answer, a server's opened at its first call."""

    def __init__(self, context: ServerContext, offers: McpOffers) -> None:
        self._context = context
        self._offers = offers
        self._open: dict[str, McpSession] = {}

    def of(self, label: str) -> McpSession:
        """Returns the session with a server."""
        if label not in self._open:
            options = self._context.options.mcp
            server = self._offers.servers[label]
            self._open[label] = McpSession(server, options.hosts, options.timeout_s)
            self._context.metrics.mcp.sessions.labels("client").inc()
        return self._open[label]

    async def close(self) -> None:
        """Closes all of them."""
        opened, self._open = list(self._open.values()), {}
        try:
            await asyncio.gather(*(one.close() for one in opened))
        finally:
            self._context.metrics.mcp.sessions.labels("client").dec(len(opened))


async def mcp_offers(
    context: ServerContext, specs: Sequence[McpSpec], known: Sequence[McpListTools]
) -> McpOffers:
    """Returns the tools that a request offers. Servers whose list is known already are not asked again.

    Raises:
        InvalidRequest: a server must not be reached, or the operator has named none of that label.
        McpMissing: the extra [agents] is not installed.
        McpFailed: a server does not list its tools.
    """
    if not specs:
        return McpOffers()
    require_mcp()
    servers = {spec.server_label: _server(context, spec, number) for number, spec in enumerate(specs)}
    lists = {one.server_label: one for one in known}
    found = await asyncio.gather(
        *(_tools(context, servers[spec.server_label], lists.get(spec.server_label)) for spec in specs)
    )
    offers: dict[str, Offer] = {}
    listed: list[McpListed] = []
    for spec, (tools, refused) in zip(specs, found, strict=True):
        allowed = [one for one in tools if _among(one, spec.allowed_tools, otherwise=True)]
        for one in allowed:
            name = offered_name(spec.server_label, one.name)
            offers[name] = Offer(spec.server_label, one, _needs_approval(spec, one))
        if spec.server_label not in lists:
            listed.append(McpListed(spec.server_label, [_shown(one) for one in allowed], _remark(refused)))
    return McpOffers(servers, offers, listed)


def shown_spec(spec: McpSpec) -> dict[str, Any]:
    """Returns the tool as a response shows and keeps it: without secrets, and without the query of its address."""
    shown = spec.model_dump(exclude_none=True, exclude={"headers", "authorization"})
    if spec.server_url is not None:
        parts = urlsplit(spec.server_url)
        shown["server_url"] = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    return shown


def _server(context: ServerContext, spec: McpSpec, number: int) -> RemoteServer:
    options, param = context.options.mcp, f"tools[{number}]"
    if spec.server_url is None:
        return replace(options.named(spec.server_label), label=spec.server_label)
    check_host(spec.server_url, options.hosts, f"{param}.server_url")
    headers = dict(spec.headers or {})
    if spec.authorization is not None:
        headers["Authorization"] = f"Bearer {spec.authorization}"
    check_headers(headers, f"{param}.headers")
    return RemoteServer(spec.server_label, spec.server_url, headers)


async def _tools(
    context: ServerContext, server: RemoteServer, known: McpListTools | None
) -> tuple[list[ListedTool], list[str]]:
    if known is not None:
        return _known(known)
    options = context.options.mcp
    with context.metrics.mcp.sessions.labels("client").track_inprogress():
        async with open_session(server, options.hosts, options.timeout_s) as session:
            return await session.tools()


def _known(item: McpListTools) -> tuple[list[ListedTool], list[str]]:
    """Returns the tools of a list that a client or the store has given back."""
    tools: list[ListedTool] = []
    refused: list[str] = []
    for one in item.tools:
        try:
            schema = checked_schema(one.input_schema)
        except SchemaRefused as error:
            refused.append(f"{one.name}: {error}")
            continue
        read_only = (one.annotations or {}).get("readOnlyHint")
        hint = read_only if isinstance(read_only, bool) else None
        tools.append(ListedTool(one.name, plain_text(one.description or ""), schema, hint, one.annotations))
    return tools, refused


def _among(tool: ListedTool, some: Sequence[str] | ToolFilter | None, *, otherwise: bool) -> bool:
    """Returns whether a filter holds a tool; `otherwise` if there is none."""
    if some is None:
        return otherwise
    if not isinstance(some, ToolFilter):
        return tool.name in some
    named = some.tool_names is None or tool.name in some.tool_names
    reads = some.read_only is None or bool(tool.read_only) is some.read_only
    return named and reads and (some.tool_names is not None or some.read_only is not None)


def _needs_approval(spec: McpSpec, tool: ListedTool) -> bool:
    rule = spec.require_approval
    if rule is None or isinstance(rule, str):
        return rule != "never"
    if _among(tool, rule.always, otherwise=False):
        return True
    return not _among(tool, rule.never, otherwise=False)


def _shown(tool: ListedTool) -> McpListedTool:
    annotations = None if tool.annotations is None else dict(tool.annotations)
    return McpListedTool(tool.name, dict(tool.schema), tool.description, annotations)


def _remark(refused: Sequence[str]) -> str | None:
    if not refused:
        return None
    more = f" and {len(refused) - 5} more" if len(refused) > 5 else ""
    return f"not used: {'; '.join(refused[:5])}{more}"
