"""Rings alarms: the timer over the alarm indexes of a worker's shards, and the run of one handler.

An alarm is delivered as a call that comes from nowhere: it activates the object, waits at the input gate, and its outcome passes
the output gate, so that `AlarmOrigin.answer` means that the removal of the alarm (or its retry) is durable.

What is the runtime's fault (a reset, a full queue, a class that is missing) is tried again and does not count; what the handler
raises counts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from random import Random
from typing import TYPE_CHECKING, Any

from runtime.protocol import ERROR, Request
from shard.alarms import Due, IndexStore, ShardAlarms, abandoned_row, info_of, retried
from shard.object import ALARM, DurableObject
from shard.outbound import InternalOrigin
from shard.task import NEUTRAL

if TYPE_CHECKING:
    from shard.host import Host

TRY_AGAIN_US = 2_000_000
RING_PER_TURN = 100
TIMER_S_MAX = 60.0
"""The longest sleep: the wall clock may be set meanwhile."""

log = logging.getLogger("tidegate.alarms")


class AlarmOrigin(InternalOrigin):
    """Takes the outcome of one ringing."""

    __slots__ = ("clock", "due", "shard")

    def __init__(self, clock: AlarmClock, shard: int, due: Due) -> None:
        super().__init__()
        self.clock = clock
        self.shard = shard
        self.due = due

    def answer(self, status: int, result: Any) -> None:
        if status == ERROR:
            self.clock.not_rung(self.shard, self.due, result.get("message", ""))


class Ringing:
    """What stands in for a method when an alarm rings."""

    name = ALARM
    empty_ok = True

    @staticmethod
    async def function(instance: DurableObject) -> None:
        """Runs the handler of the object's alarm, if it is still due, and removes, retries or abandons the alarm."""
        activation = instance._activation
        if activation.alarm_lock is None:
            activation.alarm_lock = asyncio.Lock()
        async with activation.alarm_lock:  # An alarm that the handler sets for now rings after the handler.
            cache, host = activation.cache, activation.host
            alarm = cache.alarm
            if alarm is None or alarm.due_us > host.wall_us():
                return  # It has been moved or deleted; where it stands now, it has a row of its own.
            cache.ringing = alarm
            try:
                await instance.alarm(info_of(alarm))  # type: ignore[attr-defined]  # set_alarm refuses classes without
            except Exception as exc:
                if activation.broken is not None:
                    raise
                log.warning("%s: the alarm handler raised (retry %d)", activation.id, alarm.retry_count, exc_info=exc)
                if cache.alarm is alarm:
                    later = retried(alarm, host.wall_us(), host.alarms.random.random())
                    if later is None:
                        log.error("%s: the alarm is abandoned after %d retries: %r", activation.id, alarm.retry_count, exc)
                        cache.abandoned = abandoned_row(
                            cache.key, cache.class_name, cache.name, alarm, exc, host.wall_us()
                        )
                        host.alarms.abandoned += 1
                    cache.set_alarm(later)
            else:
                if cache.alarm is alarm:
                    cache.set_alarm(None)
            finally:
                cache.ringing = None


RINGING: Any = Ringing()


class AlarmClock:
    """The alarms of a worker. Nothing rings before `start`."""

    def __init__(self, host: Host, stores: Mapping[int, IndexStore], random: Random) -> None:
        self.random = random
        self.rung = self.abandoned = 0
        self._host = host
        self._stores = stores
        self._shards: dict[int, ShardAlarms] = {}
        self._committing: list[tuple[int, Due]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due_us: int | None = None
        self._stopped = True

    def start(self) -> None:
        """Reads what is due next; overdue alarms ring at once."""
        self._shards = {shard: ShardAlarms(store) for shard, store in self._stores.items()}
        self._stopped = False
        self._set_timer()

    def stop(self) -> None:
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()

    # Commits

    def committing(self, shard: int, due: Due) -> None:
        """An alarm that is part of the commit being cut."""
        self._committing.append((shard, due))

    def committed(self) -> None:
        if self._committing:
            noted, self._committing = self._committing, []
            if not self._stopped:
                for shard, due in noted:
                    self._shards[shard].note(due)
                self._set_timer()

    def commit_failed(self) -> None:
        self._committing = []

    # Ringing

    def _set_timer(self) -> None:
        due = [due_us for shard in self._shards.values() if (due_us := shard.next_due_us()) is not None]
        if self._stopped or not due or (self._timer_due_us is not None and self._timer_due_us <= min(due)):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due_us = min(due)
        delay_s = min(TIMER_S_MAX, max(0.0, (self._timer_due_us - self._host.wall_us()) / 1e6))
        self._timer = self._host.loop.call_later(delay_s, self._ring, context=NEUTRAL)

    def _ring(self) -> None:
        self._timer = self._timer_due_us = None
        if self._stopped:
            return
        now_us = self._host.wall_us()
        for shard, alarms in self._shards.items():
            for due in alarms.take_due(now_us, RING_PER_TURN):
                self.rung += 1
                self._host.deliver(Request(0, due.class_name, due.name, ALARM), AlarmOrigin(self, shard, due))
        self._host.touch()
        self._set_timer()

    def not_rung(self, shard: int, due: Due, reason: str) -> None:
        log.warning("the alarm of %s/%s could not be delivered and is tried again: %s", due.class_name, due.name, reason)
        if not self._stopped:
            self._shards[shard].try_again(due, self._host.wall_us() + TRY_AGAIN_US)
            self._set_timer()
