"""Deepwell's own log lines, each with the id of the request it was written for."""

from __future__ import annotations

import logging

from deepwell.server.observe.record import current

__all__ = ["name_requests"]


class _RequestId(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        request = current()
        record.request = f" [{request.request_id}]" if request is not None else ""
        return True


def name_requests(level: str) -> None:
    """Writes the package's log lines to standard error from `level` on, with request ids. A second call changes the level."""
    log = logging.getLogger("deepwell")
    log.setLevel(level.upper())
    if not any(isinstance(one, _RequestId) for handler in log.handlers for one in handler.filters):
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s:     %(name)s%(request)s: %(message)s"))
        handler.addFilter(_RequestId())
        log.addHandler(handler)
        log.propagate = False
