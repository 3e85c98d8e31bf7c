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
from typing import TYPE_CHECKING, Any

from tidegate.runtime.errors import CallError, DeadlineExceeded, Overloaded
from tidegate.runtime.wire.protocol import ERROR, Origin
from tidegate.shard.host.call import Call
from tidegate.shard.host.outbound import InternalOrigin
from tidegate.shard.host.turn import Turn
from tidegate.shard.neutral import NEUTRAL

if TYPE_CHECKING:
    from tidegate.shard.host.tracing import CallTrace

TIMER_S_MAX = 3_600.0
"""A timer is set for this long at most: deadlines of centuries are more than loops count."""
_COMPACT_MIN = 64
LATE_S_MIN = 0.02
"""A call that has waited less than this is not refused for it, however soon its deadline is."""


class TimedOrigin(InternalOrigin):
    """Where the reply of a call with a deadline goes, unless that has passed."""

    __slots__ = ("_class_name", "_deadlines", "_origin", "_request_id", "call", "due_s", "over", "started", "trace")

    def __init__(self, deadlines: Deadlines, call: Call, due_s: float) -> None:
        super().__init__()
        self.json = call.origin.json
        self.arrived_s = call.origin.arrived_s
        self._class_name = call.request.cls
        self._deadlines = deadlines
        self._origin = call.origin
        self._request_id = call.request.id
        self.due_s = due_s
        self.started = False
        self.over = False
        """It has been answered."""
        self.trace: CallTrace | None = None
        self.call: Call | None = call
        """Until it is started or answered: it knows where it waits."""

    def answer(self, status: int, result: Any) -> None:
        if not self.over:
            self.over = True
            self.call = None
            if self.trace is not None:
                self.trace.answered(status, result)
            self._deadlines.answered(self._origin, self._request_id, status, result)

    def fail(self, error: CallError) -> None:
        self.answer(ERROR, error.to_wire())

    def asked_by(self, request_id: Any) -> tuple[Origin, Any]:
        return self._origin, request_id

    def begin(self, now_s: float) -> bool:
        """The call is to be started. False when that is too late; it has been answered then."""
        self.call = None
        if now_s >= self.due_s:
            self.expire()
        self.started = True
        return not self.over

    def expire(self) -> None:
        if not self.over:
            self._deadlines.count_error(self._class_name, DeadlineExceeded.code)
        if self.started:
            self.fail(DeadlineExceeded("the deadline passed while the call was running", outcome="unknown"))
        else:
            self.fail(DeadlineExceeded("the deadline passed before the call was started"))


class Deadlines:
    """Of one worker. `reply` sends a reply to a caller outside, `turn` is asked for an end, `take_out` makes calls wait no
    longer."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        reply: Callable[[Origin, Any, int, Any], None],
        turn: Turn,
        take_out: Callable[[list[Call]], None],
        count_error: Callable[[str, str], None],
    ) -> None:
        """`count_error`: of which class, and its code."""
        self._loop = loop
        self._reply = reply
        self._turn = turn
        self._take_out = take_out
        self.count_error = count_error
        self._due: list[tuple[float, int, TimedOrigin]] = []
        """A heap. Those that have been answered leave it when they are due, or when they are most of it."""
        self._numbers = itertools.count().__next__
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at_s = 0.0
        self.unanswered = 0

    def watch(self, call: Call, deadline_ms: int, due_s: float | None = None) -> CallError | None:
        """A call with a deadline arrives from outside: from now on its reply takes the way through here. `due_s` is when the
        deadline is, where that is known. The reason to refuse the call: its time is over, or it has spent more of it waiting to
        be read than is left. So a worker with too much to do works for those whom it can still answer, not for all too late."""
        now_s = self._loop.time()
        arrived_due_s = now_s + deadline_ms / 1_000
        if due_s is None and (arrived_s := call.origin.arrived_s):  # Perhaps it has waited behind others of its message.
            due_s = arrived_due_s - max(0.0, self._turn.now_s - arrived_s)
        waited_s = 0.0 if due_s is None else arrived_due_s - due_s
        due_s = arrived_due_s if due_s is None else min(due_s, arrived_due_s)
        timed = call.origin = TimedOrigin(self, call, due_s)
        self.unanswered += 1
        if len(self._due) > 2 * self.unanswered + _COMPACT_MIN:
            self._due = [entry for entry in self._due if not entry[2].over]
            heapq.heapify(self._due)
        heapq.heappush(self._due, (due_s, self._numbers(), timed))
        if self._timer is None or due_s < self._timer_at_s:
            self._set_timer()
        if due_s <= now_s:
            return DeadlineExceeded("the deadline passed before the worker read the call")
        if waited_s > max(due_s - now_s, LATE_S_MIN):
            return Overloaded(f"the call waited for {waited_s:.3f} s until the worker read it")
        return None

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
        late: list[Call] = []
        while due and (due[0][2].over or due[0][0] <= now_s):
            _, _, timed = heapq.heappop(due)
            if timed.call is not None and timed.call.waits:
                late.append(timed.call)
            timed.expire()
        self._take_out(late)
        if due:
            self._set_timer()
        self._turn.end_soon()
