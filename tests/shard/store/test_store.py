"""shard/store/store.py: a read sees the newest durable value, whichever layer has it."""

from __future__ import annotations

import msgspec
import pytest

from tidegate.shard.store.checkpoints.checkpoint import checkpoint_steps
from tidegate.shard.store.interface import AnswerRoll, ObjectWrites
from tidegate.shard.store.state.memory_state import MemoryState
from tidegate.shard.store.store import ROLLS_WAITING_MAX, UNCHANGED_MAX, ShardStore

ALICE, BOB = b"\0\0" + b"alice".ljust(14), b"\0\0" + b"bob".ljust(14)


@pytest.fixture
def store() -> ShardStore:
    return ShardStore(MemoryState(0))


def write(store: ShardStore, writes: dict[str, bytes | None], key: bytes = ALICE, cleared: bool = False) -> None:
    store.apply(store.seq + 1, [ObjectWrites(key, cleared, writes)])


def checkpoint(store: ShardStore) -> None:
    assert store.freeze()
    put_into_state(store)


def test_a_commit_is_visible_once_applied(store: ShardStore) -> None:
    assert store.get(ALICE, "a") is None
    write(store, {"a": b"1"})
    assert store.get(ALICE, "a") == b"1"
    assert store.get(BOB, "a") is None


def test_commits_are_applied_in_sequence_without_a_gap(store: ShardStore) -> None:
    with pytest.raises(AssertionError):
        store.apply(2, [])
    store.apply(1, [])
    with pytest.raises(AssertionError):
        store.apply(1, [])


def test_the_newest_layer_counts(store: ShardStore) -> None:
    write(store, {"a": b"state", "b": b"state", "c": b"state", "d": b"state"})
    checkpoint(store)
    write(store, {"a": b"frozen", "b": b"frozen", "c": None})
    store.freeze()
    write(store, {"a": b"active", "d": None})
    assert [store.get(ALICE, key) for key in "abcde"] == [b"active", b"frozen", None, None, None]
    assert store.scan(ALICE) == [("a", b"active"), ("b", b"frozen")]
    assert store.scan(ALICE, reverse=True) == [("b", b"frozen"), ("a", b"active")]


def put_into_state(store: ShardStore) -> None:
    """The frozen memtable reaches the state."""
    for batch in checkpoint_steps(store):
        if batch is not None:
            batch.commit()
    store.drop_frozen()


@pytest.mark.parametrize("layer", ["active", "frozen", "state"])
def test_a_cleared_object_hides_everything_older(store: ShardStore, layer: str) -> None:
    write(store, {"a": b"1", "b": b"1", "": b"header"})
    checkpoint(store)
    write(store, {"b": b"2", "c": b"2"})
    store.freeze()
    if layer != "active":
        put_into_state(store)
    write(store, {"d": b"3"}, cleared=True)
    if layer != "active":
        store.freeze()
    if layer == "state":
        put_into_state(store)
    assert [store.get(ALICE, key) for key in ("", "a", "b", "c", "d")] == [None, None, None, None, b"3"]
    assert store.scan(ALICE) == [("d", b"3")]


def test_a_scan_never_shows_the_header_or_another_object(store: ShardStore) -> None:
    write(store, {"": b"header", "a": b"1"})
    write(store, {"": b"header", "b": b"2"}, BOB)
    assert store.scan(ALICE) == [("a", b"1")]
    checkpoint(store)
    assert store.scan(ALICE) == [("a", b"1")]
    assert store.scan(ALICE, start="") == [("a", b"1")]
    assert store.scan(BOB, reverse=True) == [("b", b"2")]
    assert store.get(ALICE, "") == b"header"


def test_a_limit_counts_present_rows_from_the_side_the_scan_starts(store: ShardStore) -> None:
    write(store, dict.fromkeys("abcdef", b"old"))
    checkpoint(store)
    write(store, {"a": None, "b": b"new", "f": None})
    assert store.scan(ALICE, limit=2) == [("b", b"new"), ("c", b"old")]
    assert store.scan(ALICE, reverse=True, limit=2) == [("e", b"old"), ("d", b"old")]
    assert store.scan(ALICE, start="c", end="e", limit=9) == [("c", b"old"), ("d", b"old")]
    assert store.scan(BOB, limit=1) == []


def test_an_empty_range_has_no_rows(store: ShardStore) -> None:
    write(store, {"a": b"1", "b": b"2"})
    assert store.scan(ALICE, "b", "b") == []
    assert store.scan(ALICE, "b", "a") == []
    assert store.scan(ALICE, None, "") == []


