"""`Observer`: begins and ends the record of every request, and hands ended ones to sinks on a thread of its own."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence

from starlette.types import Scope

from deepwell.server.observe.record import Record
from deepwell.server.observe.trace_context import TraceContext
from deepwell.settings import InvalidSettings, Settings

__all__ = ["Observer", "Sink", "observer_of"]

Sink = Callable[[Sequence[Record]], None]

_log = logging.getLogger("deepwell.server")
_CAPACITY = 8192  # records that may wait for a slow disk or collector; further ones are dropped
_AT_ONCE = 256


class Observer:
    """A queue of records between requests and sinks.

    Sinks get batches, in order, on one thread. What they raise is logged once and fails no request.

    Args:
        sinks: the access log, the tracer; none: nothing is kept and no thread is started.
        traces: whether traces begin here; otherwise only a caller's trace id is noted.
        trace_share: the sampled share of the traces that begin here, 0 to 1.
        on_close: called when everything has been handed over.
    """

    def __init__(
        self,
        sinks: Sequence[Sink] = (),
        *,
        traces: bool = False,
        trace_share: float = 1.0,
        on_close: Sequence[Callable[[], None]] = (),
    ) -> None:
        self._sinks = tuple(sinks)
        self.traces = traces
        self._trace_share = trace_share
        self._on_close = tuple(on_close)
        self._records: queue.SimpleQueue[Record | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._failed = False
        self.on_lost: Callable[[int], object] = lambda _count: None
        """Called with the number of records that a sink has not taken, from any thread."""

    def begin(self, scope: Scope) -> Record:
        """Returns the record of a request that has come in."""
        request_id = parent = None
        for name, value in scope["headers"]:
            if name == b"x-request-id":
                request_id = value
            elif name == b"traceparent":
                parent = value
        trace = None
        if self.traces or parent is not None:
            trace = TraceContext.begin(parent, share=self._trace_share)
        return Record.begin(scope["method"], scope["path"], request_id, trace)

    def begin_run(self, run_id: str) -> Record:
        """Returns the record of a run of an agent, or of a job, which no request waits for. Only the tracer takes it."""
        record = Record.begin("", "", run_id.encode(), TraceContext.begin(None, share=self._trace_share))
        record.operation = "invoke_agent"
        return record

    def end(self, record: Record) -> None:
        """Hands a record over without waiting. It is dropped if too many wait already."""
        if not self._sinks:
            return
        if self._records.qsize() >= _CAPACITY:
            self.on_lost(1)
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="deepwell-observer", daemon=True)
            self._thread.start()
        self._records.put(record)

    def close(self) -> None:
        """Hands over what is left, and closes the sinks."""
        if self._thread is not None:
            self._records.put(None)
            self._thread.join()
            self._thread = None
        for close in self._on_close:
            close()

    def _run(self) -> None:
        ended = False
        while not ended:
            batch: list[Record] = []
            item = self._records.get()
            while True:
                if item is None:
                    ended = True
                    break
                batch.append(item)
                if len(batch) == _AT_ONCE or self._records.empty():
                    break
                item = self._records.get()
            for sink in self._sinks if batch else ():
                try:
                    sink(batch)
                    self._failed = False
                except Exception as error:
                    self.on_lost(len(batch))
                    if not self._failed:
                        _log.warning("%s failed: %s", type(sink).__name__, error)
                    self._failed = True


def observer_of(settings: Settings, database_id: str = "") -> Observer:
    """Returns the observer that the settings ask for. OpenTelemetry is imported only if traces are on.

    Args:
        database_id: see `AccessLog`.

    Raises:
        InvalidSettings: the log file cannot be opened.
        MissingDependency: traces are on, and the extra `[otel]` is not installed.
    """
    sinks: list[Sink] = []
    closing: list[Callable[[], None]] = []
    if settings.access_log != "off":
        from deepwell.server.observe.access_log import AccessLog

        try:
            log = AccessLog(settings.access_log, settings.access_log_file, database_id)
        except OSError as error:
            raise InvalidSettings(
                f"the access log {settings.access_log_file} cannot be written: {error.strerror}",
                fix="correct access_log_file, or unset it to log to standard error",
            ) from None
        sinks.append(log)
        closing.append(log.close)
    if settings.trace_endpoint is not None:
        from deepwell.server.observe.tracing import Tracer

        tracer = Tracer.to_collector(settings.trace_endpoint)
        sinks.append(tracer)
        closing.append(tracer.close)
    return Observer(
        sinks,
        traces=settings.trace_endpoint is not None,
        trace_share=settings.trace_share,
        on_close=closing,
    )
