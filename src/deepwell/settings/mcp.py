"""Settings of MCP: whether the server is one, and the servers of others whose tools may be used."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from deepwell.settings.section import Section

__all__ = ["McpSettings"]

_Listed = Annotated[list[str], NoDecode]
_ENTRY = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}=\S.*")


class McpSettings(Section):
    """The section of MCP: whether the server is one, and the servers of others whose tools may be used."""

    mcp: bool = Field(
        True, description="Whether the server offers its tools, knowledge and models to MCP clients at /mcp."
    )
    mcp_hosts: _Listed = Field(
        default_factory=list[str],
        description="Hosts of MCP servers that requests may name, such as mcp.example.com, *.internal or 10.1.0.0/16.",
    )
    mcp_servers: _Listed = Field(
        default_factory=list[str],
        description="MCP servers by name, between semicolons: NAME=URL [VARIABLE of a bearer token], or NAME=COMMAND.",
    )
    mcp_timeout_s: float = Field(
        30.0,
        gt=0,
        le=600,
        description="Seconds that a server of others may take to connect and list its tools, or to answer one call.",
    )

    @field_validator("mcp_hosts", mode="before")
    @classmethod
    def _split_mcp_hosts(cls, value: Any) -> Any:
        return value.replace(",", " ").split() if isinstance(value, str) else value

    @field_validator("mcp_servers", mode="before")
    @classmethod
    def _split_servers(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return [one.strip() for one in value.split(";") if one.strip()]

    @field_validator("mcp_servers")
    @classmethod
    def _check_servers(cls, value: list[str]) -> list[str]:
        for entry in value:
            if not _ENTRY.fullmatch(entry):
                raise ValueError(
                    f"{entry.partition('=')[0]!r} needs NAME=URL or NAME=COMMAND, NAME in lower case"
                )
        names = [entry.partition("=")[0] for entry in value]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two servers have the name {twice!r}")
        return value
