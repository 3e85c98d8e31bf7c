"""shard/store/checkpoints/checkpoint.py: what is checkpointed is in synced states before the log forgets it, and no answer
changes meanwhile."""

from __future__ import annotations

import asyncio
import itertools
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

import tidegate.shard.store.checkpoints.checkpoint as checkpoint_module
import tidegate.shard.store.checkpoints.pace as pace_module
from tests.support.cold_world import checkpoint
from tests.support.waiting import wait_until_in_loop
from tidegate.runtime.errors import OperatorError
from tidegate.runtime.limits import CHECKPOINT_SLICE_KEYS
from tidegate.shard.__main__ import SWITCH_INTERVAL_S
from tidegate.shard.core.alarms import Header, encode_header
from tidegate.shard.log.commit_log import LogFull, LogWithoutRoom
from tidegate.shard.store.checkpoints.checkpoint import (
    ASK_COMMIT_BYTES,
    ASK_EVERY_BYTES,
    NEIGHBOURS,
    PIECE_KEYS,
    RECORD_BYTES,
    Checkpointer,
    CheckpointTrouble,
    Helper,
    checkpoint_steps,
    page_share,
    pages_changed_by,
    removal_steps,
    retry_delay_s,
    slices,
)
from tidegate.shard.store.checkpoints.pace import MEMTABLE_BYTES_MIN, STEP_S_MAX, CheckpointPace, Pressure
from tidegate.shard.store.checkpoints.room import Room
from tidegate.shard.store.interface import ObjectWrites, ShardDamaged
from tidegate.shard.store.memtable import ENTRY_OVERHEAD_BYTES, OBJECT_OVERHEAD_BYTES, Memtable
from tidegate.shard.store.state.memory_state import MemoryBatch, MemoryState
from tidegate.shard.store.store import ShardStore, StoreFailed, StoreFull


def object_key(number: int) -> bytes:
    return number.to_bytes(2, "big") + b"object".ljust(14)


# Pure


def test_objects_far_apart_have_a_page_each_and_those_that_fill_all_pages_share_them() -> None:
    assert page_share(0, 100) == page_share(100, 0) == 0.0
    assert page_share(10_000, 100_000_000) == pytest.approx(1.0, abs=0.001)
    assert page_share(1_000_000, 1_000) == pytest.approx(0.001)
    random, pages = Random(1), 5_000
    touched = {random.randrange(pages) for _ in range(4_000)}
    assert 4_000 * page_share(4_000, pages) == pytest.approx(len(touched), rel=0.03)


def test_rows_of_one_object_share_a_page_unless_there_are_very_many() -> None:
    memtable, pages = Memtable(), 10_000_000
    memtable.apply(ObjectWrites(object_key(number), False, {f"k{at}": b"" for at in range(NEIGHBOURS)}) for number in range(50))
    assert pages_changed_by(memtable, pages) == pytest.approx(50, rel=0.01)
    memtable.apply([ObjectWrites(object_key(100), False, {f"k{at}": b"" for at in range(5_000)})])
    assert pages_changed_by(memtable, pages) == pytest.approx(50 + 5_000, rel=0.01)
    assert pages_changed_by(memtable, 100) == pytest.approx(100, rel=0.01), "there are no more"


def test_retries_back_off_up_to_a_bound() -> None:
    assert [retry_delay_s(failures) for failures in (1, 2, 3, 4, 5, 6, 7)] == [1, 2, 4, 8, 16, 30, 30]


def test_slices_are_sorted_and_bounded_in_keys_and_bytes() -> None:
    memtable = Memtable()
    random = Random(2)
    for number in random.sample(range(3000), 1000):
        memtable.apply([ObjectWrites(object_key(number), False, {"a": b"1", "b": None, "big": bytes(random.randrange(9000))})])
    parts = list(slices(memtable))
    puts = [key for part in parts for key, _ in part.puts]
    assert puts == sorted(puts)
    assert len(puts) == 2000
    assert sum(len(part.deletes) for part in parts) == 1000
    assert max(len(part.puts) + len(part.deletes) for part in parts) <= 64
    assert max(part.size_bytes for part in parts) <= checkpoint_module.CHECKPOINT_SLICE_BYTES + 9000


