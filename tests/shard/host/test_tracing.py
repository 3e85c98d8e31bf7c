"""Traced calls: one span each, with where its time went; what they call, and record themselves, are its children."""

from __future__ import annotations

import asyncio
import datetime
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.trace import SpanKind, StatusCode

from tests.support.alarm_world import AlarmWorld
from tests.support.host_world import World
from tests.support.objects import CONTROL, control, until
from tests.support.spans import Spans, attribute, id_of, parent_id
from tests.support.waiting import wait_until_in_loop
from tidegate.runtime.errors import CallError
from tidegate.shard.core.alarms import AlarmInfo
from tidegate.shard.objects.object import DurableObject
from tidegate.shard.worker.tracing import SpanTracing

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{CALLER}-01"
UNSAMPLED = f"00-{TRACE}-{CALLER}-00"


class Cart(DurableObject):
    async def add(self) -> int:
        count = int(await self.storage.get("count", 0))
        self.storage.put("count", count + 1)
        return count

    async def ask(self, other: str) -> int:
        return await self.stub(Cart, other).add()

    async def ask_within(self, other: str) -> int:
        async with self.block_concurrency():
            return await self.stub(Cart, other).add()

    async def ask_in_tasks(self) -> None:
        await asyncio.gather(*(asyncio.create_task(self.ask(f"other-{at}")) for at in range(3)))

    async def record(self) -> str:
        with trace.get_tracer("app", tracer_provider=SPANS[0].provider).start_as_current_span("mine"):
            await self.stub(Cart, "other").add()
        return format(trace.get_current_span().get_span_context().trace_id, "032x")

    async def fail(self) -> None:
        raise ValueError("no such thing")

    async def wait(self) -> None:
        await until("door")

    async def remind(self, name: str) -> None:
        self.storage.set_alarm(datetime.timedelta())
        self.storage.put("next", name)

    async def alarm(self, info: AlarmInfo) -> None:
        if (name := await self.storage.get("next", "")) == "nobody":
            raise ValueError("no such thing")
        await self.stub(Cart, name).add()

    async def alone(self) -> None:
        async with self.block_concurrency():
            await until("door")


SPANS: list[Spans] = []
FOLLOWS = ParentBased(ALWAYS_OFF)


def new_world(sampler: Sampler | None = FOLLOWS, **settings: Any) -> tuple[World, Spans]:
    """Where calls without a trace begin none, unless the sampler says so."""
    CONTROL.clear()
    control("door")
    world, spans = World(Cart, **settings), Spans(sampler)
    world.host.tracing = SpanTracing(spans.provider)
    SPANS[:] = [spans]
    return world, spans


async def test_a_traced_call_is_a_span_of_its_callers_trace_with_where_its_time_went() -> None:
    world, spans = new_world()
    assert await world.ask(Cart, "alice", "add", traceparent=PARENT) == 0
    (span,) = spans.all()
    assert (span.name, span.kind) == ("Cart.add", SpanKind.SERVER)
    assert span.context is not None
    assert format(span.context.trace_id, "032x") == TRACE
    assert format(parent_id(span) or 0, "016x") == CALLER
    assert attribute(span, "tidegate.object") == "alice"
    parts = [attribute(span, f"tidegate.{part}_ms") for part in ("queue", "gate", "run", "commit")]
    assert all(part >= 0 for part in parts)
    assert span.start_time is not None
    assert span.end_time is not None
    assert sum(parts) == pytest.approx((span.end_time - span.start_time) / 1e6, abs=0.01)
    assert [event.name for event in span.events] == ["started", "ended"]
    assert span.status.status_code is StatusCode.UNSET


class Broken(SpanProcessor):
    """Of an app, with a mistake."""

    def __init__(self, where: str) -> None:
        self._where = where

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        if self._where == "start":
            raise RuntimeError(f"no processor of the app at the {self._where}")

    def on_end(self, span: Any) -> None:
        if self._where == "end":
            raise RuntimeError(f"no processor of the app at the {self._where}")


@pytest.mark.parametrize("where", ["start", "end"])
async def test_a_call_is_answered_whatever_fails_in_its_trace(where: str, caplog: pytest.LogCaptureFixture) -> None:
    world, spans = new_world()
    spans.provider.add_span_processor(Broken(where))
    for count in range(3):
        assert await world.ask(Cart, "alice", "add", traceparent=PARENT, deadline_ms=5_000 if count == 2 else None) == count
    assert await world.ask(Cart, "alice", "ask", "bob", traceparent=PARENT) == 0
    with pytest.raises(CallError, match="no such thing"):
        await world.ask(Cart, "alice", "fail", traceparent=PARENT)
    lines = [record.getMessage() for record in caplog.records if f"no processor of the app at the {where}" in record.getMessage()]
    assert len(lines) == 1, "once, however many calls"


