"""Calls whose code has run for very long without an answer: a handler that awaits what never comes. Each is named.

Guarantee: an object with such a call is named in the log, with what its oldest one waits for, once and again each time that has
waited twice as long; and to whoever asks for the numbers of the worker, until it is answered. That the gate is open is no matter:
who waits behind a closed one is named by `gate_watch`.

Rule: nothing is noted with a call. The table looks at whoever stays in memory once in each idle period anyway.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from tidegate.runtime.errors import one_line
from tidegate.runtime.limits import LONG_CALL_FACTOR, LONG_CALL_S
from tidegate.shard.host.keyed_calls import KeyedRun
from tidegate.shard.host.named import NamedObjects
from tidegate.shard.host.settings import LongCall
from tidegate.shard.loop.libraries import line_of

if TYPE_CHECKING:
    from tidegate.shard.host.activation import Activation
    from tidegate.shard.host.host import Host
    from tidegate.shard.loop.task import ObjectTask

LOOKED_AT_MAX = 1_000
"""Tasks of one object in one look."""


class _Long:
    __slots__ = ("began_s", "row", "told_s")

    def __init__(self) -> None:
        self.began_s = 0.0
        """Of the call that is named."""
        self.told_s = 0.0
        """How long it had run when it was told."""
        self.row: LongCall


class LongCalls:
    def __init__(self, host: Host, slow_call_s: float) -> None:
        self._host = host
        self._bound_s = max(LONG_CALL_S, LONG_CALL_FACTOR * slow_call_s)
        self._named: NamedObjects[_Long] = NamedObjects()

    def look(self, activation: Activation, now_s: float) -> None:
        """At one that stays in memory."""
        late_s = now_s - self._bound_s
        late = [each for each in islice(activation.tasks, LOOKED_AT_MAX) if each.call is not None and each.began_s <= late_s]
        if not late:
            self._named.pop(activation, None)
            return
        long = self._named.get(activation)
        if long is None:
            if not self._named.has_room():
                return
            long = self._named[activation] = _Long()
        oldest = min(late, key=lambda task: task.began_s)
        if long.began_s != oldest.began_s:
            long.began_s, long.told_s = oldest.began_s, 0.0
        self._tell(activation, oldest, long, len(late), now_s - oldest.began_s)

    def named(self) -> list[LongCall]:
        """For longest first."""
        now_s = self._host.turn.clock()
        self._named.forget_gone()
        for activation in list(self._named):
            self.look(activation, now_s)
        return sorted((long.row for long in self._named.values()), key=lambda row: row.since_ms)

    def _tell(self, activation: Activation, task: ObjectTask, long: _Long, calls: int, for_s: float) -> None:
        host = self._host
        origin, request_id, method = task.call
        request = host.chained.awaited_by(task)
        at = line_of(task.get_coro(), activation)
        waits_for = at if request is None else f"the answer of {request.cls}/{request.name}.{request.method}"
        since_ms = host.wall_us() // 1_000 - round(for_s * 1_000)
        long.row = LongCall(one_line(str(activation.id)), method, since_ms, calls, one_line(waits_for))
        if for_s >= 2 * long.told_s:
            long.told_s = for_s
            label = origin.label if isinstance(origin, KeyedRun) else request_id
            host.log.takes_long(activation.id, method, label, long.row.told(for_s))
