"""Deepwell's own log lines, each with the id of the request it was written for."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from deepwell.server.observe.record import current

__all__ = ["SparseLog", "name_requests"]

_EVERY_S = 60.0


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


class SparseLog:
    """Writes one warning a minute at most, so that whoever causes it cannot fill the disk.

    The next one tells how many were left out.
    """

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._next = float("-inf")
        self._left_out = 0

    def warning(self, message: str, *args: object) -> None:
        """Writes a warning, unless one was written within the last minute."""
        now = self._clock()
        if now < self._next:
            self._left_out += 1
            return
        self._next = now + _EVERY_S
        if self._left_out:
            message, args = f"{message} (and %d times since the last such line)", (*args, self._left_out)
            self._left_out = 0
        self._log.warning(message, *args)
