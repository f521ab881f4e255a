"""`Measured`: records the cost of turning one recording into text, in the metrics and in the request's record."""

from __future__ import annotations

from time import perf_counter
from types import TracebackType
from typing import Self

from deepwell.server.observe.generation import error_type
from deepwell.server.observe.metrics import Metrics
from deepwell.server.observe.record import Phase, current

__all__ = ["Measured"]


class Measured:
    """Measures the work inside. `opened` tells it that the recording was read, and how long it is."""

    def __init__(self, metrics: Metrics, model: str, operation: str) -> None:
        self._metrics = metrics
        self._model = model
        self._operation = operation
        self._begin = self._opened = 0.0
        self._seconds = 0.0

    def __enter__(self) -> Self:
        self._begin = perf_counter()
        self._metrics.waiting.begin(self, self._begin)
        if (record := current()) is not None:
            record.model = self._model
        return self

    def opened(self, seconds: float) -> None:
        """Notes that the recording was read and its language is known."""
        self._opened, self._seconds = perf_counter(), seconds
        self._metrics.waiting.end(self)

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        now, record, metrics = perf_counter(), current(), self._metrics
        metrics.waiting.end(self)
        error = error_type(failure)
        began = self._begin if record is None else record.started
        metrics.generation(self._operation, self._model).duration(error).observe(now - began)
        if self._opened:
            metrics.recognition.busy_seconds.labels(self._model).inc(now - self._opened)
            if not error:
                metrics.recognition.seconds.labels(self._model).inc(self._seconds)
        if record is not None:
            record.error = record.error or error
            record.phases.append(Phase("open", self._begin, self._opened or now))
            if self._opened:
                attributes = {"audio.seconds": round(self._seconds, 3)}
                record.phases.append(Phase("recognise", self._opened, now, attributes))
