"""One host as a member of its cluster: says its beats, hears those of the others, reads the placement, and replaces it where that
is its turn. What follows from what is in `machine.py`.

Guarantee: whoever runs this is never held up by the servers. While they do not answer nothing changes, and `problem` says so.

Beats go over plain NATS: they are kept by nobody, need no leader and no disk, and are late only where the host or its connection
is. The placement is kept in the bucket of the cluster.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from tidegate.runtime.cluster.bucket import PlacementRecord
from tidegate.runtime.cluster.machine import BEAT_S, MemberMachine
from tidegate.runtime.cluster.records import Beat, decode_beat, encode
from tidegate.runtime.errors import OperatorError
from tidegate.shard.replicated.servers import ANSWER_S, check_open, connect

log = logging.getLogger("tidegate")

READ_S = 1.0
"""The placement is read this often, and at once where somebody knows a newer one."""
SILENT_BEATS = 6
"""So many own beats that did not come back are a problem."""
LISTEN_S = 3 * BEAT_S
"""Before a host takes part it listens for another one under its id."""
_FAULTS = (nats.errors.Error, msgspec.MsgspecError, OSError, ValueError)
"""Of what servers answer, or do not."""


def beats_of(cluster: str) -> str:
    """The subject under which the hosts of a cluster say their beats."""
    return f"tidegate.beats.{cluster}"


class Membership:
    def __init__(self, servers: Sequence[str], cluster: str, me: Beat, shards: int, changed: Callable[[], object]) -> None:
        """`changed` is called, on the loop that `run` runs on, when `machine` may say something else than before."""
        self.machine = MemberMachine(me, shards)
        self.problem = ""
        """Why it does not take part now, in words."""
        self._servers = servers
        self._cluster = cluster
        self._shards = shards
        self._changed = changed
        self._client: Client | None = None
        self._look = asyncio.Event()
        self._complaints: set[str] = set()
        self._told: Beat | None = None

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            try:
                self._client = await connect(self._servers)
                await self._take_part(self._client)
            except OperatorError as error:
                self.problem = f"{error.operation} {error.place}: {error.problem}"
            except _FAULTS as error:
                self.problem = repr(error)
            finally:
                await self._disconnect()
            await asyncio.sleep(BEAT_S)

    async def leave(self) -> None:
        """Says goodbye, so that the others need not wait: nothing is served here any more."""
        if self._client is not None and self._client.is_connected:
            with contextlib.suppress(*_FAULTS, TimeoutError):
                async with asyncio.timeout(ANSWER_S):
                    await self._say(self._client, self.machine.last_word())
                    await self._client.flush(timeout=1)

    def owns(self, shards: frozenset[int]) -> None:
        """Of the workers of this host: see `MemberMachine.owns`."""
        if self.machine.owns(shards):
            self._news()

    async def _disconnect(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(*_FAULTS, TimeoutError):
                async with asyncio.timeout(ANSWER_S):
                    await client.close()

    async def _take_part(self, client: Client) -> None:
        """Returns, or raises, when the connection is of no use any more."""
        await client.subscribe(beats_of(self._cluster), cb=self._heard)
        keeping = asyncio.get_running_loop().create_task(self._keep_looking(client))
        try:
            while True:
                check_open(client, self._cluster)
                if client.is_connected:
                    with contextlib.suppress(*_FAULTS):
                        await self._say(client, self.machine.beat())
                silent = self.machine.me.number - self.machine.newest_echo
                if silent >= SILENT_BEATS:
                    self.problem = f"nothing that this host says has come back for {silent * BEAT_S:g} s"
                if keeping.done():
                    keeping.result()
                await asyncio.sleep(BEAT_S)
        finally:
            keeping.cancel()
            with contextlib.suppress(asyncio.CancelledError, *_FAULTS):
                await keeping

    async def _say(self, client: Client, beat: Beat) -> None:
        self._told = beat
        await client.publish(beats_of(self._cluster), encode(beat))

    async def _heard(self, message: Msg) -> None:
        echo = self.machine.newest_echo
        try:
            is_new = self.machine.heard(decode_beat(message.data))
        except (msgspec.MsgspecError, ValueError) as error:
            self._complain(f"cluster {self._cluster}: something that cannot be a beat was said: {error}")
            return
        if self.machine.newest_echo != echo:
            self.problem = ""
            is_new = True
        if is_new:
            self._news()

    def _news(self) -> None:
        """Something is known that was not. What others have to hear of it is said at once."""
        self._changed()
        self._look.set()

    async def _keep_looking(self, client: Client) -> None:
        """Reads the placement, and replaces it where that is due."""
        record = PlacementRecord(client, self._cluster, self._shards)
        while True:
            self._look.clear()
            try:
                await self._tell_others(client)
                await self._look_once(record)
            except _FAULTS as error:
                check_open(client, self._cluster)
                self._complain(f"cluster {self._cluster}: the placement could not be read or written: {error!r}")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(READ_S):
                    await self._look.wait()

    async def _tell_others(self, client: Client) -> None:
        if self._told is not None and self.machine.has_news_since(self._told):
            await self._say(client, self.machine.word())

    async def _look_once(self, record: PlacementRecord) -> None:
        loop = asyncio.get_running_loop()
        if self.machine.is_behind or loop.time() >= self._read_at:
            self._read_at = loop.time() + READ_S
            await self._read(record)
        if (following := self.machine.proposal()) is not None:
            if await record.replace(following, self.machine.revision):
                log.info("cluster %s: this host has replaced the placement", self._cluster)
            await self._read(record)

    _read_at = 0.0

    async def _read(self, record: PlacementRecord) -> None:
        if self.machine.read(*await record.read()):
            self._complaints.clear()
            self._news()

    def _complain(self, text: str) -> None:
        """Once, until the placement changes."""
        if text not in self._complaints and len(self._complaints) < 100:
            self._complaints.add(text)
            log.warning("%s", text)


async def is_taken(client: Client, cluster: str, id: str) -> Beat | None:
    """Another process that says it is the host of that id, if there is any now."""
    return (await listen(client, cluster, LISTEN_S)).get(id)


async def listen(client: Client, cluster: str, for_s: float) -> dict[str, Beat]:
    """The newest of what each host of the cluster says within that time, by id. Those that say goodbye are not among them."""
    found: dict[str, Beat] = {}

    async def heard(message: Msg) -> None:
        with contextlib.suppress(msgspec.MsgspecError):
            beat = decode_beat(message.data)
            found[beat.id] = beat

    subscription = await client.subscribe(beats_of(cluster), cb=heard)
    await asyncio.sleep(for_s)
    await subscription.unsubscribe()
    return {id: beat for id, beat in sorted(found.items()) if not beat.gone}
