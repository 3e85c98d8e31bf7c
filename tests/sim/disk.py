"""A simulated disk: logs whose appends take time and fail, shard states, and what a crash leaves of them.

Guarantee: `rows` is what recovery must find: every append that was confirmed, and no more than one that was not. An append that
was under way when its process was killed, or that failed without a statement about the file, survives or not as the seed says.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from random import Random
from typing import Any

from msgspec import Raw, msgpack

from tests.sim.network import QUANTUM_S
from tests.sim.scenario import Scenario
from tests.support.records import decode_record
from tidegate.runtime.wire.protocol import OK, encode
from tidegate.shard.log.commit_log import LogBroken, LogFull, LogStatistics
from tidegate.shard.store.answers import is_session
from tidegate.shard.store.interface import Answer, AnswerRoll, number_of
from tidegate.shard.store.record import CommitRecord
from tidegate.shard.store.state.memory_state import MemoryState
from tidegate.shard.store.store import StoreFailed, StoreFull
from tidegate.testing.virtual_loop import VirtualTime

ROUNDING_S = 1e-9
"""Clocks are sums of floats: one instant, reached on two ways, may be two numbers."""


class Entry:
    """One record in a log."""

    __slots__ = ("decided", "durable_at", "position", "record")

    def __init__(self, position: int, record: bytes, durable_at: float, *, decided: bool) -> None:
        self.position = position
        self.record = record
        self.durable_at = durable_at
        self.decided = decided
        """False: the append failed, and only the next start finds out whether the record is there."""


def of_rolls(rolls: Iterable[AnswerRoll]) -> Iterator[Answer]:
    for roll in rolls:
        for number, digest, result in zip(*[iter(msgpack.decode(roll.answers))] * 3, strict=True):
            yield Answer(roll.session, number, roll.answered, digest, OK, Raw(encode(result)))


class Disk:
    """The data directory of the service: what outlives its processes."""

    def __init__(self, time: VirtualTime, random: Random, scenario: Scenario) -> None:
        self.time = time
        self.random = random
        self.scenario = scenario
        self.states = [SimState(shard, self) for shard in range(scenario.shards)]
        self.logs: dict[tuple[int, int], list[Entry]] = {}
        self.open_logs: list[SimLog] = []
        self.appends = self.failures = self.torn = 0
        self.healthy = False
        """True: nothing fails any more."""
        self._rows: dict[bytes, dict[str, bytes]] = {}
        self._pending: list[Entry] = []
        self._answers: dict[int, dict[tuple[str, int | str], Answer]] = {}
        self._answered: dict[tuple[int, str], int] = {}

    # What is durable

    def answers_of(self, shard: int) -> dict[tuple[str, int | str], Answer]:
        """Those to keys that must be kept, by group and key."""
        self.catch_up(self.time.now)
        return {
            (group, key): answer
            for (group, key), answer in self._answers.get(shard, {}).items()
            if (shard, group) not in self._answered or number_of(key) >= self._answered[shard, group]
        }

    def rows(self, object_key: bytes, now: float) -> dict[str, bytes]:
        """The durable rows of an object, its header included."""
        self.catch_up(now)
        return self._rows.get(object_key, {})

    def is_undecided(self, object_key: bytes) -> bool:
        """Whether the log broke at a record that changes the object, and its process is not gone yet."""
        return any(
            not entry.decided
            and any(change.key == object_key for commit in decode_record(entry.record).shards for change in commit.objects)
            for entry in self._pending
        )

    def everything(self) -> dict[bytes, bytes]:
        self.catch_up(self.time.now)
        return {object_key + key.encode(): raw for object_key, rows in self._rows.items() for key, raw in rows.items()}

    def catch_up(self, now: float) -> None:
        waiting = []
        for entry in self._pending:
            if entry.decided and entry.durable_at <= now + ROUNDING_S:
                self._take_over(decode_record(entry.record))
            else:
                waiting.append(entry)
        self._pending = waiting

    def _take_over(self, record: CommitRecord) -> None:
        for commit in record.shards:
            for answer in [*commit.answers, *of_rolls(commit.rolls)]:
                self._answers.setdefault(commit.shard, {})[answer.group, answer.key] = answer
                if is_session(answer.group):
                    where = commit.shard, answer.group
                    self._answered[where] = max(self._answered.get(where, 0), answer.answered)
            for change in commit.objects:
                rows = self._rows.setdefault(change.key, {})
                if change.cleared:
                    rows.clear()
                for key, raw in change.writes.items():
                    if raw is None:
                        rows.pop(key, None)
                    else:
                        rows[key] = raw

    # Processes come and go

    def add(self, log: SimLog, entry: Entry) -> None:
        self.logs[log.name].append(entry)
        self._pending.append(entry)

    def crashed(self, log: SimLog) -> None:
        """The log's process is gone: what was not durable yet is decided now."""
        self.catch_up(self.time.now)
        lost = False
        for entry in list(self._pending):
            if entry in self.logs.get(log.name, []):
                self.torn += 1
                # A process may be a little ahead of the others: what it has appended since is not there without what came before.
                lost = lost or self.random.random() < 0.5
                if lost:
                    self.logs[log.name].remove(entry)
                    self._pending.remove(entry)
                else:
                    entry.decided, entry.durable_at = True, self.time.now
        self.catch_up(self.time.now)

    def open_states(self, shards: Sequence[int]) -> list[SimState]:
        """A batch that a process did not commit is gone with it."""
        for shard in shards:
            old = self.states[shard]
            fresh = self.states[shard] = SimState(shard, self)
            MemoryState.replace_rows(fresh, old.rows, old.applied_seq)
        return [self.states[shard] for shard in shards]

    def forget_logs_before(self, start: int) -> None:
        for name in [name for name in self.logs if name[0] < start]:
            del self.logs[name]

    def read_log(self, path: SimPath) -> Iterator[memoryview]:
        start, _, worker = path.name.partition("-")
        for entry in self.logs[int(start), int(worker)]:
            yield memoryview(entry.record)


