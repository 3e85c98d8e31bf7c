"""What the hosts of a cluster keep in its bucket: the placement, replaced only by what was made of its newest version, and the
secret by which they know each other.

A read may be old. That does no harm: what is made of an old placement is not stored, and the secret never changes.
An operator may delete the placement: then it is an empty one, of the revision of that deletion, which the next one has to name.

Whoever may read the bucket may read and write the logs too, so that the secret opens nothing to him that is not open.
"""

from __future__ import annotations

import contextlib

import nats.js.errors
import zmq
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.kv import KeyValue

from tidegate.runtime.cluster.records import ClusterPlacement, decode_placement, empty_placement, encode
from tidegate.runtime.wire.access import is_z85
from tidegate.shard.replicated.founding import bucket_name
from tidegate.shard.replicated.servers import ANSWER_S

_KEY = "placement"
_SECRET = "hosts-secret"


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
        except nats.js.errors.KeyNotFoundError as error:
            return empty_placement(self._shards), (error.entry.revision or 0) if error.entry is not None else 0
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


async def hosts_secret(client: Client, cluster: str) -> str:
    """Of a pair of CURVE keys that all hosts have, in Z85. Whoever asks first makes it."""
    bucket = await JetStreamContext(client, timeout=ANSWER_S).key_value(bucket_name(cluster))
    with contextlib.suppress(nats.js.errors.KeyWrongLastSequenceError):
        made = zmq.curve_keypair()[1]
        await bucket.create(_SECRET, made)
        return made.decode()
    found = (await bucket.get(_SECRET)).value or b""
    if not is_z85(found.decode()):
        raise ValueError(f"the key {_SECRET} of the bucket {bucket_name(cluster)} is no secret of CURVE")
    return found.decode()