@pytest.mark.parametrize("more", [0, 1])
@pytest.mark.parametrize("in_object", [1, 3, 5_000])
def test_slices_have_every_change_once_and_in_order_however_many_there_are(in_object: int, more: int) -> None:
    """Few are sorted in one run, one more of them is dealt by slot first."""
    random, count = Random(in_object + more), checkpoint_module._FEW_ENTRIES + more
    memtable, expected, cleared = Memtable(), dict[bytes, bytes | None](), list[bytes]()
    while left := count - memtable.entries:
        key = random.randbytes(2) + random.randbytes(14)
        names = [f"k{nth}" for nth in range(min(left, in_object))]
        writes = {name: random.choice((None, b"", b"value", bytes(20_000))) for name in names}
        is_cleared = random.random() < 0.01
        cleared += [key] * is_cleared
        expected |= {key + name.encode(): value for name, value in writes.items()}
        memtable.apply([ObjectWrites(key, is_cleared, writes)])
    assert memtable.entries == len(expected) == count
    parts = [part for part in slices(memtable) if part.cleared or part.puts or part.deletes]
    assert [part.cleared for part in parts[: len(cleared)]] == cleared
    keys = list[bytes]()
    for part in parts[len(cleared) :]:
        assert part.cleared is None
        assert all(expected[key] is value for key, value in part.puts)
        assert all(expected[key] is None for key in part.deletes)
        keys += sorted([*part.deletes, *(key for key, _ in part.puts)])
    is_whole = keys == sorted(expected)
    assert is_whole, (len(keys), len(expected), keys == sorted(keys))


@pytest.mark.parametrize("key_s", [0.01, 0.001, 0.000_01])
def test_however_long_each_page_takes_a_turn_of_a_large_checkpoint_is_short(
    monkeypatch: pytest.MonkeyPatch, key_s: float
) -> None:
    """Headers, values, deletes, names, and all that an object had, in one checkpoint; each key's page comes from the disk."""
    now_s, changed = [0.0], [0]

    def slow(change: Callable[..., None]) -> Callable[..., None]:
        def changes(batch: MemoryBatch, keys: Any) -> None:
            count = keys if isinstance(keys, int) else len(keys)
            changed[0] += count
            now_s[0] += count * key_s
            change(batch, keys)

        return changes

    store = ShardStore(MemoryState(0))
    emptied = object_key(1_000)
    store.apply(1, [ObjectWrites(emptied, False, {f"k{number}": b"1" for number in range(500)})])
    checkpoint(store)
    keys = [object_key(number) for number in range(1_000)]
    headers = [encode_header(Header("Class", str(number))) for number in range(len(keys))]
    writes = [ObjectWrites(key, False, {"": header, "a": b"1", "b": None}) for key, header in zip(keys, headers, strict=True)]
    store.apply(2, [*writes, ObjectWrites(emptied, True, {})])
    store.freeze()
    for name in ("put_many", "delete_many", "change_names"):
        monkeypatch.setattr(MemoryBatch, name, slow(getattr(MemoryBatch, name)))
    pace = CheckpointPace(lambda: Pressure(100, 100, 1, 8, 8), lambda: now_s[0])
    most = 0
    for batch in checkpoint_steps(store, None, pace.goes_on):
        if batch is not None:
            batch.commit()
        most, changed[0] = max(most, changed[0]), 0
        pace.leave()
        pace.come_back(after_others=True)
    assert 0 < most <= min(int(STEP_S_MAX / key_s) + PIECE_KEYS, CHECKPOINT_SLICE_KEYS)
    assert pace.turn_s_max <= max(PIECE_KEYS * key_s + STEP_S_MAX, CHECKPOINT_SLICE_KEYS * key_s)
    assert pace.turn_s_max <= 0.05
    assert store.state.applied_seq == 2
    assert store.state.names.counts == {"Class": len(keys)}


