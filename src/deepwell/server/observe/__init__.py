"""What is seen of the server from outside: access log, traces, and the names metrics go by."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from deepwell.server.observe.observer import Observer, Sink
from deepwell.settings import InvalidSettings

if TYPE_CHECKING:
    from deepwell.settings import Settings

__all__ = ["Observer", "observer_of"]


def observer_of(settings: Settings) -> Observer:
    """The observer that the settings ask for. Nothing of OpenTelemetry is imported unless traces are on.

    Raises:
        InvalidSettings: the log file cannot be opened.
        MissingDependency: traces are on, and the extra `[otel]` is not installed.
    """
    sinks: list[Sink] = []
    closing: list[Callable[[], None]] = []
    if settings.access_log != "off":
        from deepwell.server.observe.access_log import AccessLog

        try:
            log = AccessLog(settings.access_log, settings.access_log_file)
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