async def test_the_span_ends_when_the_reply_may_leave_and_not_before() -> None:
    world, spans = new_world(auto=False)
    call = world.call(Cart, "alice", "add", traceparent=PARENT)
    await world.settle()
    assert not spans.all()
    await asyncio.sleep(0.02)
    world.commit()
    assert call.answered
    (span,) = spans.all()
    assert attribute(span, "tidegate.commit_ms") >= 19


async def test_a_call_without_a_trace_or_with_what_is_none_begins_one() -> None:
    world, spans = new_world(None)
    for options in (
        {},
        {"traceparent": "nonsense"},
        {"traceparent": ""},
        {"traceparent": "00-" + "0" * 32 + "-" + "0" * 16 + "-01"},
    ):
        await world.ask(Cart, "alice", "add", **options)
    assert [parent_id(span) for span in spans.all()] == [None] * 4
    assert len({id_of(span) for span in spans.all()}) == 4
    assert await world.ask(Cart, "alice", "add", traceparent=UNSAMPLED) == 4
    assert len(spans.all()) == 4, "its caller has decided that it is not recorded"
    await world.ask(Cart, "bob", "ask", "carol")
    assert parent_id(spans.all()[-2]) == id_of(spans.named("Cart.ask")), "what it calls belongs to it"


@pytest.mark.parametrize("sampler", [ParentBased(ALWAYS_OFF), ALWAYS_OFF, ParentBased(TraceIdRatioBased(0.0))])
async def test_the_sampler_of_the_sdk_decides_whether_a_call_begins_a_trace(sampler: Sampler) -> None:
    world, spans = new_world(sampler)
    assert world.host.tracing is not None
    assert world.host.tracing.begins == ("TraceIdRatio" in sampler.get_description())
    for _ in range(20):
        await world.ask(Cart, "bob", "ask", "carol")
    assert not spans.all()
    await world.ask(Cart, "bob", "add", traceparent=PARENT)
    assert len(spans.all()) == (sampler is not ALWAYS_OFF)


def alarm_world(sampler: Sampler) -> tuple[AlarmWorld, Spans]:
    world, spans = AlarmWorld(Cart), Spans(sampler)
    world.host.tracing = SpanTracing(spans.provider)
    return world, spans


async def test_an_alarm_begins_a_trace_and_what_its_handler_calls_belongs_to_it() -> None:
    world, spans = alarm_world(ALWAYS_ON)
    await world.ask(Cart, "alice", "remind", "bob")
    await wait_until_in_loop(lambda: len(spans.all()) == 3, "three spans", seen=spans.all)
    alarm, added = spans.named("Cart.alarm"), spans.named("Cart.add")
    assert (alarm.kind, parent_id(alarm), attribute(alarm, "tidegate.object")) == (SpanKind.INTERNAL, None, "alice")
    assert parent_id(added) == id_of(alarm)
    assert sum(attribute(alarm, f"tidegate.{part}_ms") for part in ("queue", "gate", "run", "commit")) > 0
    assert (world.host.alarms.rung, world.host.alarms.next_due_us) == (1, None)


async def test_a_handler_that_fails_is_an_error_of_its_span_and_is_tried_again() -> None:
    world, spans = alarm_world(ALWAYS_ON)
    await world.ask(Cart, "alice", "remind", "nobody")
    await wait_until_in_loop(lambda: len(spans.all()) == 2, "two spans", seen=spans.all)
    span = spans.named("Cart.alarm")
    assert span.status.status_code is StatusCode.ERROR
    assert attribute(span, "error.type") == "ValueError"
    assert world.host.alarms.next_due_us is not None


@pytest.mark.parametrize("sampler", [ALWAYS_OFF, TraceIdRatioBased(0.0)])
async def test_an_alarm_that_begins_no_trace_rings_all_the_same(sampler: Sampler) -> None:
    world, spans = alarm_world(sampler)
    await world.ask(Cart, "alice", "remind", "bob")
    await wait_until_in_loop(lambda: world.host.alarms.rung == 1 and world.host.alarms.next_due_us is None, "it has rung")
    await wait_until_in_loop(lambda: world.host.unanswered == 0, "what its handler called is answered")
    assert spans.all() == []


async def test_calls_of_a_session_and_with_deadlines_begin_traces_and_are_counted_once() -> None:
    world, spans = new_world(ALWAYS_ON)
    calls = world.session([[number, "Cart", f"c{number % 2}", "add"] for number in range(6)])
    await world.settle()
    assert all(call.answered for call in calls)
    await world.ask(Cart, "alice", "add", deadline_ms=5_000)
    assert [span.name for span in spans.all()] == ["Cart.add"] * 7
    assert world.host.counting.calls == 7


