"""Random programs of commits, checkpoints, crashes and restarts, compared with a dict after every step.

One machine runs over states in memory and a log that is a list of encoded records (any crash point, fast), one over real
files. A crash drops whatever is not in committed states or the log; recovery must bring everything back.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

import tidegate.shard.store.checkpoints.checkpoint as checkpoint_module
from tests.support.records import decode_record
from tidegate.shard.log.commit_log import CommitLog
from tidegate.shard.log.segment import encode_frame_head
from tidegate.shard.store.checkpoints.checkpoint import checkpoint_steps
from tidegate.shard.store.interface import ObjectWrites, ShardCommit
from tidegate.shard.store.logs import log_path
from tidegate.shard.store.record import CommitRecord, encode_record
from tidegate.shard.store.recovery import recover
from tidegate.shard.store.state.lmdb_state import LmdbState
from tidegate.shard.store.state.memory_state import MemoryState
from tidegate.shard.store.store import ShardState, ShardStore, StateBatch

OBJECTS = [number.to_bytes(2, "big") + b"object".ljust(14) for number in (0, 1, 0x3FFF)]
KEYS = ["", "a", "b", "ba", "é", "\uffff", "\U0010ffff"]
VALUES = st.none() | st.binary(max_size=4)
WRITES = st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4)
CHANGES = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from(OBJECTS), st.booleans(), WRITES),
    min_size=1, max_size=3, unique_by=lambda change: change[:2],
)  # fmt: skip
BOUND = st.none() | st.sampled_from(["a", "b", "bb", "é", "z"])


class StoreMachine(RuleBasedStateMachine):
    """Two shards. Subclasses say where states and log live and what a crash does to them."""

    def __init__(self) -> None:
        super().__init__()
        self.model: dict[tuple[int, bytes], dict[str, bytes]] = {}
        self.stores: list[ShardStore] = []
        self.steps: Generator[StateBatch | None, None, None] | None = None
        self.position = 0
        self.freeze_position = 0
        self.moving: list[ShardStore] = []

    def start(self) -> None:
        """Opens states, recovers, opens an empty log, sets `stores`."""
        raise AssertionError

    def append(self, record: CommitRecord) -> int:
        raise AssertionError

    def truncate(self, position: int) -> None:
        raise AssertionError

    @initialize()
    def first_start(self) -> None:
        self.start()

    @rule(changes=CHANGES)
    def commit(self, changes: list[tuple[int, bytes, bool, dict[str, bytes | None]]]) -> None:
        by_shard: dict[int, list[ObjectWrites]] = {}
        for shard, key, cleared, writes in changes:
            by_shard.setdefault(shard, []).append(ObjectWrites(key, cleared, dict(writes)))
            held = {} if cleared else self.model.get((shard, key), {})
            merged = {**held, **writes}
            self.model[shard, key] = {name: value for name, value in merged.items() if value is not None}
        commits = [ShardCommit(shard, self.stores[shard].seq + 1, objects) for shard, objects in by_shard.items()]
        self.position = self.append(CommitRecord(0, commits))
        for commit in commits:
            self.stores[commit.shard].apply(commit.seq, commit.objects)

    @precondition(lambda self: not self.moving)
    @rule()
    def freeze(self) -> None:
        self.freeze_position = self.position
        self.moving = [store for store in self.stores if store.freeze()]

    @precondition(lambda self: self.moving)
    @rule(steps=st.integers(1, 6))
    def checkpoint_some(self, steps: int) -> None:
        for _ in range(steps):
            if not self.moving:
                return
            if self.steps is None:
                self.steps = checkpoint_steps(self.moving[0])
            for batch in self.steps:
                if batch is not None:
                    batch.commit()
                break
            else:
                self.steps = None
                self.moving.pop(0).drop_frozen()
                if not self.moving:
                    self.truncate(self.freeze_position)

    @precondition(lambda self: self.steps is not None and self.moving[0].state.applied_seq < self.moving[0].frozen_seq)
    @rule()
    def fail_checkpoint(self) -> None:
        """An error before the last commit: the batch is gone, the frozen memtable stays and is moved again from its start."""
        assert self.steps is not None
        self.steps.close()
        self.steps = None

    @rule()
    def crash_and_restart(self) -> None:
        if self.steps is not None:
            self.steps.close()
        self.steps, self.moving = None, []
        self.start()
        for store in self.stores:
            assert not store.active

    @rule(
        shard=st.integers(0, 1), key=st.sampled_from(OBJECTS), start=BOUND, end=BOUND, reverse=st.booleans(),
        limit=st.none() | st.integers(0, 3),
    )  # fmt: skip
    def scan(self, shard: int, key: bytes, start: str | None, end: str | None, reverse: bool, limit: int | None) -> None:
        rows = sorted(
            (name, value) for name, value in self.model.get((shard, key), {}).items()
            if name and (start is None or name >= start) and (end is None or name < end)
        )  # fmt: skip
        if reverse:
            rows.reverse()
        assert self.stores[shard].scan(key, start, end, reverse, limit) == rows[:limit]

    @invariant()
    def every_key_has_its_newest_value(self) -> None:
        for shard, store in enumerate(self.stores):
            store.active.check_invariants()
            for key in OBJECTS:
                expected = self.model.get((shard, key), {})
                assert {name: value for name in KEYS if (value := store.get(key, name)) is not None} == expected


class MemoryMachine(StoreMachine):
    """The log is a list; recovery replays it the way the real one does."""

    def __init__(self) -> None:
        super().__init__()
        self.states = [MemoryState(0), MemoryState(1)]
        self.log: list[tuple[int, bytes]] = []

    def start(self) -> None:
        self.stores = [ShardStore(state) for state in self.states]
        for _, record in self.log:
            for commit in decode_record(record).shards:
                if commit.seq > self.stores[commit.shard].seq:
                    self.stores[commit.shard].apply(commit.seq, commit.objects)
        for store in self.stores:
            if store.freeze():
                for batch in checkpoint_steps(store):
                    if batch is not None:
                        batch.commit()
                store.drop_frozen()
        self.log.clear()

    def append(self, record: CommitRecord) -> int:
        self.log.append((self.position + 1, encode_record(record)))
        return self.position + 1

    def truncate(self, position: int) -> None:
        self.log = [(at, record) for at, record in self.log if at > position]


class FileMachine(StoreMachine):
    """Real segments and LMDB. A crash closes the files without a word, and leaves torn bytes after the last record."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="tidegate-model-"))
        self.states: list[LmdbState] = []
        self.log: CommitLog | None = None
        self.starts = 0

    def start(self) -> None:
        self.tear()
        self.close_files()
        self.starts += 1
        start = self.starts // 2 + 1  # Every other time the worker alone is restarted.
        self.states = [LmdbState(self.directory / f"{shard:04d}", shard, map_bytes=1 << 30) for shard in range(2)]
        states: list[ShardState] = list(self.states)
        recover(self.directory, states, start, 0)
        self.log = CommitLog(
            log_path(self.directory, start, 0), segment_bytes=2048, segment_bytes_first=1024, segments_max=10_000
        )
        self.stores = [ShardStore(state) for state in self.states]

    def append(self, record: CommitRecord) -> int:
        assert self.log is not None
        if self.log.needs_segment:
            self.log.prepare_segment()
        return self.log.append(encode_record(record))

    def truncate(self, position: int) -> None:
        assert self.log is not None
        self.log.truncate(position)

    def tear(self) -> None:
        """What a power cut leaves of an append that nobody was told about: its first half."""
        if self.log is None:
            return
        active, low, high = self.log._active, self.log._low, self.log._high
        head, _ = encode_frame_head(active.salt, self.log._position + 1, self.log._link, b"torn")
        if high - low >= len(head) + 4:
            upwards = self.log._position % 2 == 0
            os.pwrite(active.fd, (head + b"torn")[:20] if upwards else head[:20], low if upwards else high - len(head))

    def close_files(self) -> None:
        if self.log is not None:
            self.log.close()
        for state in self.states:
            state.close()

    def teardown(self) -> None:
        if self.steps is not None:
            self.steps.close()
        self.close_files()
        shutil.rmtree(self.directory)


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a handful of writes takes several slices and several commits."""
    monkeypatch.setattr(checkpoint_module, "CHECKPOINT_SLICE_KEYS", 2)
    monkeypatch.setattr(checkpoint_module, "CHECKPOINT_COMMIT_ENTRIES", 4)


EXAMPLES = 10 if os.environ.get("TIDEGATE_FULL") else 1


def test_random_programs_over_memory_equal_a_dict() -> None:
    run_state_machine_as_test(MemoryMachine, settings=settings(max_examples=60 * EXAMPLES, stateful_step_count=40))


def test_random_programs_over_files_equal_a_dict() -> None:
    run_state_machine_as_test(FileMachine, settings=settings(max_examples=15 * EXAMPLES, stateful_step_count=40))
