"""The shards of this worker that are stopped, because what they have on disk is damaged.

Guarantee: nothing of a stopped shard runs. Who calls one of its objects is answered `unavailable` at once, with the reason and
the next step; so is who had called one when it was stopped. Of what its objects had written what is durable counts, and stays in
the log. The worker's other shards are served as before, but for objects that have seen undurable writes of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tidegate.runtime.errors import Outcome, Unavailable
from tidegate.shard.loop.context import CURRENT
from tidegate.shard.store.interface import ShardDamaged, ShardElsewhere, ShardUnreachable, ShardUnwritable

if TYPE_CHECKING:
    from tidegate.shard.host.host import Host


class StoppedShards:
    def __init__(self, host: Host, stopped: Mapping[int, ShardDamaged]) -> None:
        """`stopped`: by shard, why; who adds to it calls `stop`."""
        self._host = host
        self._stopped = stopped

    def __contains__(self, shard: int) -> bool:
        return shard in self._stopped

    def refusal(self, shard: int, outcome: Outcome = "not_executed") -> Unavailable | None:
        """What a call to an object of the shard is answered; None: the shard is not stopped."""
        error = self._stopped.get(shard)
        return None if error is None else self.answer(error, outcome)

    @staticmethod
    def answer(error: ShardDamaged, outcome: Outcome = "not_executed") -> Unavailable:
        """Not retryable where somebody has to mend it first."""
        if isinstance(error, ShardElsewhere):
            return Unavailable(f"shard {error.shard} is served elsewhere: {error}", outcome=outcome)
        retryable = isinstance(error, ShardUnwritable | ShardUnreachable)
        return Unavailable(f"shard {error.shard} is stopped: {error}", outcome=outcome, retryable=retryable)

    def found(self, error: ShardDamaged) -> None:
        """A read has found damage. Its object, if it is one that reads, goes no further; the others follow with `stop`."""
        activation: Any = CURRENT.get(None)
        if activation is not None and activation.cache.shard == error.shard:
            self._host.resets.shard_stopped(activation, self.answer(error, "unknown"))

    def stop(self, shard: int) -> None:
        """Resets its objects. Must not be called from object code, and when the shard has no store any longer."""
        host = self._host
        refusal = self.refusal(shard, "unknown")
        assert refusal is not None
        assert shard not in host.stores
        host.alarms.forget_shard(shard)
        for activation in host.table.of_shard(shard):
            host.resets.shard_stopped(activation, refusal)
        host.output_gate.forget_own(shard)
        host.turn.end_soon()
