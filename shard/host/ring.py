"""One alarm on its way, and the run of its handler.

An alarm is delivered as a call that comes from nowhere: it activates the object, waits at the input gate, and its outcome passes
the output gate, so that `Ring.answer` means that the removal of the alarm (or its retry) is durable.

What counts as a failed run: everything for which the object's code is to blame while the handler runs: what it raises, `abort`,
a critical section that fails or takes too long. What does not count is tried again until it gets through: a write that could
not be made durable, a full queue, an object that cannot be started, so that the handler has not run at all.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, cast

from tidegate.runtime.errors import MethodRaised
from tidegate.runtime.wire.exceptions import line_of, name_of, text_of
from tidegate.runtime.wire.protocol import ERROR, Request
from tidegate.shard.core.alarms import (
    RETRY_JITTER,
    Abandoned,
    Alarm,
    Due,
    abandoned_alarm,
    abandoned_now,
    abandoned_row,
    info_of,
    retried,
    scheduled_for,
)
from tidegate.shard.core.cache import ObjectCache
from tidegate.shard.core.states import State
from tidegate.shard.host.outbound import BuiltIn
from tidegate.shard.loop.context import CURRENT
from tidegate.shard.loop.raised import let_go
from tidegate.shard.objects.object import ALARM, DurableObject

if TYPE_CHECKING:
    from tidegate.shard.host.activation import Activation
    from tidegate.shard.host.alarm_clock import AlarmClock
    from tidegate.shard.host.host import Host

TRY_AGAIN_US = 2_000_000
"""How long after the first attempt that did not count the next one follows; twice as long after each further one."""
TRY_AGAIN_DOUBLINGS = 5

log = logging.getLogger("tidegate.alarms")


class Failure(Exception):
    """Stands for a run that ended with its instance, so that only the next instance can record it."""


class Ring(BuiltIn):
    """One alarm on its way: the call that nobody made, its method, and where its outcome goes."""

    __slots__ = (
        "_abandoned",
        "_activation",
        "_failure",
        "_has_run",
        "_instead",
        "_raised",
        "attempts",
        "clock",
        "deaths",
        "due",
        "has_ended",
        "marked",
        "overtaken",
        "shard",
    )

    name = ALARM

    def __init__(self, clock: AlarmClock, shard: int, due: Due) -> None:
        super().__init__()
        self.clock = clock
        self.shard = shard
        self.due = due
        self.attempts = 0
        """How often it did not get through, through no fault of the object."""
        self.overtaken = False
        """Another ring for the object has come since this one began to wait for its mark, and was dropped."""
        self.deaths = 0
        """Processes that have died while the handler ran, one after another."""
        self.has_ended = False
        """The handler has come to its end, or never will run."""
        self.marked = False
        """The run has begun: if this process dies it is one more."""
        self._activation: Activation | None = None
        self._has_run = False
        """The handler, in this activation."""
        self._raised: dict[str, Any] | None = None
        """By the handler, as the wire protocol has it: for its trace."""
        self._failure: Failure | None = None
        """A run that ended with its instance and has not been counted."""
        self._abandoned: Abandoned | None = None
        self._instead = False
        """It has taken the place of an earlier one."""

    async def function(self, instance: DurableObject) -> None:
        """The gate has let it in."""
        activation = self._activation = cast("Activation", CURRENT.get())
        await self._run(instance, activation, activation.cache)
        activation.cache.confirm_alarm()  # The outcome waits for what was found here, whoever wrote it.

    async def _run(self, instance: DurableObject, activation: Activation, cache: ObjectCache) -> None:
        """Runs the handler of the object's alarm, if it is still due, and removes, retries or abandons the alarm."""
        alarm = cache.alarm
        if alarm is None or not self.clock.is_due(self.shard, alarm):
            return  # It has been moved or deleted.
        self._has_run = True
        cache.ringing = alarm
        try:
            if self._failure is not None:
                raise self._failure
            self.clock.rung += 1
            await activation.object_class.alarm(instance, info_of(alarm, self.clock.ahead_us(self.shard)))  # type: ignore[misc]  # no class rings without
        except BaseException as exc:
            if activation.broken is not None or CURRENT.get(None) is not activation:
                raise  # The second: nobody runs it any more. Its coroutine is closed, as where a simulated process is killed.
            if issubclass(type(exc), Failure):
                activation.host.log.was_cut_short(activation.id, "the alarm handler failed", text_of(exc), ALARM)
            else:
                activation.host.log.failed(activation.id, "the alarm handler failed", exc, ALARM)
            if self.trace is not None:
                self._raised = MethodRaised(text_of(exc), details={"type": name_of(exc)}).to_wire()
            if cache.alarm is alarm:
                self._count_failure(cache, alarm, exc)
            let_go(exc)
        else:
            if cache.alarm is alarm:
                cache.set_alarm(None)
        finally:
            cache.ringing = None
        if activation.broken is None:  # Else another run may have begun by now.
            self.clock.run_ended(self)

    def _count_failure(self, cache: ObjectCache, alarm: Alarm, error: BaseException) -> None:
        later = retried(alarm, self.clock.steady.now_us(self.shard), self.clock.random.random())
        if later is None:
            self._abandon(cache, alarm, text_of(error) if issubclass(type(error), Failure) else line_of(error))
        cache.set_alarm(later)

    def _abandon(self, cache: ObjectCache, alarm: Alarm, error: str) -> None:
        clock = self.clock
        scheduled = scheduled_for(alarm, clock.ahead_us(self.shard))
        self._abandoned = abandoned_now(cache.class_name, cache.name, scheduled, error, clock.wall_us(), self.deaths)
        cache.abandoned = abandoned_row(cache.key, self._abandoned)
        self._instead = abandoned_alarm(cache.store, cache.key) is not None

    def abandon_dead(self, activation: Activation) -> None:
        """The handler has killed too many. The object's alarm is removed, and nothing of it runs."""
        self._abandoned = None
        cache = activation.cache
        alarm = cache.alarm
        if alarm is not None and self.clock.is_due(self.shard, alarm):
            self._abandon(cache, alarm, f"its process died {self.deaths} times while the handler ran")
            cache.set_alarm(None)
        self.clock.run_ended(self)

    def deliver(self, host: Host) -> None:
        self._activation, self._has_run, self._abandoned, self._raised, self.trace = None, False, None, None, None
        host.deliver(Request(0, self.due.class_name, self.due.name, ALARM), self)

    def answer(self, status: int, result: Any) -> None:
        due, clock = self.due, self.clock
        if self.trace is not None:
            self.trace.answered(*((status, result) if self._raised is None else (ERROR, self._raised)))
        if status != ERROR:
            if self._abandoned is not None:
                clock.given_up.add(self._abandoned, instead=self._instead)
            clock.ended(self)
            return
        reason = result.get("message", "")
        if self._has_run and self._activation is not None and self._activation.state is State.FAILED:
            self._failure = Failure(reason)
            clock.ended(self, again_in_us=0)
            return
        if clock.serves(self.shard):
            log.warning("the alarm of %s/%s did not get through and is tried again: %s", due.class_name, due.name, reason)
        self.try_again()

    def try_again(self) -> None:
        clock = self.clock
        delay_us = TRY_AGAIN_US << min(self.attempts, TRY_AGAIN_DOUBLINGS)
        self.attempts += 1
        clock.ended(self, again_in_us=int(delay_us * (1 + RETRY_JITTER * clock.random.random())))
