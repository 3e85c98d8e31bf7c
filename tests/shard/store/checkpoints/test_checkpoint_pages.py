"""checkpoints/checkpoint.py over a file: how much of it one commit writes does not grow with what the file has."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from random import Random

import pytest

import tidegate.shard.store.checkpoints.checkpoint as checkpoint_module
from tests.support.cold_world import checkpoint
from tidegate.runtime.ids import object_key
from tidegate.shard.core.alarms import Header, encode_header
from tidegate.shard.store.checkpoints.checkpoint import PAGE_BYTES, checkpoint_steps
from tidegate.shard.store.interface import HEADER, ObjectWrites
from tidegate.shard.store.state.data_file import DATA_FILE
from tidegate.shard.store.state.lmdb_state import LmdbState
from tidegate.shard.store.store import ShardStore

OBJECTS = 6_000
CALLED = 1_500
COMMIT_PAGES = 200
BRANCHES = 1.5
"""Pages above those that hold rows, and what splits, for each of these."""


def pages_of(path: Path) -> list[bytes]:
    data = (path / DATA_FILE).read_bytes()
    return [data[at : at + PAGE_BYTES] for at in range(0, len(data), PAGE_BYTES)]


def changed(before: list[bytes], after: list[bytes]) -> int:
    return sum(page != other for page, other in zip(before, after, strict=False)) + len(after) - len(before)


def made(number: int) -> ObjectWrites:
    writes = {HEADER: encode_header(Header("Account", str(number))), "count": b"1", "data": bytes(1_000)}
    return ObjectWrites(object_key("Account", str(number)), False, dict(writes))


def commits(store: ShardStore) -> list[int]:
    """Pages that each commit of a checkpoint has written."""
    written, before = [], pages_of(store.state.path)  # type: ignore[attr-defined]  # an LmdbState
    assert store.freeze()
    for batch in checkpoint_steps(store):
        if batch is not None:
            batch.commit()
            after = pages_of(store.state.path)  # type: ignore[attr-defined]  # the same
            written.append(changed(before, after))
            before = after
    store.drop_frozen()
    return written


@pytest.mark.parametrize(
    ("what", "bound"),
    [("called", "CHECKPOINT_COMMIT_PAGES"), ("called", "CHECKPOINT_COMMIT_APART"), ("made", "CHECKPOINT_COMMIT_PAGES")],
)
def test_a_commit_writes_a_bounded_number_of_pages_however_far_apart_the_objects_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, bound: str
) -> None:
    """The next commit of the log waits for it."""
    with closing(LmdbState(tmp_path, 0)) as state:
        store = ShardStore(state)
        store.apply(1, [made(number) for number in range(OBJECTS)])
        checkpoint(store)
        assert state.leaf_pages > OBJECTS / 4, "the data are too small for this test"
        monkeypatch.setattr(checkpoint_module, bound, COMMIT_PAGES)
        choice = Random(1)
        if what == "called":
            keys = [object_key("Account", str(choice.randrange(OBJECTS))) for _ in range(CALLED)]
            store.apply(2, [ObjectWrites(key, False, {"count": b"2"}) for key in keys])
        else:
            store.apply(2, [made(OBJECTS + choice.randrange(1 << 40)) for _ in range(CALLED)])
        written = commits(store)
        assert len(written) > 3
        assert max(written) < COMMIT_PAGES * BRANCHES
        assert sorted(written)[len(written) // 2] > COMMIT_PAGES / 3, "commits are not smaller than they need be"


def test_objects_that_share_all_pages_are_written_in_one_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(LmdbState(tmp_path, 0)) as state:
        store = ShardStore(state)
        small = [ObjectWrites(object_key("Tiny", str(number)), False, {"count": b"1"}) for number in range(OBJECTS)]
        store.apply(1, small)
        checkpoint(store)
        assert state.leaf_pages < COMMIT_PAGES
        monkeypatch.setattr(checkpoint_module, "CHECKPOINT_COMMIT_PAGES", COMMIT_PAGES)
        store.apply(2, [ObjectWrites(each.key, False, {"count": b"2"}) for each in small])
        assert len(commits(store)) == 1
