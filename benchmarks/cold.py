"""What an object costs that is not in memory, and what one takes that is.

The first is a call that brings its object in from a data file, while another object leaves memory for it: a part of
`micro --instructions`. The second is `micro --memory`: by how much a process grows for each of very many objects.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from tidegate.benchmarks.micro import BATCH, METHOD, BareHost
from tidegate.runtime.ids import object_key, shard_of_slot, slot_of
from tidegate.shard.core.alarms import Header, encode_header
from tidegate.shard.core.codec import encode
from tidegate.shard.host.table import ACTIVATION_BYTES
from tidegate.shard.loop.loop import new_worker_loop
from tidegate.shard.store.interface import HEADER
from tidegate.shard.store.state import lmdb_state
from tidegate.shard.store.state.lmdb_state import LmdbState
from tidegate.shard.worker.collector import Collector, resident_bytes

SHARDS = 4
IN_MEMORY = 512
"""Objects for which there is room."""
_CLASS, _KEY = "Counter", "counter"
_MAP_BYTES = 1 << 30
_OBJECTS = 200_000
_SMOKE_OBJECTS = 2_048


class Memory(msgspec.Struct, frozen=True):
    """What a process takes for an object, its cached value and its share of all tables included."""

    what: str
    bytes_each: int
    objects: int


class BareCold:
    """A worker's core over data files that have so many objects. No other module of the worker, and no disk."""

    def __init__(self, objects: int, cache_bytes: int = IN_MEMORY * ACTIVATION_BYTES) -> None:
        lmdb_state.SLOW_READ_S = float("inf")  # Under a profiler every read would seem slow, and the kernel be asked why.
        with tempfile.TemporaryDirectory(prefix="tide-") as folder:  # Files that are mapped need no names.
            states = [LmdbState(Path(folder) / str(shard), shard, map_bytes=_MAP_BYTES) for shard in range(SHARDS)]
        for state, rows in zip(states, _rows(objects), strict=True):
            batch = state.begin()
            batch.put_many(sorted(rows))
            batch.set_applied_seq(1)
            batch.commit()
        self.bare = BareHost(new_worker_loop(), states=states, cache_bytes=cache_bytes)
        self.collector = Collector()
        self._objects = objects
        self.begin_again()

    def begin_again(self) -> None:
        self._numbers = iter(range(self._objects))

    def call(self, method: str = METHOD) -> None:
        """The next objects."""
        self.bare.replies.clear()
        self.bare.call_all(method, [_name(next(self._numbers)) for _ in range(BATCH)])
        assert self.bare.replies[-1][2] == 1

    def batch(self) -> None:
        """A turn of a worker: calls, their commit, and what a turn ends with."""
        self.call()
        host = self.bare.host
        self.collector.end_turn(host.table.added)
        while host.table.over_budget():
            host.table.evict_idle(host.turn.now_s)  # Which stands still: nothing comes to rest, however slow this is.


def _name(number: int) -> str:
    return f"object-{number}"


def _rows(objects: int) -> Iterator[list[tuple[bytes, bytes]]]:
    """What the file of each shard has of so many objects that were called once."""
    rows: list[list[tuple[bytes, bytes]]] = [[] for _ in range(SHARDS)]
    for name in map(_name, range(objects)):
        key = object_key(_CLASS, name)
        mine = rows[shard_of_slot(slot_of(_CLASS, name), SHARDS)]
        mine += (key + HEADER.encode(), encode_header(Header(_CLASS, name))), (key + _KEY.encode(), encode(1))
    yield from rows


def measure_memory(*, smoke: bool = False) -> list[Memory]:
    """Each object is called, and comes to rest before the next ones come (a process keeps what it has once had); then all of them
    are called again."""
    objects = (_SMOKE_OBJECTS if smoke else _OBJECTS) // BATCH * BATCH
    cold = BareCold(objects, cache_bytes=1 << 40)
    host, collector = cold.bare.host, cold.collector
    collector.look_at_everything(0)
    before = resident_bytes()

    def grown(what: str) -> Memory:
        assert len(host.table) == objects
        collector.look_at_everything(0)
        return Memory(what, round((resident_bytes() - before) / objects), objects)

    for _ in range(objects // BATCH):
        cold.call("current")
        collector.end_turn(host.table.added)
        host.table.evict_idle(host.turn.now_s + host.settings.idle_evict_s)
    idle = grown("idle")
    cold.begin_again()
    for _ in range(objects // BATCH):
        cold.call("current")
    return [idle, grown("in use")]
