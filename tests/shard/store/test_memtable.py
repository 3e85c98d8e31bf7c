"""shard/store/memtable.py: the newest value of every key written, or an honest "unknown"."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.shard.core.alarms import Header, encode_header
from tidegate.shard.store.interface import UNKNOWN, ObjectWrites
from tidegate.shard.store.memtable import Memtable, merge_over
from tidegate.shard.store.names import LOOK_STEP, RUN_NAMES, FreshNames

ALICE, BOB = b"alice".ljust(16), b"bob".ljust(16)


@pytest.fixture
def memtable() -> Iterator[Memtable]:
    memtable = Memtable()
    yield memtable
    memtable.check_invariants()


def write(memtable: Memtable, key: bytes, writes: dict[str, bytes | None], cleared: bool = False) -> None:
    memtable.apply([ObjectWrites(key, cleared, writes)])


def rows(memtable: Memtable, start: str = "", end: str | None = None, reverse: bool = False) -> list[tuple[str, bytes | None]]:
    return list(memtable.rows(ALICE, start, end, reverse))


def test_an_object_never_written_is_unknown(memtable: Memtable) -> None:
    write(memtable, BOB, {"a": b"1"})
    assert memtable.get(ALICE, "a") is UNKNOWN
    assert rows(memtable) == []


def test_the_last_write_of_a_key_counts(memtable: Memtable) -> None:
    write(memtable, ALICE, {"a": b"1", "b": b"2"})
    write(memtable, ALICE, {"a": b"333"})
    assert memtable.get(ALICE, "a") == b"333"
    assert memtable.get(ALICE, "b") == b"2"
    assert memtable.get(ALICE, "c") is UNKNOWN
    assert memtable.entries == 2


def test_a_deleted_key_is_known_to_be_absent(memtable: Memtable) -> None:
    write(memtable, ALICE, {"a": b"1"})
    write(memtable, ALICE, {"a": None, "b": None})
    assert memtable.get(ALICE, "a") is None
    assert memtable.get(ALICE, "b") is None


def test_in_a_cleared_object_every_key_not_written_since_is_known_to_be_absent(memtable: Memtable) -> None:
    write(memtable, ALICE, {"a": b"1", "b": b"2"})
    write(memtable, ALICE, {"b": b"3"}, cleared=True)
    write(memtable, ALICE, {"c": b"4"})
    assert memtable.get(ALICE, "a") is None
    assert memtable.get(ALICE, "b") == b"3"
    assert memtable.get(ALICE, "zzz") is None
    assert memtable.hides_older(ALICE)
    assert not memtable.hides_older(BOB)
    assert rows(memtable) == [("b", b"3"), ("c", b"4")]


def test_rows_are_in_utf_8_byte_order_and_keep_up_with_writes(memtable: Memtable) -> None:
    keys = ["b", "a", "ä", "z", "\uffff", "\U00010000", "aa", "~"]
    for key in keys[:4]:
        write(memtable, ALICE, {key: key.encode()})
    assert [key for key, _ in rows(memtable)] == sorted(keys[:4], key=str.encode)
    for key in keys[4:]:
        write(memtable, ALICE, {key: b"new"})
    assert [key for key, _ in rows(memtable)] == sorted(keys, key=str.encode)
    assert [key for key, _ in rows(memtable, reverse=True)] == sorted(keys, key=str.encode, reverse=True)


def test_a_range_includes_its_start_and_excludes_its_end(memtable: Memtable) -> None:
    write(memtable, ALICE, dict.fromkeys("abcde", b""))
    assert [key for key, _ in rows(memtable, "b", "d")] == ["b", "c"]
    assert [key for key, _ in rows(memtable, "b", "d", reverse=True)] == ["c", "b"]
    assert rows(memtable, "bb", "c") == []


def test_a_memtable_is_freed_in_pieces(memtable: Memtable) -> None:
    table = Memtable()
    write(table, ALICE, {str(number): b"" for number in range(100)})
    write(table, BOB, {"a": b""})
    steps = 0
    while table.discard_some(10):
        steps += 1
    assert 9 <= steps <= 11
    assert not table


def test_names_in_it_are_freed_in_pieces_too() -> None:
    """They were freed at once, when the rest was gone: a million took as long as that."""
    table = Memtable()
    keys = [b"\1%015d" % number for number in range(2 * RUN_NAMES + 10 * LOOK_STEP)]
    table.apply([ObjectWrites(key, False, {"": encode_header(Header("C", key.decode()))}) for key in keys])
    table.apply([ObjectWrites(key, True, {}) for key in keys[: 3 * LOOK_STEP]])
    table.fresh = fresh = FreshNames()
    for _ in fresh.look(table.objects, table.named):
        pass
    assert len(table.named) == len(keys)

    def held() -> int:
        entries = len(table.objects) + sum(len(each.writes) for each in table.objects.values())
        return entries + len(table.named) + sum(map(len, fresh._runs)) + len(fresh._newest) + len(fresh._deleted)

    before = held()
    while table.discard_some(100):
        now = held()
        assert before - 101 <= now < before, "an object counts as an entry of its own"
        before = now
    assert held() == 0
    assert table.fresh is None


OBJECTS = st.lists(
    st.tuples(
        st.sampled_from([ALICE, BOB]),
        st.booleans(),
        st.dictionaries(st.sampled_from(["", "a", "b", "c", "ä"]), st.none() | st.binary(max_size=3), max_size=3),
    ),
    max_size=20,
)


@given(OBJECTS)
def test_a_memtable_answers_like_a_dict_of_everything_written(changes: list[tuple[bytes, bool, dict[str, bytes | None]]]) -> None:
    memtable = Memtable()
    model: dict[bytes, tuple[bool, dict[str, bytes | None]]] = {}
    for key, cleared, writes in changes:
        old_cleared, old = model.get(key, (False, {}))
        model[key] = (True, dict(writes)) if cleared else (old_cleared, {**old, **writes})
        memtable.apply([ObjectWrites(key, cleared, dict(writes))])
        for object_key, (is_cleared, values) in model.items():
            absent = None if is_cleared else UNKNOWN
            assert [memtable.get(object_key, name) for name in ("", "a", "b", "c", "ä")] == [
                values.get(name, absent) for name in ("", "a", "b", "c", "ä")
            ]
            assert list(memtable.rows(object_key, "", None, False)) == sorted(values.items())
        memtable.check_invariants()
    assert memtable.entries == sum(len(values) for _, values in model.values())


LAYER = st.dictionaries(st.sampled_from("abcdefgh"), st.none() | st.binary(max_size=1))


@given(LAYER, LAYER, st.booleans())
def test_merging_two_layers_is_updating_the_lower_by_the_upper(
    upper: dict[str, bytes | None], lower: dict[str, bytes | None], reverse: bool
) -> None:
    merged = merge_over(iter(sorted(upper.items(), reverse=reverse)), iter(sorted(lower.items(), reverse=reverse)), reverse)
    assert list(merged) == sorted({**lower, **upper}.items(), reverse=reverse)
