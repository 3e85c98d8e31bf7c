"""checkpoints/checkpoint.py over a state that may be on disk only: readers keep what they read, and the loop touches no page
that a thread has not brought in."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

import tidegate.shard.store.checkpoints.checkpoint as checkpoint_module
from tests.shard.store.checkpoints.test_checkpoint import Bench, object_key, with_bench
from tests.support.cold_world import HeldReader
from tidegate.runtime.limits import CHECKPOINT_SLICE_KEYS
from tidegate.shard.core.alarms import Header, encode_header
from tidegate.shard.neutral import NEUTRAL
from tidegate.shard.store.checkpoints.ahead import Ahead
from tidegate.shard.store.checkpoints.checkpoint import AHEAD_SLICES, checkpoint_steps
from tidegate.shard.store.interface import HEADER, NAMES_KEY, Done, Fetch, ObjectWrites, Snapshot
from tidegate.shard.store.state.memory_state import MemoryBatch, MemorySnapshot, MemoryState
from tidegate.shard.store.state.thread_reader import look_up
from tidegate.shard.store.store import ShardStore


async def turns(count: int = 30) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def ask(bench: Bench, reader: HeldReader, key: bytes) -> list[Any]:
    """A read of the state; its answer, later."""
    answers: list[Any] = []
    store = bench.stores[0]
    store.reads.read(reader, store.state.snapshot(), lambda snapshot: snapshot.get(key), lambda *answer: answers.append(answer))
    return answers


def test_no_batch_begins_while_a_snapshot_that_was_taken_before_is_in_use() -> None:
    async def test(bench: Bench) -> None:
        reader = HeldReader()
        answers = ask(bench, reader, object_key(0) + b"a")
        bench.write(0, {"a": b"1"})
        finishing = asyncio.create_task(bench.checkpointer.finish())
        await turns()
        assert bench.states[0]._batch is None
        assert bench.stores[0].get(object_key(0), "a") == b"1"
        reader.release()
        await finishing
        assert answers == [(None, None)]
        bench.check_moved()

    with_bench(test)


def test_a_snapshot_taken_during_a_batch_sees_its_commit_and_keeps_the_next_one_from_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checkpoint_module, "CHECKPOINT_COMMIT_ENTRIES", 100)

    async def test(bench: Bench) -> None:
        reader, state = HeldReader(), bench.states[0]
        for number in range(300):
            bench.write(0, {"a": b"1"}, number)
        finishing = asyncio.create_task(bench.checkpointer.finish())
        while state._batch is None:
            await asyncio.sleep(0)
        answers = ask(bench, reader, object_key(0) + b"a")
        while state.commits == 0:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        assert state.commits == 1
        assert state._batch is None
        later = ask(bench, HeldReader(), b"x")  # It is not waited for: it was taken of what is there now.
        reader.release()
        while state._batch is None:
            await asyncio.sleep(0)
        assert answers == [(None, None)], "as it was before the commit"
        assert not later
        for _, _, done in reader.waiting:
            done(None, None)
        finishing.cancel()

    with_bench(test)


def test_what_a_checkpoint_fetches_goes_before_the_reads_of_objects_and_does_not_wait_for_them() -> None:
    async def test(bench: Bench) -> None:
        store, reader = bench.stores[0], HeldReader()
        store.reader = reader
        bench.write(0, {"a": b"1"})
        finishing = asyncio.create_task(bench.checkpointer.finish())
        while not reader.waiting:
            await asyncio.sleep(0)
        answers = ask(bench, HeldReader(), b"x")
        assert reader.first == [True]
        reader.release()
        await finishing
        assert not answers, "it was taken of what the only batch was begun on"
        bench.check_moved()

    with_bench(test, shards=1)


def test_closing_while_a_read_is_waited_for_ends_the_checkpoint_and_loses_nothing() -> None:
    async def test(bench: Bench) -> None:
        ask(bench, HeldReader(), b"x")
        bench.write(0, {"a": b"1"})
        finishing = asyncio.create_task(bench.checkpointer.finish())
        await turns()
        finishing.cancel()
        await bench.checkpointer.close()
        assert bench.stores[0].get(object_key(0), "a") == b"1"
        assert bench.log.truncated == []

    with_bench(test)


class NotingReader:
    """Reads at once, and notes which rows have been brought into memory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.touched: set[bytes] = set()
        self.changed: list[bytes] = []
        self.questions = 0
        noting = self

        class Noting(MemorySnapshot):
            def get(self, key: bytes) -> bytes | None:
                noting.touched.add(key)
                return super().get(key)

            def scan(self, start: bytes, end: bytes, reverse: bool) -> Any:
                for row in super().scan(start, end, reverse):
                    noting.touched.add(row[0])
                    yield row

        self.snapshot_class = Noting
        put_many, delete_many, change_names = MemoryBatch.put_many, MemoryBatch.delete_many, MemoryBatch.change_names

        def put(batch: MemoryBatch, items: list[tuple[bytes, bytes]]) -> None:
            self.change(key for key, _ in items)
            put_many(batch, items)

        def delete(batch: MemoryBatch, keys: list[bytes]) -> None:
            self.change(keys)
            delete_many(batch, keys)

        def change(batch: MemoryBatch, keys_max: int) -> None:
            self.change(batch.next_names(keys_max))
            change_names(batch, keys_max)

        monkeypatch.setattr(MemoryBatch, "put_many", put)
        monkeypatch.setattr(MemoryBatch, "delete_many", delete)
        monkeypatch.setattr(MemoryBatch, "change_names", change)

    def change(self, keys: Iterable[bytes]) -> None:
        self.changed += keys

    def read(self, snapshot: Snapshot, fetch: Fetch, done: Done, *, first: bool = False, many_pages: bool = False) -> None:
        self.questions += 1
        snapshot.__class__ = self.snapshot_class
        asyncio.get_running_loop().call_soon(done, *look_up(snapshot, fetch), context=NEUTRAL)


