"""`Breaker`: stops asking a service that keeps failing, and tries it again after a while."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

__all__ = ["Breaker"]

_FAILURES: Final = 5
_OPEN_S: Final = 15.0


class Breaker:
    """A circuit breaker. Five failures in a row open it for 15 seconds; then one request is let through as a trial.

    It belongs to one event loop.
    """

    def __init__(
        self,
        *,
        failures: int = _FAILURES,
        open_s: float = _OPEN_S,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = failures
        self._open_s = open_s
        self._now = now
        self._failures = 0
        self._opened: float | None = None
        self._trying = False

    @property
    def is_open(self) -> bool:
        """True while the service is not asked."""
        return self._opened is not None and (self._trying or self._now() - self._opened < self._open_s)

    def let_through(self) -> bool:
        """Tells whether the service may be asked now. One of `succeeded`, `failed` and `abandoned` is to follow."""
        if self.is_open:
            return False
        self._trying = self._opened is not None
        return True

    def succeeded(self) -> None:
        """Closes the breaker."""
        self._failures = 0
        self._opened = None
        self._trying = False

    def abandoned(self) -> None:
        """Notes that a request says nothing of the service, for example because its caller has gone."""
        self._trying = False

    def failed(self) -> None:
        """Counts a failure; that of a trial opens the breaker again."""
        self._failures += 1
        if self._trying or self._failures >= self._most:
            self._opened = self._now()
        self._trying = False