def test_keys_of_any_text_are_kept_apart_and_in_byte_order(store: ShardStore) -> None:
    keys = ["\0", "\x7f", "é", "\u0800", "\uffff", "\U0010ffff", "a/b", "a"]
    write(store, {key: key.encode() for key in keys})
    checkpoint(store)
    ordered = sorted(keys, key=str.encode)
    assert [key for key, _ in store.scan(ALICE)] == ordered
    assert [key for key, _ in store.scan(ALICE, reverse=True)] == ordered[::-1]
    assert [key for key, _ in store.scan(ALICE, start="é", end="\U0010ffff")] == ["é", "\u0800", "\uffff"]


def test_a_commit_that_writes_nothing_still_raises_the_sequence_of_the_state(store: ShardStore) -> None:
    """Else the log would forget it, and the next record of the shard would look like a gap."""
    store.apply(1, [])
    checkpoint(store)
    assert store.state.applied_seq == 1


def test_freezing_nothing_is_nothing(store: ShardStore) -> None:
    assert not store.freeze()
    assert store.frozen is None


def test_statistics_say_how_much_is_in_which_layer(store: ShardStore) -> None:
    write(store, {"a": b"1", "b": b"2"})
    store.freeze()
    write(store, {"a": b"3"})
    numbers = store.statistics()
    assert (numbers.seq, numbers.applied_seq) == (2, 0)
    assert (numbers.active_entries, numbers.frozen_entries) == (1, 2)
    assert numbers.frozen_bytes > numbers.active_bytes > 0


def roll(number: int, answered: int = 0, session: str = "session") -> AnswerRoll:
    return AnswerRoll(session, answered, 1, number, 1, msgspec.Raw(msgspec.msgpack.encode([number, 5, number * 10])))


@pytest.mark.parametrize("commits", [1, ROLLS_WAITING_MAX - 1, ROLLS_WAITING_MAX, ROLLS_WAITING_MAX + 1, 3 * ROLLS_WAITING_MAX])
def test_whoever_asks_for_answers_finds_all_of_them_though_rolls_wait_for_the_table(store: ShardStore, commits: int) -> None:
    for number in range(commits):
        store.apply(store.seq + 1, [], [], [roll(number, max(0, number - 2))])
    kept = range(max(0, commits - 3), commits)
    group = store.answers.groups["session"]
    assert [number for number in range(commits) if group.told(number) is not None] == list(kept)
    assert (store.answers.count, group.floor) == (len(kept), max(0, commits - 3))
    store.answers.check_invariants()


def test_what_one_session_has_got_answered_says_nothing_of_another(store: ShardStore) -> None:
    store.apply(1, [], [], [roll(1), roll(9, 9, "other")])
    store.apply(2, [], [], [roll(12, 10, "other"), roll(2)])
    groups = store.answers.groups
    assert [groups["session"].told(number) for number in (1, 2)] == [(5, 0, 10), (5, 0, 20)]
    assert [groups["other"].told(number) for number in (9, 12)] == [None, (5, 0, 120)]
    store.answers.check_invariants()


def test_a_checkpoint_takes_rolls_along_that_wait_for_the_table(store: ShardStore) -> None:
    store.apply(1, [ObjectWrites(ALICE, False, {"a": b"1"})], [], [roll(1), roll(2, 2)])
    checkpoint(store)
    reopened = ShardStore(store.state)
    reopened.load_answers()
    assert reopened.answers.groups["session"].told(2) == (5, 0, 20)
    assert reopened.answers.groups["session"].told(1) is None


def test_an_object_is_unchanged_since_the_same_sequence_until_a_commit_changes_it(store: ShardStore) -> None:
    write(store, {"a": b"1"})
    since = store.unchanged_since(ALICE)
    write(store, {"a": b"1"}, BOB)
    checkpoint(store)
    assert store.unchanged_since(ALICE) == since
    write(store, {"a": b"2"})
    write(store, {"a": b"1"})
    changed = store.unchanged_since(ALICE)
    assert changed > since, "though it is as it was"
    write(store, {}, cleared=True)
    assert store.unchanged_since(ALICE) > changed


def test_of_more_objects_than_are_kept_in_mind_none_is_called_unchanged_that_was_changed(store: ShardStore) -> None:
    keys = [b"\0\0" + str(number).encode().ljust(14) for number in range(UNCHANGED_MAX + 1)]
    since = [store.unchanged_since(key) for key in keys]
    write(store, {"a": b"1"}, keys[0])
    assert store.unchanged_since(keys[-1]) == since[-1]
    assert store.unchanged_since(keys[0]) > since[0]
