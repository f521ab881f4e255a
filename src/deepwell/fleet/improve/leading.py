"""`lead`: lets one process at a time work on the rounds of an alias, over all servers of one database."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from hashlib import sha256
from typing import Any, Final

from deepwell.errors import DeepwellError
from deepwell.fleet.improve.loop import Progress
from deepwell.storage.database import Tenant
from deepwell.storage.jobs.rows import Job, JobStore

__all__ = ["OPERATOR", "lead"]

OPERATOR: Final = Tenant("@improve")
"""Owner of the rows that elect a leader. No key can be of a tenant of this name, so no client sees or ends them."""


async def lead(
    jobs: JobStore,
    alias: str,
    owner: str,
    work: Callable[[], Coroutine[Any, Any, Progress]],
    *,
    lease_s: float = 15.0,
    patience_s: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Progress | None:
    """Does work on an alias if no other process does, and returns how far it came; None: another process is at it.

    A durable job row stands for the work. It is held under a lease: of a process that dies, another one takes over.

    Args:
        owner: name of this process, unique at any time.
        patience_s: how long to wait for the end of a lease; unset: until that of a dead process must have ended.

    Raises:
        DeepwellError: the work cannot be done now, or the lease was lost meanwhile.
    """
    kind = f"improve.{sha256(alias.encode()).hexdigest()[:16]}"
    await jobs.enqueue_once(OPERATOR, kind, json.dumps({"alias": alias}))
    until = clock() + (2 * lease_s if patience_s is None else patience_s)
    while (job := await jobs.claim([kind], owner, lease_s)) is None:
        if clock() >= until:
            return None
        await asyncio.sleep(min(1.0, lease_s / 4))
    working = asyncio.ensure_future(work())
    beating = asyncio.create_task(_beat(jobs, job, lease_s))
    try:
        await asyncio.wait((working, beating), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise DeepwellError.of("improve_lease", alias=alias)
        found = working.result()
        await jobs.heartbeat(job, lease_s, json.dumps(found.to_json()))
        return found
    finally:
        for task in (working, beating):
            task.cancel()
        await asyncio.wait((working, beating))
        if not working.cancelled():
            working.exception()  # it is known: `result` raised it, or the lease was lost
        await jobs.release(job)


async def _beat(jobs: JobStore, job: Job, lease_s: float) -> None:
    """Renews the lease, and returns when it is lost."""
    while True:
        await asyncio.sleep(lease_s / 3)
        with suppress(DeepwellError):  # a database that is away for a moment
            if await jobs.heartbeat(job, lease_s) is None:
                return
