"""Rings alarms: the timer over the alarm indexes of a worker's shards, and the run of one handler.

Guarantee: an alarm that stands in an index is in memory here (with its shard, on its way, or to be tried again), or its shard
reads it in time; nothing forgets it before its removal is durable. An object's alarm is on its way at most once, so its handler
never runs twice at a time. While nothing is due, nothing runs.

A run is counted durably before it starts: its mark stands in the shard until the run has ended, however it ended. So a process
knows which runs died with the one before. From the second death on a handler pauses, longer each time, and runs alone, so
that those which only died with it are no longer blamed; after a few deaths its alarm is abandoned. A stop that was asked for
takes all marks back.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import datetime
import heapq
import logging
from collections.abc import Container, Iterator, Mapping, Sequence
from functools import partial
from random import Random
from typing import TYPE_CHECKING

import msgspec

from tidegate.runtime.ids import shard_of_key
from tidegate.runtime.limits import ALARM_ALONE_S, ALARM_DEATHS_ALONE, ALARM_DEATHS_MAX
from tidegate.runtime.wire.protocol import OK
from tidegate.shard.core.alarms import (
    AHEAD,
    BEGUN_KEY,
    RETRY_JITTER,
    STEADY_INDEX_KEY,
    STEADY_KEY,
    Alarm,
    Due,
    IndexStore,
    ShardAlarms,
    alarm_for,
    begun_row,
    deaths_of,
    object_name,
    pause_after_us,
    pending_alarm,
    stored_ahead_us,
)
from tidegate.shard.core.cache import ObjectCache
from tidegate.shard.core.steady import SteadyTime
from tidegate.shard.host.given_up import GivenUp
from tidegate.shard.host.ring import Ring
from tidegate.shard.neutral import NEUTRAL
from tidegate.shard.store.interface import ObjectWrites, ShardDamaged

if TYPE_CHECKING:
    from tidegate.shard.host.activation import Activation
    from tidegate.shard.host.host import Host

RINGS_PER_TURN = 100
RINGS_MAX = 10_000
"""Alarms on their way at a time; the others wait in the index."""
TIMER_MS_MAX = 10_000
"""The longest sleep: the wall clock may be set meanwhile."""
SUSPECTS_NAMED = 3

log = logging.getLogger("tidegate.alarms")


class AlarmClock:
    """The alarms of a worker. Nothing rings before `start`."""

    def __init__(self, host: Host, stores: Mapping[int, IndexStore], random: Random) -> None:
        self.random = random
        self.wall_us = host.wall_us
        self.steady = SteadyTime(host.wall_us, host.monotonic_us)
        for shard, store in stores.items():
            self._begin_time(shard, store)
        self.timer_ms_max = TIMER_MS_MAX
        self.rung = 0
        """Runs of handlers."""
        self.given_up = GivenUp(host, stores)
        self._host = host
        self._stores = stores
        self._shards: dict[tuple[int, bool], ShardAlarms] = {}
        """By shard, and whether they are due by steady time."""
        self._committing: list[tuple[int, Due]] = []
        self._ringing: dict[bytes, Ring] = {}
        """By object: the alarms on their way."""
        self._again: list[tuple[int, int, Ring]] = []
        """When to try again by the monotonic clock, a number, and what did not get through. A heap."""
        self._numbers = 0
        self._deaths: dict[bytes, int] = {}
        """By object: processes that have died while its handler ran."""
        self.marking: list[Ring] = []
        """Rings whose marks are in the open commit."""
        self._being_marked: list[Ring] = []
        """In the commit in flight."""
        self.awaits_commit = False
        """`committed` has something to do. It may stay set when nothing is there any more."""
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
        """By the monotonic clock."""
        self._stopped = True

    def start(self) -> None:
        """Reads what is due next; overdue alarms ring at once."""
        self._stopped = False
        self._begin(list(self._stores))

    def take_shard(self, shard: int) -> None:
        """One more is served."""
        self._begin_time(shard, self._stores[shard])
        if not self._stopped:
            self._begin([shard])

    def _begin_time(self, shard: int, store: IndexStore) -> None:
        self.steady.begin(shard, 0)
        with contextlib.suppress(ShardDamaged):  # Here as below: it is about to be stopped.
            self.steady.begin(shard, stored_ahead_us(store))

    def _begin(self, shards: Sequence[int]) -> None:
        for shard in shards:
            store = self._stores[shard]
            self._shards[shard, False] = ShardAlarms(store, self._set_timer)
            set_at = partial(self._was_set_at, shard)
            self._shards[shard, True] = ShardAlarms(store, self._set_timer, STEADY_INDEX_KEY, set_at)
        self.given_up.load(shards)
        self._find_deaths(shards)
        self._set_timer()

    def _find_deaths(self, shards: Sequence[int]) -> None:
        suspects: list[str] = []
        for shard in shards:
            with contextlib.suppress(ShardDamaged):
                suspects += self._find_deaths_in(shard, self._stores[shard])
        if suspects:
            named = ", ".join(suspects[:SUSPECTS_NAMED]) + (", …" if len(suspects) > SUSPECTS_NAMED else "")
            text = "alarm handlers that ran each time when the worker died: %d; they pause, and run one at a time: %s"
            log.warning(text, len(suspects), named)

    def _find_deaths_in(self, shard: int, store: IndexStore) -> Iterator[str]:
        """Yields objects that are suspected."""
        for object_key, deaths in deaths_of(store).items():
            if pending_alarm(store, object_key) is None:
                self._write_mark(shard, object_key, 0)  # It was deleted or has succeeded.
                continue
            self._deaths[object_key] = deaths
            if ALARM_DEATHS_ALONE <= deaths < ALARM_DEATHS_MAX:
                yield object_name(store, object_key)

    def serves(self, shard: int) -> bool:
        """False: it is stopped."""
        return shard in self._stores

    def rest(self, shard: int) -> None:
        """Nothing of it begins to ring any more; what is on its way goes on, and is written down when it has ended."""
        for which in ((shard, False), (shard, True)):
            self._shards.pop(which, None)
        self._again = [entry for entry in self._again if entry[2].shard != shard]
        heapq.heapify(self._again)
        self._host.output_gate.want_own()

    def rings(self, shard: int) -> bool:
        """Whether a run there counts as begun, and its end is not durable."""
        return any(ring.marked and ring.shard == shard for ring in self._ringing.values())

    def take_marks_back(self, shard: int) -> None:
        """Handlers that still run there are about to be ended, and nobody is blamed for that."""
        for ring in self._ringing.values():
            if ring.shard == shard:
                self._take_mark_back(ring)
        self._host.output_gate.want_own()

    def give_shard(self, shard: int) -> None:
        """Another worker has it, with all that this one knows of it."""
        self.forget_shard(shard)
        self.steady.end(shard)
        self.given_up.forget_shard(shard)
        total = self._host.settings.shards_total
        self._deaths = {key: deaths for key, deaths in self._deaths.items() if shard_of_key(key, total) != shard}

    def forget_shard(self, shard: int) -> None:
        """It is stopped. What is on its way is refused where it arrives."""
        for which in ((shard, False), (shard, True)):
            self._shards.pop(which, None)
        self._committing = [each for each in self._committing if each[0] != shard]
        self._again = [entry for entry in self._again if entry[2].shard != shard]
        heapq.heapify(self._again)
        self._set_timer()

    def stop(self) -> None:
        """What runs goes on, and nobody is blamed for not having ended."""
        self._stopped = True
        for timer in (self._timer, self._alone_timer):
            if timer is not None:
                timer.cancel()
        for ring in self._ringing.values():
            self._take_mark_back(ring)
        self._host.output_gate.want_own()
        self._host.turn.end_soon()

    # Clocks

    def alarm_at(self, activation: Activation, when: datetime.datetime | datetime.timedelta | float) -> Alarm:
        """Raises ValueError or TypeError for what is no time, and TypeError when the class has no handler."""
        if activation.object_class.alarm is None:
            cls = activation.object_class.name
            raise TypeError(f"{cls} has no alarm handler; write `async def alarm(self, info: AlarmInfo)` to set alarms")
        self._look_at_clocks()
        steady_us = self.steady.now_us(activation.cache.shard) if isinstance(when, datetime.timedelta) else 0
        return alarm_for(when, self.wall_us(), steady_us)

    def ahead_us(self, shard: int) -> int:
        """How far the shard's steady time is ahead of the wall clock."""
        return self.steady.ahead_us[shard]

    def is_due(self, shard: int, alarm: Alarm) -> bool:
        return alarm.due_us <= self._now_us(shard, alarm.is_steady)

    def _now_us(self, shard: int, steady: bool) -> int:
        return self.steady.now_us(shard) if steady else self.wall_us()

    def _look_at_clocks(self) -> None:
        for shard in self.steady.was_set():
            self._write_ahead(shard)

    def _was_set_at(self, shard: int, steady_us: int) -> None:
        """Alarms of the shard were set as late as that: the wall clock was set back while no process was there."""
        if self.steady.at_least(shard, steady_us):
            self._write_ahead(shard)

    def _write_ahead(self, shard: int) -> None:
        raw = msgspec.msgpack.encode(self.steady.ahead_us[shard])
        self._host.output_gate.write_own(shard, STEADY_KEY, AHEAD, raw, wanted=True)
        self._host.turn.end_soon()

    @property
    def next_due_us(self) -> int | None:
        """Unix time of the next ring, if any is to come."""
        wait_us = self._next_wait_us()
        return None if wait_us is None else self.wall_us() + wait_us

    def _next_wait_us(self) -> int | None:
        """How long until the next ring."""
        waits_us = [
            due_us - self._now_us(shard, steady)
            for (shard, steady), alarms in self._shards.items()
            if (due_us := alarms.next_due_us()) is not None
        ]
        if self._again:
            waits_us.append(self._again[0][0] - self._host.monotonic_us())
        return min(waits_us, default=None)

    # Commits

    def cut_alarm(self, cache: ObjectCache) -> list[ObjectWrites]:
        """An object's alarm has changed, and is part of the commit being cut: what else that changes."""
        if cache.alarm is not None:
            due = Due(cache.alarm.due_us, cache.key, cache.class_name, cache.name, cache.alarm.set_us)
            self._committing.append((cache.shard, due))
            self.awaits_commit = True
        return cache.take_index_writes()

    def cut_marks(self) -> None:
        self._being_marked, self.marking = self.marking, []
        self.awaits_commit = True

    def committed(self) -> None:
        self.awaits_commit = False
        if self._being_marked:
            if not self._marked:
                self._host.call_soon(self._deliver, context=NEUTRAL)
            self._marked.extend(self._being_marked)
            self._being_marked = []
        if self._committing:
            noted, self._committing = self._committing, []
            if not self._stopped:
                for shard, due in noted:
                    self._note(shard, due)
                self._set_timer()

    def _note(self, shard: int, due: Due) -> None:
        if (alarms := self._shards.get((shard, due.set_us is not None))) is not None:  # Else it rests.
            alarms.note(due)

    def commit_failed(self, shards: Container[int] | None = None) -> None:
        """For all shards, or for these only."""
        self._committing = [each for each in self._committing if shards is not None and each[0] not in shards]
        rings, self._being_marked = self._being_marked, []
        for ring in rings:
            if shards is None or ring.shard in shards:
                ring.try_again()
            else:
                self._being_marked.append(ring)

    # Ringing

    def _set_timer(self) -> None:
        if self._stopped or self._room <= 0:
            return
        wait_us = self._next_wait_us()
        if wait_us is None:
            return
        due_us = self._host.monotonic_us() + wait_us
        if self._timer_due_us is not None and self._timer_due_us <= due_us:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due_us = due_us
        wait_ms = -(-wait_us // 1_000)  # Rounded up: a timer that ends early would be set again.
        self._timer = self._host.loop.call_later(min(self.timer_ms_max, max(0, wait_ms)) / 1_000, self._ring, context=NEUTRAL)

    @property
    def _room(self) -> int:
        return RINGS_MAX - len(self._ringing) + self._pausing

    def _ring(self) -> None:
        self._timer = self._timer_due_us = None
        if self._stopped:
            return
        self._look_at_clocks()
        for ring in list(self._take_due(min(RINGS_PER_TURN, self._room))):
            due = ring.due
            if due.object_key in self._ringing:
                self._ringing[due.object_key].overtaken = True
            elif self._has_handler(due.class_name):
                self._ringing[due.object_key] = ring
                ring.overtaken = False
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
        self.marking.append(ring)
        self._host.turn.end_soon()

    def _write_mark(self, shard: int, object_key: bytes, deaths: int, *, wanted: bool = False) -> None:
        key, raw = begun_row(object_key, deaths)
        self._host.output_gate.write_own(shard, BEGUN_KEY, key, raw, wanted=wanted)

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
        host.turn.begin()
        for _ in range(min(len(self._marked), RINGS_PER_TURN)):
            ring = self._marked.popleft()
            if not self._stopped:
                ring.deliver(host)
        if self._marked:
            host.call_soon(self._deliver, context=NEUTRAL)
        host.turn.end_soon()

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
        if seq <= host.output_gate.durable_seq:
            ring.answer(OK, None)
        else:
            host.output_gate.hold(seq, activation, ring, 0, OK, None)
        host.activator.give_back(kept, activation)
        host.turn.end_soon()

    def _take_due(self, most: int) -> Iterator[Ring]:
        now_us = self._host.monotonic_us()
        while most > 0 and self._again and self._again[0][0] <= now_us:
            most -= 1
            yield heapq.heappop(self._again)[2]
        late = [
            (due_us - self._now_us(*which), which)
            for which, alarms in self._shards.items()
            if (due_us := alarms.next_due_us()) is not None
        ]
        for _, which in sorted(late):
            taken = self._shards[which].take_due(self._now_us(*which), most)
            most -= len(taken)
            for due in taken:
                yield Ring(self, which[0], due)

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
        if not self.serves(ring.shard):
            self._alone_over(ring)
            return
        if again_in_us is None and ring.has_ended:
            self._deaths.pop(due.object_key, None)
        else:
            self._take_mark_back(ring)
        self._alone_over(ring)
        if self._stopped or (ring.shard, False) not in self._shards:
            return
        alarm = None
        with contextlib.suppress(ShardDamaged):
            alarm = pending_alarm(self._stores[ring.shard], due.object_key)
        if alarm is not None:
            moved = (alarm.due_us, alarm.set_us) != (due.due_us, due.set_us)  # Then its commit has noted it.
            if again_in_us is not None and not moved:
                self._numbers += 1
                heapq.heappush(self._again, (self._host.monotonic_us() + again_in_us, self._numbers, ring))
            elif ring.overtaken or not moved:
                self._note(ring.shard, due._replace(due_us=alarm.due_us, set_us=alarm.set_us))
        self._set_timer()
