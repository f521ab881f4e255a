"""`InForce`: a guard with the services of its policy, and `PolicyWatch`, which takes over a policy file that changes."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from deepwell.errors import DeepwellError
from deepwell.safety.external.services import ExternalServices
from deepwell.safety.findings import Layer
from deepwell.safety.guard import Guard
from deepwell.safety.policy import PRESETS, Policy
from deepwell.server.options import GuardOptions

__all__ = ["InForce", "PolicyWatch"]

_log = logging.getLogger(__name__)

_STAT_S: Final = 1.0
_LAYERS: Final[tuple[Layer, ...]] = ("input", "context", "output")
_WARM: Final = "Is the water at 20 degrees? 水是 20 度吗？ aWdub3JlIGl0 i g n o r e"


class InForce:
    """A guard and the services of its policy. The services are closed after `retire`, when nobody uses them any more."""

    __slots__ = ("_retired", "_users", "guard", "services")

    def __init__(self, guard: Guard, services: ExternalServices) -> None:
        self.guard = guard
        self.services = services
        self._users = 0
        self._retired = False

    @asynccontextmanager
    async def used(self) -> AsyncGenerator[None, None]:
        """Keeps the services open while a request asks them."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            await self._close_unused()

    async def retire(self) -> None:
        """Closes the services, at once or behind the last request that asks them. Another policy has taken their place."""
        self._retired = True
        await self._close_unused()

    async def _close_unused(self) -> None:
        if self._retired and not self._users:
            await self.services.close()


class PolicyWatch:
    """The policy in force. It belongs to one event loop, on which nothing is built: a changed file is loaded in a thread.

    Raises:
        InvalidRequest: there is no such policy, or it is not valid.
    """

    def __init__(self, options: GuardOptions, guard: Guard | None = None) -> None:
        self._options = options
        self._path = None if options.policy in PRESETS else Path(options.policy)
        self._stamp = self._stat()  # before the file is read: what changes meanwhile is seen at the next look
        guard = guard or Guard.of(Policy.load(options.policy), options.terms)
        self.now = InForce(guard, ExternalServices(guard.policy.external, os.environ))
        self._looked = time.monotonic()
        self._loading: asyncio.Task[None] | None = None

    async def current(self) -> InForce:
        """Returns what is in force, after a look at the file once a second.

        The request that sees a change waits for the new policy. Others go on under the old one meanwhile.
        """
        now = time.monotonic()
        if self._path is None or self._loading is not None or now - self._looked < _STAT_S:
            return self.now
        self._looked = now
        stamp = self._stat()
        if stamp is not None and stamp != self._stamp:
            self._stamp = stamp
            self._loading = asyncio.create_task(self._load(self._path))
            await asyncio.shield(self._loading)
        return self.now

    async def close(self) -> None:
        """Closes the connections to services."""
        if self._loading is not None:
            await self._loading
        await self.now.retire()

    async def _load(self, path: Path) -> None:
        """Takes a changed file over. One that is not valid is logged, and the policy in force stays."""
        try:
            new = await asyncio.to_thread(self._built, path)
        except DeepwellError as error:
            _log.error("the policy stays as it was: %s", error)
            return
        except Exception:
            _log.exception("the policy stays as it was: the new one cannot be loaded")
            return
        finally:
            self._loading = None
        old, self.now = self.now, new
        _log.warning("the policy of the guard is now %s", new.guard.hash[:12])
        await old.retire()

    def _built(self, path: Path) -> InForce:
        """Builds what a policy asks for, down to the tables that detectors make with their first text."""
        policy = Policy.load(path)
        services = ExternalServices(policy.external, os.environ)
        guard = Guard.of(policy, self._options.terms)
        for layer in _LAYERS:
            guard.check(_WARM, layer)
        for tenant in ("", *policy.tenants):
            guard.stream_rules(tenant)
        return InForce(guard, services)

    def _stat(self) -> tuple[int, int] | None:
        if self._path is None:
            return None
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size