def header(number: int) -> bytes:
    return encode_header(Header("Thing", str(number)))


def filled(state: MemoryState, rows: Iterable[bytes]) -> None:
    batch = state.begin()
    batch.put_many([(key, b"old") for key in rows])
    batch.commit()


@pytest.mark.parametrize("in_memory", [False, True])
def test_what_a_checkpoint_puts_deletes_or_empties_has_been_fetched_before(
    monkeypatch: pytest.MonkeyPatch, in_memory: bool
) -> None:
    """As long as the shard has a reader."""
    objects = [object_key(number) for number in range(3)]
    many = CHECKPOINT_SLICE_KEYS * 3 + 5

    async def test(bench: Bench) -> None:
        state = bench.states[0]
        filled(state, [key + b"%04d" % number for key in objects for number in range(many)])
        reader = NotingReader(monkeypatch)
        monkeypatch.setattr(reader, "change", lambda keys: missing.extend(set(keys) - reader.touched))
        missing: list[bytes] = []
        if not in_memory:
            bench.stores[0].reader = reader
        bench.write(0, {f"{number:04d}": b"new" for number in range(many)}, 0)
        bench.write(0, {f"{number:04d}": None for number in range(0, many, 2)}, 1)
        bench.write(0, {"k": b"new"}, 2, cleared=True)
        await bench.checkpointer.finish()
        bench.check_moved()
        assert [key for key in state.rows if key.startswith(objects[2])] == [objects[2] + b"k"]
        assert len(state.rows) == many + many // 2 + 1
        if in_memory:
            assert reader.questions == 0
            assert missing
        else:
            assert missing == []
            assert 4 < reader.questions < 30, "many rows at once, since each time costs a turn of the loop"

    with_bench(test, shards=1)


