"""shard/store/state/memory_state.py: what only the state without files does (the shared promises are tested in test_state)."""

from __future__ import annotations

import pytest

from tidegate.shard.store.state.memory_state import MemoryState
from tidegate.shard.store.store import StoreFull


def test_a_commit_told_to_fail_fails_once_and_keeps_nothing() -> None:
    state = MemoryState(0)
    state.commit_error = StoreFull("commit", "memory", "no room", "none")
    batch = state.begin()
    batch.put_many([(b"a", b"1")])
    with pytest.raises(StoreFull):
        batch.commit()
    assert state.get(b"a") is None
    batch = state.begin()
    batch.put_many([(b"a", b"1")])
    batch.commit()
    assert state.get(b"a") == b"1"
    assert state.commits == 1


def test_two_batches_at_once_are_a_programming_error() -> None:
    state = MemoryState(0)
    state.begin()
    with pytest.raises(AssertionError):
        state.begin()


def test_a_batch_that_begins_while_an_older_snapshot_is_in_use_is_a_programming_error() -> None:
    state = MemoryState(0)
    older = state.snapshot()
    state.begin().commit()
    newer = state.snapshot()
    with pytest.raises(AssertionError):
        state.begin()
    older.close()
    state.begin()
    newer.close()