def test_the_applied_sequence_is_raised_only_by_the_last_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash between two batches then replays all of it from the log."""
    monkeypatch.setattr(checkpoint_module, "CHECKPOINT_COMMIT_ENTRIES", 100)
    store = ShardStore(MemoryState(0))
    store.apply(1, [ObjectWrites(object_key(number), False, {"a": b"1"}) for number in range(1000)])
    store.freeze()
    seen = []
    for batch in checkpoint_steps(store):
        if batch is not None:
            batch.commit()
            seen.append((len(store.state.rows), store.state.applied_seq))  # type: ignore[attr-defined]  # It is a MemoryState.
    assert len(seen) >= 8
    assert [seq for _, seq in seen] == [0] * (len(seen) - 1) + [1]
    assert seen[-1] == (1000, 1)


def test_what_was_deleted_is_taken_out_first_in_small_batches_and_the_sequence_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_module, "REMOVAL_COMMIT_KEYS", 100)
    state = MemoryState(0)
    store = ShardStore(state)
    store.apply(1, [ObjectWrites(object_key(number), False, {"a": b"1", "b": b"2", "c": b"3"}) for number in range(500)])
    store.freeze()
    for batch in checkpoint_steps(store):
        if batch is not None:
            batch.commit()
    store.drop_frozen()
    store.apply(2, [ObjectWrites(object_key(number), number % 2 == 0, {"b": None, "c": b"4"}) for number in range(400)])
    store.freeze()
    batches = 0
    for batch in removal_steps(store):
        if batch is not None:
            batch.commit()
            batches += 1
    assert batches > 4
    assert state.applied_seq == 1, "after a crash the log has all of it still"
    left = {key: [name for name in "abc" if object_key(key) + name.encode() in state.rows] for key in (0, 1, 450)}
    assert left == {0: [], 1: ["a", "c"], 450: ["a", "b", "c"]}
    for batch in checkpoint_steps(store):
        if batch is not None:
            batch.commit()
    assert state.applied_seq == 2
    assert state.rows[object_key(0) + b"c"] == state.rows[object_key(1) + b"c"] == b"4"
    assert len(state.rows) == 200 * 1 + 200 * 2 + 100 * 3


def test_what_comes_while_there_is_no_room_joins_the_checkpoint_and_answers_stay_the_same() -> None:
    state = MemoryState(0)
    store = ShardStore(state)
    store.apply(1, [ObjectWrites(object_key(number), False, {"a": b"1"}) for number in range(100)])
    assert store.freeze()
    store.apply(2, [ObjectWrites(object_key(number), True, {}) for number in range(90)])
    store.apply(3, [ObjectWrites(object_key(95), False, {"b": b"2"})])
    answers = [store.scan(object_key(number)) for number in range(100)]
    while store.freeze_more(7):
        assert [store.scan(object_key(number)) for number in range(100)] == answers
    assert (store.active.entries, store.frozen_seq) == (0, 3)
    assert store.frozen is not None
    store.frozen.check_invariants()
    store.active.check_invariants()
    assert [store.scan(object_key(number)) for number in range(100)] == answers
    for batch in checkpoint_steps(store):
        if batch is not None:
            batch.commit()
    store.drop_frozen()
    assert [store.scan(object_key(number)) for number in range(100)] == answers
    assert (len(state.rows), state.applied_seq) == (11, 3)


def test_a_checkpoint_given_up_halfway_aborts_its_batch() -> None:
    state = MemoryState(0)
    store = ShardStore(state)
    store.apply(1, [ObjectWrites(object_key(number), False, {"a": b"1"}) for number in range(1000)])
    store.freeze()
    steps = checkpoint_steps(store)
    next(steps)
    steps.close()
    assert state.rows == {}
    state.begin().abort()  # Possible only if no batch is open.


# With a loop


class ListedLog:
    """Counts instead of writing: which positions the log was told to forget, and in which thread."""

    segments_used = 1
    segments_max = 8
    may_grow = True

    def __init__(self) -> None:
        self.truncated: list[int] = []
        self.threads: set[str] = set()

    def truncate(self, position: int) -> None:
        self.truncated.append(position)
        self.threads.add(threading.current_thread().name)

    def prepare_segment(self, *, small: bool = False) -> None:
        if self.segments_used >= self.segments_max:
            raise LogFull("append to log", "memory", "all segments hold records", "wait")

    def shrink(self, position: int) -> None:
        raise NotImplementedError


class Bench:
    """Some shards in memory, their checkpointer, and the writing to them."""

    def __init__(self, shards: int = 2, memtable_bytes: int = MEMTABLE_BYTES_MIN) -> None:
        self.states = [MemoryState(shard) for shard in range(shards)]
        self.stores = [ShardStore(state) for state in self.states]
        self.log = ListedLog()
        self.position = 0
        self.troubles: list[CheckpointTrouble] = []
        self.told = asyncio.Event()
        self.checkpointer = Checkpointer(self.stores, self.log, lambda: self.position, self._trouble, memtable_bytes)

    def _trouble(self, trouble: CheckpointTrouble) -> None:
        self.troubles.append(trouble)
        self.told.set()

    def write(
        self,
        shard: int,
        writes: dict[str, bytes | None],
        number: int = 0,
        cleared: bool = False,
        record_bytes: int = RECORD_BYTES,
    ) -> None:
        store = self.stores[shard]
        store.apply(store.seq + 1, [ObjectWrites(object_key(number), cleared, writes)])
        self.position += 1
        self.checkpointer.note_applied(record_bytes)

    def check_moved(self) -> None:
        for store, state in zip(self.stores, self.states, strict=True):
            assert store.frozen is None
            assert not store.active
            assert state.applied_seq == store.seq


def with_bench(test: Callable[[Bench], Awaitable[None]], shards: int = 2, memtable_bytes: int = MEMTABLE_BYTES_MIN) -> None:
    async def run() -> None:
        bench = Bench(shards, memtable_bytes)
        try:
            async with asyncio.timeout(60):
                await test(bench)
        finally:
            await bench.checkpointer.close()

    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL_S)  # As in a worker: a test that spins keeps the helper waiting 5 ms a time.
    try:
        asyncio.run(run())
    finally:
        sys.setswitchinterval(before)


def test_finish_moves_everything_and_then_truncates_the_log_in_a_helper_thread() -> None:
    async def test(bench: Bench) -> None:
        bench.write(0, {"a": b"1"})
        bench.write(1, {"b": b"2"}, 7)
        await bench.checkpointer.finish()
        bench.check_moved()
        assert bench.states[1].rows == {object_key(7) + b"b": b"2"}
        assert bench.log.truncated == [2]
        assert threading.main_thread().name not in bench.log.threads
        await bench.checkpointer.finish()
        assert bench.log.truncated == [2], "there was nothing to do"

    with_bench(test)


def test_writes_made_during_a_checkpoint_stay_in_memory_and_are_not_truncated_away() -> None:
    async def test(bench: Bench) -> None:
        for number in range(500):
            bench.write(0, {"a": b"old"}, number)
        finishing = asyncio.create_task(bench.checkpointer.finish())
        while bench.stores[0].frozen is None:
            await asyncio.sleep(0)
        bench.write(0, {"a": b"new"}, 3)
        assert bench.stores[0].get(object_key(3), "a") == b"new"
        await finishing
        assert bench.log.truncated == [500]
        assert bench.stores[0].get(object_key(3), "a") == b"new"
        assert bench.states[0].get(object_key(3) + b"a") == b"old"

    with_bench(test)


def test_no_answer_changes_at_any_turn_of_a_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_module, "CHECKPOINT_COMMIT_ENTRIES", 200)

    async def test(bench: Bench) -> None:
        store = bench.stores[0]
        for number in range(300):
            bench.write(0, {"a": b"1", "b": b"1"}, number)
        await bench.checkpointer.finish()
        for number in range(0, 300, 3):
            bench.write(0, {"c": b"2"}, number, cleared=True)
            bench.write(0, {"b": None}, number + 1)
        expected = [store.scan(object_key(number)) for number in range(300)]
        finishing = asyncio.create_task(bench.checkpointer.finish())
        turns = 0
        while not finishing.done():
            assert [store.scan(object_key(number)) for number in range(300)] == expected
            turns += 1
            await asyncio.sleep(0)
        assert turns > 5
        assert [store.scan(object_key(number)) for number in range(300)] == expected

    with_bench(test)


@pytest.mark.parametrize("bound", ["size", "records", "pages"])
def test_reaching_a_bound_starts_a_checkpoint(bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entry_bytes = OBJECT_OVERHEAD_BYTES + ENTRY_OVERHEAD_BYTES + 2
    monkeypatch.setattr(checkpoint_module, "CHECKPOINT_IDLE_S", 60.0)
    if bound == "records":
        monkeypatch.setattr(pace_module, "LOG_RECORDS_MAX", 2 * 48)
    if bound == "pages":  # Each object has one of its own.
        monkeypatch.setattr(pace_module, "PAGES_MAX", 2 * 47.99)
        monkeypatch.setattr(MemoryState, "leaf_pages", property(lambda self: 1 << 30, lambda self, pages: None), raising=False)

    async def test(bench: Bench) -> None:
        for number in range(47):
            bench.write(number % 2, {"a": b"1"}, number, record_bytes=ASK_EVERY_BYTES)
            await asyncio.sleep(0)
        assert bench.stores[0].frozen is None
        bench.write(0, {"a": b"1"}, 1000, record_bytes=ASK_EVERY_BYTES)
        while not bench.log.truncated:
            await asyncio.sleep(0.001)
        assert bench.log.truncated == [48]

    with_bench(test, memtable_bytes=48 * entry_bytes if bound == "size" else 1 << 30)


def test_after_small_commits_it_is_seldom_asked_whether_one_is_due_and_after_a_large_one_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checkpoint_module, "CHECKPOINT_IDLE_S", 60.0)

    async def test(bench: Bench) -> None:
        for number in range(ASK_EVERY_BYTES // ASK_COMMIT_BYTES):  # It is asked at the first one.
            bench.write(0, {"a": b"1"}, number, record_bytes=0)
        assert bench.checkpointer._task is None
        bench.write(0, {"a": b"1"}, 1_000, record_bytes=0)
        assert bench.checkpointer._task is not None
        await wait_until_in_loop(lambda: bench.checkpointer._task is None, "the checkpoint")
        assert bench.log.truncated == [bench.position]
        bench.write(0, {"a": b"1"}, 1, record_bytes=0)  # It is asked after this one, too.
        bench.write(0, {"a": bytes(OBJECT_OVERHEAD_BYTES * 8)}, 2, record_bytes=0)
        assert bench.checkpointer._task is None, "it was asked a moment ago"
        bench.write(0, {"a": b"1"}, 3, record_bytes=ASK_EVERY_BYTES)
        assert bench.checkpointer._task is not None

    with_bench(test, memtable_bytes=OBJECT_OVERHEAD_BYTES * 8)


def test_an_idle_moment_starts_a_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_module, "CHECKPOINT_IDLE_S", 0.02)

    async def test(bench: Bench) -> None:
        bench.write(0, {"a": b"1"})
        statistics = bench.checkpointer.statistics
        await wait_until_in_loop(lambda: statistics().checkpoints == 1, "a checkpoint", seen=statistics)
        bench.check_moved()
        assert bench.log.truncated
        assert bench.checkpointer._idle_timer is None, "an idle worker has no timer running"

    with_bench(test)


def test_where_there_is_never_an_idle_moment_a_checkpoint_comes_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that came and went stayed in memory, and their records in the log, until a bound was reached: for hours."""
    monkeypatch.setattr(checkpoint_module, "CHECKPOINT_IDLE_S", 0.005)
    monkeypatch.setattr(checkpoint_module, "IDLE_LOOKS_MAX", 10)

    async def test(bench: Bench) -> None:
        entries = []
        for number in itertools.count():
            bench.write(0, {f"job {number}": b"1"})
            bench.write(0, {f"job {number}": None})
            entries.append(bench.stores[0].active.entries)
            if bench.checkpointer.statistics().checkpoints == 2:
                break
            assert number < 2_000, "no checkpoint"
            await asyncio.sleep(0.001)
        assert max(entries) < len(entries)
        assert len(bench.log.truncated) == 2

    with_bench(test)


