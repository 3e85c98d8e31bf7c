"""Brings the states of a worker's shards up to everything durable, before the worker serves.

Guarantee: after `recover` each state contains, synced, every record of its shard that any log of an earlier worker holds, in
order and without a gap, or recovery refuses with the reason. Logs may then be discarded.

It never relies on what the page cache says about an earlier worker's writes: a worker may have been ended by a failed sync, so
every shard that any record mentions gets a fresh synced commit, also if its state seems up to date.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

from tidegate.runtime.errors import OperatorError
from tidegate.runtime.ids import OBJECT_KEY_BYTES
from tidegate.shard.log.reading import LogCorrupt, read_log
from tidegate.shard.store.answers import ANSWERS_KEY, AnswerTable, decode_answers
from tidegate.shard.store.interface import Answer, ObjectWrites
from tidegate.shard.store.memtable import Memtable
from tidegate.shard.store.record import NO_ANSWERS, UnreadShardCommit, decode_objects, decode_unread_record
from tidegate.shard.store.store import ABOVE_KEYS, ShardState, StateBatch

RECOVERY_ENTRIES_MAX = 500_000
"""Entries gathered from the logs, of all shards, before they are committed: bounds memory."""
RECOVERY_BYTES_MAX = 256 << 20
_CHECK_BYTES = 4 << 20  # Log bytes between two looks at those bounds.
_RANGE_KEYS = 10_000


class RecoveryReport(NamedTuple):
    logs: int
    records: int
    """Log records read, those of other workers' shards included."""
    commits: int
    """Shard commits that were not in the states yet."""
    entries: int
    """Keys written into the states."""
    took_s: float


class LogDirectory(NamedTuple):
    start: int
    worker: int
    path: Path


def log_path(data_dir: Path, start: int, worker: int) -> Path:
    return data_dir / "log" / f"{start:08d}-{worker:04d}"


def list_logs(data_dir: Path) -> list[LogDirectory]:
    """All logs, those of earlier starts first."""
    found = []
    for path in (data_dir / "log").glob("*-*"):
        start, _, worker = path.name.partition("-")
        if start.isdecimal() and worker.isdecimal():
            found.append(LogDirectory(int(start), int(worker), path))
    return sorted(found)


def logs_to_recover(data_dir: Path, start: int, worker: int) -> list[LogDirectory]:
    """Logs that may hold records of this worker's shards: those of earlier starts, and its own if it was started again. Other
    workers of this start have other shards, and are writing."""
    return [log for log in list_logs(data_dir) if log.start < start or (log.start, log.worker) == (start, worker)]


class _Gathered:
    """What one shard's records add up to since its last commit."""

    def __init__(self, state: ShardState) -> None:
        self.state = state
        self.applied_before = state.applied_seq
        self.seq = state.applied_seq
        self.memtable = Memtable()
        self.mentioned = False
        self._answers: AnswerTable | None = None

    def _replay_answers(self, answers: list[Answer]) -> None:
        """Those that are not kept until the end need not be written."""
        if self._answers is None:
            self._answers = AnswerTable()
            rows = self.state.scan(ANSWERS_KEY, ANSWERS_KEY + ABOVE_KEYS, False)
            self._answers.load((key[OBJECT_KEY_BYTES:].decode(), raw) for key, raw in rows)
        self._answers.apply(answers)

    def finish_answers(self) -> None:
        """What is kept is among the entries from now on."""
        if self._answers is not None and (changes := self._answers.take_changes()):
            self.memtable.apply([ObjectWrites(ANSWERS_KEY, False, changes)])

    def add(self, commit: UnreadShardCommit, place: Path) -> bool:
        """Takes the commit, unless the state has it."""
        self.mentioned = True
        if commit.seq <= self.applied_before:
            return False
        if commit.seq <= self.seq:
            raise LogCorrupt(
                "recover", place, f"commit {commit.seq} of shard {self.state.shard} occurs a second time",
                "two services wrote this data directory; restore from a backup, or move the wrong log away",
            )  # fmt: skip
        if commit.seq != self.seq + 1:
            raise LogCorrupt(
                "recover", place,
                f"shard {self.state.shard} continues with commit {commit.seq}, but {self.seq + 1} comes after its state and logs",
                "a log was removed or damaged; put it back, or restore from a backup",
            )  # fmt: skip
        self.memtable.apply(decode_objects(commit.objects))
        if commit.answers != NO_ANSWERS:
            self._replay_answers(decode_answers(commit.answers))
        self.seq = commit.seq
        return True

    def write(self) -> int:
        """Commits what was gathered; the number of entries."""
        self.finish_answers()
        batch = self.state.begin()
        try:
            _fill(batch, self.memtable)
            batch.set_applied_seq(self.seq)
        except OperatorError:
            batch.abort()
            raise
        batch.commit()
        entries = self.memtable.entries
        self.memtable = Memtable()
        self.mentioned = False
        return entries


