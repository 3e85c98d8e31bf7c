"""A process that writes to a worker's store until it is stopped, and says on stdout what is confirmed.

Every record is a function of its number alone, so whoever reads "confirmed N" knows what must be there. Segments and
memtables are small here: in a second it rotates segments, checkpoints and recycles many times.

Run as `python store_writer.py DATA_DIR START`. It prints `recovered N`, then `confirmed N` for each record; exit code 3: the
log or a checkpoint failed for good (the reason is on stderr).
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from random import Random

import tidegate.shard.log.commit_log as log_module
import tidegate.shard.store.checkpoints.checkpoint as checkpoint_module
from tidegate.runtime.errors import OperatorError
from tidegate.shard.log.commit_log import LogFull
from tidegate.shard.store.checkpoints.checkpoint import CheckpointTrouble
from tidegate.shard.store.interface import ObjectWrites, ShardCommit
from tidegate.shard.store.record import CommitRecord, encode_record
from tidegate.shard.store.worker_store import WorkerStore

SHARDS = (0, 1)
OBJECTS = [bytes([0, number]) + b"object".ljust(14) for number in range(20)]


def writes_of(number: int) -> list[list[ObjectWrites]]:
    """What record `number` writes, by shard."""
    random = Random(number)
    by_shard = []
    for _ in SHARDS:
        objects = []
        for key in random.sample(OBJECTS, random.randint(1, 5)):
            writes: dict[str, bytes | None] = {"last": b"%d" % number}
            for _ in range(random.randint(0, 4)):
                name = f"key{random.randrange(30)}"
                writes[name] = None if random.random() < 0.2 else random.randbytes(random.randrange(300))
            objects.append(ObjectWrites(key, random.random() < 0.03, writes))
        by_shard.append(objects)
    return by_shard


def expected_rows(number: int) -> list[dict[bytes, dict[str, bytes]]]:
    """By shard and object: what must be there after the records 1 to `number`."""
    shards: list[dict[bytes, dict[str, bytes]]] = [{} for _ in SHARDS]
    for record in range(1, number + 1):
        for rows, objects in zip(shards, writes_of(record), strict=True):
            for change in objects:
                held = {} if change.cleared else rows.get(change.key, {})
                held.update((name, value) for name, value in change.writes.items() if value is not None)
                rows[change.key] = {name: value for name, value in held.items() if change.writes.get(name, b"") is not None}
    return shards


def shrink() -> None:
    checkpoint_module.CHECKPOINT_COMMIT_ENTRIES = 60
    defaults = log_module.CommitLog.__init__.__kwdefaults__
    assert defaults is not None
    defaults.update(segment_bytes=64 << 10, segment_bytes_first=16 << 10)


async def append_when_there_is_room(store: WorkerStore, record: bytes) -> int:
    while True:
        try:
            return store.append(record)
        except LogFull:
            await asyncio.sleep(0.05)


async def main(data_dir: Path, start: int) -> int:
    def trouble(trouble: CheckpointTrouble) -> None:
        print(trouble.error, file=sys.stderr, flush=True)
        if trouble.fatal:
            os._exit(3)

    shrink()
    store = WorkerStore.open(data_dir, start, 0, SHARDS, trouble, memtable_bytes=50_000)
    if store.stopped:  # The disk failed again at each attempt.
        print(*store.stopped.values(), sep="\n", file=sys.stderr, flush=True)
        return 3
    number = store.shards[0].seq
    assert all(shard.seq == number for shard in store.shards.values()), "a record covers both shards or none"
    print(f"recovered {number}", flush=True)
    while True:
        number += 1
        commits = [ShardCommit(shard, number, objects) for shard, objects in zip(SHARDS, writes_of(number), strict=True)]
        record = encode_record(CommitRecord(0, commits))
        try:
            position = store.append(record)
        except LogFull as error:
            print(error, file=sys.stderr, flush=True)
            await store.checkpointer.finish()
            position = await append_when_there_is_room(store, record)
        print(f"confirmed {number}", flush=True)
        store.applied(position, commits)
        await asyncio.sleep(0)


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]))))
    except OperatorError as error:
        print(error, file=sys.stderr, flush=True)
        os._exit(3)