def test_no_room_loses_nothing_and_is_tried_again() -> None:
    async def test(bench: Bench) -> None:
        bench.write(0, {"a": b"1"})
        bench.write(1, {"a": b"2"})
        bench.states[1].commit_error = StoreFull("checkpoint into", "memory", "no space left", "free some space")
        finishing = asyncio.create_task(bench.checkpointer.finish())
        await bench.told.wait()
        assert [trouble.fatal for trouble in bench.troubles] == [False]
        assert bench.log.truncated == []
        assert bench.stores[1].get(object_key(0), "a") == b"2"
        assert bench.checkpointer.statistics().failures == 1
        bench.write(1, {"b": b"3"})
        finish_now = asyncio.create_task(bench.checkpointer.finish())  # Whoever asks again need not wait for the back-off.
        await asyncio.gather(finishing, finish_now)
        bench.check_moved()
        assert bench.states[1].rows == {object_key(0) + b"a": b"2", object_key(0) + b"b": b"3"}
        assert bench.checkpointer.statistics().failures == 0

    with_bench(test)


def test_who_needs_room_is_told_at_once_that_there_is_none_and_the_checkpoint_goes_on_trying() -> None:
    async def test(bench: Bench) -> None:
        bench.write(0, {"a": b"1"})
        bench.states[0].commit_error = StoreFull("checkpoint into", "memory", "no space left", "free some space")
        for _ in range(2):
            with pytest.raises(StoreFull):
                await asyncio.wait_for(bench.checkpointer.make_room(), 0.5)  # The next attempt comes after a second.
        assert bench.checkpointer.statistics().failures == 1
        await bench.checkpointer.finish()
        await bench.checkpointer.make_room()
        bench.check_moved()

    with_bench(test)


