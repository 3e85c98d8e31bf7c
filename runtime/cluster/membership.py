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
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from tidegate.runtime.addresses import check_door
from tidegate.runtime.cluster.bucket import PlacementRecord, hosts_secret
from tidegate.runtime.cluster.machine import BEAT_S, MemberMachine
from tidegate.runtime.cluster.picture import HOST_STATES, picture
from tidegate.runtime.cluster.records import Beat, decode_beat, encode
from tidegate.runtime.ending import end, within
from tidegate.runtime.errors import OperatorError, one_line
from tidegate.runtime.wire.counts import Labels, Value
from tidegate.runtime.wire.supervisor_messages import Problem
from tidegate.shard.replicated.founding import founded, patiently
from tidegate.shard.replicated.servers import ANSWER_S, check_open, close, connect, next_step_after, said_by

log = logging.getLogger("tidegate")

READ_S = 1.0
"""The placement is read this often, and at once where somebody knows a newer one."""
FAILING_S = 10.0
"""For so long it may fail before that is told."""
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
    def __init__(
        self,
        servers: Sequence[str],
        cluster: str,
        me: Beat,
        shards: int,
        changed: Callable[[], object],
        check: Callable[[str], object],
    ) -> None:
        """`changed` is called, on the loop that `run` runs on, when `machine` may say something else than before. `check` raises
        OperatorError where what this host has is not of the cluster of that id."""
        self.machine = MemberMachine(me, shards)
        self.problem = ""
        """Why it does not take part now, in words."""
        self._servers = servers
        self._cluster = cluster
        self._shards = shards
        self._changed = changed
        self._check = check
        self._client: Client | None = None
        self._look = asyncio.Event()
        self._complaints: set[str] = set()
        self._told: Beat | None = None
        self._read_at = 0.0
        self._was_read_at = time.monotonic()
        self._failing_since: float | None = None
        """Since when the placement can be read or written no longer."""

    async def prepare(self) -> str:
        """The secret of the hosts. Raises OperatorError, also where another process says that it is this host."""

        async def step(client: Client) -> str:
            founding = await founded(client, self._cluster, self._shards)
            self._check(founding.id)
            if founding.shards != self._shards:
                problem = f"it has {founding.shards} shards, and this data directory is of one with {self._shards}"
                raise OperatorError(
                    "join the cluster", self._cluster, problem, "empty the data directory: the servers have it all"
                )
            return await hosts_secret(client, self._cluster)

        try:
            secret = await patiently(self._servers, self._cluster, step, looks=True)
            there = await self._listen_first()
        except _FAULTS as error:
            raise OperatorError("join the cluster", self._cluster, said_by(error), next_step_after(error), passes=True) from error
        me = self.machine.me
        if (twin := there.get(me.id)) is not None:
            hint = "stop that one; or, if this data directory is a copy of its, start with an empty one"
            problem = f"a host of this id ({me.id}, {twin.name}) is there already"
            raise OperatorError("join the cluster", self._cluster, problem, hint)
        return secret

    async def _listen_first(self) -> dict[str, Beat]:
        client = await connect(self._servers)
        try:
            return await listen(client, self._cluster, LISTEN_S)
        finally:
            await close(client)

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            try:
                self._client = await connect(self._servers)
                await self._take_part(self._client)
            except OperatorError as error:
                self.problem = f"{error.operation} {error.place}: {error.problem}"
            except _FAULTS as error:
                self.problem = said_by(error)
            except (
                Exception
            ) as error:  # A fault of the client's, or of ours, must not take this host out of the cluster for good.
                self.problem = repr(error)
                log.exception("cluster %s: this host takes part again in a moment", self._cluster)
            finally:
                await self._disconnect()
            await asyncio.sleep(BEAT_S)

    async def leave(self) -> None:
        """Says goodbye, so that the others need not wait: nothing is served here any more."""
        if self._client is not None and self._client.is_connected:
            with contextlib.suppress(*_FAULTS, TimeoutError):
                await within(ANSWER_S, self._say_goodbye(self._client))

    async def _say_goodbye(self, client: Client) -> None:
        await self._say(client, self.machine.last_word())
        await client.flush(timeout=1)

    def is_now(self, shards: frozenset[int], ready: frozenset[int], reads: frozenset[int], door: str, version: str) -> None:
        """Of this host: what its workers have, what they have read ahead and what they have still to read, where its door is, and
        of the app which version they run."""
        described = self.machine.describes(door, version)
        has_read = self.machine.has_read(ready, reads)
        if self.machine.owns(shards) or has_read or described:
            self._news()

    def load_is(self, calls_per_s: Mapping[int, float]) -> None:
        """It is said with the next beat."""
        self.machine.load_is(calls_per_s)

    def retire(self, within_s: float) -> None:
        self.machine.retires(within_s)
        self._news()

    def hands_over(self) -> bool:
        return not self.problem and self.machine.hands_over()

    @property
    def target(self) -> frozenset[int]:
        return self.machine.target

    @property
    def ahead(self) -> frozenset[int]:
        return self.machine.ahead

    def homes(self) -> dict[int, str]:
        return self.machine.homes()

    def elsewhere(self) -> dict[int, str]:
        live = self.machine.live()
        return {shard: f"{live[id].name} ({live[id].listen})" for shard, id in self.machine.homes().items()}

    def doors(self) -> dict[str, str]:
        return self.machine.doors()

    def problems(self) -> tuple[Problem, ...]:
        """Of the cluster, as this host sees it."""
        found: list[Problem] = []
        where = f"cluster {self._cluster}, as this host"
        if self.problem:
            what = f"this host hears nothing of the others: {self.problem}; who serves which shard stays as it is"
            found.append(Problem(one_line(what), where, "see that the NATS servers run and can be reached; it goes on by itself"))
        if self.machine.twin is not None:
            what = f"another process says that it is this host ({self.machine.me.id})"
            hint = "its data directory is a copy: stop one of them, and start it with an empty directory"
            found.append(Problem(what, where, hint))
        if self.machine.placement is not None and not self.problem:
            found += picture(self.machine.placement, self.machine.live()).problems
        return tuple(found)

    def shown(self) -> dict[str, Any]:
        """For the status of the service."""
        placement = self.machine.placement
        hosts = () if placement is None else picture(placement, self.machine.live()).hosts
        return {
            "name": self._cluster,
            "host": self.machine.me.name,
            "id": self.machine.me.id,
            "hosts": msgspec.to_builtins(hosts),
        }

    def measured(self) -> dict[str, dict[Labels, Value]]:
        """For the metrics of the service."""
        machine, placement = self.machine, self.machine.placement
        sums: dict[str, dict[Labels, Value]] = {
            "cluster_hosts": {(state,): 0 for state in HOST_STATES},
            "cluster_apart": {(): int(bool(self.problem))},
            "cluster_placement_revision": {(): max(0, machine.revision)},
            "cluster_placement_age_seconds": {(): time.monotonic() - self._was_read_at},
            "cluster_host_weight": {(): machine.me.weight},
            "cluster_shards_owned": {(): len(machine.me.serves)},
            "cluster_shards_wanted": {(): len(machine.target)},
        }
        if placement is not None:
            seen = picture(placement, machine.live())
            for state in HOST_STATES:
                sums["cluster_hosts"][state,] = sum(1 for host in seen.hosts if host.state == state)
            sums["cluster_shards_moving"] = {(): sum(1 for shard in seen.shards if shard.serves != shard.should)}
            sums["cluster_shards_unserved"] = {(): sum(1 for shard in seen.shards if not shard.serves)}
        return sums

    async def _disconnect(self) -> None:
        client, self._client = self._client, None
        if client is not None:  # Whatever is wrong with it: the next one is another.
            await close(client)

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
            await end({keeping})

    async def _say(self, client: Client, beat: Beat) -> None:
        self._told = beat
        said = msgspec.structs.replace(beat, wall_ms=time.time_ns() // 1_000_000)
        await client.publish(beats_of(self._cluster), encode(said))

    async def _heard(self, message: Msg) -> None:
        echo = self.machine.newest_echo
        try:
            beat = decode_beat(message.data)
            if beat.door and (problem := check_door(beat.door.partition("#")[0])) is not None:
                raise ValueError(f"the door of {beat.name} {problem}")
            is_new = self.machine.heard(beat)
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
                self._could_not(error)
            else:
                self._failing_since = None
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
        if (older := self.machine.put_back) is not None and self.machine.placement is not None:
            if await record.replace(self.machine.placement, older):  # Then it was no old read: it is the newest version.
                self.machine.was_put_back(older)
                log.warning("cluster %s: its bucket was put back, or made anew; the placement is written again", self._cluster)
            await self._read(record)
        if (following := self.machine.proposal()) is not None:
            if await record.replace(following, self.machine.revision):
                log.info("cluster %s: this host has replaced the placement", self._cluster)
            await self._read(record)

    def _could_not(self, error: Exception) -> None:
        """A leader that is replaced takes 4 s."""
        now = asyncio.get_running_loop().time()
        if self._failing_since is None:
            self._failing_since = now
        elif now - self._failing_since > FAILING_S:
            self._complain(f"cluster {self._cluster}: the placement cannot be read or written: {said_by(error)}")

    async def _read(self, record: PlacementRecord) -> None:
        found = await record.read()
        self._was_read_at = time.monotonic()
        if self.machine.read(*found):
            self._complaints.clear()
            self._news()

    def _complain(self, text: str) -> None:
        """Once, until the placement changes."""
        if text not in self._complaints and len(self._complaints) < 100:
            self._complaints.add(text)
            log.warning("%s", text)


async def listen(
    client: Client, cluster: str, for_s: float, heard: Callable[[Beat], object] = lambda beat: None
) -> dict[str, Beat]:
    """The newest of what each host of the cluster says within that time, by id. Those that say goodbye are not among them.
    `heard` is told of each beat when it comes."""
    found: dict[str, Beat] = {}

    async def take(message: Msg) -> None:
        with contextlib.suppress(msgspec.MsgspecError):
            beat = decode_beat(message.data)
            found[beat.id] = beat
            heard(beat)

    subscription = await client.subscribe(beats_of(cluster), cb=take)
    await asyncio.sleep(for_s)
    await subscription.unsubscribe()
    return {id: beat for id, beat in sorted(found.items()) if not beat.gone}
