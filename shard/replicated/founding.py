"""What all hosts of a cluster have to agree on for ever, written once: how many shards it has, and that their streams exist.

Guarantee: a stream is made only while the cluster is being founded. One that is missing later was lost, and is never made anew:
the shard would begin empty, as if nobody had ever been told anything.

The record is a key of the bucket `tidegate-NAME`. Its first version is written by whoever comes first; others find it. A read of
it may be old, so that *not founded yet* is believed only of a record that could be written anew, as it is, in its place: before
a stream is made, and before anybody is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
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

from tidegate.runtime.ending import run
from tidegate.runtime.errors import OperatorError
from tidegate.shard.replicated.servers import (
    ANSWER_S,
    START_PAUSE_S,
    START_S,
    check_fence,
    close,
    connect,
    next_step_after,
    said_by,
)
from tidegate.shard.replicated.stream import ShardStream, is_used
from tidegate.shard.replicated.worker_log import stream_name

REPLICAS = 3
_KEY = "founding"
_STREAMS_AT_ONCE = 8
_FINISH_TRIES = 20

_Answer = TypeVar("_Answer")
_Thing = TypeVar("_Thing")
_chance = SystemRandom()


class Founding(msgspec.Struct, frozen=True):
    id: str
    """Of this cluster, and of none that had its name before."""
    shards: int
    made: bool
    """All streams are there."""
    filled_from: str = ""
    """The data directory with whose objects it begins, and its machine. While it is not `made` these are being put into it, and
    nobody else founds it (`filling`)."""


def bucket_name(cluster: str) -> str:
    return f"tidegate-{cluster}"


async def find_founded(client: Client, name: str) -> Founding:
    """What was founded under that name; nothing is. Raises OperatorError where there is nothing."""
    try:
        bucket = await JetStreamContext(client, timeout=ANSWER_S).key_value(bucket_name(name))
        founding = (await read_founding(bucket))[0]
    except NotFoundError:
        hint = f"start a service in it: tidegate serve APP --cluster …/{name}; or see whether its name is right"
        raise OperatorError("look for the cluster", name, "there is none of that name on these servers", hint) from None
    if founding.filled_from and not founding.made:
        raise is_being_filled(name, founding)
    return founding


def is_being_filled(name: str, founding: Founding) -> OperatorError:
    """Why nobody may use it yet."""
    problem = f"a data directory is being put into it: {founding.filled_from}"
    hint = (
        "wait until `tidegate migrate` has ended there; if it did not end, give it again, or take back what it left with --undo"
    )
    return OperatorError("use the cluster", name, problem, hint, passes=True)


def find_or_found(servers: Sequence[str], name: str, shards_if_new: int) -> Founding:
    """Blocks until the cluster of that name is founded; whoever comes first decides how many shards it has. Raises
    OperatorError."""

    async def step(client: Client) -> Founding:
        return await founded(client, name, shards_if_new)

    return run(patiently(servers, name, step, looks=True))


async def patiently(
    servers: Sequence[str], name: str, step: Callable[[Client], Awaitable[_Answer]], *, looks: bool = False
) -> _Answer:
    """What `step` gives, which is taken again while servers do not answer, or another was faster. `looks`: at the engine, before
    it is trusted. Raises OperatorError."""
    client = await connect(servers)
    try:
        if looks:
            await check_fence(client, REPLICAS)
        give_up_at = asyncio.get_running_loop().time() + START_S
        while True:
            try:
                return await step(client)
            except (nats.errors.Error, msgspec.MsgspecError, OSError) as error:  # Servers that may just have found each other.
                if asyncio.get_running_loop().time() >= give_up_at:
                    raise OperatorError("found the cluster", name, said_by(error), next_step_after(error), passes=True) from error
            await _pause()
    finally:
        await close(client)


async def _pause() -> None:
    """Never as long as that of another founder: each may have written the record on which the other had built."""
    await asyncio.sleep(START_PAUSE_S * _chance.uniform(0.5, 1.5))


async def founded(client: Client, name: str, shards_if_new: int) -> Founding:
    """What was founded under that name, or is now. May be called again, and by several hosts. Raises KeyWrongLastSequenceError
    where another one was faster, or the record was old."""
    bucket = await open_bucket(client, name)
    found, revision = await written(bucket, Founding(token_hex(8), shards_if_new, made=False))
    if found.made:
        return found
    streams = [stream_name(name, shard) for shard in range(found.shards)]
    used = [] if found.filled_from else await of_each(streams, lambda stream: is_used(client, stream))
    revision = await replace(bucket, found, revision)  # Then it was true until now.
    if found.filled_from:
        raise is_being_filled(name, found)
    if any(used):
        raise has_lost_its_record(name, streams[used.index(True)])
    await of_each(streams, lambda stream: ShardStream.find(client, stream, create=True, replicas=REPLICAS))
    return await finish(bucket, found, revision)


def has_lost_its_record(name: str, stream: str) -> OperatorError:
    problem = f"its streams are there ({stream}), and the record of its founding is not, in the bucket {bucket_name(name)}"
    return OperatorError("found the cluster", name, problem, "put the bucket back, or give the cluster another name")


async def open_bucket(client: Client, name: str) -> KeyValue:
    """It is made where there is none."""
    config = KeyValueConfig(bucket_name(name), history=1, storage=StorageType.FILE, replicas=REPLICAS)
    return await JetStreamContext(client, timeout=ANSWER_S).create_key_value(config)


async def written(bucket: KeyValue, new: Founding) -> tuple[Founding, int]:
    """By this host or another, and its revision. That of another may be old."""
    try:
        return new, await bucket.create(_KEY, msgspec.json.encode(new))
    except KeyWrongLastSequenceError:
        return await read_founding(bucket)


async def read_founding(bucket: KeyValue) -> tuple[Founding, int]:
    """May be old. Raises KeyNotFoundError."""
    entry = await bucket.get(_KEY)
    return msgspec.json.decode(entry.value or b"", type=Founding), entry.revision or 0


async def replace(bucket: KeyValue, founding: Founding, revision: int) -> int:
    """Its new revision. Raises KeyWrongLastSequenceError where the newest is no longer that revision."""
    return await bucket.update(_KEY, msgspec.json.encode(founding), last=revision)


async def finish(bucket: KeyValue, found: Founding, revision: int) -> Founding:
    """The streams are there. Who founds it at the same time may have written the record meanwhile, with the same in it."""
    made = msgspec.structs.replace(found, made=True)
    for _ in range(_FINISH_TRIES):
        try:
            await replace(bucket, made, revision)
        except KeyWrongLastSequenceError:
            await _pause()
            newest, revision = await read_founding(bucket)
            if newest.made:
                return newest
            if newest != found:
                break  # The bucket was made anew.
        else:
            return made
    raise KeyWrongLastSequenceError


async def of_each(those: Iterable[_Thing], ask: Callable[[_Thing], Awaitable[_Answer]]) -> list[_Answer]:
    """A few at a time."""
    room = asyncio.Semaphore(_STREAMS_AT_ONCE)

    async def one(each: _Thing) -> _Answer:
        async with room:
            return await ask(each)

    return await asyncio.gather(*map(one, those))