def test_who_needs_room_goes_on_when_there_is_a_segment_and_waits_for_no_other_checkpoint() -> None:
    """The one that runs frees the segments that were full when it began. Until one more was over, writes were refused."""

    async def test(bench: Bench) -> None:
        bench.write(0, {"a": b"1"})
        finishing = asyncio.create_task(bench.checkpointer.finish())
        while bench.stores[0].frozen is None:
            await asyncio.sleep(0)
        bench.write(0, {"a": b"2"})
        bench.log.segments_used = bench.log.segments_max
        truncate = bench.log.truncate

        def free_some(position: int) -> None:
            truncate(position)
            bench.log.segments_used = 4

        bench.log.truncate = free_some
        await bench.checkpointer.make_room()
        assert bench.log.truncated == [1]
        await finishing

    with_bench(test)


def test_who_needs_room_goes_on_waiting_where_what_became_free_is_no_segment_that_can_be_had() -> None:
    """It was told to try again, and refused."""

    async def test(bench: Bench) -> None:
        bench.write(0, {"a": b"1"})
        finishing = asyncio.create_task(bench.checkpointer.finish())
        while bench.stores[0].frozen is None:
            await asyncio.sleep(0)
        bench.write(0, {"a": b"2"})
        truncate = bench.log.truncate
        bench.log.segments_used = 4

        def put_one_aside(position: int) -> None:
            truncate(position)
            bench.log.segments_used -= 1

        def prepare_segment(*, small: bool = False) -> None:
            if len(bench.log.truncated) < 2:
                raise LogWithoutRoom("prepare segment in", "memory", "no space left", "free some space")

        bench.log.truncate = put_one_aside
        bench.log.prepare_segment = prepare_segment
        await bench.checkpointer.make_room()
        assert bench.log.truncated == [1, 2]
        await finishing

    with_bench(test)


