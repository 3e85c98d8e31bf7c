"""Slot table: which shard has a slot, which worker owns the shard, and where that worker listens.

Rule 1: pure. The table is built from the supervisor's `Topology` and never changes; a new epoch is a new table.
Rule 2: shards have contiguous, equal ranges of slots (`ids.shard_of_slot`), so that a range is all that clients need.
"""

from __future__ import annotations

from typing import Any

from tidegate.runtime.ids import slot_of
from tidegate.runtime.limits import SHARDS_MAX, SLOTS
from tidegate.runtime.wire.supervisor_messages import Topology


def slot_range(shard: int, shards: int) -> tuple[int, int]:
    """First and last slot of a shard, both included."""
    return shard * SLOTS // shards, (shard + 1) * SLOTS // shards - 1


class SlotTable:
    """Answers for every object where it lives. `worker_by_slot` has one entry for each of the slots, `endpoints` and `streams`
    one for each of the workers, None while it is down, or takes none."""

    __slots__ = ("endpoints", "epoch", "owners", "shards", "streams", "worker_by_slot")

    def __init__(self, topology: Topology) -> None:
        """Raises ValueError for a topology that leaves a slot without an owner or names a worker that is not there."""
        self.epoch = topology.epoch
        self.owners = topology.owners
        self.endpoints = topology.endpoints
        self.streams = topology.streams or (None,) * len(topology.endpoints)
        self.shards = len(topology.owners)
        if not 1 <= self.shards <= SHARDS_MAX or self.shards & (self.shards - 1):
            raise ValueError(f"{self.shards} shards: not a power of two from 1 to {SHARDS_MAX}")
        if not all(0 <= owner < len(topology.endpoints) for owner in topology.owners):
            raise ValueError(f"a shard is owned by a worker that is not among the {len(topology.endpoints)} workers")
        self.worker_by_slot: list[int] = []
        for shard, owner in enumerate(topology.owners):
            first, last = slot_range(shard, self.shards)
            self.worker_by_slot += [owner] * (last + 1 - first)

    def worker_of(self, class_name: str, name: str) -> int:
        return self.worker_by_slot[slot_of(class_name, name)]


def topology_reply(table: SlotTable) -> dict[str, Any]:
    """What the system call `topology` answers: `{epoch, keys, slots, shards: [{shard, slots: [first, last], worker, endpoint,
    stream}]}`. The range includes both ends; the endpoint is nil while the worker is down, the path of its stream also where it
    takes none. `keys`: a call is run once, however often it comes with the same key."""
    return {
        "epoch": table.epoch,
        "keys": True,
        "slots": SLOTS,
        "shards": [
            {
                "shard": shard,
                "slots": list(slot_range(shard, table.shards)),
                "worker": owner,
                "endpoint": table.endpoints[owner],
                "stream": table.streams[owner],
            }
            for shard, owner in enumerate(table.owners)
        ],
    }


def topology_from_reply(reply: Any) -> Topology:
    """The topology a client reads out of that answer. Raises ValueError when it is none."""
    try:
        rows = sorted(reply["shards"], key=lambda row: row["shard"])
        owners = tuple(int(row["worker"]) for row in rows)
        if not all(0 <= owner < SHARDS_MAX for owner in owners):
            raise ValueError(f"worker {max(owners)}")
        endpoints: list[str | None] = [None] * (max(owners) + 1)
        streams = endpoints.copy()
        for row in rows:
            endpoints[row["worker"]] = row["endpoint"]
            stream = row.get("stream")
            streams[row["worker"]] = stream if isinstance(stream, str) else None
        topology = Topology(int(reply["epoch"]), owners, tuple(endpoints), streams=tuple(streams) if any(streams) else ())
        SlotTable(topology)
    except (KeyError, TypeError, IndexError, AttributeError, OverflowError) as exc:
        raise ValueError(f"not a topology: {exc!r}") from None
    return topology
