"""Rings alarms: the timer over the alarm indexes of a worker's shards, and the run of one handler.

Guarantee: an alarm that stands in an index is in memory here (with its shard, on its way, or to be tried again), or its shard
reads it in time; nothing forgets it before its removal is durable. An object's alarm is on its way at most once, so its handler
never runs twice at a time. While nothing is due, nothing runs.

An alarm is delivered as a call that comes from nowhere: it activates the object, waits at the input gate, and its outcome passes
the output gate, so that `Ring.answer` means that the removal of the alarm (or its retry) is durable.

A run is counted durably before it starts: its mark stands in the shard until the run has ended, however it ended. So a process
knows which runs died with the one before. From the second death on a handler pauses, longer each time, and runs alone, so
that those which only died with it are no longer blamed; after a few deaths its alarm is abandoned. A stop that was asked for
takes all marks back.

What counts as a failed run: everything for which the object's code is to blame while the handler runs: what it raises, `abort`,
a critical section that fails or takes too long. What does not count is tried again until it gets through: a write that could
not be made durable, a full queue, an object that cannot be started, so that the handler has not run at all.
"""

from __future__ import annotations

import asyncio
import collections
import heapq
import logging
from collections.abc import Iterator, Mapping
from random import Random
from typing import TYPE_CHECKING, Any

from runtime.exceptions import line_of, text_of
from runtime.limits import ALARM_ALONE_S, ALARM_DEATHS_ALONE, ALARM_DEATHS_MAX
from runtime.protocol import ERROR, OK, Request
from shard.alarms import (
    BEGUN_KEY,
    RETRY_JITTER,
    Abandoned,
    Alarm,
    Due,
    IndexStore,
    ShardAlarms,
    abandoned_alarm,
    abandoned_now,
    abandoned_row,
    begun_row,
    deaths_of,
    info_of,
    object_name,
    pause_after_us,
    pending_alarm,
    retried,
)
from shard.cache import ObjectCache
from shard.given_up import GivenUp
from shard.object import ALARM, DurableObject
from shard.outbound import InternalOrigin
from shard.raised import let_go
from shard.record import ObjectWrites
from shard.task import CURRENT, NEUTRAL

if TYPE_CHECKING:
    from shard.activation import Activation
    from shard.host import Host

TRY_AGAIN_US = 2_000_000
"""How long after the first attempt that did not count the next one follows; twice as long after each further one."""
TRY_AGAIN_DOUBLINGS = 5
RINGS_PER_TURN = 100
RINGS_MAX = 10_000
"""Alarms on their way at a time; the others wait in the index."""
TIMER_MS_MAX = 10_000
"""The longest sleep: the wall clock may be set meanwhile."""
SUSPECTS_NAMED = 3

log = logging.getLogger("tidegate.alarms")


class Failure(Exception):
    """Stands for a run that ended with its instance, so that only the next instance can record it."""


