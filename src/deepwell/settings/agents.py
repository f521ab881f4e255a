"""Settings of agents: the tools that runs on the server may call, and the folder that some of them read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from deepwell.settings.section import Section

__all__ = ["AgentSettings"]

_Listed = Annotated[list[str], NoDecode]
_TOOLS = ("calculator", "knowledge", "files", "files_write", "sql", "python")
_MCP = re.compile(r"mcp:[a-z0-9][a-z0-9_-]{0,31}")


class AgentSettings(Section):
    """The section of agents: the tools that runs on the server may call, and the folder that some of them read."""

    agent_tools: _Listed = Field(
        default_factory=lambda: ["calculator", "knowledge"],
        description="Tools that agents on the server call: calculator, knowledge, files, files_write, sql, python, mcp:NAME.",
    )
    agent_folder: Path | None = Field(
        None,
        description="Folder that files and sql read and files_write changes; every key with the scope inference sees it all.",
    )
    agent_runs: int = Field(
        4, ge=1, le=64, description="Runs of agents that one server process works on at a time."
    )

    @field_validator("agent_tools", mode="before")
    @classmethod
    def _split_tools(cls, value: Any) -> Any:
        return value.replace(",", " ").split() if isinstance(value, str) else value

    @field_validator("agent_tools")
    @classmethod
    def _known_tools(cls, names: list[str]) -> list[str]:
        if wrong := next((one for one in names if one not in _TOOLS and not _MCP.fullmatch(one)), None):
            raise ValueError(
                f"{wrong!r} is no tool: use {', '.join(_TOOLS)}, or mcp:NAME of a server in mcp_servers"
            )
        return list(dict.fromkeys(names))
