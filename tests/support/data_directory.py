"""A data directory as a service that was stopped leaves it, made without one."""

from __future__ import annotations

from pathlib import Path

from tidegate.runtime.data.directory import open_directory
from tidegate.runtime.ids import object_key, shard_of_slot, slot_of
from tidegate.shard.core.alarms import Alarm, Header, encode_header, index_changes
from tidegate.shard.log.commit_log import CommitLog
from tidegate.shard.store.interface import ObjectWrites, ShardCommit
from tidegate.shard.store.logs import log_path
from tidegate.shard.store.record import CommitRecord, encode_record
from tidegate.shard.store.state.lmdb_state import LmdbState

SHARDS = 4
OBJECTS = 400
KEYS = 5
ALARM_EVERY = 10
VALUE = b"\xd9\x28" + b"value of a row that is forty bytes long."


def name_of(number: int) -> str:
    return f"c{number}"


def shard_of(name: str) -> int:
    return shard_of_slot(slot_of("Counter", name), SHARDS)


def rows_of_object(number: int) -> dict[bytes, dict[str, bytes | None]]:
    """By object key: of the object, and of the index of alarms."""
    name = name_of(number)
    key = object_key("Counter", name)
    alarm = Alarm(number * 1_000_000, number * 1_000_000) if number % ALARM_EVERY == 0 else None
    rows: dict[str, bytes | None] = {f"k{each}": VALUE for each in range(KEYS)}
    rows[""] = encode_header(Header("Counter", name, alarm))
    return {key: rows, **index_changes(key, None, alarm, "Counter", name)}


def make_data_directory(path: Path) -> None:
    """Most objects are in the states, the newest in a log only."""
    open_directory(path, SHARDS).close()
    seqs = dict.fromkeys(range(SHARDS), 0)
    for shard in range(SHARDS):
        state = LmdbState(path / "shards" / f"{shard:04d}", shard)
        mine = [number for number in range(OBJECTS - 20) if shard_of(name_of(number)) == shard]
        for first in range(0, len(mine), 40):
            batch = state.begin()
            rows = [
                (owner + key.encode(), value or b"")
                for number in mine[first : first + 40]
                for owner, writes in rows_of_object(number).items()
                for key, value in writes.items()
            ]
            batch.put_many(sorted(rows))
            seqs[shard] += 1
            batch.set_applied_seq(seqs[shard])
            batch.commit()
        state.close()
    log = CommitLog(log_path(path, 1, 0), segment_bytes_first=1 << 20)
    for number in range(OBJECTS - 20, OBJECTS):
        shard = shard_of(name_of(number))
        seqs[shard] += 1
        writes = [ObjectWrites(owner, False, rows) for owner, rows in rows_of_object(number).items()]
        log.append(encode_record(CommitRecord(0, [ShardCommit(shard, seqs[shard], writes)])))
    log.close()


def state_file(path: Path, shard: int) -> Path:
    return path / "shards" / f"{shard:04d}" / "data.mdb"
