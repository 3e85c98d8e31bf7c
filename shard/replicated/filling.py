"""A cluster that begins with the objects of a data directory: nobody may be one of its hosts before all of them are in it.

Guarantee: while the record of its founding says so, every host that would join it is refused; streams are made anew only while it
does, and only for the directory that it names. Whoever was killed in between goes on by the same `begin`.
"""

from __future__ import annotations

from collections.abc import Sequence
from secrets import token_hex

import msgspec
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.errors import KeyNotFoundError, NotFoundError
from nats.js.kv import KeyValue

from tidegate.runtime.ending import run
from tidegate.runtime.errors import OperatorError
from tidegate.shard.replicated.founding import (
    REPLICAS,
    Founding,
    bucket_name,
    finish,
    has_lost_its_record,
    is_being_filled,
    of_each,
    open_bucket,
    patiently,
    read_founding,
    replace,
    written,
)
from tidegate.shard.replicated.servers import ANSWER_S, ask_patiently
from tidegate.shard.replicated.stream import ShardStream, is_used
from tidegate.shard.replicated.worker_log import stream_name

NO_STREAM = 10059
UNDONE = "none any more, it is being taken back"


class Filling:
    """Each method blocks, may be called again, and raises OperatorError."""

    def __init__(self, servers: Sequence[str], name: str, shards: int, source: str) -> None:
        """`source`: the directory, which is locked, and its machine, in words: by them a migration is known that was killed."""
        self._servers = servers
        self._name = name
        self._shards = shards
        self._source = source

    def begin(self) -> None:
        """The cluster is to be filled by this one, and there are streams."""
        run(patiently(self._servers, self._name, self._begin, looks=True))

    def has_something(self, shard: int) -> bool:
        """In its stream, of a run before."""
        return run(patiently(self._servers, self._name, lambda client: is_used(client, stream_name(self._name, shard))))

    def make_anew(self, shard: int) -> None:
        """Its stream: what a run before has put into it is gone."""

        async def step(client: Client) -> None:
            await self._mine(await open_bucket(client, self._name))
            await _remove(client, stream_name(self._name, shard))
            await self._make(client, shard)

        run(patiently(self._servers, self._name, step))

    def end(self) -> None:
        """All of it is there: hosts may come."""

        async def step(client: Client) -> None:
            bucket = await open_bucket(client, self._name)
            await finish(bucket, *await self._mine(bucket))

        run(patiently(self._servers, self._name, step))

    async def _begin(self, client: Client) -> None:
        bucket = await open_bucket(client, self._name)
        streams = [stream_name(self._name, shard) for shard in range(self._shards)]
        try:
            found, revision = await read_founding(bucket)
        except KeyNotFoundError:
            used = await of_each(streams, lambda stream: is_used(client, stream))
            if any(used):
                raise has_lost_its_record(self._name, streams[used.index(True)]) from None
            new = Founding(token_hex(8), self._shards, made=False, filled_from=self._source)
            found, revision = await written(bucket, new)
        await self._check(bucket, found, revision)
        if found.shards != self._shards:  # It was resharded meanwhile.
            await of_each(range(found.shards), lambda shard: _remove(client, stream_name(self._name, shard)))
            found, revision = await read_founding(bucket)
            await replace(bucket, msgspec.structs.replace(found, shards=self._shards), revision)
        await of_each(range(self._shards), lambda shard: self._make(client, shard))

    async def _make(self, client: Client, shard: int) -> None:
        await ShardStream.find(client, stream_name(self._name, shard), create=True, replicas=REPLICAS)

    async def _mine(self, bucket: KeyValue) -> tuple[Founding, int]:
        """The record, as long as it names this directory, and its revision."""
        found, revision = await read_founding(bucket)
        return found, await self._check(bucket, found, revision)

    async def _check(self, bucket: KeyValue, found: Founding, revision: int) -> int:
        if found.made:
            what = f"it is there already, with {found.shards} shards"
            raise OperatorError("put objects into the cluster", self._name, what, "give the cluster another name")
        revision = await replace(bucket, found, revision)  # Then it was true until now.
        if not found.filled_from:
            hint = "wait a moment: what a service founds is that service's; or give the cluster another name"
            raise OperatorError("put objects into the cluster", self._name, "a service is just founding it", hint)
        if found.filled_from != self._source:
            raise is_being_filled(self._name, found)
        return revision


def undo(servers: Sequence[str], name: str) -> bool:
    """Takes back what a migration has left that did not end: streams and record. Whether there was anything. Blocks. Raises
    OperatorError, also for a cluster that hosts may have joined."""

    async def step(client: Client) -> bool:
        try:
            bucket = await JetStreamContext(client, timeout=ANSWER_S).key_value(bucket_name(name))
            found, revision = await read_founding(bucket)
        except NotFoundError:
            return False
        if found.made or not found.filled_from:
            hint = "what is in it is its hosts' affair; nothing was removed"
            raise OperatorError("take back the migration into", name, "none was left unfinished there", hint)
        await replace(bucket, msgspec.structs.replace(found, filled_from=UNDONE), revision)  # Who is at it still cannot end it.
        await of_each(range(found.shards), lambda shard: _remove(client, stream_name(name, shard)))
        await _remove(client, f"KV_{bucket_name(name)}")
        return True

    return run(patiently(servers, name, step))


async def _remove(client: Client, stream: str) -> None:
    await ask_patiently(client, f"STREAM.DELETE.{stream}", {}, unless={NO_STREAM})
