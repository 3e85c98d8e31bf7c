"""The index of names says which objects there are: in states of both kinds, whatever changes them, and over the memtables."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from tests.support.cold_world import checkpoint
from tidegate.runtime.ids import NAME_ROW_BYTES_MAX, OBJECT_KEY_BYTES, name_row, object_key
from tidegate.shard.core.alarms import Header, encode_header
from tidegate.shard.store.checkpoints.checkpoint import checkpoint_steps, removal_steps
from tidegate.shard.store.interface import HEADER, NAMES_KEY, ObjectWrites
from tidegate.shard.store.names import (
    LOOK_STEP,
    NAMES_HEAD_KEY,
    RUN_NAMES,
    FreshNames,
    IndexHead,
    Named,
    index_row,
    named_by,
    named_in,
    read_head,
)
from tidegate.shard.store.state.data_file import open_environment, pack_meta, with_checksums
from tidegate.shard.store.state.lmdb_state import LmdbState
from tidegate.shard.store.state.memory_state import MemoryState
from tidegate.shard.store.store import ABOVE_KEYS, ShardStore

LONG = "ü" * 500
NAMES = [f"{cls}/{name}" for cls in ("A", "AB", "Zeta") for name in ("a", "b/c", "a\0", "é", "z" * 470, LONG, LONG + "1")]


def header(class_name: str, name: str) -> bytes:
    return encode_header(Header(class_name, name))


def write(text: str, *, cleared: bool = False, made: bool = True) -> ObjectWrites:
    class_name, _, name = text.partition("/")
    writes: dict[str, bytes | None] = {HEADER: header(class_name, name), "k": b"v"} if made else {}
    return ObjectWrites(object_key(class_name, name), cleared, writes)


def indexed(state: Any) -> list[str]:
    rows = state.scan(NAMES_KEY, NAMES_KEY + ABOVE_KEYS, False)
    named = [named_in(key[OBJECT_KEY_BYTES:].decode(), value) for key, value in rows]
    return [f"{each.class_name}/{each.name}" for each in named]


def check(state: Any) -> None:
    headers = [each for key, value in state.scan(b"", b"\x40", False) if len(key) == 16 and (each := named_by(value)) is not None]
    names = sorted((f"{each.class_name}/{each.name}" for each in headers), key=lambda text: name_row(*text.split("/", 1)))
    assert indexed(state) == names
    assert state.names.counts == dict(Counter(each.class_name for each in headers))
    if isinstance(state, LmdbState):
        assert read_head(state.get(NAMES_HEAD_KEY)) == state.names


def all_names(store: ShardStore, start: str = "", end: str | None = None, limit: int = 3) -> list[str]:
    """Page by page."""
    for _ in store.look_for_names():
        pass
    found: list[str] = []
    at: str | None = start
    while at is not None:
        rows = store.scan(NAMES_KEY, at or None, end, limit=limit)
        named, at = store.names(at, end, limit, rows)
        found += [f"{each.class_name}/{each.name}" for _, each in named]
    return found


@pytest.mark.parametrize("kind", ["memory", "lmdb"])
@pytest.mark.parametrize("seed", range(6))
def test_whatever_is_written_and_deleted_the_index_has_the_objects_and_a_listing_those_of_memory_too(
    tmp_path: Path, kind: str, seed: int
) -> None:
    random = Random(seed)
    state: Any = MemoryState(0) if kind == "memory" else LmdbState(tmp_path, 0)
    store = ShardStore(state)
    there: set[str] = set()
    for step in range(120):
        text = random.choice(NAMES)
        if text in there:
            again = random.random() < 0.3
            change = write(text, cleared=random.random() < 0.7 or not again, made=again)
            there = there if again else there - {text}
        else:
            change = write(text)
            there.add(text)
        store.apply(store.seq + 1, [change])
        if random.random() < 0.1:
            if random.random() < 0.3 and store.freeze():
                for batch in removal_steps(store):
                    if batch is not None:
                        assert batch.next_names(1) == [], "left to the commit, in the helper"
                        batch.commit()
                check(state)
                for batch in checkpoint_steps(store):
                    if batch is not None:
                        batch.commit()
                store.drop_frozen()
            else:
                checkpoint(store)
            check(state)
        if step % 7 == 0:
            assert all_names(store) == sorted(there, key=lambda text: name_row(*text.split("/", 1)))
            counts = Counter(store.counted())
            for keys in store.uncounted():
                for name, more in store.difference(keys, store.headers_now(keys) or ()):
                    counts[name] += more
            assert {name: count for name, count in counts.items() if count} == dict(Counter(t.split("/")[0] for t in there))
    checkpoint(store)
    check(state)
    if isinstance(state, LmdbState):
        state.close()
        with closing(LmdbState(tmp_path, 0)) as again_opened:
            check(again_opened)


def test_a_file_that_another_version_has_written_is_indexed_anew(tmp_path: Path) -> None:
    state = LmdbState(tmp_path, 0)
    store = ShardStore(state)
    store.apply(1, [write(text) for text in NAMES])
    checkpoint(store)
    state.close()
    gone, new = object_key("A", "a"), write("New/one")
    with closing(open_environment(tmp_path, 1 << 30)) as env, env.begin(write=True) as txn:
        txn.delete(gone)
        txn.delete(gone + b"k")
        rows = [(new.key + key.encode(), value or b"") for key, value in new.writes.items()]
        txn.cursor().putmulti(with_checksums([*rows, (b"\xffstate", pack_meta(0, 2))]))
    with closing(LmdbState(tmp_path, 0)) as state:
        assert set(indexed(state)) == {*NAMES, "New/one"} - {"A/a"}
        check(state)
        assert state.names.seq == 2


def test_without_an_index_one_is_made_and_then_kept(tmp_path: Path) -> None:
    state = LmdbState(tmp_path, 0)
    store = ShardStore(state)
    store.apply(1, [write(f"Many/{number}") for number in range(3_000)])
    checkpoint(store)
    state.close()
    with closing(open_environment(tmp_path, 1 << 30)) as env, env.begin(write=True) as txn:
        txn.delete(NAMES_HEAD_KEY)
    with closing(LmdbState(tmp_path, 0)) as state:
        check(state)
        assert state.names == IndexHead(1, {"Many": 3_000})


def test_a_row_is_as_short_as_a_key_and_says_the_whole_name() -> None:
    for text in NAMES:
        class_name, _, name = text.partition("/")
        row, value = index_row(Named(class_name, name))
        assert len(row) <= OBJECT_KEY_BYTES + NAME_ROW_BYTES_MAX
        assert named_in(row[OBJECT_KEY_BYTES:].decode(), value) == Named(class_name, name)
    assert len({name_row(*text.split("/", 1)) for text in NAMES}) == len(NAMES)


def test_no_object_can_be_given_the_row_of_another() -> None:
    """A name that was the row of a long one took that out of the index for good, when it was deleted."""
    names, rows = set(), set()
    for size in range(435, 500):
        for letter in ("x", "ü", "語", "𐍈"):
            name = letter * (size // len(letter.encode())) + "y" * (size % len(letter.encode()))
            row = name_row("Box", name)
            taken = row.removeprefix("Box/")
            assert taken == name or name_row("Box", taken) != row
            assert len(row.encode()) <= NAME_ROW_BYTES_MAX
            names.add(name)
            rows.add(row)
    assert len(rows) == len(names) == 65 * 4


@pytest.mark.parametrize("kind", ["memory", "lmdb"])
def test_a_long_name_stays_in_the_index_when_an_object_named_after_its_row_is_deleted(tmp_path: Path, kind: str) -> None:
    state: Any = MemoryState(0) if kind == "memory" else LmdbState(tmp_path, 0)
    store = ShardStore(state)
    long = "Box/" + "x" * 600
    twin = "Box/" + "x" * 444 + object_key(*long.split("/")).hex()
    store.apply(1, [write(long), write(twin)])
    checkpoint(store)
    assert sorted(indexed(state)) == sorted([long, twin])
    store.apply(2, [write(twin, cleared=True, made=False)])
    checkpoint(store)
    check(state)
    assert all_names(store) == [long]


def test_an_index_with_the_rows_of_an_earlier_version_is_made_anew(tmp_path: Path) -> None:
    state = LmdbState(tmp_path, 0)
    store = ShardStore(state)
    store.apply(1, [write(text) for text in (*NAMES, "Mid/" + "m" * 460)])
    checkpoint(store)
    state.close()
    counts = dict(state.names.counts)
    row = NAMES_KEY + name_row("Mid", "m" * 460).encode()
    with closing(open_environment(tmp_path, 1 << 30)) as env, env.begin(write=True) as txn:
        assert txn.delete(row)
        old = [(NAMES_KEY + b"Mid/" + b"m" * 460, b""), (NAMES_HEAD_KEY, msgspec.msgpack.encode([1, counts]))]
        txn.cursor().putmulti(with_checksums(old))
    with closing(LmdbState(tmp_path, 0)) as state:
        check(state)
        assert state.names == IndexHead(1, counts)


def test_fresh_names_are_found_in_steps_once_each_and_those_that_come_later_too() -> None:
    objects = {key: ObjectWrites(key, False, {HEADER: header("C", key.decode())}) for key in (b"%016d" % n for n in range(9_000))}
    fresh = FreshNames()
    named = list(objects)
    assert sum(1 for _ in fresh.look(objects, named)) == -(-9_000 // LOOK_STEP)
    assert sum(1 for _ in fresh.look(objects, named)) == 0
    assert all(len(run) < RUN_NAMES + LOOK_STEP for run in fresh._runs)
    assert [row for row, _ in fresh.page("C/0000000000000500", None, 2)] == ["C/0000000000000500", "C/0000000000000501"]
    objects[b"\1new"] = ObjectWrites(b"\1new", False, {HEADER: header("A", "new")})
    objects[b"\xf8" * 16] = ObjectWrites(b"\xf8" * 16, False, {HEADER: header("A", "own")})
    objects[b"\1none"] = ObjectWrites(b"\1none", False, {"k": b"v"})
    named += [b"\1new", b"\xf8" * 16, b"\1none", b"\1left"]
    for _ in fresh.look(objects, named):
        pass
    assert [row for row, _ in fresh.page("", "B", 5)] == ["A/new"]
    objects[b"\1later"] = ObjectWrites(b"\1later", False, {HEADER: header("A", "later")})
    gone = ObjectWrites(b"\1gone", True, {})
    objects[b"\1gone"] = gone
    named += [b"\1later", b"\1gone"]
    for _ in fresh.look(objects, named):
        pass
    gone.writes[HEADER] = header("A", "gone and back")
    for _ in fresh.look(objects, named):
        pass
    assert [row for row, _ in fresh.page("", "B", 5)] == ["A/gone and back", "A/later", "A/new"]


def test_who_looks_while_another_does_or_has_stopped_halfway_finds_all_names() -> None:
    """The second one found those only that the first had come to."""
    keys = [b"%016d" % number for number in range(4 * LOOK_STEP)]
    objects = {key: ObjectWrites(key, False, {HEADER: header("C", key.decode())}) for key in keys}
    for key in keys[::2]:
        objects[key] = ObjectWrites(key, True, {})
    fresh = FreshNames()
    first = fresh.look(objects, keys)
    next(first)
    for _ in fresh.look(objects, keys):
        pass
    assert len(fresh.page("", None, 10_000)) == 2 * LOOK_STEP
    for _ in first:
        pass
    for key in keys[::2]:
        objects[key].writes[HEADER] = header("C", key.decode())
    left = fresh.look(objects, keys)
    next(left)
    left.close()  # type: ignore[attr-defined]  # it is a generator
    for _ in fresh.look(objects, keys):
        pass
    assert len({row for row, _ in fresh.page("", None, 10_000)}) == 4 * LOOK_STEP
    assert sum(1 for _ in fresh.look(objects, keys)) == 0


def test_looking_at_a_memtable_that_is_given_up_meanwhile_ends() -> None:
    keys = [b"%016d" % number for number in range(4 * LOOK_STEP)]
    objects = {key: ObjectWrites(key, False, {HEADER: header("C", key.decode())}) for key in keys}
    looking = FreshNames().look(objects, keys)
    next(looking)
    keys.clear()
    objects.clear()
    assert list(looking) == []


def test_who_asks_for_names_looks_at_objects_that_may_be_new_and_not_at_all_that_are_written() -> None:
    """Of a million objects called a second hardly any is new; to look at each took a page of names a second."""
    store = ShardStore(MemoryState(0))
    store.apply(1, [write(text) for text in NAMES])
    checkpoint(store)
    keys = [object_key(*text.split("/", 1)) for text in NAMES]
    for seq in range(2, 5):
        store.apply(seq, [ObjectWrites(key, False, {"k": b"%d" % seq}) for key in keys])
    assert sum(1 for _ in store.look_for_names()) == 0
    store.apply(store.seq + 1, [write("New/one"), ObjectWrites(keys[0], True, {}), ObjectWrites(keys[1], False, {HEADER: b""})])
    assert store.active.named == [object_key("New", "one"), keys[0], keys[1]]
    assert sum(1 for _ in store.look_for_names()) == 1
    assert set(all_names(store)) == {*NAMES, "New/one"} - {NAMES[0]}


def test_names_of_a_memtable_that_takes_over_another_are_those_of_both() -> None:
    store = ShardStore(MemoryState(0))
    store.apply(1, [write("A/one"), write("A/two")])
    assert store.freeze()
    store.apply(2, [write("A/three"), write("A/two", cleared=True, made=False)])
    assert all_names(store) == ["A/one", "A/three"]
    while store.freeze_more(1):
        assert all_names(store) == ["A/one", "A/three"]
    store.apply(3, [write("A/four")])
    assert all_names(store) == ["A/four", "A/one", "A/three"]
