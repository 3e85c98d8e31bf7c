"""Spans of a client's calls: made where a span is current, told to the service, ended with the answer."""

from __future__ import annotations

import asyncio
import concurrent.futures
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags

import tidegate
from tests.support.service import Serve
from tests.support.service import serve as serve
from tests.support.spans import Spans, attribute, global_spans, id_of, parent_id
from tidegate.runtime.client.terms import Numbering, Terms, traced
from tidegate.runtime.wire.protocol import decode_options

ROOT = Path(__file__).resolve().parents[3]
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def spans() -> Spans:
    found = global_spans()
    found.exporter.clear()
    return found


def test_the_options_of_a_call_in_a_trace_have_it_also_when_it_is_sent_again() -> None:
    for terms in (Terms(30.0, is_told=False, retries=True), Terms(5.0, is_told=True, retries=False, key="k")):
        own = traced(terms, PARENT)
        assert own.options is not None
        first, again = decode_options(own.options), Numbering("abc").options_again(7, own, 2.0)
        assert again is not None
        assert first.traceparent == decode_options(again).traceparent == PARENT
        assert (first.key, own.in_session, own.timeout) == (terms.key, terms.in_session, terms.timeout)
        assert terms.traceparent is None


def test_a_call_within_a_span_is_its_child_and_one_without_is_none(serve: Serve, spans: Spans) -> None:
    service = serve(1)
    tracer = trace.get_tracer("test")

    async def calls() -> None:
        async with tidegate.connect(service.endpoint) as client:
            counter = client.stub("Counter", "alice")
            assert await counter.get_unique_number() == 0
            assert spans.all() == []
            with tracer.start_as_current_span("shopping"):
                assert await asyncio.gather(*(counter.get_unique_number() for _ in range(3))) == [1, 2, 3]
                with pytest.raises(tidegate.UnknownMethod):
                    await client.stub("Counter", "alice").nothing()
                await client.ping()
            assert await counter.get_unique_number() == 4

    asyncio.run(calls())
    outer = spans.named("shopping")
    made = [span for span in spans.all() if span.name == "Counter.get_unique_number"]
    failed = spans.named("Counter.nothing")
    assert len(spans.all()) == 5
    for span in (*made, failed):
        assert (parent_id(span), span.kind) == (id_of(outer), SpanKind.CLIENT)
        assert attribute(span, "rpc.service") == "Counter"
    assert failed.status.status_code is StatusCode.ERROR
    assert attribute(failed, "error.type") == "unknown_method"
    assert all(span.status.status_code is StatusCode.UNSET for span in made)


def test_calls_of_plain_code_and_of_other_threads_have_spans_too(serve: Serve, spans: Spans) -> None:
    service = serve(1)
    tracer = trace.get_tracer("test")
    with tidegate.connect_sync(service.endpoint) as client, tracer.start_as_current_span("plain"):
        assert client.call("Counter", "alice", "get_unique_number") == 0
        with pytest.raises(tidegate.UnknownClass):
            client.call("Nobody", "alice", "get_unique_number")
    assert parent_id(spans.named("Counter.get_unique_number")) == id_of(spans.named("plain"))
    assert spans.named("Nobody.get_unique_number").status.status_code is StatusCode.ERROR
    spans.exporter.clear()

    def in_thread(loop: asyncio.AbstractEventLoop, counter: Any) -> int:
        with tracer.start_as_current_span("thread"):
            number: int = asyncio.run_coroutine_threadsafe(counter.get_unique_number(), loop).result(20)
            return number

    async def calls() -> int:
        async with tidegate.connect(service.endpoint) as client:
            loop = asyncio.get_running_loop()
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                return await loop.run_in_executor(pool, in_thread, loop, client.stub("Counter", "alice"))

    assert asyncio.run(calls()) == 1
    assert parent_id(spans.named("Counter.get_unique_number")) == id_of(spans.named("thread"))


OUTER = NonRecordingSpan(SpanContext(1, 1, is_remote=False, trace_flags=TraceFlags(1)))


class Broken(SpanProcessor):
    """Of a program, with a mistake."""

    def on_end(self, span: Any) -> None:
        raise RuntimeError("no processor at the end")


def test_a_mistake_in_the_tracing_of_a_program_costs_the_trace_and_no_call(
    serve: Serve, spans: Spans, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = serve(1)
    processor = spans.provider._active_span_processor
    monkeypatch.setattr(processor, "_span_processors", (*processor._span_processors, Broken()))
    seen: list[Any] = []

    async def calls() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context))
        async with tidegate.connect(service.endpoint) as client:
            with trace.use_span(OUTER):
                assert await client.stub("Counter", "alice").get_unique_number() == 0
                with pytest.raises(tidegate.UnknownMethod):
                    await client.stub("Counter", "alice").nothing()

    asyncio.run(calls())
    with (
        tidegate.connect_sync(service.endpoint) as client,
        trace.use_span(OUTER),
    ):
        assert client.call("Counter", "alice", "get_unique_number") == 1
        with pytest.raises(tidegate.UnknownMethod):
            client.call("Counter", "alice", "nothing")
    assert not seen
    assert "no processor at the end" in caplog.text


def test_a_program_that_does_not_use_opentelemetry_does_not_load_it() -> None:
    code = "import sys, tidegate, tidegate.runtime.client.tracing as t; print(t.tracing_in_use(), 'opentelemetry' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "None False\n", done
