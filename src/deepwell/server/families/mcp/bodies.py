"""The bodies of `/mcp`: answers of JSON-RPC 2.0, whose results the Model Context Protocol describes."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Struct, UnsetType

__all__ = ["RpcAnswer", "RpcError"]


class RpcError(Struct):
    """An error of JSON-RPC."""

    code: int
    message: str
    data: Any = None


class RpcAnswer(Struct):
    """The answer to one request: a result or an error."""

    jsonrpc: str
    id: int | str | None
    result: dict[str, Any] | UnsetType = UNSET
    error: RpcError | UnsetType = UNSET
