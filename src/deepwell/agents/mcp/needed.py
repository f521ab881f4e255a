"""`require_mcp`: the error for a machine without the extra [agents], and what the package `mcp` may log."""

from __future__ import annotations

import logging
from importlib.util import find_spec

from deepwell.errors import MissingDependency

__all__ = ["McpMissing", "require_mcp"]

_MOST_SAID = 200
# Loggers that tell of a peer's message with the traceback of the parser.
_TALKATIVE = (
    "mcp.client.stdio",
    "mcp.client.streamable_http",
    "mcp.server.streamable_http",
    "mcp.server.streamable_http_manager",
)


class McpMissing(MissingDependency):
    """Raised where the packages of the extra [agents] are not installed."""

    status = 501
    code = "mcp_missing"


def require_mcp() -> None:
    """Checks that the packages of the extra are there, without importing them.

    What the package then logs of peers that send no protocol is one line each, and no traceback.

    Raises:
        McpMissing: one of them is not.
    """
    for package in ("mcp", "jsonschema"):
        if find_spec(package) is None:
            raise McpMissing.of("mcp_extra_missing", package=package)
    for name in _TALKATIVE:
        logging.getLogger(name).addFilter(_one_line)  # once, however often it is asked for


def _one_line(record: logging.LogRecord) -> bool:
    if record.exc_info and record.exc_info[0] is not None:
        said = " ".join(str(record.exc_info[1]).split())[:_MOST_SAID]
        record.msg, record.args = f"{record.getMessage()}: {record.exc_info[0].__name__}: {said}", ()
        record.exc_info = record.exc_text = None
    return True
