"""A host over shards in memory, without a worker around it: the real core, whose commits whoever holds it makes durable or fails.

Guarantee: what a process would do to its disk happens to the stores here, at one instant: a commit is there as a whole or not at
all. What was committed outlives a boot, as after a crash; what was not is gone with the host.

The project's own tests of the core (`tests/support/host_world.py`) and the objects of a user's tests stand on it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Any

import msgspec

from tidegate.runtime.ids import object_key, shard_of_slot, slot_of
from tidegate.runtime.wire.protocol import Origin, Request
from tidegate.shard.host.host import Host
from tidegate.shard.host.settings import HostSettings
from tidegate.shard.host.turn import Turn
from tidegate.shard.host.waiting import Readers
from tidegate.shard.loop.context import CURRENT
from tidegate.shard.objects.methods import ObjectClass
from tidegate.shard.store.interface import ShardCommit, ShardDamaged
from tidegate.shard.store.state.memory_state import MemoryState
from tidegate.shard.store.store import ShardStore

LONG_S = 1_000
"""Longer than anything idle stays in memory."""


class HostedShards:
    """`auto` makes every commit durable at the end of its turn; otherwise `commit` or `fail_commit` are to be called."""

    host_class: type[Host] = Host

    def __init__(
        self,
        loop: Any,
        classes: Iterable[ObjectClass],
        shards: Iterable[int],
        settings: HostSettings,
        *,
        auto: bool = True,
        readers: Readers | None = None,
    ) -> None:
        self.loop: Any = loop
        self.classes = list(classes)
        self.states = {shard: MemoryState(shard) for shard in shards}
        self.stores = {shard: ShardStore(state) for shard, state in self.states.items()}
        self.settings = settings
        self.auto = auto
        self.readers = readers
        self.stopped: dict[int, ShardDamaged] = {}
        self.commits = self.position = self.boots = 0
        self._later_s = 0
        self.boot()

    def boot(self) -> None:
        """A host over what is durable: at the start, and after a crash. An earlier one is heard no more."""
        boots = self.boots = self.boots + 1
        self.host = self.host_class(
            self.loop,
            self.classes,
            self.stores,
            self.settings,
            reply=lambda *reply: self._reply(*reply) if self.boots == boots else None,
            turn=Turn(self.loop, self._end_turn, self._now_s),
            send=self._send,
            wall_us=self.wall_us,
            random=Random(self.boots),
            system=self._system,
            stopped=self.stopped,
            readers=self.readers,
        )

    # What the host asks

    def wall_us(self) -> int:
        return time.time_ns() // 1_000

    def _now_s(self) -> float:
        return float(self.loop.time())

    def _reply(self, origin: Origin, request_id: Any, status: int, result: Any) -> None:
        raise AssertionError("nobody has called from outside")

    def _send(self, request: Request, origin: Any) -> None:
        raise AssertionError("every shard is here")

    def _system(self, request: Request, origin: Origin) -> None:
        raise AssertionError("no system calls here")

    def _end_turn(self) -> None:
        assert CURRENT.get(None) is None, "what the runtime starts belongs to no object"
        while self.auto and self.host.output_gate.can_cut:
            self.commit()

    # Commits

    def applied(self, position: int, commits: Sequence[ShardCommit]) -> None:
        """As a store of a worker does."""
        assert CURRENT.get(None) is None, "a commit is no object's business"
        self.position = position
        for commit in commits:
            if commit.shard in self.stores:
                self.stores[commit.shard].apply(commit.seq, commit.objects, commit.answers, commit.rolls)

    def commit(self) -> None:
        """Cuts what is open and makes it durable."""
        self.host.cut()
        self.committed()

    def committed(self) -> None:
        """What was cut is durable."""
        commit = self.host.output_gate.in_flight
        assert commit is not None
        self.commits += 1
        self.applied(self.position + 1, commit.shards)
        self.host.committed(commit)

    def fail_commit(self, problem: str = "the disk said no") -> None:
        self.host.commit_failed(self.host.output_gate.in_flight or self.host.cut(), problem)

    # What is there

    def evict_idle(self) -> None:
        """As after a long time. An activation used since it was last looked at goes at the second look."""
        for _ in range(3):
            self._later_s += LONG_S
            self.host.table.evict_idle(self.loop.time() + self._later_s)

    def shard_of(self, class_name: str, name: str) -> int:
        return shard_of_slot(slot_of(class_name, name), self.settings.shards_total)

    def durable_rows(self, class_name: str, name: str) -> dict[str, Any]:
        """What recovery would find of an object."""
        store = self.stores[self.shard_of(class_name, name)]
        decode: Callable[[bytes], Any] = msgspec.msgpack.decode
        return {key: decode(raw) for key, raw in store.scan(object_key(class_name, name))}

    def check(self) -> None:
        """What must hold whenever nothing runs."""
        self.host.check_book()
        self.host.output_gate.check_invariants()
        self.host.table.check_invariants()
        for kept in self.host.classes.values():
            for activation in kept.activations.values():
                activation.gate.check_invariants()
                activation.cache.check_invariants()
