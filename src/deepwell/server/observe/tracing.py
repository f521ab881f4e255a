"""Records of requests as OpenTelemetry spans (the extra `otel`).

They are made on the observer's thread, when a request has ended.

A request is a SERVER span by the HTTP conventions. If it asked a model, a span of the GenAI conventions lies below it, and
the phases of that work below that. A run of an agent is a trace of its own: `invoke_agent`, and its turns and calls below.
A claim of a job is one too: `run_job`, and the steps of its work below.
Prompts and answers are in no span.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any, cast

from deepwell.errors import MissingDependency
from deepwell.server.observe.record import Record
from deepwell.server.observe.semconv import PROVIDER, Attribute
from deepwell.server.observe.trace_context import TraceContext
from deepwell.version import deepwell_version

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.sdk.trace.id_generator import IdGenerator
    from opentelemetry.trace import Span, SpanKind

__all__ = ["Tracer"]

_FLUSH_MS = 5000  # at the end, for spans that a collector has not taken yet


class Tracer:
    """A sink of records. Span and trace ids are those that the request was told, so logs, headers and spans agree.

    Args:
        exporter: where spans go, in batches, on a thread of OpenTelemetry's.

    Raises:
        MissingDependency: the extra is not installed.
    """

    def __init__(self, exporter: SpanExporter) -> None:
        with _needs_extra():
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.trace.sampling import ALWAYS_ON
        self._ids = _Ids()
        # `service.name` and more may come from OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME.
        resource = Resource.create({"service.name": "deepwell", "service.version": deepwell_version()})
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,  # sampling was decided when the request came in, and its header says so
            resource=resource,
            shutdown_on_exit=False,
            id_generator=cast("IdGenerator", self._ids),
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("deepwell", deepwell_version())

    @classmethod
    def to_collector(cls, endpoint: str) -> Tracer:
        """Returns a tracer that sends spans by OTLP over HTTP to a collector, such as `http://127.0.0.1:4318`.

        Headers come from OTEL_EXPORTER_OTLP_HEADERS.

        Raises:
            MissingDependency: the extra is not installed.
        """
        with _needs_extra():
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        return cls(OTLPSpanExporter(endpoint=endpoint.rstrip("/") + "/v1/traces"))

    def __call__(self, records: Sequence[Record]) -> None:
        """Makes the spans of a batch."""
        for record in records:
            if record.trace is not None and record.trace.sampled:
                self._spans(record)

    def close(self) -> None:
        """Exports what is left."""
        self._provider.force_flush(_FLUSH_MS)
        self._provider.shutdown()

    def _spans(self, record: Record) -> None:
        from opentelemetry.trace import SpanKind, Status, StatusCode

        def clock(moment: float) -> int:
            return round((record.at + moment - record.started) * 1e9)

        end = record.started + record.duration_s
        if not record.method:
            self._run_spans(record, clock)
            return
        name = f"{record.method} {record.route}" if record.route != "none" else record.method
        request = self._root(
            record, name, clock(record.started), SpanKind.SERVER, _request_attributes(record)
        )
        if record.status >= 500 or (record.error and record.status < 400):
            request.set_status(Status(StatusCode.ERROR, record.error or None))
        if record.model:
            model = self._child(
                request,
                f"{record.operation} {record.model}",
                clock(record.started),
                _model_attributes(record),
                SpanKind.INTERNAL,
            )
            for phase in record.phases:
                part = self._child(model, phase.name, clock(phase.begin), phase.attributes, SpanKind.INTERNAL)
                part.end(clock(phase.end))
            model.end(clock(end))
        request.end(clock(end))

    def _run_spans(self, record: Record, clock: Callable[[float], int]) -> None:
        from opentelemetry.trace import SpanKind, Status, StatusCode

        attributes = _job_attributes(record) if record.job else _agent_attributes(record)
        if record.tenant:
            attributes["deepwell.tenant"] = record.tenant
        name = f"{record.operation} {record.job or record.model}"
        run = self._root(record, name, clock(record.started), SpanKind.INTERNAL, attributes)
        if record.error:
            run.set_status(Status(StatusCode.ERROR, record.error))
        for phase in record.phases:
            part = self._child(run, phase.name, clock(phase.begin), phase.attributes, SpanKind.INTERNAL)
            part.end(clock(phase.end))
        run.end(clock(record.started + record.duration_s))

    def _root(
        self, record: Record, name: str, start: int, kind: SpanKind, attributes: dict[str, Any]
    ) -> Span:
        from opentelemetry import trace

        told = record.trace
        assert told is not None
        context = trace.set_span_in_context(trace.INVALID_SPAN)
        if told.parent_id:
            caller = trace.SpanContext(
                int(told.trace_id, 16),
                int(told.parent_id, 16),
                is_remote=True,
                trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED),
            )
            context = trace.set_span_in_context(trace.NonRecordingSpan(caller))
        self._ids.told = told
        try:
            return self._tracer.start_span(
                name,
                context,
                kind,
                attributes,
                start_time=start,
            )
        finally:
            self._ids.told = None

    def _child(self, parent: Span, name: str, start: int, attributes: dict[str, Any], kind: SpanKind) -> Span:
        from opentelemetry import trace

        context = trace.set_span_in_context(parent)
        return self._tracer.start_span(name, context, kind, attributes, start_time=start)


class _Ids:
    """OpenTelemetry's `IdGenerator`, for one thread. It returns the ids of the request, where given, else new ones."""

    told: TraceContext | None = None

    def generate_trace_id(self) -> int:
        return int(self.told.trace_id, 16) if self.told else random.getrandbits(128) or 1

    def generate_span_id(self) -> int:
        return int(self.told.span_id, 16) if self.told else random.getrandbits(64) or 1

    def is_trace_id_random(self) -> bool:
        return False  # a caller's id may be anything


