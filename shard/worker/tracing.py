"""Spans of OpenTelemetry for calls: below those of callers that trace them, and of others if the sampler says so.

Guarantee: nothing of OpenTelemetry is imported unless the app has done so, or its environment asks for an exporter; nothing of
what it does or fails to do shows in the answer of a call.

Who exports: the provider that the app has set when it was imported. If it has set none and the environment names an exporter, as
the SDK knows it (`OTEL_TRACES_EXPORTER`, `OTEL_EXPORTER_OTLP_ENDPOINT` …), one that exports there, in batches, in its own thread.
"""

from __future__ import annotations

import contextvars
import importlib.metadata
import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from tidegate.runtime.errors import one_line
from tidegate.runtime.extras import how_to_install
from tidegate.runtime.harmless import harmless
from tidegate.runtime.limits import TRACES_FLUSH_S
from tidegate.runtime.wire.protocol import OK, Request
from tidegate.shard.objects.object import ALARM

ASKED_BY = ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""Any of these in the environment asks for an exporter."""

log = logging.getLogger("tidegate")


def wanted(environment: Mapping[str, str]) -> bool:
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = environment.get("OTEL_TRACES_EXPORTER", "").strip()
    return exporter != "none" and any(environment.get(name, "").strip() for name in ASKED_BY)


def start_tracing(environment: Mapping[str, str]) -> SpanTracing | None:
    """To be called when the app is loaded. None: nobody traces."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    asked = wanted(environment)
    if not asked and "opentelemetry.trace" not in sys.modules:
        return None
    try:
        from opentelemetry import trace

        if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):  # Nobody has set one.
            if not asked:
                return None
            trace.set_tracer_provider(_provider(environment))
    except Exception as error:  # Not installed, an exporter that is not there, an endpoint that is none.
        why = one_line(str(error) or repr(error))
        log.warning("no traces, though the environment asks for them: %s (%s)", why, how_to_install("tidegate[traces]"))
        return None
    return SpanTracing(trace.get_tracer_provider())


def _provider(environment: Mapping[str, str]) -> Any:
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = "OTEL_SERVICE_NAME" in environment or SERVICE_NAME in environment.get("OTEL_RESOURCE_ATTRIBUTES", "")
    resource = Resource.create({} if named else {SERVICE_NAME: "tidegate"})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(_exporter(environment)))
    return provider


def _exporter(environment: Mapping[str, str]) -> Any:
    """By its name, as packages of exporters make themselves known. Raises LookupError."""
    name = environment.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp"
    if name == "otlp":
        protocols = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
        protocol = next((value for each in protocols if (value := environment.get(each, "").strip())), "http/protobuf")
        name = "otlp_proto_grpc" if protocol == "grpc" else "otlp_proto_http"
    for entry in importlib.metadata.entry_points(group="opentelemetry_traces_exporter", name=name):
        return entry.load()()
    raise LookupError(f"no exporter {name!r} is installed")


_NEVER = re.compile(r"(ParentBased\{root:)?AlwaysOffSampler\b.*")


def _begins_none(provider: Any) -> bool:
    """The sampler records nothing of what has no parent, as its description says."""
    try:
        return _NEVER.fullmatch(provider.sampler.get_description()) is not None
    except Exception:  # Another provider than the SDK's.
        return False


class SpanTracing:
    """See `tidegate.shard.host.tracing.Tracing`."""

    def __init__(self, provider: Any) -> None:
        from opentelemetry import context, trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("tidegate")
        self._trace = trace
        self._propagator = TraceContextTextMapPropagator()
        self._attach: Callable[[Any], object] = context.attach
        self._nobody: Any = context.Context()
        self.begins = not _begins_none(provider)
        """Otherwise calls without a trace need no closer look."""

    @harmless
    def begin(self, traceparent: str | None, request: Request, arrived_s: float) -> SpanTrace | None:
        trace, parent = self._trace, self._nobody
        if traceparent is not None:
            parent = self._propagator.extract({"traceparent": traceparent}, parent)
        if not self.begins and not trace.get_current_span(parent).get_span_context().is_valid:
            return None
        arrived_ns = time.time_ns() - round((time.monotonic() - arrived_s) * 1e9)
        span = self._tracer.start_span(
            f"{request.cls}.{request.method}",
            parent,
            kind=trace.SpanKind.INTERNAL if request.method == ALARM else trace.SpanKind.SERVER,
            start_time=arrived_ns,
            attributes={
                "rpc.system": "tidegate",
                "rpc.service": request.cls,
                "rpc.method": request.method,
                "tidegate.object": request.name,
            },
        )
        return SpanTrace(self, span, trace.set_span_in_context(span, parent), arrived_ns)

    @harmless
    def current(self) -> str | None:
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier)
        return carrier.get("traceparent")

    def enter(self, context: contextvars.Context, spans: Any) -> None:
        context.run(self._attach, spans)

    def failed(self, span: Any, error: Mapping[str, Any]) -> None:
        span.set_attribute("error.type", str(error.get("type") or error.get("code")))
        span.set_attribute("tidegate.error.code", str(error.get("code")))
        span.set_attribute("tidegate.error.outcome", str(error.get("outcome")))
        span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, one_line(str(error.get("message", "")))))

    def close(self) -> None:
        """What is not exported yet is, if that is quick."""
        shutdown = getattr(self._provider, "shutdown", None)
        if shutdown is not None:
            thread = threading.Thread(target=shutdown, name="tidegate-traces", daemon=True)
            thread.start()
            thread.join(TRACES_FLUSH_S)


class SpanTrace:
    """See `tidegate.shard.host.tracing.CallTrace`. Times are Unix times in nanoseconds, as spans have them."""

    __slots__ = ("_arrived_ns", "_gate_ns", "_spans", "_started_ns", "_stepped_ns", "_tracing", "span")

    def __init__(self, tracing: SpanTracing, span: Any, spans: Any, arrived_ns: int) -> None:
        self._tracing = tracing
        self.span = span
        self._spans = spans
        self._arrived_ns = arrived_ns
        self._gate_ns = self._started_ns = self._stepped_ns = 0

    def queued(self) -> None:
        self._gate_ns = self._gate_ns or time.time_ns()

    @harmless
    def begins_in(self, context: contextvars.Context) -> None:
        self._started_ns = time.time_ns()
        self.span.add_event("started", timestamp=self._started_ns)
        self._tracing.enter(context, self._spans)

    def stepped(self) -> None:
        self._stepped_ns = time.time_ns()

    @harmless
    def answered(self, status: int, result: Any) -> None:
        span, now_ns = self.span, time.time_ns()
        if not span.is_recording():
            return
        started_ns = self._started_ns
        if started_ns:
            gate_ns, ended_ns = self._gate_ns or started_ns, self._stepped_ns or now_ns
            span.set_attribute("tidegate.queue_ms", (gate_ns - self._arrived_ns) / 1e6)
            span.set_attribute("tidegate.gate_ms", (started_ns - gate_ns) / 1e6)
            span.set_attribute("tidegate.run_ms", (ended_ns - started_ns) / 1e6)
            span.set_attribute("tidegate.commit_ms", (now_ns - ended_ns) / 1e6)
            span.add_event("ended", timestamp=ended_ns)
        if status != OK:
            self._tracing.failed(span, msgspec.msgpack.decode(result) if isinstance(result, msgspec.Raw) else result)
        span.end(now_ns)
