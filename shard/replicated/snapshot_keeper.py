"""Who takes snapshots of the shards of a worker: knows when one is due, and takes one at a time.

Each method blocks, on any thread but the loop's; a thread and a connection of its own speak with the servers, so that appends do
not wait for what is large. Over it wishes of operators come, too.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from tidegate.runtime.errors import OperatorError
from tidegate.shard.log.commit_log import LogBroken
from tidegate.shard.replicated.log_thread import LogThread
from tidegate.shard.replicated.mark import decode_mark
from tidegate.shard.replicated.servers import said_by
from tidegate.shard.replicated.shared_client import SharedClient
from tidegate.shard.replicated.snapshot import NewestSnapshot, SnapshotManifest, SnapshotPolicy, is_due
from tidegate.shard.replicated.snapshot_listing import newest_whole
from tidegate.shard.replicated.snapshot_stream import SnapshotStream, size_of
from tidegate.shard.replicated.snapshot_taking import take_snapshot
from tidegate.shard.replicated.snapshot_wishes import decode_wish, encode_said, wishes_of
from tidegate.shard.store.snapshots import Heard, KeptSnapshot

logger = logging.getLogger("tidegate")


class SnapshotKeeper:
    def __init__(
        self,
        servers: Sequence[str],
        cluster: str,
        words: str,
        policy: SnapshotPolicy,
        stream_of: Callable[[int], str],
        now: Callable[[], float] = time.time,
    ) -> None:
        """Asks nobody yet. Has to be closed. `stream_of`: the name of a shard's stream. `now`: Unix time."""
        self._cluster = cluster
        self._words = words
        self._policy = policy
        self._stream_of = stream_of
        self._now = now
        self._newest: dict[int, NewestSnapshot] = {}
        """Of shards that were asked for."""
        self._closing = threading.Lock()
        """Never held while somebody waits for servers."""
        self._thread: LogThread | None = None
        self._client = SharedClient(servers, self._hear)
        self._is_closed = False
        self._heard: Heard | None = None

    def listen(self, heard: Heard) -> None:
        """`heard` is told of wishes of operators, on the thread here, from the first question of the others on."""
        self._heard = heard

    def oldest_s(self) -> float:
        """How old the oldest is of the newest snapshots of the shards that were asked for; of one without, for how long that is
        known. 0: none was. On any thread; does not block."""
        return max((self._now() - newest.since_s for newest in [*self._newest.values()]), default=0.0)

    def is_due(self, shard: int) -> bool:
        """Raises OperatorError where the servers do not answer."""
        thread, client = self._open()
        size, created = thread.wait(size_of(client, self._stream_of(shard)))
        if shard not in self._newest:
            newest = self._find_newest(thread, client, shard, created)
            self._newest[shard] = NewestSnapshot(None, 0, self._now()) if newest is None else _newest(newest)
        return is_due(size, self._newest[shard], self._now(), self._policy)

    def kept(self, shard: int, mark: bytes) -> KeptSnapshot | None:
        """The newest that is whole, as it is listed now, if it has all that a data file with that mark has. Raises
        OperatorError."""
        thread, client = self._open()
        _, created = thread.wait(size_of(client, self._stream_of(shard)))
        newest, place = self._find_newest(thread, client, shard, created), decode_mark(mark)
        if newest is None or place is None or place.created != created or newest.place.sequence < place.sequence:
            return None
        return _kept(newest)

    def take(self, shard: int, file: Path, mark: bytes, commit: int) -> KeptSnapshot:
        """Of a data file that says so of itself, and was looked through. Raises OperatorError."""
        thread, client = self._open()
        began = time.monotonic()
        stream = self._stream_of(shard)
        self._newest.pop(shard, None)
        taken = take_snapshot(
            thread.wait, client, SnapshotStream(client, self._cluster), stream, shard, file, mark, commit, self._words
        )
        manifest = taken.manifest
        self._newest[shard] = _newest(manifest)
        logger.info(
            "shard %d: a snapshot of %d KiB, packed into %d, was taken in %.1f s, behind message %d; its stream begins with "
            "message %d now, or behind it",
            *(shard, manifest.file_bytes >> 10, manifest.packed_bytes >> 10, time.monotonic() - began, manifest.place.sequence),
            max(1, taken.afterwards.purge_before),
        )
        return _kept(manifest)

    def forget(self, shard: int) -> None:
        """It was given: others take snapshots of it from now on."""
        self._newest.pop(shard, None)

    def close(self) -> None:
        """Whoever waits is told LogBroken."""
        with self._closing:
            self._is_closed = True
            if self._thread is not None:
                self._thread.close(self._client.close)  # It may have MiB for a server that reads nothing any more.

    def _open(self) -> tuple[LogThread, Client]:
        with self._closing:
            if self._is_closed:
                raise self._closed()
            if self._thread is None:
                self._thread = LogThread(self._closed, "tidegate-snapshots")
            thread = self._thread
        return thread, thread.wait(self._client.get())

    def _find_newest(self, thread: LogThread, client: Client, shard: int, created: str) -> SnapshotManifest | None:
        snapshots = SnapshotStream(client, self._cluster)
        return thread.wait(newest_whole(snapshots, shard, created, thread.wait(snapshots.listed(shard))))

    async def _hear(self, client: Client) -> None:
        """Wishes. Raises OperatorError."""
        try:
            await client.subscribe(wishes_of(self._cluster), cb=self._answer)
        except nats.errors.Error as error:
            hint = "it goes on by itself"
            raise OperatorError("hear wishes of", self._cluster, said_by(error), hint, passes=True) from error

    async def _answer(self, message: Msg) -> None:
        try:
            wish = decode_wish(message.data)
        except msgspec.MsgspecError as error:
            logger.debug("cluster %s: something that cannot be a wish was said: %s", self._cluster, error)
            return
        if self._heard is None or not message.reply:
            return
        said = await asyncio.wrap_future(self._heard(wish))
        if said is not None:
            await message.respond(encode_said(msgspec.structs.replace(said, by=self._words)))

    def _closed(self) -> LogBroken:
        return LogBroken("take snapshots of", self._cluster, "the log was closed", "open it again")


def _newest(manifest: SnapshotManifest) -> NewestSnapshot:
    return NewestSnapshot(manifest.place, manifest.file_bytes, manifest.taken_ms / 1_000)


def _kept(manifest: SnapshotManifest) -> KeptSnapshot:
    return KeptSnapshot(manifest.place.sequence, manifest.file_bytes, manifest.packed_bytes, manifest.taken_ms)
