"""A data directory with the store of a worker over it, which commits, checkpoints and is started again as a test says; and a
model that knows what every shard had after each of its commits."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import msgspec
import pytest

import tidegate.shard.log.commit_log as log_module
import tidegate.shard.store.checkpoints.checkpoint as checkpoint_module
from tidegate.runtime.data.directory import DataDirectory, open_directory
from tidegate.runtime.data.successor import Successor
from tidegate.runtime.ids import OBJECT_KEY_BYTES, object_key, shard_of_slot, slot_of
from tidegate.shard.backup.backup import Backup, BackupReport, Source, Throttle
from tidegate.shard.backup.depot import Depot, FolderDepot
from tidegate.shard.backup.reading import read_lineages
from tidegate.shard.backup.restore import Restored, build, find_moment
from tidegate.shard.core.alarms import Alarm, Header, encode_header, index_changes
from tidegate.shard.offline.check import ReadState, state_path
from tidegate.shard.store.answers import ANSWERS_KEY, AnswerTable
from tidegate.shard.store.interface import NAMES_KEY, Answer, ObjectWrites, ShardCommit
from tidegate.shard.store.record import CommitRecord, encode_record
from tidegate.shard.store.recovery import Recovery
from tidegate.shard.store.worker_store import WorkerStore

SHARDS = 2
OBJECTS = 60
STEP_MS = 1_000
"""Between two commits of the world."""

Rows = dict[bytes, bytes]


def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logs have many segments, and checkpoints many batches."""
    monkeypatch.setattr(checkpoint_module, "CHECKPOINT_COMMIT_ENTRIES", 60)
    defaults = log_module.CommitLog.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "segment_bytes", 64 << 10)
    monkeypatch.setitem(defaults, "segment_bytes_first", 16 << 10)


class Killed(Exception):
    pass


class MortalDepot(FolderDepot):
    """Ends whoever puts more than so many things."""

    puts_left = 1 << 30

    def put(self, name: str, data: bytes) -> None:
        if self.puts_left == 0:
            raise Killed
        self.puts_left -= 1
        super().put(name, data)


class Known(NamedTuple):
    """What a shard has after a commit."""

    seq: int
    rows: Rows
    answers: frozenset[int]
    """The numbers of the calls that were answered."""


