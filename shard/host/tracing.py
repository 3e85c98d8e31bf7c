"""Traces of calls and alarms: what the host tells of a call whose caller traces it, as it arrives, starts, ends and is answered.

Guarantee: code of a traced call runs in the context of its span, so that what it calls, and what it records itself, are children
of it. Where nobody traces, a call pays nothing but that question.

Rule: what a span is, and where it goes, is known to whoever implements these (see `tidegate.shard.worker.tracing`).
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from tidegate.runtime.wire.protocol import Origin, Request
from tidegate.shard.host.deadlines import TimedOrigin
from tidegate.shard.host.outbound import BuiltIn, InternalOrigin

if TYPE_CHECKING:
    from tidegate.shard.host.call import Call


class CallTrace(Protocol):
    """Of one call. Its span ends when it is answered."""

    def queued(self) -> None:
        """It waits at the gate of its object."""
        ...

    def begins_in(self, context: contextvars.Context) -> None:
        """Its code is about to run there."""
        ...

    def stepped(self) -> None:
        """Its code has come to a stop: to its end, if this is not said again."""
        ...

    def answered(self, status: int, result: Any) -> None:
        """Its reply leaves, which is what is given to `reply`."""
        ...


class Tracing(Protocol):
    @property
    def begins(self) -> bool:
        """Calls without a trace may begin one."""
        ...

    def begin(self, traceparent: str | None, request: Request, arrived_s: float) -> CallTrace | None:
        """A call arrives, or has at that time. Without a traceparent, or with what is none, it may begin a trace. None: it is in
        none."""
        ...

    def current(self) -> str | None:
        """What the code that runs gives along with a call: a traceparent. None: it is in no trace."""
        ...


class TracedOrigin(InternalOrigin):
    """Where the reply of a call with a trace goes."""

    __slots__ = ("_origin", "_reply", "_request_id", "trace")

    def __init__(self, call: Call, trace: CallTrace, reply: Callable[[Origin, Any, int, Any], None]) -> None:
        super().__init__()
        self._origin = call.origin
        self._request_id = call.request.id
        self._reply = reply
        self.trace = trace
        self.json = call.origin.json
        self.arrived_s = call.origin.arrived_s

    def answer(self, status: int, result: Any) -> None:
        self.trace.answered(status, result)
        self._reply(self._origin, self._request_id, status, result)

    def asked_by(self, request_id: Any) -> tuple[Origin, Any]:
        return self._origin, self._request_id


def trace_call(
    call: Call, traceparent: str | None, tracing: Tracing, reply: Callable[[Origin, Any, int, Any], None], now_s: float
) -> None:
    """Of a call that has come from outside, or of an alarm."""
    trace = tracing.begin(traceparent, call.request, call.origin.arrived_s or now_s)
    if trace is None:
        return
    call.trace = trace
    if isinstance(call.origin, TimedOrigin | BuiltIn):  # One that is built in is the method, too: nothing may stand in its place.
        call.origin.trace = trace
    else:
        call.origin = TracedOrigin(call, trace, reply)
