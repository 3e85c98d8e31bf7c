"""Who keeps gates closed, for how long, and who waits behind them.

Guarantee: a critical section, an open transaction or a start ends after 30 s at the latest, whatever its code waits for. An
object behind whose gate somebody has waited for more than a second is named, with what keeps the gate closed: to whoever asks
for the numbers of the worker, and in the log, once and then in pauses that double. Sections that begin one after the other keep
others out for little longer than that: who has waited for so long goes before the next one.

What keeps a gate closed is noted when it begins and forgotten when it ends, in the order of time: that costs less than a timer
each. While any is noted the watch looks about once a second; an open gate costs nothing.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any, Protocol

from tidegate.runtime.errors import one_line
from tidegate.runtime.limits import SECTION_TIMEOUT_S
from tidegate.shard.host.activation import Activation
from tidegate.shard.host.call import Call
from tidegate.shard.host.settings import WaitingObject
from tidegate.shard.loop.libraries import line_of
from tidegate.shard.loop.task import ObjectTask
from tidegate.shard.neutral import NEUTRAL

if TYPE_CHECKING:
    from tidegate.shard.host.host import Host

LOOK_S = 1.0
"""How often it looks; who waits longer than this is named."""
LOOKED_AT_MAX = 10_000
"""What is looked at in one look."""
CALLS_LOOKED_AT_MAX = 100
"""Of each object that waits."""
NAMED_MAX = 20
"""Objects named to whoever asks: those that have waited for longest."""
LOGGED_MAX = 10
"""Objects named in the log in one look."""


class Closer(Protocol):
    """What keeps the gate of an object closed."""

    since_s: float

    @property
    def activation(self) -> Activation: ...

    @property
    def kind(self) -> str: ...


class BoundedCloser(Closer, Protocol):
    task: ObjectTask

    def expire(self) -> None: ...


class Episode:
    """While somebody waits behind a gate."""

    __slots__ = ("next_line_s", "pause_s", "row", "since_s")

    def __init__(self, since_s: float) -> None:
        self.since_s = since_s
        self.next_line_s = since_s + LOOK_S
        self.pause_s = LOOK_S
        self.row: WaitingObject


class GateWatch:
    def __init__(self, host: Host) -> None:
        self._host = host
        self._bounded: dict[BoundedCloser, None] = {}
        self._unbounded: dict[Closer, None] = {}
        """Storage operations."""
        self._timer: asyncio.TimerHandle | None = None
        self._episodes: dict[Activation, Episode] = {}

    def closed_by(self, closer: BoundedCloser) -> None:
        closer.since_s = self._host.turn.clock()
        self._bounded[closer] = None
        if self._timer is None:
            self._set_timer(closer.since_s)

    def left(self, closer: BoundedCloser) -> None:
        if self._bounded.pop(closer, False) is None:
            self._was_closed(closer)

    def locked_by(self, closer: Closer) -> None:
        closer.since_s = self._host.turn.clock()
        self._unbounded[closer] = None
        if self._timer is None:
            self._set_timer(closer.since_s)

    def unlocked(self, closer: Closer) -> None:
        if self._unbounded.pop(closer, False) is None:
            self._was_closed(closer)

    def _was_closed(self, closer: Closer) -> None:
        closed_s = self._host.turn.clock() - closer.since_s
        closer.activation.count.of_class.gate_closed.observe(closed_s)

    def waiting(self) -> list[WaitingObject]:
        """Who has waited for more than a second, as of the last look; for longest first."""
        now_s = self._host.turn.clock()
        rows = [each.row for each in self._episodes.values() if each.since_s + LOOK_S <= now_s]
        return sorted(rows, key=lambda row: row.since_ms)[:NAMED_MAX]

    def told_of(self, activation: Activation) -> dict[str, Any]:
        """What keeps the gate of an object closed now, since when, and what that waits for."""
        closers = itertools.chain(self._unbounded, self._bounded)
        closer = next((each for each in closers if each.activation is activation), None)
        if closer is None:
            return {"closed_by": None, "closed_for_s": None, "waits_for": None}
        lock = closer.kind if closer in self._unbounded else None
        for_s = round(max(0.0, self._host.turn.clock() - closer.since_s), 3)
        return {"closed_by": closer.kind, "closed_for_s": for_s, "waits_for": one_line(self._awaited(activation, lock)) or None}

    def _set_timer(self, now_s: float) -> None:
        delay_s = LOOK_S
        for first in self._bounded:
            delay_s = max(0.0, min(LOOK_S, first.since_s + SECTION_TIMEOUT_S - now_s))
            break
        self._timer = self._host.loop.call_later(delay_s, self._on_timer, context=NEUTRAL)

    def _on_timer(self) -> None:
        now_s = self._host.turn.clock()
        self._timer = None
        try:
            late = list(itertools.takewhile(lambda closer: closer.since_s + SECTION_TIMEOUT_S <= now_s, self._bounded))
            for closer in late:
                self._bounded.pop(closer, None)
                if closer.activation.broken is None:
                    closer.expire()
            self._look(now_s)
        finally:  # Whatever misbehaves among the futures that code of objects waits for: the bounds hold for all.
            if self._timer is None and (self._bounded or self._unbounded):
                self._set_timer(now_s)

    def _look(self, now_s: float) -> None:
        """Finds out who waits."""
        locks = {closer.activation: closer.kind for closer in itertools.islice(self._unbounded, LOOKED_AT_MAX)}
        found: dict[Activation, Episode] = {}
        for activation in [*locks, *(closer.activation for closer in itertools.islice(self._bounded, LOOKED_AT_MAX))]:
            count = activation.gate.waiting
            if not count or activation in found or activation.broken is not None:
                continue
            since_s = activation.oldest_wait_s
            episode = self._episodes.get(activation)
            if episode is None or (since_s is not None and since_s > episode.since_s):
                episode = Episode(now_s if since_s is None else since_s)
            found[activation] = episode
            episode.row = self._row(activation, episode, count, locks.get(activation), now_s)
            if episode.since_s + LOOK_S <= now_s:
                self._break_ring(activation)
                activation.gate.favour()
        self._episodes = found
        self._tell(now_s)

    def _break_ring(self, activation: Activation) -> None:
        """The ring may have been closed after the call had been queued: by who has begun to wait for its answer since."""
        for call in list(itertools.islice(activation.gate.root.waiters, CALLS_LOOKED_AT_MAX)):
            if isinstance(call, Call) and call.chain is not None:
                deadlock = self._host.chained.closes_ring(activation, call)
                if deadlock is not None:
                    self._host.waiting.take_out((call,))
                    self._host.answer_error(call.origin, call.request.id, deadlock, call.request.cls)
                    return

    def _row(self, activation: Activation, episode: Episode, count: int, lock: str | None, now_s: float) -> WaitingObject:
        holder = activation.gate.active.holder
        waits_for = self._awaited(activation, lock)
        since_ms = self._host.wall_us() // 1_000 - round((now_s - episode.since_s) * 1_000)
        closed_by = lock or (holder.kind if holder is not None else "the events before")
        return WaitingObject(one_line(str(activation.id)), since_ms, count, closed_by, one_line(waits_for))

    def _awaited(self, activation: Activation, lock: str | None) -> str:
        """For what the holder of the gate waits; `lock`: it is a storage operation."""
        holder = activation.gate.active.holder
        if lock is not None or holder is None:
            return ""
        request = self._host.chained.awaited_by(holder.task)
        if request is not None:
            return f"the answer of {request.cls}/{request.name}.{request.method}"
        return line_of(holder.task.get_coro(), activation)

    def _tell(self, now_s: float) -> None:
        due = [(each, activation) for activation, each in self._episodes.items() if each.next_line_s <= now_s]
        for episode, activation in sorted(due, key=lambda each: each[0].since_s)[:LOGGED_MAX]:
            episode.pause_s *= 2
            episode.next_line_s = now_s + episode.pause_s
            self._host.log.warn_of(activation.id, episode.row.told(now_s - episode.since_s))
        if len(due) > LOGGED_MAX:
            self._host.log.warning("%d more objects wait behind their gates; see `tidegate status`", len(due) - LOGGED_MAX)