async def test_without_a_provider_a_trace_is_carried_and_not_looked_at() -> None:
    world, spans = new_world()
    world.host.tracing = None
    assert await world.ask(Cart, "alice", "ask", "bob", traceparent=PARENT) == 0
    assert spans.all() == []


@pytest.mark.parametrize("method", ["ask", "ask_within"])
async def test_what_an_object_calls_is_a_child_of_its_own_span(method: str) -> None:
    world, spans = new_world()
    assert await world.ask(Cart, "alice", method, "bob", traceparent=PARENT, deadline_ms=20_000) == 0
    outer, inner = spans.named(f"Cart.{method}"), spans.named("Cart.add")
    assert parent_id(inner) == id_of(outer)
    assert attribute(inner, "tidegate.object") == "bob"


async def test_tasks_of_a_traced_call_and_spans_of_the_app_belong_to_it() -> None:
    world, spans = new_world()
    await world.ask(Cart, "alice", "ask_in_tasks", traceparent=PARENT)
    outer = spans.named("Cart.ask_in_tasks")
    inner = [span for span in spans.all() if span.name == "Cart.add"]
    assert [parent_id(span) for span in inner] == [id_of(outer)] * 3
    world, spans = new_world()
    assert await world.ask(Cart, "alice", "record", traceparent=PARENT) == TRACE
    assert parent_id(spans.named("mine")) == id_of(spans.named("Cart.record"))
    assert parent_id(spans.named("Cart.add")) == id_of(spans.named("mine"))


async def test_a_trace_ends_with_its_call_and_colours_no_other() -> None:
    world, spans = new_world()
    await world.ask(Cart, "alice", "add", traceparent=PARENT)
    await world.ask(Cart, "alice", "ask", "bob")
    assert [span.name for span in spans.all()] == ["Cart.add"]
    assert await world.ask(Cart, "alice", "record") == "0" * 32


async def test_an_error_is_the_status_of_its_span_whatever_kind_it_is() -> None:
    world, spans = new_world()
    for method, options in (("fail", {}), ("nothing", {}), ("wait", {"deadline_ms": 20})):
        with pytest.raises(CallError):
            await world.ask(Cart, "alice", method, traceparent=PARENT, **options)
    found = {span.name: span for span in spans.all()}
    assert {name: attribute(span, "tidegate.error.code") for name, span in found.items()} == {
        "Cart.fail": "exception",
        "Cart.nothing": "unknown_method",
        "Cart.wait": "deadline_exceeded",
    }
    assert attribute(found["Cart.fail"], "error.type") == "ValueError"
    assert attribute(found["Cart.wait"], "tidegate.error.outcome") == "unknown"
    assert all(span.status.status_code is StatusCode.ERROR for span in found.values())
    CONTROL["door"].set_result(None)
    await world.settle()
    assert len(spans.all()) == 3


async def test_a_traced_call_with_a_key_runs_once_and_its_repeat_is_a_span_too() -> None:
    world, spans = new_world()
    assert await world.ask(Cart, "alice", "add", traceparent=PARENT, key="once") == 0
    assert await world.ask(Cart, "alice", "add", traceparent=PARENT, key="once") == 0
    first, repeat = spans.all()
    assert [event.name for event in first.events] == ["started", "ended"]
    assert attribute(first, "tidegate.run_ms") >= 0
    assert attribute(repeat, "tidegate.object") == "alice"


async def test_the_wait_at_a_gate_is_told_apart_from_the_run() -> None:
    world, spans = new_world()
    first = world.call(Cart, "alice", "alone")
    await world.settle()
    call = world.call(Cart, "alice", "add", traceparent=PARENT)
    await asyncio.sleep(0.03)
    CONTROL["door"].set_result(None)
    await world.ask_all([first, call])
    (span,) = spans.all()
    assert attribute(span, "tidegate.gate_ms") >= 25
    assert attribute(span, "tidegate.run_ms") < 20


async def test_calls_of_one_message_are_traced_one_by_one() -> None:
    world, spans = new_world()
    rows = [
        [at, "Cart", "alice", "add", None, {"traceparent": PARENT}] if at % 2 else [at, "Cart", "alice", "add"]
        for at in range(1, 7)
    ]
    assert await world.ask_all(world.session(rows)) == [0, 1, 2, 3, 4, 5]
    assert [span.name for span in spans.all()] == ["Cart.add"] * 3
