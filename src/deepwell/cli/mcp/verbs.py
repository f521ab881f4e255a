"""`deepwell mcp serve|tools|call`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepwell.cli.options import ApiKeyOption, ServerPort, Url
from deepwell.cli.output import JsonFlag, console, reported_errors, write_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deepwell.agents.mcp.client import McpSession
    from deepwell.agents.mcp.config import RemoteServer
    from deepwell.agents.mcp.listing import ListedTool
    from deepwell.settings import Settings

__all__ = ["call", "serve", "tools"]

OWN = "deepwell"

_Server = Annotated[
    str,
    typer.Argument(
        help="MCP server: a URL, a name in the setting mcp_servers, or deepwell for the Deepwell server itself.",
        metavar="SERVER",
    ),
]


def serve(url: Url = None, port: ServerPort = None, api_key: ApiKeyOption = None) -> None:
    """Serve MCP on standard input and output, for a desktop client that starts this command.

    Everything is done by a running Deepwell server, with the key that is given here: `deepwell serve` starts one.
    """
    with reported_errors(as_json=False):
        from deepwell.agents.mcp.routing import HttpRoutes
        from deepwell.agents.mcp.stdio import serve_stdio
        from deepwell.cli.servers import client_key, server_url

        settings = _settings(url, port, api_key)
        asyncio.run(serve_stdio(HttpRoutes(server_url(settings), client_key(settings))))


def tools(
    server: _Server = OWN,
    url: Url = None,
    port: ServerPort = None,
    api_key: ApiKeyOption = None,
    json: JsonFlag = False,
) -> None:
    """List the tools of an MCP server, and those that cannot be used with the reason."""
    with reported_errors(as_json=json):
        settings = _settings(url, port, api_key)
        found, refused = asyncio.run(_listed(settings, server))
        if json:
            listed = [
                {"name": one.name, "description": one.description, "parameters": one.schema} for one in found
            ]
            write_json({"tools": listed, "refused": refused})
            return
        for one in found:
            console().print(f"{one.name} {_shape(one)}".rstrip(), soft_wrap=True)
            console().print(f"    {one.description}", soft_wrap=True)
        for reason in refused:
            console().print(f"not used: {reason}", soft_wrap=True)


def call(
    server: _Server,
    tool: Annotated[str, typer.Argument(help="Name of the tool, as its server has it.", metavar="TOOL")],
    given: Annotated[
        list[str] | None,
        typer.Argument(
            help="Arguments, each as NAME=VALUE; a value that is JSON is taken as such.", metavar="NAME=VALUE"
        ),
    ] = None,
    arguments: Annotated[
        str | None, typer.Option(help="Arguments as one JSON object, in place of NAME=VALUE.", metavar="JSON")
    ] = None,
    url: Url = None,
    port: ServerPort = None,
    api_key: ApiKeyOption = None,
    json: JsonFlag = False,
) -> None:
    """Call a tool of an MCP server and print its result. Exits with 1 if the tool says that it failed."""
    with reported_errors(as_json=json):
        settings = _settings(url, port, api_key)
        asked = _arguments(tool, given or (), arguments)
        result = asyncio.run(_called(settings, server, tool, asked))
        if json:
            write_json({"text": result.text, "failed": result.failed})
        else:
            console(stderr=result.failed).print(result.text, soft_wrap=True)
        if result.failed:
            raise typer.Exit(1)


def _settings(url: str | None, port: int | None, api_key: str | None) -> Settings:
    from deepwell.settings import Settings

    return Settings.load(url=url, port=port, api_key=api_key)


def _server(settings: Settings, named: str) -> tuple[RemoteServer, float]:
    """Returns the server of a name or URL, and the seconds that it may take."""
    from deepwell.agents.mcp.config import McpOptions, RemoteServer
    from deepwell.cli.servers import client_key, server_url

    options = McpOptions.of(settings)
    if named.startswith(("http://", "https://")):
        return RemoteServer(named, named, trusted=True), options.timeout_s
    if named == OWN and all(one.label != OWN for one in options.servers):
        key = client_key(settings)
        headers = {} if key is None else {"authorization": f"Bearer {key.get_secret_value()}"}
        return RemoteServer(OWN, f"{server_url(settings)}/mcp", headers, trusted=True), options.timeout_s
    return options.named(named), options.timeout_s


async def _listed(settings: Settings, named: str) -> tuple[list[ListedTool], list[str]]:
    from deepwell.agents.mcp.client import open_session

    server, timeout_s = _server(settings, named)
    async with open_session(server, timeout_s=timeout_s) as session:
        return await session.tools()


async def _called(settings: Settings, named: str, tool: str, arguments: dict[str, Any]) -> Any:
    from deepwell.agents.mcp.client import open_session

    server, timeout_s = _server(settings, named)
    async with open_session(server, timeout_s=timeout_s) as session:
        await _check(session, tool, arguments)
        return await session.call(tool, arguments)


async def _check(session: McpSession, tool: str, arguments: dict[str, Any]) -> None:
    """Checks a call before it is made.

    Raises:
        InvalidRequest: the server has no such tool, or the arguments do not fit.
    """
    from deepwell.agents.mcp.schemas import arguments_problem
    from deepwell.errors import InvalidRequest

    found, _ = await session.tools()
    label = session.server.label
    listed = next((one for one in found if one.name == tool), None)
    if listed is None:
        known = ", ".join(one.name for one in found)
        raise InvalidRequest.of("mcp_tool_unknown", server=label, name=tool, known=known)
    if problem := arguments_problem(listed.schema, arguments):
        raise InvalidRequest.of("mcp_arguments", name=tool, reason=problem)


def _arguments(tool: str, given: Sequence[str], whole: str | None) -> dict[str, Any]:
    import json as codec

    from deepwell.errors import InvalidRequest

    if whole is not None:
        try:
            found: Any = codec.loads(whole)
        except ValueError:
            found = None
        if not isinstance(found, dict) or given:
            reason = "--arguments takes one JSON object, alone"
            raise InvalidRequest.of("mcp_arguments", name=tool, reason=reason)
        return found
    arguments: dict[str, Any] = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not equals:
            raise InvalidRequest.of("mcp_arguments", name=tool, reason=f"{one!r} has no =")
        try:
            arguments[name] = codec.loads(value)
        except ValueError:
            arguments[name] = value
    return arguments


def _shape(tool: ListedTool) -> str:
    """Returns the names of a tool's arguments, those in brackets that may be left out."""
    required = tool.schema.get("required", ())
    names = tool.schema.get("properties", {})
    return " ".join(name if name in required else f"[{name}]" for name in names)