class SimState(MemoryState):
    """A state whose commits fail as the seed says."""

    def __init__(self, shard: int, disk: Disk) -> None:
        super().__init__(shard)
        self._disk = disk
        self.serving = False
        """Commits may fail from now on; while a worker recovers they do not."""

    def replace_rows(self, rows: dict[bytes, bytes], applied_seq: int) -> None:
        if self.serving and not self._disk.healthy:
            self._maybe_fail()
        super().replace_rows(rows, applied_seq)

    def _maybe_fail(self) -> None:
        draw = self._disk.random.random()
        if draw < self._disk.scenario.checkpoint_full:
            raise StoreFull("commit", f"shard {self.shard}", "no room", "simulated")
        if draw > 1.0 - self._disk.scenario.checkpoint_broken:
            raise StoreFailed("commit", f"shard {self.shard}", "input/output error", "simulated")


class SimPath:
    """As much of `pathlib.Path` as recovery asks of a data directory."""

    def __init__(self, disk: Disk, name: str = "") -> None:
        self._disk = disk
        self.name = name

    def __truediv__(self, name: str) -> SimPath:
        return SimPath(self._disk, name)

    def iterdir(self) -> Iterator[SimPath]:
        for start, worker in list(self._disk.logs):
            yield SimPath(self._disk, f"{start:08d}-{worker:04d}")


class SimLog:
    """Stands in for `CommitLog`. It starts empty, as that one does."""

    is_written_at_once = True

    def __init__(self, disk: Disk, start: int, worker: int, loop: Any) -> None:
        self.name = (start, worker)
        self._disk = disk
        self._loop = loop
        self._positions = itertools.count(1).__next__
        self._prepared = 2
        self._full = 0
        self.is_broken = False
        disk.logs[self.name] = []
        disk.open_logs.append(self)

    def append(self, record: bytes) -> int:
        disk, random, scenario = self._disk, self._disk.random, self._disk.scenario
        disk.appends += 1
        if self.is_broken:
            raise LogBroken("append", "log", "it failed before", "simulated")
        self._loop.spend(random.randrange(*scenario.sync_quanta) * QUANTUM_S)
        if not disk.healthy:
            draw = random.random()
            if self._full or draw < scenario.log_full:
                self._full = self._full - 1 if self._full else random.randrange(4)
                disk.failures += 1
                raise LogFull("append", "log", "no space left on device", "simulated")
            if draw > 1.0 - scenario.log_broken:
                self.is_broken = True
                disk.failures += 1
                disk.add(self, Entry(self._positions(), record, self._loop.clock(), decided=False))
                raise LogBroken("append", "log", "input/output error", "simulated")
        position = self._positions()
        self._prepared -= random.random() < 0.05
        disk.add(self, Entry(position, record, self._loop.clock(), decided=True))
        return position

    def write(self, record: bytes) -> int | None:
        """What it takes is on the disk: what is durable and nobody has been told of may be."""
        if self._disk.random.random() < 0.3:
            return None
        self._written = self.append(record)
        return 0

    def sync(self) -> int:
        return self._written

    def synced(self, error: Exception | None) -> int:
        assert error is None
        return self._written

    def truncate(self, position: int) -> None:
        entries = self._disk.logs[self.name]
        self._disk.catch_up(self._loop.clock())
        self._disk.logs[self.name] = [entry for entry in entries if entry.position > position]

    def shrink(self, position: int) -> None:
        """What it gives back was truncated before."""

    @property
    def segments_used(self) -> int:
        return min(self.segments_max, 1 + len(self._disk.logs[self.name]) // self._disk.scenario.segment_records)

    @property
    def segments_max(self) -> int:
        return 8

    @property
    def needs_segment(self) -> bool:
        return self._prepared < 2

    def prepare_segment(self) -> None:
        if not self._disk.healthy and self._disk.random.random() < self._disk.scenario.log_full:
            raise LogFull("prepare", "log", "no space left on device", "simulated")
        self._prepared += 1

    def statistics(self) -> LogStatistics:
        return LogStatistics(0, self.segments_used, self._prepared, self.segments_max, 0, 0, self._disk.appends, False)