@contextlib.contextmanager
def _needs_extra() -> Generator[None]:
    try:
        yield
    except ImportError:
        raise MissingDependency.of(
            "extra_missing",
            feature="OpenTelemetry",
            package="opentelemetry-sdk",
            extra="otel",
            variable="DEEPWELL_TRACE_ENDPOINT",
        ) from None


def _request_attributes(record: Record) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        Attribute.METHOD: record.method,
        Attribute.ROUTE: record.route,
        Attribute.STATUS: record.status,
        Attribute.BODY_BYTES: record.body_bytes,
        "deepwell.request_id": record.request_id,
        "deepwell.client_left": record.client_left,
    }
    if record.tenant:
        attributes["deepwell.tenant"] = record.tenant
    if record.error or record.status >= 400:
        attributes[Attribute.ERROR_TYPE] = record.error or str(record.status)
    return attributes


def _agent_attributes(record: Record) -> dict[str, Any]:
    return _model_attributes(record) | {"deepwell.run_id": record.request_id}


def _job_attributes(record: Record) -> dict[str, Any]:
    attributes = {
        Attribute.OPERATION: record.operation,
        "deepwell.job.id": record.request_id,
        "deepwell.job.kind": record.job,
        "deepwell.job.status": record.finish_reason,
    }
    return attributes | ({Attribute.ERROR_TYPE: record.error} if record.error else {})


def _model_attributes(record: Record) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        Attribute.OPERATION: record.operation,
        Attribute.PROVIDER: PROVIDER,
        Attribute.MODEL: record.model,
        Attribute.INPUT_TOKENS: record.prompt_tokens,
        Attribute.CACHED_TOKENS: record.cached_tokens,
        Attribute.OUTPUT_TOKENS: record.completion_tokens,
    }
    if record.finish_reason:
        attributes[Attribute.FINISH_REASONS] = [record.finish_reason]
    if record.cache:
        attributes["deepwell.cache"] = record.cache
    if record.ledger is not None:
        attributes["deepwell.context.policy"] = record.ledger.policy
        attributes |= {f"deepwell.context.{fate}_tokens": n for fate, n in record.ledger.totals().items()}
    if record.intents:
        attributes["deepwell.intents"] = record.intents.split("+")
    if record.alias:
        attributes |= {"deepwell.alias": record.alias, "deepwell.arm": record.arm}
    if record.prompt:
        attributes |= {"gen_ai.prompt.name": record.prompt, "deepwell.prompt.version": record.prompt_version}
    return attributes
