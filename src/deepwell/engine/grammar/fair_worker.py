"""`FairWorker`: threads of low priority that run jobs of tenants in turns."""

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
    """Runs one job of a tenant at a time. The tenant whose jobs have used the least processor time is next.

    That is start-time fair queueing, as in `core.fair`, with processor time as the cost: a tenant with many or long jobs
    delays itself. Another waits for one job at most; where there are two threads, only while two others run theirs. Each thread
    starts with the first job that needs it.

    Args:
        name: name of the threads.
        nice: niceness of the threads (Linux), so that they leave the processors to the kernels when they are short.
        stack_bytes: size of a thread's stack, of which only used pages take memory; 0: the default, often 8 MiB.
        threads: how many jobs, each of another tenant, may run at the same time.
        clock: returns the seconds of processor time that the calling thread has used.
    """

    def __init__(
        self,
        name: str,
        *,
        nice: int = 0,
        stack_bytes: int = 0,
        threads: int = 1,
        clock: Callable[[], float] = time.thread_time,
    ) -> None:
        self._name = name
        self._nice = nice
        self._stack_bytes = stack_bytes
        self._most_threads = threads
        self._clock = clock
        self._changed = threading.Condition()
        self._queues: dict[str, deque[Callable[[], None]]] = {}  # none is empty; in order of arrival
        self._used: dict[str, float] = {}  # seconds of each tenant, in virtual time
        self._now = 0.0  # virtual start time of the last job
        self._running: set[str] = set()  # tenants whose job is under way
        self._threads: set[threading.Thread] = set()  # those that were started and not told to end

    def submit(self, tenant: str, job: Callable[[], None]) -> None:
        """Queues a job behind those of its tenant. May be called from any thread, also after `close`."""
        with self._changed:
            queue = self._queues.get(tenant)
            if queue is None:
                queue = self._queues[tenant] = deque()
                # A tenant cannot save up turns while it is idle.
                self._used[tenant] = max(self._used.get(tenant, 0.0), self._now)
            queue.append(job)
            if len(self._threads) < min(self._most_threads, len(self._queues.keys() | self._running)):
                self._start_thread()
            self._changed.notify()

    def close(self) -> None:
        """Drops the jobs that have not begun, waits for those that have, and ends the threads."""
        with self._changed:
            self._queues.clear()
            threads, self._threads = self._threads, set()
            self._changed.notify_all()
        for thread in threads - {threading.current_thread()}:
            thread.join()

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._threads.add(thread)
        before = threading.stack_size(self._stack_bytes)
        try:
            thread.start()
        except BaseException:
            self._threads.discard(thread)
            raise
        finally:
            threading.stack_size(before)

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
                self._running.discard(tenant)
                self._used[tenant] = self._used.get(tenant, 0.0) + self._clock() - started
                self._tidy()
                self._changed.notify()  # the tenant's next job may run now

    def _next(self) -> tuple[str, Callable[[], None]] | None:
        """Waits for a job and returns it with its tenant; None once the worker is closed."""
        with self._changed:
            while threading.current_thread() in self._threads:
                free = [tenant for tenant in self._queues if tenant not in self._running]
                if free:
                    # On a tie, the one that has waited longer.
                    return self._take(min(free, key=self._used.__getitem__))
                self._changed.wait()
            return None

    def _take(self, tenant: str) -> tuple[str, Callable[[], None]]:
        queue = self._queues[tenant]
        job = queue.popleft()
        if not queue:
            del self._queues[tenant]
        self._running.add(tenant)
        self._now = max(self._now, self._used[tenant])
        return tenant, job

    def _tidy(self) -> None:
        if len(self._used) - len(self._queues) > _FORGET_ABOVE:
            self._used = {
                tenant: used
                for tenant, used in self._used.items()
                if tenant in self._queues or tenant in self._running or used > self._now
            }
