"""The placement as it is kept: a key of the cluster's bucket, replaced only by what was made of its newest version.

A read may be old. That does no harm: what is made of an old version is not stored.
"""

from __future__ import annotations

import nats.js.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.kv import KeyValue

from tidegate.runtime.cluster.records import ClusterPlacement, decode_placement, empty_placement, encode
from tidegate.shard.replicated.founding import bucket_name
from tidegate.shard.replicated.servers import ANSWER_S

_KEY = "placement"


class PlacementRecord:
    """Its methods raise what the client raises, and msgspec.MsgspecError for a record that cannot be read."""

    def __init__(self, client: Client, cluster: str, shards: int) -> None:
        self._context = JetStreamContext(client, timeout=ANSWER_S)
        self._cluster = cluster
        self._shards = shards
        self._bucket: KeyValue | None = None

    async def read(self) -> tuple[ClusterPlacement, int]:
        """With its revision, which is 0 where nobody has written one yet."""
        bucket = await self._open()
        try:
            entry = await bucket.get(_KEY)
        except nats.js.errors.KeyNotFoundError:
            return empty_placement(self._shards), 0
        return decode_placement(entry.value or b"", self._shards), entry.revision or 0

    async def replace(self, placement: ClusterPlacement, revision: int) -> bool:
        """Whether it was stored: False where the newest version is no longer that revision. What raises may be stored."""
        bucket = await self._open()
        try:
            await bucket.update(_KEY, encode(placement), last=revision)
        except nats.js.errors.KeyWrongLastSequenceError:
            return False
        return True

    async def _open(self) -> KeyValue:
        if self._bucket is None:
            self._bucket = await self._context.key_value(bucket_name(self._cluster))
        return self._bucket