@pytest.mark.parametrize("how", ["deleted", "emptied"])
def test_rows_of_the_index_of_names_have_been_fetched_before_they_change(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """The loop would wait for one page of the index for each object that is made or goes."""
    there = range(200)

    async def test(bench: Bench) -> None:
        store, state = bench.stores[0], bench.states[0]
        for number in there:
            bench.write(0, {HEADER: header(number), "k": b"old"}, number)
        await bench.checkpointer.finish()
        reader = NotingReader(monkeypatch)
        changed: list[bytes] = []
        missing: set[bytes] = set()

        def change(keys: Iterable[bytes]) -> None:
            names = [key for key in keys if key.startswith(NAMES_KEY)]
            changed.extend(names)
            missing.update(set(names) - reader.touched)

        monkeypatch.setattr(reader, "change", change)
        store.reader = reader
        for number in there[::2]:
            bench.write(0, {HEADER: None, "k": None} if how == "deleted" else {}, number, cleared=how == "emptied")
        for number in there[1::4]:
            bench.write(0, {HEADER: header(number), "k": b"new"}, number)
        for number in range(1_000, 1_100):
            bench.write(0, {HEADER: header(number)}, number)
        await bench.checkpointer.finish()
        assert missing == set()
        expected = [*there[::2], *range(1_000, 1_100)]
        assert sorted(changed) == sorted(NAMES_KEY + b"Thing/%d" % number for number in expected), "nothing else is looked at"
        assert changed == sorted(changed), "neighbours share pages"
        assert state.names.counts == {"Thing": 200}

    with_bench(test, shards=1)


def test_rows_of_the_index_are_fetched_many_slices_at_once_and_changed_slice_by_slice() -> None:
    """Each fetch costs a turn of the loop."""
    state = MemoryState(0)
    store = ShardStore(state)
    store.reader = HeldReader()
    many = 2 * AHEAD_SLICES * CHECKPOINT_SLICE_KEYS
    store.apply(1, [ObjectWrites(object_key(number), False, {HEADER: header(number)}) for number in range(many)])
    assert store.freeze()
    ahead, told, left = Ahead(), [], []
    for batch in checkpoint_steps(store, ahead):
        if ahead.keys and ahead.keys[0].startswith(NAMES_KEY):
            told.append(len(ahead.keys))
        elif told and batch is None:
            assert state._batch is not None
            left.append(len(state._batch.next_names(many)))
        if batch is not None:
            batch.commit()
    assert told == [many // 2, many // 2]
    assert left == list(range(many - CHECKPOINT_SLICE_KEYS, -1, -CHECKPOINT_SLICE_KEYS))
    assert state.names.counts == {"Thing": many}


def test_a_shard_that_comes_into_memory_during_a_checkpoint_is_no_longer_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(bench: Bench) -> None:
        reader = NotingReader(monkeypatch)
        store = bench.stores[0]
        store.reader = reader
        for number in range(AHEAD_SLICES * CHECKPOINT_SLICE_KEYS * 10):
            bench.write(0, {"a": b"1"}, number)
        bench.write(0, {}, 50_000, cleared=True)
        finishing = asyncio.create_task(bench.checkpointer.finish())
        while reader.questions < 8:
            await asyncio.sleep(0)
        store.reader = None
        await finishing
        assert reader.questions <= 12
        bench.check_moved()

    with_bench(test, shards=1)


def test_a_checkpoint_that_is_urgent_waits_for_no_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_module, "URGENT_SHARE", 0.0)

    async def test(bench: Bench) -> None:
        bench.stores[0].reader = reader = NotingReader(monkeypatch)
        for number in range(300):
            bench.write(0, {"a": b"1"}, number)
        bench.write(0, {}, 5, cleared=True)
        await bench.checkpointer.finish()
        assert reader.questions == 0
        bench.check_moved()

    with_bench(test, shards=1)


def test_a_fetch_that_fails_is_left_to_the_change_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        def read(self, snapshot: Snapshot, fetch: Fetch, done: Done, *, first: bool = False, many_pages: bool = False) -> None:
            snapshot.close()
            asyncio.get_running_loop().call_soon(done, None, OSError("the disk said no"), context=NEUTRAL)

    async def test(bench: Bench) -> None:
        bench.stores[0].reader = Failing()
        filled(bench.states[0], [object_key(1) + b"%03d" % number for number in range(200)])
        bench.write(0, {"a": b"1"})
        bench.write(0, {}, 1, cleared=True)
        await bench.checkpointer.finish()
        assert list(bench.states[0].rows) == [object_key(0) + b"a"]

    with_bench(test, shards=1)