class BackupWorld:
    def __init__(self, data: Path, depot: Depot, seed: int) -> None:
        self.data = data
        self.depot = depot
        self.random = Random(seed)
        self.now_ms = 1_000_000_000_000
        self.rows: list[Rows] = [{} for _ in range(SHARDS)]
        self.alarms: dict[str, Alarm | None] = {}
        """Of objects that exist."""
        self.history: list[tuple[int, list[Known]]] = []
        """After each commit: its time, and what each shard has."""
        self.given: list[frozenset[int]] = [frozenset()] * SHARDS
        self.answers = 0
        self._loop = asyncio.new_event_loop()
        self._directory: DataDirectory | None = None
        self._store: WorkerStore | None = None
        self.start()

    # The service

    def start(self) -> None:
        """Again, after a crash."""
        self.stop()
        self._directory = open_directory(self.data, SHARDS)
        start = self._directory.start

        async def opened() -> WorkerStore:
            return WorkerStore.open(self.data, start, 0, range(SHARDS), lambda trouble: None, memtable_bytes=50_000)

        self._store = self._loop.run_until_complete(opened())
        self.checkpoint()
        self._directory.delete_logs_of_earlier_starts()

    def stop(self) -> None:
        """Without a checkpoint."""
        if self._store is not None and self._directory is not None:
            self._loop.run_until_complete(self._store.close())
            self._directory.close()
        self._store = None

    def close(self) -> None:
        self.stop()
        self._loop.close()

    def checkpoint(self) -> None:
        assert self._store is not None
        self._loop.run_until_complete(self._store.checkpointer.finish())

    def commit(self, count: int = 1) -> None:
        async def commits() -> None:
            for _ in range(count):
                self._commit()
                await asyncio.sleep(0)

        self._loop.run_until_complete(commits())

    def _commit(self) -> None:
        assert self._store is not None
        by_shard: dict[int, list[ObjectWrites]] = {}
        for _ in range(self.random.randint(1, 3)):
            name = f"c{self.random.randrange(OBJECTS)}"
            by_shard.setdefault(shard_of_slot(slot_of("Counter", name), SHARDS), []).extend(self._change(name))
        commits = []
        for shard, changes in by_shard.items():
            self._model(shard, changes)
            given = []
            if self.random.random() < 0.5:
                self.answers += 1
                self.given[shard] |= {self.answers}
                given = [Answer("Session", self.answers, 0, 7, 0, msgspec.Raw(msgspec.msgpack.encode(self.answers)))]
            commits.append(ShardCommit(shard, self._store.shards[shard].seq + 1, changes, given))
        self.now_ms += STEP_MS
        record = encode_record(CommitRecord(self.now_ms, commits))
        self._store.applied(self._store.append(record), commits)
        seqs = [self._store.shards[shard].seq for shard in range(SHARDS)]
        self.history.append((self.now_ms, [Known(*each) for each in zip(seqs, map(dict, self.rows), self.given, strict=True)]))

    def _change(self, name: str) -> list[ObjectWrites]:
        key, old = object_key("Counter", name), self.alarms.get(name)
        if self.random.random() < 0.1 and name in self.alarms:
            del self.alarms[name]
            own, alarm = ObjectWrites(key, True, {}), None
        else:
            due_us = self.random.randrange(10**9) * 1_000_000
            alarm = Alarm(due_us, due_us) if self.random.random() < 0.3 else old
            self.alarms[name] = alarm
            writes: dict[str, bytes | None] = {"": encode_header(Header("Counter", name, alarm))}
            for _ in range(self.random.randint(1, 4)):
                stored = msgspec.msgpack.encode(self.random.randbytes(self.random.randrange(400)))
                value = None if self.random.random() < 0.2 else stored
                writes[f"k{self.random.randrange(20)}"] = value
            own = ObjectWrites(key, False, writes)
        changed = index_changes(key, old, alarm, "Counter", name)
        return [own, *(ObjectWrites(index, False, dict(rows)) for index, rows in changed.items())]

    def _model(self, shard: int, changes: list[ObjectWrites]) -> None:
        rows = self.rows[shard]
        for change in changes:
            if change.cleared:
                for gone in [row for row in rows if row.startswith(change.key)]:
                    del rows[gone]
            for name, value in change.writes.items():
                rows.pop(change.key + name.encode(), None)
                if value is not None:
                    rows[change.key + name.encode()] = value

    # Backups

    def back_up(self, meanwhile: int = 0, *, piece_bytes: int = 4_000, **how: Any) -> BackupReport:
        """`meanwhile`: so many commits at each thing of which the backup tells. `how`: for `Backup.run`."""
        assert self._directory is not None
        source = Source(self.data, SHARDS, self._directory.start, "test")

        def progress(what: str, share: float) -> None:
            self.commit(meanwhile)
            if meanwhile:
                self.checkpoint()

        def now_ms() -> int:
            return self.now_ms

        throttle = Throttle(0, lambda seconds: None)
        return Backup(source, self.depot, progress, throttle, piece_bytes=piece_bytes, now_ms=now_ms).run(**how)

    def restore(self, place: Path, at_ms: int | None) -> Restored:
        moment = find_moment(read_lineages(self.depot), at_ms, "the depot")
        with Successor(place) as successor:
            restored = build(self.depot, moment, successor.path, 0, lambda what, share: None)
            successor.take_place(restored.shards, restored.starts)
        return restored

    def expected(self, at_ms: int) -> list[Known]:
        """Of each shard."""
        return next(known for now_ms, known in reversed(self.history) if now_ms <= at_ms)

    def expected_at(self, shard: int, seq: int) -> Known:
        return next(known[shard] for _, known in self.history if known[shard].seq == seq)


def known_in(data: Path, shard: int) -> Known:
    """What a stopped directory has, with its logs."""
    state = ReadState(state_path(data, shard), shard, checksums=True)
    try:
        recovery = Recovery(data, [state], 1 << 30, 0)  # type: ignore[list-item]  # It begins no batch.
        recovery.read(writing=False)
        assert recovery.damaged == {}
        seq = recovery.seqs[shard]
        rows = dict(state.rows())
        for key, held in recovery.memtables()[shard][1].objects.items():
            if held.cleared:
                rows = {row: value for row, value in rows.items() if not row.startswith(key)}
            for name, value in held.writes.items():
                rows.pop(key + name.encode(), None)
                if value is not None:
                    rows[key + name.encode()] = value
    finally:
        state.close()
    table = AnswerTable()
    own = {row: value for row, value in rows.items() if row.startswith(ANSWERS_KEY)}
    table.load((row[OBJECT_KEY_BYTES:].decode(), value) for row, value in sorted(own.items()))
    group = table.groups.get("Session")
    kept = {} if group is None else {key: msgspec.msgpack.decode(answer.result) for key, answer in group.rows.items()}
    assert all(key == value for key, value in kept.items())
    return Known(
        seq,
        {row: value for row, value in rows.items() if row not in own and not row.startswith(NAMES_KEY)},
        frozenset(map(int, kept)),
    )
