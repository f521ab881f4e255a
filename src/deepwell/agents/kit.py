"""The tools that come with Deepwell, by name, and what a server or a command line wires to them.

Nothing is imported before it is asked for: most tools need an extra.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from deepwell.agents.mcp.config import McpOptions
from deepwell.agents.tools.tool import Tool
from deepwell.errors import InvalidRequest
from deepwell.settings import Settings

if TYPE_CHECKING:
    from deepwell.agents.tools.knowledge import Searcher

__all__ = ["ABOUT", "AgentOptions", "Kit", "open_tools"]

ABOUT: Final = {
    "calculator": "exact arithmetic",
    "knowledge": "searches documents of the tenant",
    "files": "lists, reads and searches the files of a folder",
    "files_write": "writes files of that folder; a person approves each call",
    "sql": "reads CSV and SQLite files of that folder by SQL",
    "python": "runs Python programs in a sandbox without network",
}
"""Names of the tools, and what each does. Tools of an MCP server are called `mcp:NAME`."""


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """Options of agents on a server.

    Attributes:
        tools: names of the tools that runs may call.
        folder: what the tools of files read.
        runs: runs that one process works on at a time.
    """

    tools: tuple[str, ...] = ("calculator", "knowledge")
    folder: Path | None = None
    runs: int = 4

    @classmethod
    def of(cls, settings: Settings) -> AgentOptions:
        """Reads the options from the settings."""
        return cls(tuple(settings.agent_tools), settings.agent_folder, settings.agent_runs)


@dataclass(frozen=True, slots=True)
class Kit:
    """The parts that tools are made of.

    Attributes:
        folder: what the tools of files read; None: there are none of those tools.
        searcher: searches documents; None: there is no tool for it.
        mcp: the MCP servers that may be used.
    """

    folder: Path | None = None
    searcher: Searcher | None = None
    mcp: McpOptions = field(default_factory=McpOptions)


async def open_tools(names: Sequence[str], kit: Kit, stack: AsyncExitStack) -> list[Tool]:
    """Returns the tools of some names. What they hold open is closed with `stack`.

    Raises:
        InvalidRequest: there is no tool of a name, or it needs what is not there.
        MissingDependency: the extra of a tool is missing.
        DeepwellError: a tool cannot be had on this machine.
    """
    found: dict[str, Tool] = {}
    for name in dict.fromkeys(names):
        for tool in await _made(name, kit, stack):
            found.setdefault(tool.name, tool)
    return list(found.values())


async def _made(name: str, kit: Kit, stack: AsyncExitStack) -> Sequence[Tool]:
    if name.startswith("mcp:"):
        return await _remote(name.removeprefix("mcp:"), kit, stack)
    make = _FACTORIES.get(name)
    if make is None:
        raise InvalidRequest.of("agent_tool_unknown", name=name, known=", ".join(_FACTORIES), param="tools")
    return await make(kit)


async def _remote(label: str, kit: Kit, stack: AsyncExitStack) -> Sequence[Tool]:
    from deepwell.agents.mcp.client import open_session
    from deepwell.agents.mcp.remote import remote_tools

    server = kit.mcp.named(label)
    session = await stack.enter_async_context(open_session(server, kit.mcp.hosts, kit.mcp.timeout_s))
    tools, _ = await remote_tools(session)
    return [replace(one, approval="always") if one.effects == "writes" else one for one in tools]


async def _calculator(_kit: Kit) -> Sequence[Tool]:
    from deepwell.agents.tools.calculator import calculator

    return [calculator()]


async def _knowledge(kit: Kit) -> Sequence[Tool]:
    from deepwell.agents.tools.knowledge import knowledge_tool

    if kit.searcher is None:
        raise InvalidRequest.of("agent_no_knowledge", param="tools")
    return [knowledge_tool(kit.searcher)]


async def _files(kit: Kit) -> Sequence[Tool]:
    from deepwell.agents.tools.files import file_tools

    return file_tools(_folder(kit, "files"))


async def _files_write(kit: Kit) -> Sequence[Tool]:
    from deepwell.agents.tools.files import file_tools

    tools = file_tools(_folder(kit, "files_write"), write=True)
    return [replace(one, approval="always") if one.effects == "writes" else one for one in tools]


async def _sql(kit: Kit) -> Sequence[Tool]:
    from deepwell.agents.tools.sql import sql_tools

    # A process reads the tables of each file, which may take seconds.
    return await asyncio.to_thread(sql_tools, _folder(kit, "sql"))


async def _python(_kit: Kit) -> Sequence[Tool]:
    from deepwell.agents.sandbox import SandboxUnavailable, available
    from deepwell.agents.tools.python import python_tool

    if (why := await asyncio.to_thread(available)) is not None:
        raise SandboxUnavailable(
            f"programs cannot be run safely here: {why}", fix="leave out the tool python"
        )
    return [python_tool()]


_FACTORIES: Final[dict[str, Callable[[Kit], Awaitable[Sequence[Tool]]]]] = {
    "calculator": _calculator,
    "knowledge": _knowledge,
    "files": _files,
    "files_write": _files_write,
    "sql": _sql,
    "python": _python,
}


def _folder(kit: Kit, name: str) -> Path:
    if kit.folder is None or not kit.folder.is_dir():
        raise InvalidRequest.of("agent_no_folder", name=name, folder=kit.folder or "none", param="tools")
    return kit.folder
