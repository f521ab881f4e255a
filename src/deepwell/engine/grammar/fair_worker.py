"""`FairWorker`: one thread of low priority that runs jobs of tenants in turns."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

__all__ = ["FairWorker"]

_FORGET_ABOVE: Final = 256  # idle tenants whose use is remembered
_log = logging.getLogger(__name__)


class FairWorker:
    """Runs jobs one at a time. The tenant whose jobs have used the least processor time is next.

    That is start-time fair queueing, as in `core.fair`, with processor time as the cost: a tenant with many or long jobs
    delays itself, and another waits for one job at most. The thread starts with the first job.

    Args:
        name: name of the thread.
        nice: niceness of the thread (Linux), so that it leaves the processors to the kernels when they are short.
        stack_bytes: size of the thread's stack, of which only used pages take memory; 0: the default, often 8 MiB.
        clock: returns the seconds of processor time that the calling thread has used.
    """

    def __init__(
        self, name: str, *, nice: int = 0, stack_bytes: int = 0, clock: Callable[[], float] = time.thread_time
    ) -> None:
        self._name = name
        self._nice = nice
        self._stack_bytes = stack_bytes
        self._clock = clock
        self._changed = threading.Condition()
        self._queues: dict[str, deque[Callable[[], None]]] = {}  # none is empty; in order of arrival
        self._used: dict[str, float] = {}  # seconds of each tenant, in virtual time
        self._now = 0.0  # virtual start time of the last job
        self._thread: threading.Thread | None = None  # None: not started, or told to end

    def submit(self, tenant: str, job: Callable[[], None]) -> None:
        """Queues a job behind those of its tenant. May be called from any thread, also after `close`."""
        with self._changed:
            queue = self._queues.get(tenant)
            if queue is None:
                queue = self._queues[tenant] = deque()
                # A tenant cannot save up turns while it is idle.
                self._used[tenant] = max(self._used.get(tenant, 0.0), self._now)
            queue.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                before = threading.stack_size(self._stack_bytes)
                try:
                    self._thread.start()
                finally:
                    threading.stack_size(before)
            self._changed.notify()

    def close(self) -> None:
        """Drops the jobs that have not begun, waits for the one that has, and ends the thread."""
        with self._changed:
            self._queues.clear()
            thread, self._thread = self._thread, None
            self._changed.notify_all()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        if sys.platform == "linux":  # elsewhere, priorities belong to processes
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self._nice)
        while (taken := self._next()) is not None:
            tenant, job = taken
            started = self._clock()
            try:
                job()
            except BaseException:  # a panic of the grammar library is not an Exception
                _log.exception("a job of %s failed", self._name)
            with self._changed:
                self._used[tenant] = self._used.get(tenant, 0.0) + self._clock() - started
                self._tidy()

    def _next(self) -> tuple[str, Callable[[], None]] | None:
        """Waits for a job and returns it with its tenant; None once the worker is closed."""
        with self._changed:
            while not self._queues and self._thread is threading.current_thread():
                self._changed.wait()
            if self._thread is not threading.current_thread():
                return None
            tenant = min(self._queues, key=self._used.__getitem__)  # on a tie, the one that has waited longer
            queue = self._queues[tenant]
            job = queue.popleft()
            if not queue:
                del self._queues[tenant]
            self._now = self._used[tenant]
            return tenant, job

    def _tidy(self) -> None:
        if len(self._used) - len(self._queues) > _FORGET_ABOVE:
            self._used = {
                tenant: used
                for tenant, used in self._used.items()
                if tenant in self._queues or used > self._now
            }
