"""The MCP servers that an operator names, and the hosts that requests may name."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from deepwell.errors import InvalidRequest
from deepwell.settings import InvalidSettings, Settings

__all__ = ["McpOptions", "RemoteServer", "server_of"]

_SCHEMES: Final = ("http://", "https://")


@dataclass(frozen=True, slots=True)
class RemoteServer:
    """An MCP server of others: at a URL, or a program on this machine that talks over its standard streams.

    Attributes:
        label: the name that stands in front of the names of its tools.
        url: address of its endpoint; empty: it is a program.
        headers: sent with every request. They are secrets, and shown nowhere.
        command: the program and its arguments. Only settings name one.
        trusted: whether the operator named it, so that its address may lie anywhere.
    """

    label: str
    url: str = ""
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    command: Sequence[str] = ()
    trusted: bool = False


@dataclass(frozen=True, slots=True)
class McpOptions:
    """Options of MCP. The settings of the same names describe each."""

    serves: bool = True
    hosts: tuple[str, ...] = ()
    servers: tuple[RemoteServer, ...] = ()
    timeout_s: float = 30.0

    @classmethod
    def of(cls, settings: Settings) -> McpOptions:
        """Reads the options from the settings.

        Raises:
            InvalidSettings: an entry of `mcp_servers` cannot be used.
        """
        servers = tuple(server_of(entry) for entry in settings.mcp_servers)
        return cls(settings.mcp, tuple(settings.mcp_hosts), servers, settings.mcp_timeout_s)

    def named(self, label: str) -> RemoteServer:
        """Returns the server that the operator named.

        Raises:
            InvalidRequest: there is none of that name.
        """
        for server in self.servers:
            if server.label == label:
                return server
        names = ", ".join(server.label for server in self.servers) or "none"
        raise InvalidRequest.of("mcp_server_unknown", name=label, known=names)


def server_of(entry: str) -> RemoteServer:
    """Returns the server that an entry of the setting `mcp_servers` names: `NAME=URL [VARIABLE]` or `NAME=COMMAND`.

    Raises:
        InvalidSettings: the variable of a token is not set, or the entry has words too many or no words.
    """
    label, _, rest = entry.partition("=")
    if not rest.startswith(_SCHEMES):
        try:
            command = tuple(shlex.split(rest))
        except ValueError as error:
            raise InvalidSettings.of("mcp_server_entry", name=label, reason=str(error)) from None
        if not command:
            raise InvalidSettings.of("mcp_server_entry", name=label, reason="there is no command")
        return RemoteServer(label, command=command, trusted=True)
    url, *more = rest.split()
    if len(more) > 1:
        raise InvalidSettings.of("mcp_server_entry", name=label, reason="more than a URL and a variable")
    headers: dict[str, str] = {}
    if more:
        token = os.environ.get(more[0], "")
        if not token or not token.isprintable() or not token.isascii():
            reason = f"the environment variable {more[0]} holds no token"
            raise InvalidSettings.of("mcp_server_entry", name=label, reason=reason)
        headers["authorization"] = f"Bearer {token}"
    return RemoteServer(label, url, headers, trusted=True)
