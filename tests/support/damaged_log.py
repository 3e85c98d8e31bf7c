"""A data directory as a worker leaves it that was killed, to be damaged: two shards, commits of the one, of the other and of both
in turn, in a log of small segments.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import tidegate.shard.log.commit_log as log_module
import tidegate.shard.store.checkpoints.checkpoint as checkpoint_module
from tidegate.shard.log.commit_log import list_segments
from tidegate.shard.log.segment import FRAME_BYTES
from tidegate.shard.store.interface import ObjectWrites, ShardCommit
from tidegate.shard.store.logs import log_path
from tidegate.shard.store.record import CommitRecord, encode_record
from tidegate.shard.store.worker_store import WorkerStore

SHARDS = (0, 1)
KEY = b"\0\1" + b"object".ljust(14)
RECORDS = 60


@contextlib.contextmanager
def small_segments() -> Iterator[None]:
    """And no checkpoint but those that are asked for."""
    defaults = log_module.CommitLog.__init__.__kwdefaults__
    assert defaults is not None
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("segment_bytes", 4096), ("segment_bytes_first", 4096), ("segments_max", 100)):
            patch.setitem(defaults, name, value)
        patch.setattr(checkpoint_module, "CHECKPOINT_IDLE_S", 1_000.0)
        yield


def shards_of(record: int) -> tuple[int, ...]:
    return ((0,), (1,), (0, 1))[record % 3]


def value_of(record: int) -> bytes:
    return b"value of record %04d " % record + b"." * 40


def commits_of(store: WorkerStore, record: int) -> list[ShardCommit]:
    writes: dict[str, bytes | None] = {"newest": value_of(record), f"key {record}": b"there"}
    return [
        ShardCommit(shard, store.shards[shard].seq + 1, [ObjectWrites(KEY, False, dict(writes))])
        for shard in shards_of(record)
        if shard in store.shards
    ]


def append(store: WorkerStore, first: int, last: int) -> None:
    """As a worker does it."""
    for record in range(first, last + 1):
        commits = commits_of(store, record)
        store.applied(store.append(encode_record(CommitRecord(0, commits, store.seqs_to_tell()))), commits)


def in_store(data: Path, start: int, act: Callable[[WorkerStore], object], *, checkpoint: bool = False) -> None:
    async def run() -> None:
        store = WorkerStore.open(data, start, 0, SHARDS, print)
        try:
            act(store)
            if checkpoint:
                await store.checkpointer.finish()
        finally:
            await store.close()

    asyncio.run(run())


def write(data: Path, start: int = 1, first: int = 1, last: int = RECORDS, *, checkpoint: bool = False) -> None:
    in_store(data, start, lambda store: append(store, first, last), checkpoint=checkpoint)


def log_of(data: Path, start: int = 1, run: int = 0) -> Path:
    return log_path(data, start, 0, run)


def place_of(data: Path, record: int) -> tuple[Path, int, int]:
    """The file with this record of the first log, where its frame begins, and where it ends. (It is at this position.)"""
    for _, path in list_segments(log_of(data)):
        content = path.read_bytes()
        if (at := content.find(value_of(record))) >= 0:
            salt = content[12:20]
            if record % 2 == 1:  # The frame's head is below its payload.
                start = content.rfind(salt, 0, at)
                return path, start, start + FRAME_BYTES + int.from_bytes(content[start + 8 : start + 12], "little")
            head = content.find(salt, at)
            return path, head - int.from_bytes(content[head + 8 : head + 12], "little"), head + FRAME_BYTES
    raise AssertionError(record)


def zero(path: Path, start: int, end: int) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(bytes(end - start))