def test_who_needs_room_gets_some_of_the_reserve_when_all_is_checkpointed_and_there_is_no_other(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        made: list[bool] = []

        def prepare_segment(*, small: bool = False) -> None:
            if not small:
                raise LogWithoutRoom("prepare segment in", "memory", "no space left", "free some space")
            made.append(small)

        bench.log.prepare_segment = prepare_segment
        bench.checkpointer._room = room = Room(tmp_path / "reserve", 4_096, bench.log)
        room.keep()
        bench.write(0, {"a": b"1"})
        await bench.checkpointer.make_room()
        assert (bench.log.truncated, made) == ([1], [True])

    with_bench(test)


def test_who_needs_room_does_not_wait_until_files_are_smaller() -> None:
    async def test(bench: Bench) -> None:
        is_smaller = asyncio.Event()

        async def shrink(in_helper: Helper) -> bool:
            return await is_smaller.wait()

        bench.checkpointer.shrink = shrink
        bench.write(0, {"a": b"1"})
        await bench.checkpointer.make_room()
        assert bench.log.truncated == [1]
        is_smaller.set()
        await bench.checkpointer.finish()

    with_bench(test)


def test_damage_found_while_there_is_no_room_stops_its_shard_and_nothing_else(tmp_path: Path) -> None:
    """It ended the worker, again and again."""

    async def test(bench: Bench) -> None:
        room = bench.checkpointer._room = Room(tmp_path / "reserve", 4_096)
        room.keep()
        found: list[ShardDamaged] = []
        bench.stores[1].on_damage = lambda error: (found.append(error), bench.checkpointer.leave_out(bench.stores[1]))
        bench.states[0].commit_error = StoreFull("checkpoint into", "memory", "no space left", "free some space")
        bench.states[1].commit_error = ShardDamaged(1, "read store", "memory", "a page is of the wrong type")
        bench.write(0, {"a": None})
        bench.write(1, {"a": None})
        await bench.checkpointer.finish()
        assert (len(found), bench.troubles, bench.states[0].applied_seq) == (1, [], 1)
        assert bench.log.truncated == [2]

    with_bench(test)


def test_who_gives_up_waiting_for_room_leaves_nothing_behind() -> None:
    async def test(bench: Bench) -> None:
        bench.write(0, {"a": b"1"})
        before = asyncio.all_tasks()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await bench.checkpointer.make_room()
        await asyncio.sleep(0)
        left = {task for task in asyncio.all_tasks() - before if task.get_name() != "checkpoint"}
        assert not left

    with_bench(test)


def test_a_failure_of_the_disk_is_fatal_and_truncates_nothing() -> None:
    async def test(bench: Bench) -> None:
        bench.states[0].commit_error = StoreFailed("checkpoint into", "memory", "Input/output error", "check the disk")
        bench.write(0, {"a": b"1"})
        with pytest.raises(StoreFailed):
            await bench.checkpointer.finish()
        assert [trouble.fatal for trouble in bench.troubles] == [True]
        assert bench.log.truncated == []
        assert bench.stores[0].get(object_key(0), "a") == b"1"
        bench.write(0, {"a": b"2"})
        assert bench.stores[0].get(object_key(0), "a") == b"2"

    with_bench(test)


def test_an_unexpected_error_is_fatal_and_reported_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(bench: Bench) -> None:
        monkeypatch.setattr(bench.log, "truncate", lambda position: 1 // 0)
        bench.write(0, {"a": b"1"})
        with pytest.raises(OperatorError, match="ZeroDivisionError"):
            await bench.checkpointer.finish()
        assert bench.troubles[0].fatal

    with_bench(test)


def test_close_during_a_checkpoint_ends_it_without_truncating() -> None:
    async def test(bench: Bench) -> None:
        for number in range(2000):
            bench.write(0, {"a": b"1"}, number)
        finishing = asyncio.create_task(bench.checkpointer.finish())
        while bench.stores[0].frozen is None:
            await asyncio.sleep(0)
        finishing.cancel()
        await bench.checkpointer.close()
        assert bench.log.truncated == []
        assert bench.stores[0].get(object_key(5), "a") == b"1"

    with_bench(test)
