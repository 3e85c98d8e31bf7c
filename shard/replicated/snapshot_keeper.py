"""Who takes snapshots of the shards of a worker: knows when one is due, and takes one at a time.

Each method blocks, on any thread but the loop's; a thread and a connection of its own speak with the servers, so that appends do
not wait for what is large.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from nats.aio.client import Client

from tidegate.shard.log.commit_log import LogBroken
from tidegate.shard.replicated.log_thread import LogThread
from tidegate.shard.replicated.replay import StreamPlace
from tidegate.shard.replicated.servers import connect
from tidegate.shard.replicated.snapshot import SnapshotPolicy, decode_manifest, is_due
from tidegate.shard.replicated.snapshot_stream import SnapshotStream, size_of
from tidegate.shard.replicated.snapshot_taking import take_snapshot

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
        self._servers = servers
        self._cluster = cluster
        self._words = words
        self._policy = policy
        self._stream_of = stream_of
        self._now = now
        self._newest: dict[int, tuple[StreamPlace | None, float]] = {}
        """Of shards that were asked for: behind which message the newest snapshot is, and when it was taken; where there is none,
        since when that is known."""
        self._opening = threading.Lock()
        self._thread: LogThread | None = None
        self._client: Client | None = None
        self._is_closed = False

    def is_due(self, shard: int) -> bool:
        """Raises OperatorError where the servers do not answer."""
        thread, client = self._open()
        size, created = thread.wait(size_of(client, self._stream_of(shard)))
        if shard not in self._newest:
            self._newest[shard] = self._find_newest(thread, client, shard, created)
        place, since = self._newest[shard]
        return is_due(size, place, self._now() - since, self._policy)

    def take(self, shard: int, file: Path, mark: bytes, commit: int) -> None:
        """Of a data file that says so of itself, and was looked through. Raises OperatorError."""
        thread, client = self._open()
        began = time.monotonic()
        stream = self._stream_of(shard)
        self._newest.pop(shard, None)
        taken = take_snapshot(
            thread.wait, client, SnapshotStream(client, self._cluster), stream, shard, file, mark, commit, self._words
        )
        manifest = taken.manifest
        self._newest[shard] = manifest.place, manifest.taken_ms / 1_000
        logger.info(
            "shard %d: a snapshot of %d KiB, packed into %d, was taken in %.1f s, behind message %d; its stream begins with "
            "message %d now, or behind it",
            *(shard, manifest.file_bytes >> 10, manifest.packed_bytes >> 10, time.monotonic() - began, manifest.place.sequence),
            max(1, taken.afterwards.purge_before),
        )

    def forget(self, shard: int) -> None:
        """It was given: others take snapshots of it from now on."""
        self._newest.pop(shard, None)

    def close(self) -> None:
        """Whoever waits is told LogBroken."""
        with self._opening:
            self._is_closed = True
            if self._thread is not None:
                self._thread.close(self._end)

    def _open(self) -> tuple[LogThread, Client]:
        with self._opening:
            if self._is_closed:
                raise self._closed()
            if self._thread is None:
                self._thread = LogThread(self._closed, "tidegate-snapshots")
            if self._client is None or self._client.is_closed:
                self._client = self._thread.wait(connect(self._servers))
            return self._thread, self._client

    def _find_newest(self, thread: LogThread, client: Client, shard: int, created: str) -> tuple[StreamPlace | None, float]:
        snapshots = SnapshotStream(client, self._cluster)
        for name, listed in sorted(thread.wait(snapshots.listed(shard)).items(), reverse=True):
            if not listed.manifests:
                continue
            try:
                manifest = decode_manifest(thread.wait(snapshots.manifest(shard, name)) or b"")
            except ValueError:
                continue
            if manifest.place.created == created:
                return manifest.place, manifest.taken_ms / 1_000
        return None, self._now()

    def _closed(self) -> LogBroken:
        return LogBroken("take snapshots of", self._cluster, "the log was closed", "open it again")

    async def _end(self) -> None:
        if self._client is not None:
            await self._client.close()