class Ring(InternalOrigin):
    """One alarm on its way: the call that nobody made, its method, and where its outcome goes."""

    __slots__ = (
        "_abandoned",
        "_activation",
        "_failure",
        "_has_run",
        "_instead",
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
    empty_ok = True

    def __init__(self, clock: AlarmClock, shard: int, due: Due) -> None:
        super().__init__()
        self.clock = clock
        self.shard = shard
        self.due = due
        self.attempts = 0
        """How often it did not get through, through no fault of the object."""
        self.overtaken = False
        """Another ring for the object came meanwhile and was dropped."""
        self.deaths = 0
        """Processes that have died while the handler ran, one after another."""
        self.has_ended = False
        """The handler has come to its end, or never will run."""
        self.marked = False
        """The run has begun: if this process dies it is one more."""
        self._activation: Activation | None = None
        self._has_run = False
        """The handler, in this activation."""
        self._failure: Failure | None = None
        """A run that ended with its instance and has not been counted."""
        self._abandoned: Abandoned | None = None
        self._instead = False
        """It has taken the place of an earlier one."""

    async def function(self, instance: DurableObject) -> None:
        """The gate has let it in."""
        activation = self._activation = CURRENT.get()
        await self._run(instance, activation, activation.cache)
        activation.cache.confirm_alarm()  # The outcome waits for what was found here, whoever wrote it.

    async def _run(self, instance: DurableObject, activation: Activation, cache: ObjectCache) -> None:
        """Runs the handler of the object's alarm, if it is still due, and removes, retries or abandons the alarm."""
        alarm = cache.alarm
        if alarm is None or alarm.due_us > self.clock.now_us():
            return  # It has been moved or deleted.
        self._has_run = True
        cache.ringing = alarm
        try:
            if self._failure is not None:
                raise self._failure
            self.clock.rung += 1
            await activation.object_class.alarm(instance, info_of(alarm))  # type: ignore[misc]  # no class rings without
        except BaseException as exc:
            if activation.broken is not None:
                raise
            activation.host.log.failed(activation.id, "the alarm handler failed", exc)
            if cache.alarm is alarm:
                self._count_failure(cache, alarm, exc)
            let_go(exc)
        else:
            if cache.alarm is alarm:
                cache.set_alarm(None)
        finally:
            cache.ringing = None
        self.clock.run_ended(self)

    def _count_failure(self, cache: ObjectCache, alarm: Alarm, error: BaseException) -> None:
        now_us = self.clock.now_us()
        later = retried(alarm, now_us, self.clock.random.random())
        if later is None:
            self._abandon(cache, alarm, text_of(error) if isinstance(error, Failure) else line_of(error))
        cache.set_alarm(later)

    def _abandon(self, cache: ObjectCache, alarm: Alarm, error: str) -> None:
        clock = self.clock
        self._abandoned = abandoned_now(cache.class_name, cache.name, alarm, error, clock.now_us(), self.deaths)
        cache.abandoned = abandoned_row(cache.key, self._abandoned)
        self._instead = abandoned_alarm(cache.store, cache.key) is not None

    def abandon_dead(self, activation: Activation) -> None:
        """The handler has killed too many. The object's alarm is removed, and nothing of it runs."""
        cache = activation.cache
        alarm = cache.alarm
        if alarm is not None and alarm.due_us <= self.clock.now_us():
            self._abandon(cache, alarm, f"its process died {self.deaths} times while the handler ran")
            cache.set_alarm(None)
        self.clock.run_ended(self)

    def deliver(self, host: Host) -> None:
        self._activation, self._has_run, self._abandoned, self.overtaken = None, False, None, False
        host.deliver(Request(0, self.due.class_name, self.due.name, ALARM), self)

    def answer(self, status: int, result: Any) -> None:
        due, clock = self.due, self.clock
        if status != ERROR:
            if self._abandoned is not None:
                clock.given_up.add(self._abandoned, instead=self._instead)
            clock.ended(self)
            return
        reason = result.get("message", "")
        if self._has_run and self._activation is not None and self._activation.at_fault:
            self._failure = Failure(reason)
            clock.ended(self, again_in_us=0)
            return
        log.warning("the alarm of %s/%s did not get through and is tried again: %s", due.class_name, due.name, reason)
        self.try_again()

    def try_again(self) -> None:
        clock = self.clock
        delay_us = TRY_AGAIN_US << min(self.attempts, TRY_AGAIN_DOUBLINGS)
        self.attempts += 1
        clock.ended(self, again_in_us=int(delay_us * (1 + RETRY_JITTER * clock.random.random())))


class AlarmClock:
    """The alarms of a worker. Nothing rings before `start`."""

    def __init__(self, host: Host, stores: Mapping[int, IndexStore], random: Random) -> None:
        self.random = random
        self.now_us = host.wall_us
        self.rung = 0
        """Runs of handlers."""
        self.given_up = GivenUp(host, stores)
        self._host = host
        self._stores = stores
        self._shards: dict[int, ShardAlarms] = {}
        self._committing: list[tuple[int, Due]] = []
        self._ringing: dict[bytes, Ring] = {}
        """By object: the alarms on their way."""
        self._again: list[tuple[int, int, Ring]] = []
        """When to try again, a number, and what did not get through. A heap."""
        self._numbers = 0
        self._deaths: dict[bytes, int] = {}
        """By object: processes that have died while its handler ran."""
        self._marking: list[Ring] = []
        """Rings whose marks are in the open commit."""
        self._being_marked: list[Ring] = []
        """In the commit in flight."""
        self._marked: collections.deque[Ring] = collections.deque()
        """To be delivered."""
        self._suspects: collections.deque[Ring] = collections.deque()
        """To run alone, one after another."""
        self._pausing = 0
        """Rings that wait before that, or among them."""
        self._alone: Ring | None = None
        self._alone_timer: asyncio.TimerHandle | None = None
        self._unknown: set[str] = set()
        """Classes with alarms that the app does not have."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due_us: int | None = None
        self._stopped = True

    def start(self) -> None:
        """Reads what is due next; overdue alarms ring at once."""
        self._shards = {shard: ShardAlarms(store, self._set_timer) for shard, store in self._stores.items()}
        self.given_up.load()
        self._find_deaths()
        self._stopped = False
        self._set_timer()

    def _find_deaths(self) -> None:
        suspects = []
        for shard, store in self._stores.items():
            for object_key, deaths in deaths_of(store).items():
                if pending_alarm(store, object_key) is None:
                    self._write_mark(shard, object_key, 0)  # It was deleted or has succeeded.
                    continue
                self._deaths[object_key] = deaths
                if ALARM_DEATHS_ALONE <= deaths < ALARM_DEATHS_MAX:
                    suspects.append(object_name(store, object_key))
        if suspects:
            named = ", ".join(suspects[:SUSPECTS_NAMED]) + (", …" if len(suspects) > SUSPECTS_NAMED else "")
            text = "alarm handlers that ran each time when the worker died: %d; they pause, and run one at a time: %s"
            log.warning(text, len(suspects), named)

    def stop(self) -> None:
        """What runs goes on, and nobody is blamed for not having ended."""
        self._stopped = True
        for timer in (self._timer, self._alone_timer):
            if timer is not None:
                timer.cancel()
        for ring in self._ringing.values():
            self._take_mark_back(ring)
        if self._host.commits.own:
            self._host.commits.own_wanted = True
            self._host.touch()

    @property
    def next_due_us(self) -> int | None:
        """Unix time of the next ring, if any is to come."""
        due = [due_us for shard in self._shards.values() if (due_us := shard.next_due_us()) is not None]
        if self._again:
            due.append(self._again[0][0])
        return min(due, default=None)

    # Commits

    def cut_alarm(self, cache: ObjectCache) -> list[ObjectWrites]:
        """An object's alarm has changed, and is part of the commit being cut: what else that changes."""
        if cache.alarm is not None:
            self._committing.append((cache.shard, Due(cache.alarm.due_us, cache.key, cache.class_name, cache.name)))
        return cache.take_index_writes()

    def cut_marks(self) -> None:
        self._being_marked, self._marking = self._marking, []

    def committed(self) -> None:
        if self._being_marked:
            if not self._marked:
                self._host.call_soon(self._deliver, context=NEUTRAL)
            self._marked.extend(self._being_marked)
            self._being_marked = []
        if self._committing:
            noted, self._committing = self._committing, []
            if not self._stopped:
                for shard, due in noted:
                    self._shards[shard].note(due)
                self._set_timer()

    def commit_failed(self) -> None:
        self._committing = []
        rings, self._being_marked = self._being_marked, []
        for ring in rings:
            ring.try_again()

    # Ringing

    def _set_timer(self) -> None:
        if self._stopped or self._room <= 0:
            return
        due_us = self.next_due_us
        if due_us is None or (self._timer_due_us is not None and self._timer_due_us <= due_us):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due_us = due_us
        wait_ms = -((self.now_us() - due_us) // 1_000)  # Rounded up: a timer that ends early would be set again.
        self._timer = self._host.loop.call_later(min(TIMER_MS_MAX, max(0, wait_ms)) / 1_000, self._ring, context=NEUTRAL)

    @property
    def _room(self) -> int:
        return RINGS_MAX - len(self._ringing) + self._pausing

    def _ring(self) -> None:
        self._timer = self._timer_due_us = None
        if self._stopped:
            return
        for ring in list(self._take_due(self.now_us(), min(RINGS_PER_TURN, self._room))):
            due = ring.due
            if due.object_key in self._ringing:
                self._ringing[due.object_key].overtaken = True
            elif self._has_handler(due.class_name):
                self._ringing[due.object_key] = ring
                ring.deaths = self._deaths.get(due.object_key, 0)
                if ring.deaths >= ALARM_DEATHS_MAX:
                    self._abandon(ring)
                elif ring.deaths >= ALARM_DEATHS_ALONE:
                    self._pausing += 1
                    delay_s = pause_after_us(ring.deaths) * (1 + RETRY_JITTER * self.random.random()) / 1e6
                    self._host.loop.call_later(delay_s, self._pause_over, ring, context=NEUTRAL)
                else:
                    self._mark(ring)
        self._set_timer()

    def _mark(self, ring: Ring) -> None:
        """Its run counts as begun when that is durable, and begins then."""
        ring.marked, ring.has_ended = True, False
        self._write_mark(ring.shard, ring.due.object_key, ring.deaths + 1, wanted=True)
        self._marking.append(ring)
        self._host.touch()

    def _write_mark(self, shard: int, object_key: bytes, deaths: int, *, wanted: bool = False) -> None:
        key, raw = begun_row(object_key, deaths)
        self._host.commits.write_own(shard, BEGUN_KEY, key, raw, wanted=wanted)

    def _take_mark_back(self, ring: Ring) -> None:
        """The run has not begun, or has not ended by itself; it died with no process either."""
        if ring.marked:
            ring.marked = False
            self._write_mark(ring.shard, ring.due.object_key, ring.deaths)

    def run_ended(self, ring: Ring) -> None:
        """In whatever way: the handler does not kill. What becomes of the alarm is in the same commit."""
        ring.has_ended = True
        self._write_mark(ring.shard, ring.due.object_key, 0)

    def _deliver(self) -> None:
        """Runs that count as begun."""
        host = self._host
        host.now_s = host.loop.time()
        for _ in range(min(len(self._marked), RINGS_PER_TURN)):
            ring = self._marked.popleft()
            if not self._stopped:
                ring.deliver(host)
        if self._marked:
            host.call_soon(self._deliver, context=NEUTRAL)
        host.touch()

    # Those that may kill

    def _pause_over(self, ring: Ring) -> None:
        self._suspects.append(ring)
        self._next_alone()

    def _next_alone(self) -> None:
        if self._alone is None and self._suspects and not self._stopped:
            self._pausing -= 1
            ring = self._alone = self._suspects.popleft()
            self._alone_timer = self._host.loop.call_later(ALARM_ALONE_S, self._alone_over, ring, context=NEUTRAL)
            self._mark(ring)

    def _alone_over(self, ring: Ring) -> None:
        """It has ended, or takes so long that the others must not wait for it."""
        if self._alone is ring:
            self._alone = None
            assert self._alone_timer is not None
            self._alone_timer.cancel()
            self._next_alone()

    def _abandon(self, ring: Ring) -> None:
        """Whatever becomes of it, the object's code does not run."""
        host, due = self._host, ring.due
        kept = host.classes[due.class_name]
        activation = host.activator.borrow(kept, due.name, ring.shard)
        if activation is None:
            ring.try_again()
            return
        ring.marked = True
        ring.abandon_dead(activation)
        seq = activation.cache.confirm_seq
        if seq <= host.commits.durable_seq:
            ring.answer(OK, None)
        else:
            host.commits.hold(seq, (activation, ring, 0, OK, None))
        host.activator.give_back(kept, activation)
        host.touch()

    def _take_due(self, now_us: int, most: int) -> Iterator[Ring]:
        while most > 0 and self._again and self._again[0][0] <= now_us:
            most -= 1
            yield heapq.heappop(self._again)[2]
        late = [(due_us, shard) for shard, alarms in self._shards.items() if (due_us := alarms.next_due_us()) is not None]
        for _, shard in sorted(late):
            taken = self._shards[shard].take_due(now_us, most)
            most -= len(taken)
            for due in taken:
                yield Ring(self, shard, due)

    def _has_handler(self, class_name: str) -> bool:
        """Alarms of classes that the app no longer has stay in the index, for a start with an app that has them."""
        kept = self._host.classes.get(class_name)
        if kept is not None and kept.object_class.alarm is not None:
            return True
        if class_name not in self._unknown:
            self._unknown.add(class_name)
            log.warning("alarms of %s are due, but the app has no such class with an alarm handler; they are kept", class_name)
        return False

    def ended(self, ring: Ring, again_in_us: int | None = None) -> None:
        """What has become of the ring is durable, or it did not get through. An alarm that the object has now is not
        forgotten."""
        due = ring.due
        del self._ringing[due.object_key]
        if again_in_us is None and ring.has_ended:
            self._deaths.pop(due.object_key, None)
        else:
            self._take_mark_back(ring)
        self._alone_over(ring)
        if self._stopped:
            return
        alarm = pending_alarm(self._stores[ring.shard], due.object_key)
        if alarm is not None:
            moved = alarm.due_us != due.due_us  # Then its commit has noted it.
            if again_in_us is not None and not moved:
                self._numbers += 1
                heapq.heappush(self._again, (self.now_us() + again_in_us, self._numbers, ring))
            elif ring.overtaken or not moved:
                self._shards[ring.shard].note(due._replace(due_us=alarm.due_us))
        self._set_timer()
