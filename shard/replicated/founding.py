"""What all hosts of a cluster have to agree on for ever, written once: how many shards it has, and that their streams exist.

Guarantee: a stream is made only while the cluster is being founded. One that is missing later was lost, and is never made anew:
the shard would begin empty, as if nobody had ever been told anything.

The record is a key of the bucket `tidegate-NAME`. Its first version is written by whoever comes first; others find it. A read of
it may be old, so that *not founded yet* is believed only of a record that could be written anew, as it is, in its place: before
a stream is made, and before anybody is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from random import SystemRandom
from secrets import token_hex
from typing import TypeVar

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import KeyValueConfig, StorageType
from nats.js.errors import KeyWrongLastSequenceError, NotFoundError
from nats.js.kv import KeyValue

from tidegate.runtime.errors import OperatorError
from tidegate.shard.replicated.servers import ANSWER_S, START_PAUSE_S, START_S, check_fence, connect
from tidegate.shard.replicated.stream import ShardStream, is_used
from tidegate.shard.replicated.worker_log import stream_name

REPLICAS = 3
_KEY = "founding"
_STREAMS_AT_ONCE = 8
_FINISH_TRIES = 20

_Answer = TypeVar("_Answer")
_chance = SystemRandom()


class Founding(msgspec.Struct, frozen=True):
    id: str
    """Of this cluster, and of none that had its name before."""
    shards: int
    made: bool
    """All streams are there."""


def bucket_name(cluster: str) -> str:
    return f"tidegate-{cluster}"


async def find_founded(client: Client, name: str) -> Founding:
    """What was founded under that name; nothing is. Raises OperatorError where there is nothing."""
    try:
        bucket = await JetStreamContext(client, timeout=ANSWER_S).key_value(bucket_name(name))
        return (await _read(bucket))[0]
    except NotFoundError:
        hint = f"start a service in it: tidegate serve APP --cluster …/{name}; or see whether its name is right"
        raise OperatorError("look for the cluster", name, "there is none of that name on these servers", hint) from None


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
            await _pause()
    finally:
        await client.close()


async def _pause() -> None:
    """Never as long as that of another founder: each may have written the record on which the other had built."""
    await asyncio.sleep(START_PAUSE_S * _chance.uniform(0.5, 1.5))


async def _found(client: Client, name: str, shards_if_new: int) -> Founding:
    """Each step may be taken again, and by several hosts. Raises KeyWrongLastSequenceError where another one was faster, or the
    record was old."""
    config = KeyValueConfig(bucket_name(name), history=1, storage=StorageType.FILE, replicas=REPLICAS)
    bucket = await JetStreamContext(client, timeout=ANSWER_S).create_key_value(config)
    found, revision = await _written(bucket, Founding(token_hex(8), shards_if_new, made=False))
    if found.made:
        return found
    streams = [stream_name(name, shard) for shard in range(found.shards)]
    used = await _of_each(streams, lambda stream: is_used(client, stream))
    revision = await bucket.update(_KEY, msgspec.json.encode(found), last=revision)  # Then it was true until now.
    if any(used):
        first = streams[used.index(True)]
        problem = f"its streams are there ({first}), and the record of its founding is not, in the bucket tidegate-{name}"
        raise OperatorError("found the cluster", name, problem, "put the bucket back, or give the cluster another name")
    await _of_each(streams, lambda stream: ShardStream.find(client, stream, create=True, replicas=REPLICAS))
    return await _finish(bucket, found, revision)


async def _written(bucket: KeyValue, new: Founding) -> tuple[Founding, int]:
    """By this host or another, and its revision. That of another may be old."""
    try:
        return new, await bucket.create(_KEY, msgspec.json.encode(new))
    except KeyWrongLastSequenceError:
        return await _read(bucket)


async def _read(bucket: KeyValue) -> tuple[Founding, int]:
    entry = await bucket.get(_KEY)
    return msgspec.json.decode(entry.value or b"", type=Founding), entry.revision or 0


async def _finish(bucket: KeyValue, found: Founding, revision: int) -> Founding:
    """The streams are made. Who founds it at the same time may have written the record meanwhile, with the same in it."""
    made = msgspec.structs.replace(found, made=True)
    for _ in range(_FINISH_TRIES):
        try:
            await bucket.update(_KEY, msgspec.json.encode(made), last=revision)
        except KeyWrongLastSequenceError:
            await _pause()
            newest, revision = await _read(bucket)
            if newest.made:
                return newest
            if newest != found:
                break  # The bucket was made anew.
        else:
            return made
    raise KeyWrongLastSequenceError


async def _of_each(streams: Sequence[str], ask: Callable[[str], Awaitable[_Answer]]) -> list[_Answer]:
    """A few at a time."""
    room = asyncio.Semaphore(_STREAMS_AT_ONCE)

    async def one(stream: str) -> _Answer:
        async with room:
            return await ask(stream)

    return await asyncio.gather(*map(one, streams))
