"""Spans of a client's calls, for OpenTelemetry, where the program that calls uses it.

Guarantee: a program that has not imported OpenTelemetry pays nothing, and nothing of it is imported here. A call that is made
while no span is current has no trace. Nothing that tracing does or fails to do shows in what a call gives its caller.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

from tidegate.runtime.harmless import harmless


class CallSpan:
    """Of one call, until it is answered."""

    def __init__(self, span: Any, traceparent: str) -> None:
        self._span = span
        self.traceparent = traceparent
        """What the service is told."""

    @harmless
    def end(self, error: BaseException | None) -> None:
        if error is not None:
            from opentelemetry.trace import Status, StatusCode

            code = getattr(error, "code", None)
            self._span.set_attribute("error.type", code if isinstance(code, str) else type(error).__qualname__)
            self._span.set_status(Status(StatusCode.ERROR, str(error)))
        self._span.end()


class ClientTracing:
    def __init__(self) -> None:
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._trace = trace
        self._tracer = trace.get_tracer("tidegate")
        self._propagator = TraceContextTextMapPropagator()

    @harmless
    def begin(self, class_name: str, name: str, method: str) -> CallSpan | None:
        """A call is about to be made. None: in no trace."""
        trace = self._trace
        if not class_name or not trace.get_current_span().get_span_context().is_valid:
            return None
        attributes = {"rpc.system": "tidegate", "rpc.service": class_name, "rpc.method": method, "tidegate.object": name}
        span = self._tracer.start_span(f"{class_name}.{method}", kind=trace.SpanKind.CLIENT, attributes=attributes)
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, trace.set_span_in_context(span))
        return CallSpan(span, carrier["traceparent"])


def tracing_in_use() -> ClientTracing | None:
    """None where the program has not imported OpenTelemetry so far."""
    return _tracing() if "opentelemetry.trace" in sys.modules else None


@functools.cache
def _tracing() -> ClientTracing:
    """One for all: its tracer follows the provider that the program sets, also later."""
    return ClientTracing()
