"""What operators ask of a cluster, and want of it: over a connection of their own to its servers, without any of its hosts.

Each blocks, and raises OperatorError.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

import msgspec
import nats.errors
from nats.aio.client import Client

from tidegate.runtime.addresses import without_credentials
from tidegate.runtime.cluster.bucket import PlacementRecord
from tidegate.runtime.cluster.machine import BEAT_S
from tidegate.runtime.cluster.membership import listen
from tidegate.runtime.cluster.picture import Picture, picture
from tidegate.runtime.cluster.records import Beat, ClusterPlacement
from tidegate.runtime.errors import OperatorError
from tidegate.shard.replicated.founding import REPLICAS, find_founded
from tidegate.shard.replicated.servers import check_fence, connect
from tidegate.shard.replicated.stream import ShardStream
from tidegate.shard.replicated.worker_log import stream_name

LISTEN_S = 2.5 * BEAT_S
"""Each host that is there says something in that time."""
_WRITE_TRIES = 20
_HINT = "see that JetStream is enabled and that enough servers of the cluster run"

T = TypeVar("T")


def look(servers: Sequence[str], cluster: str) -> Picture:
    """As it is now."""

    async def ask(client: Client) -> Picture:
        record = await _record(client, cluster)
        live = await listen(client, cluster, LISTEN_S)
        placement, _ = await record.read()
        return picture(placement, live)

    return _asked(servers, cluster, ask)


def hosts_there(servers: Sequence[str], cluster: str) -> tuple[int, list[str]]:
    """How many shards the cluster has, and the names of its hosts that say something within a second or so."""

    async def ask(client: Client) -> tuple[int, list[str]]:
        founding = await find_founded(client, cluster)
        if not founding.made:
            hint = "start a service in it"
            raise OperatorError("look for the cluster", cluster, "it is still being founded", hint, passes=True)
        return founding.shards, [beat.name for beat in (await listen(client, cluster, LISTEN_S)).values()]

    return _asked(servers, cluster, ask)


def change(
    servers: Sequence[str], cluster: str, edit: Callable[[ClusterPlacement, Mapping[str, Beat]], ClusterPlacement]
) -> ClusterPlacement:
    """Replaces the placement by what `edit` makes of it and of who is there; again, where a host was faster."""

    async def ask(client: Client) -> ClusterPlacement:
        record = await _record(client, cluster)
        live = await listen(client, cluster, LISTEN_S)
        for _ in range(_WRITE_TRIES):
            placement, revision = await record.read()
            edited = edit(placement, live)
            if edited == placement or await record.replace(edited, revision):
                return edited
        raise OperatorError("change the placement of", cluster, "its hosts change it all the time", "try again", passes=True)

    return _asked(servers, cluster, ask)


class Symptom(msgspec.Struct, frozen=True):
    """Something that is not as it has to be."""

    what: str
    where: str
    next: str


def _found(error: OperatorError, what: str) -> Symptom:
    return Symptom(error.problem, f"{what} {error.place}", error.hint)


def examine(servers: Sequence[str], cluster: str) -> list[Symptom]:
    """What is not as it has to be: of each server, of what the engine heeds, and of each stream; then of the hosts."""
    found = [finding for server in servers if (finding := _of_server(server)) is not None]

    async def ask(client: Client) -> list[Symptom]:
        findings: list[Symptom] = []
        founding = await find_founded(client, cluster)
        try:
            await check_fence(client, REPLICAS)
        except OperatorError as error:
            findings.append(_found(error, "engine"))
        if not founding.made:
            findings.append(Symptom("it is still being founded", f"cluster {cluster}", "start a service in it"))
        for shard in range(founding.shards if founding.made else 0):
            try:
                await ShardStream.find(client, stream_name(cluster, shard), replicas=REPLICAS)
            except OperatorError as error:
                findings.append(_found(error, "stream"))
        record = PlacementRecord(client, cluster, founding.shards)
        live = await listen(client, cluster, LISTEN_S)
        placement, _ = await record.read()
        if not live:
            findings.append(Symptom("no host is there: nothing is served", f"cluster {cluster}", "start one"))
        return [*findings, *(Symptom(each.what, each.where, each.next) for each in picture(placement, live).problems)]

    if len(found) == len(servers):
        return found
    return [*found, *_asked(servers, cluster, ask)]


def _of_server(server: str) -> Symptom | None:
    async def ask(client: Client) -> None:
        """It is there, and new enough."""

    try:
        _asked([server], "", ask)
    except OperatorError as error:
        return Symptom(error.problem, f"server {without_credentials([server])[0]}", error.hint)
    return None


async def _record(client: Client, cluster: str) -> PlacementRecord:
    return PlacementRecord(client, cluster, (await find_founded(client, cluster)).shards)


def _asked(servers: Sequence[str], cluster: str, ask: Callable[[Client], Awaitable[T]]) -> T:
    async def run() -> T:
        client = await connect(servers)
        try:
            return await ask(client)
        except (nats.errors.Error, OSError) as error:
            raise OperatorError("ask the cluster", cluster, repr(error), _HINT, passes=True) from error
        except msgspec.MsgspecError as error:
            hint = "see that this version of Tidegate is that of its hosts"
            raise OperatorError("read the placement of", cluster, str(error), hint) from error
        finally:
            await client.close()

    return asyncio.run(run())
