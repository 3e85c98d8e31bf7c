"""What the servers keep of shards: the newest snapshot of each that is whole, and how far the stream has grown since.

Guarantee: it is looked at only.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from nats.aio.client import Client

from tidegate.runtime.errors import OperatorError
from tidegate.shard.replicated.snapshot import SnapshotManifest, SnapshotName, StreamSize, decode_manifest, grown_bytes
from tidegate.shard.replicated.snapshot_stream import Listed, SnapshotStream, size_of

_AT_ONCE = 16


class KeptOfShard(NamedTuple):
    stream: StreamSize
    newest: SnapshotManifest | None
    """None: there is no snapshot that is whole."""

    @property
    def grown_bytes(self) -> int:
        """About so many follow the newest snapshot in the stream."""
        return grown_bytes(self.stream, 0 if self.newest is None else self.newest.place.sequence)


async def newest_whole(
    snapshots: SnapshotStream, shard: int, created: str, listed: Mapping[SnapshotName, Listed]
) -> SnapshotManifest | None:
    """Of what is listed of the shard, whose stream was made at `created`. Raises OperatorError."""
    for name, there in sorted(listed.items(), reverse=True):
        if not there.manifests:
            continue
        try:
            manifest = decode_manifest(await snapshots.manifest(shard, name) or b"")
        except ValueError:
            continue
        if manifest.place.created == created and there.pieces >= len(manifest.pieces):
            return manifest
    return None


async def kept_of_shards(
    client: Client, cluster: str, shards: Iterable[int], stream_of: Callable[[int], str], within_s: float
) -> dict[int, KeptOfShard]:
    """By shard; without those of which the servers have not said it in that time, or which have no stream."""
    snapshots = SnapshotStream(client, cluster)
    turn = asyncio.Semaphore(_AT_ONCE)
    found: dict[int, KeptOfShard] = {}

    async def look(shard: int, listed: Mapping[SnapshotName, Listed]) -> None:
        with contextlib.suppress(OperatorError):
            async with turn:
                size, created = await size_of(client, stream_of(shard))
                found[shard] = KeptOfShard(size, await newest_whole(snapshots, shard, created, listed))

    with contextlib.suppress(TimeoutError, OperatorError):
        async with asyncio.timeout(within_s):
            listed = await snapshots.listed_of_all()
            await asyncio.gather(*(look(shard, listed.get(shard, {})) for shard in shards))
    return found
