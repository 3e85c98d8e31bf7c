"""Calls that have a deadline: answered at it, whatever their object does.

Guarantee: a call with a deadline is answered once: by its reply, or at its deadline by `deadline_exceeded`. That says *not
executed* of a call that was not started, and then it never is; of one that was started nobody can say more than *unknown*. The
work goes on, and what it answers later is nobody's.

A call without a deadline costs nothing here. All deadlines share one timer.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from typing import Any

from tidegate.runtime.errors import BadRequest, CallError, DeadlineExceeded
from tidegate.runtime.wire.protocol import ERROR, Origin, Request, parse_options
from tidegate.shard.core.chain import Chain
from tidegate.shard.core.input_gate import Section
from tidegate.shard.host.activation import Activation, QueuedCall
from tidegate.shard.host.outbound import InternalOrigin
from tidegate.shard.host.turn import Turn
from tidegate.shard.neutral import NEUTRAL

TIMER_S_MAX = 3_600.0
"""A timer is set for this long at most: deadlines of centuries are more than loops count."""
_COMPACT_MIN = 64


class TimedOrigin(InternalOrigin):
    """Where the reply of a call with a deadline goes, unless that has passed."""

    __slots__ = ("_deadlines", "_origin", "_request_id", "chain", "due_s", "over", "queued", "started")

    def __init__(self, deadlines: Deadlines, origin: Origin, request_id: Any, due_s: float, chain: Chain | None) -> None:
        super().__init__()
        self.json = origin.json
        self._deadlines = deadlines
        self._origin = origin
        self._request_id = request_id
        self.due_s = due_s
        self.chain = chain
        """As its options say: they are read once."""
        self.started = False
        self.over = False
        """It has been answered."""
        self.queued: QueuedCall | None = None
        """Where it waits, if that is the gate of its object."""

    def answer(self, status: int, result: Any) -> None:
        if not self.over:
            self.over = True
            self._deadlines.answered(self._origin, self._request_id, status, result)

    def fail(self, error: CallError) -> None:
        self.answer(ERROR, error.to_wire())

    def asked_by(self, request_id: Any) -> tuple[Origin, Any]:
        return self._origin, request_id

    def begin(self, now_s: float) -> bool:
        """The call is to be started. False when that is too late; it has been answered then."""
        self.queued = None
        if now_s >= self.due_s:
            self.expire()
        self.started = True
        return not self.over

    def expire(self) -> None:
        if self.started:
            self.fail(DeadlineExceeded("the deadline passed while the call was running", outcome="unknown"))
        else:
            self.fail(DeadlineExceeded("the deadline passed before the call was started"))


class Deadlines:
    """Of one worker. `reply` sends a reply to a caller outside, `turn` is asked for an end."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        reply: Callable[[Origin, Any, int, Any], None],
        turn: Turn,
    ) -> None:
        self._loop = loop
        self._reply = reply
        self._turn = turn
        self._due: list[tuple[float, int, TimedOrigin]] = []
        """A heap. Those that have been answered leave it when they are due, or when they are most of it."""
        self._numbers = itertools.count().__next__
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at_s = 0.0
        self.unanswered = 0

    def watch(self, request: Request, origin: Origin) -> Origin:
        """A call with options arrives from outside. Returns where its reply goes from now on."""
        try:
            options = parse_options(request.options, json=origin.json)
        except BadRequest:  # It is answered by whoever wants the other options.
            return origin
        if options.deadline_ms is None:
            return origin
        due_s = self._loop.time() + options.deadline_ms / 1_000
        timed = TimedOrigin(self, origin, request.id, due_s, options.chain)
        self.unanswered += 1
        if len(self._due) > 2 * self.unanswered + _COMPACT_MIN:
            self._due = [entry for entry in self._due if not entry[2].over]
            heapq.heapify(self._due)
        heapq.heappush(self._due, (due_s, self._numbers(), timed))
        if self._timer is None or due_s < self._timer_at_s:
            self._set_timer()
        return timed

    def answered(self, origin: Origin, request_id: Any, status: int, result: Any) -> None:
        self.unanswered -= 1
        self._reply(origin, request_id, status, result)

    def _set_timer(self) -> None:
        due_s = self._due[0][0]
        if self._timer is not None:
            if self._timer_at_s <= due_s:
                return
            self._timer.cancel()
        self._timer_at_s = min(due_s, self._loop.time() + TIMER_S_MAX)
        self._timer = self._loop.call_at(self._timer_at_s, self._on_timer, context=NEUTRAL)

    def _on_timer(self) -> None:
        self._timer = None
        due, now_s = self._due, max(self._loop.time(), self._timer_at_s)  # Timers may fire a little early.
        queued: dict[tuple[Activation, Section], set[QueuedCall]] = {}
        while due and (due[0][2].over or due[0][0] <= now_s):
            _, _, timed = heapq.heappop(due)
            call = timed.queued
            if call is not None and not timed.over and call.activation.broken is None:
                call.waits_no_longer()
                queued.setdefault((call.activation, call.activation.gate.living(call.section)), set()).add(call)
            timed.expire()
        for (activation, section), calls in queued.items():  # All at once: each pass over those who wait costs as much.
            activation.gate.give_up(section, calls)
            activation.schedule_pump()
        if due:
            self._set_timer()
        self._turn.end_soon()