def _fill(batch: StateBatch, memtable: Memtable) -> None:
    """Like `tidegate.shard.store.checkpoint.slices`, without the stops: nobody is served yet, so one sorted run is fastest."""
    puts: list[tuple[bytes, bytes]] = []
    deletes: list[bytes] = []
    for object_key, held in memtable.objects.items():
        if held.cleared:
            while not batch.delete_range(object_key, object_key + ABOVE_KEYS, _RANGE_KEYS):
                pass
        for key, value in held.writes.items():
            if value is None:
                deletes.append(object_key + key.encode())
            else:
                puts.append((object_key + key.encode(), value))
    puts.sort()
    batch.put_many(puts)
    batch.delete_many(sorted(deletes))


def recover(data_dir: Path, states: Sequence[ShardState], start: int, worker: int) -> RecoveryReport:
    """See the guarantee above. The logs are only read; to discard them is up to the caller."""
    began = perf_counter()
    logs = logs_to_recover(data_dir, start, worker)
    by_shard = {state.shard: _Gathered(state) for state in states}
    collecting = gc.isenabled()
    gc.disable()  # Millions of small objects, none of them in a cycle: looking for cycles takes a quarter of the time.
    try:
        records, commits, entries = _replay(logs, by_shard)
    finally:
        if collecting:
            gc.enable()
    return RecoveryReport(len(logs), records, commits, entries, perf_counter() - began)


def recall(data_dir: Path, states: Sequence[ShardState], start: int, worker: int) -> dict[int, tuple[int, Memtable]]:
    """Where there is no room to recover: what `recover` would have written, for each shard up to which sequence. It stays in
    memory, and the logs have to stay where they are."""
    by_shard = {state.shard: _Gathered(state) for state in states}
    _replay(logs_to_recover(data_dir, start, worker), by_shard, writing=False)
    for gathered in by_shard.values():
        gathered.finish_answers()
    return {shard: (gathered.seq, gathered.memtable) for shard, gathered in by_shard.items()}


def _replay(logs: Sequence[LogDirectory], by_shard: Mapping[int, _Gathered], *, writing: bool = True) -> tuple[int, int, int]:
    records = commits = entries = unchecked_bytes = 0
    for log in logs:
        for payload in read_log(log.path):
            records += 1
            for commit in _decode(payload, log.path):
                gathered = by_shard.get(commit.shard)
                if gathered is not None and gathered.add(commit, log.path):
                    commits += 1
            unchecked_bytes += len(payload)
            if unchecked_bytes >= _CHECK_BYTES:
                unchecked_bytes = 0
                if writing and _is_enough(by_shard):
                    entries += _write_all(by_shard)
    if writing:
        entries += _write_all(by_shard)
    return records, commits, entries


def _decode(payload: memoryview, place: Path) -> list[UnreadShardCommit]:
    try:
        return decode_unread_record(payload).shards
    except ValueError as error:
        raise LogCorrupt(
            "recover", place, f"a record with a good checksum cannot be decoded: {error}",
            "a newer version may have written it; start that version",
        ) from error  # fmt: skip


def _is_enough(by_shard: Mapping[int, _Gathered]) -> bool:
    tables = [gathered.memtable for gathered in by_shard.values()]
    return sum(t.entries for t in tables) >= RECOVERY_ENTRIES_MAX or sum(t.size_bytes for t in tables) >= RECOVERY_BYTES_MAX


def _write_all(by_shard: Mapping[int, _Gathered]) -> int:
    return sum(gathered.write() for gathered in by_shard.values() if gathered.mentioned)
