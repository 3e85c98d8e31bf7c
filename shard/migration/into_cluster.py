"""Puts what a data directory has into the streams of a new cluster.

Guarantee: the directory is only read. Hosts can join the cluster only when every shard was read back, by a claim as a worker
makes it, and has the rows that the directory has, to the byte. Killed at any moment, the same again ends in the same: a shard
whose stream has it already is left as it is, one that has some of it begins anew.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import lmdb

from tidegate.runtime.errors import OperatorError
from tidegate.shard.migration.claimed import ClusterLogs, sum_in_log
from tidegate.shard.migration.commits import Sum, commits_of, digest_of_all, sum_of, travelling
from tidegate.shard.offline.check import Check, Counts
from tidegate.shard.offline.open_shards import OpenShard, open_shards
from tidegate.shard.offline.rows import Row, told
from tidegate.shard.replicated.filling import Filling
from tidegate.shard.replicated.worker_log import WorkerLog
from tidegate.shard.store.interface import PartlyStored, ShardCommit, ShardDamaged, ShardElsewhere, ShardUnreachable
from tidegate.shard.store.record import CommitRecord, encode_record

Progress = Callable[[str, float], object]
OPERATION = "migrate"


class Migrated(NamedTuple):
    shards: int
    counts: Counts
    bytes: int
    """Of keys and values."""
    digest: str
    """Of all rows; that of the directory and that of the cluster."""
    kept: int = 0
    """Shards that a run before had put there already."""


def put_into_cluster(data: Path, shards: int, place: ClusterLogs, source: str, aside: Path, progress: Progress) -> Migrated:
    """`source`: the directory and its machine, in words. `aside`: a folder for what is read back; it need not be there. Raises
    OperatorError."""
    check = Check(data, shards, progress)
    for finding in check.run():
        raise OperatorError(OPERATION, finding.where, finding.what, f"see `tidegate check {data}`; nothing was changed")
    filling = Filling(place.servers, place.name, shards, source)
    filling.begin()
    sums: list[Sum] = []
    kept = 0
    try:
        with contextlib.ExitStack() as stack:
            for shard in open_shards(OPERATION, data, shards, stack):
                total, was_there = _put(shard, place, filling, shards, aside, progress)
                sums.append(total)
                kept += was_there
    except (ValueError, lmdb.Error) as error:
        raise OperatorError(OPERATION, data, str(error), f"see `tidegate check {data}`") from error
    filling.end()
    digest = digest_of_all(total.digest for total in sums)
    return Migrated(shards, check.counts, sum(total.bytes for total in sums), digest, kept)


def _put(
    shard: OpenShard, place: ClusterLogs, filling: Filling, shards: int, aside: Path, progress: Progress
) -> tuple[Sum, bool]:
    """What it has, and whether that was there."""

    def tell(what: str, share: float) -> None:
        progress(f"{what} shard {shard.shard} of {shards}", (shard.shard + share) / shards)

    if filling.has_something(shard.shard):
        wanted = sum_of(travelling(shard.rows()))
        tell("looking at what was put before of", 0.2)
        if _is_whole(place, shard.shard, wanted, aside):
            return wanted, True
        filling.make_anew(shard.shard)
    wanted = Sum()
    with contextlib.closing(place.log()) as log:
        expected = max(1, shard.state.entries)
        rows = told(shard.rows(), lambda done: tell("writing", 0.5 * min(1.0, done / expected)))
        _append(log, shard.shard, wanted.noting(travelling(rows)))
    tell("reading back", 0.5)
    if (found := sum_in_log(place, shard.shard, aside)).digest != wanted.digest:
        problem = f"{found.rows} rows were read back that are not the {wanted.rows} that the directory has"
        hint = "no host can join the cluster; give the command again, and tell whoever develops Tidegate"
        raise OperatorError(OPERATION, f"shard {shard.shard}", problem, hint)
    return wanted, False


def _is_whole(place: ClusterLogs, shard: int, wanted: Sum, aside: Path) -> bool:
    try:
        return sum_in_log(place, shard, aside).digest == wanted.digest
    except (ShardUnreachable, ShardElsewhere):
        raise
    except ShardDamaged:  # Of a run that was killed at a bad moment. Nobody was told of anything that is there.
        return False


def _append(log: WorkerLog, shard: int, rows: Iterator[Row]) -> None:
    for refused in log.claim({shard: b""}, _nothing_before).values():
        raise refused
    for seq, objects in enumerate(commits_of(rows), 1):
        try:
            log.append(encode_record(CommitRecord(int(time.time() * 1_000), [ShardCommit(shard, seq, objects)])))
        except PartlyStored as error:
            raise error.failed[shard] from error


def _nothing_before(shard: int, record: bytes) -> None:
    hint = "give the command again"
    raise OperatorError(OPERATION, f"shard {shard}", "its stream has something that nobody has put there", hint)
