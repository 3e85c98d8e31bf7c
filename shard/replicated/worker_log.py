"""The log of a worker whose shards have a stream each: one publish for each shard of a group commit, all at the same time.

Guarantee: `append` returns when every shard's part is stored; where some are not, it says which, and the others are. So what is
in one record is durable together only within one shard: whoever writes a record must let nothing of it rest on another shard's
part (see `HostSettings.proves`).

Shards are taken and given while others are appended to: `take`, `give`.

Threads: `append` blocks the caller, `begin` does not; a thread of its own speaks with the servers, for all shards over one
connection. What a shard that is taken lacks is read in another thread, over a connection of its own, so that appends do not wait
for it; and what is read before it is taken in one more, so that no shard that was lost waits for that.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from nats.aio.client import Client

from tidegate.runtime.ending import while_it_goes_on
from tidegate.runtime.errors import OperatorError
from tidegate.shard.log.commit_log import LogBroken, LogFull, LogStatistics, WithoutSegments
from tidegate.shard.replicated.jetstream_log import broken_by
from tidegate.shard.replicated.log_thread import LogThread
from tidegate.shard.replicated.mark import decode_mark, encode_mark
from tidegate.shard.replicated.replay import StreamPlace
from tidegate.shard.replicated.servers import close, connect
from tidegate.shard.replicated.shard_log import LogCounts, LogShutOut, ShardLog
from tidegate.shard.replicated.shared_client import SharedClient
from tidegate.shard.replicated.snapshot import SnapshotPolicy
from tidegate.shard.replicated.snapshot_fetching import fetch_snapshot
from tidegate.shard.replicated.snapshot_keeper import SnapshotKeeper
from tidegate.shard.replicated.snapshot_stream import SnapshotStream
from tidegate.shard.replicated.stream import ShardStream
from tidegate.shard.store.interface import (
    PartlyStored,
    ShardDamaged,
    ShardElsewhere,
    ShardLeftBehind,
    ShardUnreachable,
    ShardUnwanted,
)
from tidegate.shard.store.record import UnreadCommitRecord, decode_unread_record, encode_record

NEVER = SnapshotPolicy(1 << 62, math.inf)
CLAIM_S = 20.0
"""A stream in which nothing can be stored for so long stops its shard, so that the others are served."""
STALL_S = 60.0
"""What is read of a stream, or fetched of a snapshot, is given up where nothing more of it has come for so long. Whoever asked
servers has had an answer, or given up, long before: this is for what hangs all the same."""

logger = logging.getLogger("tidegate")
T = TypeVar("T")
Places = tuple[tuple[int, StreamPlace], tuple[int, StreamPlace]]
"""Of a shard, the newest two, each with our own position: while an append is under way, what is applied reaches to the first."""


def stream_name(cluster: str, shard: int) -> str:
    return f"{cluster}-{shard:04d}"


async def _unless_it_hangs(of: str, what: Coroutine[Any, Any, T], steps: Callable[[], int] = lambda: 0) -> T:
    """What it gives. Raises OperatorError where it does not for `STALL_S` in which `steps` have not grown either."""
    try:
        return await while_it_goes_on(steps, STALL_S, what)
    except TimeoutError:
        hint = "it is tried again; see whether the servers, and the network in between, are slow"
        raise OperatorError("read", of, f"nothing more of it has come for {STALL_S:g} s", hint, passes=True) from None


class _Reading:
    """A thread that reads, once it is needed, and its connection."""

    def __init__(self, servers: Sequence[str], name: str) -> None:
        self.name = name
        self.thread: LogThread | None = None
        self.client = SharedClient(servers)


class WorkerLog(WithoutSegments):
    def __init__(self, servers: Sequence[str], cluster: str, words: str, policy: SnapshotPolicy = NEVER) -> None:
        """Asks nobody yet. Has to be closed. `words` say to operators who this is. `policy`: when snapshots are due."""
        self._servers = servers
        self._cluster = cluster
        self._words = words.encode()
        self._thread = LogThread(self._closed)
        self._client: Client | None = None
        self._logs: dict[int, ShardLog] = {}
        self._places: dict[int, Places] = {}
        self._position = 0
        self._counts = LogCounts()
        self._broken: LogBroken | None = None
        self._reading = threading.Lock()
        self._taken = _Reading(servers, "tidegate-reading")
        """Where what is lacking is read of shards that are taken."""
        self._ahead = _Reading(servers, "tidegate-ahead-log")
        """The same of those that another host still serves."""
        self.snapshots = SnapshotKeeper(servers, cluster, words, policy, partial(stream_name, cluster))

    def claim(self, marks: Mapping[int, bytes], applied: Callable[[int, bytes], object]) -> dict[int, ShardDamaged]:
        """Blocks until this process owns the shards; `applied` is told each record that is behind what their states say by these
        marks, in the thread of the log. Returns why some are not owned: that of one shard cannot be used, or does not answer,
        keeps no other from being served. Raises OperatorError where the servers cannot be used at all."""
        return self._thread.wait(self._claim(marks, applied))

    def take(
        self, shard: int, mark: bytes, applied: Callable[[int, bytes], object], is_wanted: Callable[[], bool] = lambda: True
    ) -> ShardDamaged | None:
        """As `claim`, of one shard, while others are appended to; on any thread. `applied` is told in one thread after the other.
        `is_wanted` is asked before its owner is shut out, in the thread of the log; no: that is why. Raises LogBroken when it is
        closed, or can never append again."""
        reached = self._read(self._taken, shard, mark, applied)
        if isinstance(reached, ShardDamaged):
            return reached
        assert self._client is not None
        claim = self._own(self._client, shard, reached, applied, is_wanted)
        return self._thread.wait(self._or_why_not(shard, self._client, claim))

    def follow(self, shard: int, mark: bytes, applied: Callable[[int, bytes], object]) -> bytes | ShardDamaged:
        """Reads what its stream has, and disturbs no owner, and no `take`; the mark of a state that has all of it. Else as
        `take`."""
        return self._read(self._ahead, shard, mark, applied)

    def _read(self, reading: _Reading, shard: int, mark: bytes, applied: Callable[[int, bytes], object]) -> bytes | ShardDamaged:
        if self._client is not None and self._client.is_closed:
            raise LogBroken("append to the streams of", self._cluster, "the connection was closed for good", "open it again")
        try:
            reader, client = self._begin_reading(reading)
        except LogBroken:
            raise
        except OperatorError as error:
            return ShardUnreachable(shard, error.operation, error.place, error.problem)
        records = 0

        def counted(of: int, record: bytes) -> None:
            nonlocal records
            applied(of, record)
            records += 1

        following = self._follow(client, shard, mark, counted, has_owner=reading is self._ahead)
        return reader.wait(self._or_why_not(shard, client, _unless_it_hangs(f"shard {shard}", following, lambda: records)))

    def give(self, shard: int) -> None:
        """It is not this process's any longer: whoever claims it next disturbs nobody. No record of it may be under way."""
        del self._logs[shard], self._places[shard]
        self.snapshots.forget(shard)

    def fetch(self, behind: ShardLeftBehind, file: Path, accept: Callable[[bytes, int], None], *, is_ahead: bool = False) -> None:
        """Puts the data file of the newest snapshot into `file` that is whole, and that `accept` lets pass when it is told which
        mark the file should have, and up to which commit. On any thread. `is_ahead`: another host serves it, and no `take`
        waits for this. Raises OperatorError."""
        thread, client = self._begin_reading(self._ahead if is_ahead else self._taken)
        snapshots, stream = SnapshotStream(client, self._cluster), stream_name(self._cluster, behind.shard)
        logger.info("shard %d: %s; a snapshot is fetched", behind.shard, behind.problem)
        try:
            manifest = fetch_snapshot(
                lambda step: thread.wait(_unless_it_hangs(f"a snapshot of shard {behind.shard}", step)),
                *(client, snapshots, stream, behind, file, lambda found: accept(found.mark, found.commit)),
            )
        except OperatorError as error:
            if error.passes and not isinstance(error, ShardDamaged | LogBroken):
                raise ShardUnreachable(behind.shard, error.operation, error.place, error.problem) from error
            raise
        said = "shard %d: a snapshot that was taken behind message %d, of %d KiB, is here"
        logger.info(said, behind.shard, manifest.place.sequence, manifest.file_bytes >> 10)

    def _begin_reading(self, reading: _Reading) -> tuple[LogThread, Client]:
        with self._reading:
            if self._broken is not None:
                raise self._broken
            if reading.thread is None:
                reading.thread = LogThread(self._closed, reading.name)
            thread = reading.thread
        return thread, thread.wait(reading.client.get())

    def mark(self, shard: int, position: int) -> bytes:
        """Of a state that has everything up to the record at this position."""
        before, newest = self._places[shard]
        return encode_mark((newest if newest[0] <= position else before)[1])

    def append(self, record: bytes) -> int:
        """Blocks until it is stored; its position. Raises PartlyStored or LogBroken. While the servers have no majority it
        waits."""
        if self._broken is not None:
            raise self._broken
        try:
            return self._thread.wait(self._append(record))
        except OperatorError as error:
            raise self._broken_by(error) from error

    def begin(self, record: bytes, ended: Callable[[int | BaseException], None]) -> None:
        """As `append`, but that nobody blocks: `ended` is told what `append` returns or raises, in another thread."""

        def tell(outcome: int | BaseException) -> None:
            ended(self._broken_by(outcome) if isinstance(outcome, OperatorError) else outcome)

        if self._broken is not None:
            ended(self._broken)
        else:
            self._thread.begin(self._append(record), tell)

    def _broken_by(self, error: OperatorError) -> LogBroken:
        self.is_broken = True
        self._broken = broken_by(error)
        return self._broken

    def truncate(self, position: int) -> None:
        """Nothing is removed but behind snapshots: another host may have nothing but the streams and these."""

    def statistics(self) -> LogStatistics:
        return LogStatistics(self._position, 1, 0, self.segments_max, 0, 0, self._position, copies_on_write=False)

    def counts(self) -> dict[str, int]:
        """On any thread."""
        newest = self._client, self._taken.client.newest, self._ahead.client.newest
        clients = [client for client in newest if client is not None]
        reconnects = sum(client.stats["reconnects"] for client in clients)
        counts = {f"cluster_{name}": count for name, count in vars(self._counts).items()}
        return counts | {"cluster_reconnects": reconnects, "cluster_snapshot_age_seconds": round(self.snapshots.oldest_s())}

    def close(self) -> None:
        """Ends a claim or an append that waits, with LogBroken."""
        self._broken = self._broken or self._closed()
        self.is_broken = True
        self.snapshots.close()
        with self._reading:
            for reading in (self._taken, self._ahead):
                if reading.thread is not None:
                    reading.thread.close(reading.client.close)
        self._thread.close(self._end)

    def _closed(self) -> LogBroken:
        return LogBroken("append to the streams of", self._cluster, "the log was closed", "open it again")

    # On the thread of the log

    async def _claim(self, marks: Mapping[int, bytes], applied: Callable[[int, bytes], object]) -> dict[int, ShardDamaged]:
        self._client = await connect(self._servers)
        outcomes = await asyncio.gather(*(self._claim_one(shard, mark, applied) for shard, mark in marks.items()))
        return {error.shard: error for error in outcomes if error is not None}

    async def _claim_one(self, shard: int, mark: bytes, applied: Callable[[int, bytes], object]) -> ShardDamaged | None:
        """Raises OperatorError where there is no connection any longer."""
        assert self._client is not None
        client = self._client
        refused = await self._or_why_not(shard, client, self._own(client, shard, mark, applied))
        if refused is not None and client.is_closed:
            raise refused
        return refused

    async def _own(
        self,
        client: Client,
        shard: int,
        mark: bytes,
        applied: Callable[[int, bytes], object],
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        log = await self._log_of(client, shard, mark)
        if not is_wanted():
            raise ShardUnwanted(shard, mark)
        await log.claim(lambda effect: applied(shard, effect.record), CLAIM_S)
        self._logs[shard] = log
        self._places[shard] = (0, log.place), (0, log.place)

    async def _log_of(self, client: Client, shard: int, mark: bytes) -> ShardLog:
        try:
            place = decode_mark(mark)
        except ValueError as error:
            hint = "remove the data directory: the streams have everything; or start the service that it is of"
            raise ShardDamaged(shard, "read the state of", f"shard {shard}", str(error), hint) from error
        return ShardLog(
            shard, await ShardStream.find(client, stream_name(self._cluster, shard)), place, self._words, self._counts
        )

    @staticmethod
    async def _or_why_not(shard: int, client: Client, what: Coroutine[Any, Any, T]) -> T | ShardDamaged:
        """Why the shard is not to be had."""
        try:
            return await what
        except LogShutOut as error:
            return ShardElsewhere(shard, "claim", f"shard {shard}", error.problem, undone=True)
        except ShardDamaged as error:
            return error
        except OperatorError as error:
            if error.passes or client.is_closed:
                return ShardUnreachable(shard, error.operation, error.place, error.problem)
            hint = f"{error.hint}; shard {shard} is stopped, the others are served: start the service again then"
            return ShardDamaged(shard, error.operation, error.place, error.problem, hint)

    async def _append(self, record: bytes) -> int:
        """Its position. Raises PartlyStored, or another OperatorError where of some shards nobody knows."""
        position, whole = self._position + 1, decode_unread_record(record)
        shards = whole.shards
        if len(shards) == 1 and not whole.seqs:
            outcomes = [await self._append_one(position, shards[0].shard, record)]
        else:
            parts = ((each.shard, encode_record(UnreadCommitRecord(whole.wall_ms, [each]))) for each in shards)
            outcomes = await asyncio.gather(*(self._append_one(position, shard, part) for shard, part in parts))
        self._position = position
        if failed := {each.shard: error for each, error in zip(shards, outcomes, strict=True) if error is not None}:
            raise PartlyStored(position, failed)
        return position

    async def _append_one(self, position: int, shard: int, record: bytes) -> OperatorError | None:
        log = self._logs[shard]
        try:
            await log.append(record)
        except LogShutOut as error:
            return ShardElsewhere(shard, "append to", f"shard {shard}", error.problem, undone=error.undone)
        except (LogFull, ShardDamaged) as error:
            return error
        self._places[shard] = self._places[shard][1], (position, log.place)
        return None

    # On the thread that reads

    async def _follow(
        self, client: Client, shard: int, mark: bytes, applied: Callable[[int, bytes], object], *, has_owner: bool
    ) -> bytes:
        log = await self._log_of(client, shard, mark)
        follow = log.follow_owner if has_owner else log.follow
        return encode_mark(await follow(lambda effect: applied(shard, effect.record), CLAIM_S))

    async def _end(self) -> None:
        if self._client is not None:
            await close(self._client)
