"""What all hosts of a cluster have to agree on for ever, written once: how many shards it has, and that their streams exist.

Guarantee: a stream is made only while the cluster is being founded. One that is missing later was lost, and is never made anew:
the shard would begin empty, as if nobody had ever been told anything.

The record is a key of the bucket `tidegate-NAME`. Its first version is written by whoever comes first; others find it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from secrets import token_hex

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import KeyValueConfig, StorageType
from nats.js.errors import KeyWrongLastSequenceError
from nats.js.kv import KeyValue

from tidegate.runtime.errors import OperatorError
from tidegate.shard.replicated.servers import ANSWER_S, START_PAUSE_S, START_S, check_fence, connect
from tidegate.shard.replicated.stream import ShardStream
from tidegate.shard.replicated.worker_log import stream_name

REPLICAS = 3
_KEY = "founding"
_STREAMS_AT_ONCE = 8


class Founding(msgspec.Struct, frozen=True):
    id: str
    """Of this cluster, and of none that had its name before."""
    shards: int
    made: bool
    """All streams are there."""


def find_or_found(servers: Sequence[str], name: str, shards_if_new: int) -> Founding:
    """Blocks until the cluster of that name is founded; whoever comes first decides how many shards it has. Raises
    OperatorError."""
    return asyncio.run(_find_or_found(servers, name, shards_if_new))


async def _find_or_found(servers: Sequence[str], name: str, shards_if_new: int) -> Founding:
    client = await connect(servers)
    try:
        await check_fence(client, REPLICAS)
        give_up_at = asyncio.get_running_loop().time() + START_S
        while True:
            try:
                return await _found(client, name, shards_if_new)
            except (nats.errors.Error, msgspec.MsgspecError, OSError) as error:  # Servers that may just have found each other.
                if asyncio.get_running_loop().time() >= give_up_at:
                    hint = "see that JetStream is enabled and that enough servers of the cluster run"
                    raise OperatorError("found the cluster", name, repr(error), hint, passes=True) from error
            await asyncio.sleep(START_PAUSE_S)
    finally:
        await client.close()


async def _found(client: Client, name: str, shards_if_new: int) -> Founding:
    """Each step may be taken again, and by several hosts."""
    config = KeyValueConfig(f"tidegate-{name}", history=1, storage=StorageType.FILE, replicas=REPLICAS)
    bucket = await JetStreamContext(client, timeout=ANSWER_S).create_key_value(config)
    found = await _written(bucket, Founding(token_hex(8), shards_if_new, made=False))
    if found.made:
        return found
    used = await _make_streams(client, name, found.shards)
    entry = await bucket.get(_KEY)
    newest = msgspec.json.decode(entry.value or b"", type=Founding)
    if newest.made:
        return newest
    if used:
        problem = f"its streams are there ({used[0]}), and the record of its founding is not, in the bucket tidegate-{name}"
        raise OperatorError("found the cluster", name, problem, "put the bucket back, or give the cluster another name")
    made = msgspec.structs.replace(newest, made=True)
    await bucket.update(_KEY, msgspec.json.encode(made), last=entry.revision)
    return made


async def _written(bucket: KeyValue, new: Founding) -> Founding:
    """By this host or another."""
    try:
        await bucket.create(_KEY, msgspec.json.encode(new))
    except KeyWrongLastSequenceError:
        entry = await bucket.get(_KEY)
        return msgspec.json.decode(entry.value or b"", type=Founding)
    return new


async def _make_streams(client: Client, name: str, shards: int) -> list[str]:
    """Names of those that hold something already."""
    room = asyncio.Semaphore(_STREAMS_AT_ONCE)
    used: list[str] = []

    async def make(shard: int) -> None:
        async with room:
            stream = await ShardStream.find(client, stream_name(name, shard), create=True, replicas=REPLICAS)
            if stream.is_used:
                used.append(stream.name)

    await asyncio.gather(*map(make, range(shards)))
    return used
