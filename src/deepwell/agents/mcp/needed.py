"""`require_mcp`: the error for a machine without the extra [agents]."""

from __future__ import annotations

from importlib.util import find_spec

from deepwell.errors import MissingDependency

__all__ = ["McpMissing", "require_mcp"]


class McpMissing(MissingDependency):
    """Raised where the packages of the extra [agents] are not installed."""

    status = 501
    code = "mcp_missing"


def require_mcp() -> None:
    """Checks that the packages of the extra are there, without importing them.

    Raises:
        McpMissing: one of them is not.
    """
    for package in ("mcp", "jsonschema"):
        if find_spec(package) is None:
            raise McpMissing.of("mcp_extra_missing", package=package)
