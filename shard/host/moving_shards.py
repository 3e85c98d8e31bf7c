"""Shards that come to this worker from another one, or go to it.

Guarantee: what an object has answered is durable before its shard goes; no call is begun here after that, and none is lost: who
calls is told `moved`, not executed, and asks elsewhere. While a shard goes, calls that are here already are run, and so are those
that the service's own processes had sent before they knew.

An object that comes back later begins anew, from what is durable then: nothing of the old one is left in memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from tidegate.runtime.errors import Moved
from tidegate.runtime.ids import shard_of_slot, slot_of

if TYPE_CHECKING:
    from tidegate.shard.host.activation import Activation
    from tidegate.shard.host.host import Host
    from tidegate.shard.loop.task import ObjectTask


class MovingShards:
    def __init__(self, host: Host) -> None:
        self._host = host
        self.going: dict[int, bool] = {}
        """Those that go. True: nothing more is begun of them, whoever asks."""

    def goes(self, class_name: str, name: str) -> int | None:
        """The shard of the object, if it goes."""
        try:
            shard = shard_of_slot(slot_of(class_name, name), self._host.settings.shards_total)
        except UnicodeEncodeError:
            return None  # Whoever looks at the name says so.
        return shard if shard in self.going else None

    @staticmethod
    def refusal(shard: int) -> Moved:
        return Moved(f"shard {shard} is being moved to another worker; ask for the topology")

    # Going

    def begin(self, shard: int) -> None:
        """It is to go, when it has nothing more to do."""
        self.going[shard] = False
        self._host.alarms.rest(shard)
        self._host.turn.end_soon()

    def has_ended(self, shard: int) -> bool:
        """Whether everybody who has called is answered, and everything is durable."""
        host, gate = self._host, self._host.output_gate
        total, in_flight = host.settings.shards_total, gate.in_flight
        return not (
            any(_shard_of(task) == shard for task in host.book.running)
            or any(call.shard_of(total) == shard for call in host.book.waiting)
            or any(message[0] is not None and message[0].cache.shard == shard for message in gate.messages())
            or any(cache.shard == shard for cache in gate.dirty)
            or any(answer.cache.shard == shard for answer in gate.answers)
            or any(rows[0] == shard for rows in gate.own)
            or host.alarms.rings(shard)
            or (in_flight is not None and any(each.shard == shard for each in in_flight.shards))
        )

    def hurry(self, shard: int) -> None:
        """What the runtime itself has written there is committed soon."""
        gate = self._host.output_gate
        if not gate.own_wanted and any(rows[0] == shard for rows in gate.own):
            gate.want_own()
            self._host.turn.end_soon()

    def end_calls(self, shard: int) -> None:
        """It takes too long: what has begun is reset, and its callers are told that nobody knows how far it came."""
        host = self._host
        self.going[shard] = True  # What waits is refused where it is delivered.
        host.alarms.take_marks_back(shard)
        error = Moved(f"shard {shard} was moved to another worker, and the call had not ended in time", outcome="unknown")
        for activation in host.table.of_shard(shard):
            if not host.table.leave(activation, host.turn.now_s):
                host.resets.shard_stopped(activation, error)
        host.turn.end_soon()

    def gone(self, shard: int) -> None:
        """It has no store any longer, and nothing to do: its objects leave memory."""
        host = self._host
        assert shard not in host.stores
        del self.going[shard]
        host.alarms.give_shard(shard)
        host.keyed.shards_changed()
        left = self.refusal(shard)
        for activation in host.table.of_shard(shard):
            if not host.table.leave(activation, host.turn.now_s):
                host.resets.moved(activation, left)
        host.output_gate.forget_own(shard)
        host.turn.end_soon()

    # Coming

    def come(self, shard: int) -> None:
        """It has a store from now on."""
        host = self._host
        assert shard in host.stores
        host.keyed.shards_changed(taken=shard)
        host.alarms.take_shard(shard)
        host.turn.end_soon()


def _shard_of(task: ObjectTask) -> int | None:
    """Of the object of a call that runs."""
    return None if task.call is None or task.done() else cast("Activation", task._owner).cache.shard
