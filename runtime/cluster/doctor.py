"""Asks the servers of a cluster, its streams and its hosts how they are; what follows from it is in `diagnosis`.

Guarantee: nothing is changed, but for a stream of its own in which the fence is tried, and which is removed. Blocks, no longer
than servers are waited for that do not answer; that they do not is among what is found.
"""

from __future__ import annotations

import asyncio
import time
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from urllib.parse import urlsplit

import msgspec
from nats.aio.client import Client

from tidegate.runtime.addresses import without_credentials
from tidegate.runtime.cluster.bucket import PlacementRecord
from tidegate.runtime.cluster.diagnosis import (
    AccountSeen,
    Findings,
    ServerInfo,
    ServerSeen,
    StreamTold,
    Symptom,
    Varz,
    of_account,
    of_clocks,
    of_servers,
    of_stream,
)
from tidegate.runtime.cluster.membership import listen
from tidegate.runtime.cluster.operating import LISTEN_S, asked
from tidegate.runtime.cluster.picture import picture
from tidegate.runtime.cluster.records import Beat
from tidegate.runtime.ending import run
from tidegate.runtime.errors import OperatorError
from tidegate.runtime.lookup import aside
from tidegate.shard.replicated.founding import REPLICAS, bucket_name, find_founded, of_each
from tidegate.shard.replicated.servers import ANSWER_S, check_fence, close, connect
from tidegate.shard.replicated.snapshot_stream import SnapshotStream
from tidegate.shard.replicated.stream import ShardStream
from tidegate.shard.replicated.worker_log import stream_name

MONITOR_PORT = 8222
"""The usual one."""
_VARZ_BYTES_MAX = 4 << 20
_VARZ_S = 3 * ANSWER_S
"""`ANSWER_S` is for each step of it, and for looking up the name there is no bound but this."""
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def examine(servers: Sequence[str], cluster: str, monitors: Sequence[str] = ()) -> Findings:
    """Of each server, of what the engine heeds, of each stream, and of the hosts. `monitors`: where the monitoring ports of the
    servers are, `http://a:8222`; unless given, the usual port of each server is tried."""
    findings, reached = run(_of_servers(servers, monitors))
    if reached:
        try:
            findings.add(asked(servers, cluster, lambda client: _of_cluster(client, cluster)))
        except OperatorError as error:  # What is known of the servers may say why.
            findings.problems.append(Symptom(error.problem, f"{error.operation} {error.place}", error.hint))
    return findings


# Servers


async def _of_servers(servers: Sequence[str], monitors: Sequence[str]) -> tuple[Findings, int]:
    """And how many were reached."""
    told = await _varz(monitors or list(dict.fromkeys(f"http://{_host(server)}:{MONITOR_PORT}" for server in servers)))
    seen = await asyncio.gather(*(_of_server(server, told, named=bool(monitors)) for server in servers))
    reached = [each for each in seen if isinstance(each, ServerSeen)]
    findings = of_servers(reached)
    findings.problems[:0] = [each for each in seen if isinstance(each, Symptom)]
    return findings, len(reached)


def _host(server: str) -> str:
    host = urlsplit(server).hostname or ""
    return f"[{host}]" if ":" in host else host


async def _of_server(server: str, told: dict[str, Varz | str], *, named: bool) -> ServerSeen | Symptom:
    where = f"server {without_credentials([server])[0]}"
    try:
        await close(await connect([server]))  # It lets the hosts in.
        info = await _info(server)
    except OperatorError as error:
        return Symptom(error.problem, where, error.hint)
    except (OSError, TimeoutError, msgspec.MsgspecError) as error:
        return Symptom(f"it does not say who it is: {error!r}", where, "see that nats-server listens there, and give this again")
    varz = next((each for each in told.values() if isinstance(each, Varz) and each.server_id == info.server_id), None)
    tried = list(told) if named else [f"http://{_host(server)}:{MONITOR_PORT}"]
    why_not = "; ".join(f"{url} {each if isinstance(each := told[url], str) else 'is another server'}" for url in tried)
    return ServerSeen(where, info, varz, why_not)


async def _info(server: str) -> ServerInfo:
    """The first line of a connection says it; the client keeps it to itself."""
    place = urlsplit(server)
    async with asyncio.timeout(ANSWER_S):
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        try:
            return msgspec.json.decode((await reader.readline()).removeprefix(b"INFO"), type=ServerInfo)
        finally:
            writer.close()


async def _varz(urls: Sequence[str]) -> dict[str, Varz | str]:
    """By URL; as text why there is none."""
    return dict(zip(urls, await asyncio.gather(*map(_fetched, urls)), strict=True))


async def _fetched(url: str) -> Varz | str:
    """The library heeds no time while it looks up the name."""
    try:
        async with asyncio.timeout(_VARZ_S):
            return await asyncio.wrap_future(aside(_fetch, url))
    except TimeoutError:
        return f"has not answered within {_VARZ_S:g} s"
    except OSError as error:  # There is no thread for it.
        return f"was not asked ({error})"


def _fetch(url: str) -> Varz | str:
    try:
        with _DIRECT.open(f"{url.rstrip('/')}/varz", timeout=ANSWER_S) as answer:
            return msgspec.json.decode(answer.read(_VARZ_BYTES_MAX), type=Varz)
    except msgspec.MsgspecError:
        return "is no monitoring port of nats-server"
    except (OSError, ValueError, HTTPException) as error:
        return f"does not answer ({getattr(error, 'reason', error)})"


# The cluster


async def _of_cluster(client: Client, cluster: str) -> Findings:
    founding = await find_founded(client, cluster)
    found = Findings()
    try:
        await check_fence(client, REPLICAS)
        found.fine.append("the fence is heeded")
    except OperatorError as error:
        found.problems.append(_symptom(error, "engine"))
    if not founding.made:
        found.problems.append(Symptom("it is still being founded", f"cluster {cluster}", "start a service in it"))
    names = [stream_name(cluster, shard) for shard in range(founding.shards if founding.made else 0)]
    streams = await of_each(names, lambda name: _of_stream(client, name))
    streams.append(await _of_replicas(client, f"KV_{bucket_name(cluster)}"))
    streams.append(await _of_snapshots(client, cluster))
    found.problems += [symptom for symptoms in streams for symptom in symptoms]
    if not any(streams):
        found.fine.append(f"{len(names)} streams of shards have three replicas each, and lose nothing")
    found.problems += of_account(await _account(client))
    found.add(await _of_hosts(client, cluster, founding.shards))
    return found


def _symptom(error: OperatorError, what: str) -> Symptom:
    return Symptom(error.problem, f"{what} {error.place}", error.hint)


async def _of_stream(client: Client, name: str) -> list[Symptom]:
    try:
        await ShardStream.find(client, name, replicas=REPLICAS)
    except OperatorError as error:
        return [_symptom(error, "stream")]
    return await _of_replicas(client, name)


async def _of_snapshots(client: Client, cluster: str) -> list[Symptom]:
    """The logs of shards are purged behind what is in there."""
    snapshots = SnapshotStream(client, cluster)
    try:
        return await _of_replicas(client, snapshots.name) if await snapshots.is_there() else []
    except OperatorError as error:
        return [_symptom(error, "stream")]


async def _of_replicas(client: Client, name: str) -> list[Symptom]:
    answer = (await client.request(f"$JS.API.STREAM.INFO.{name}", b"", timeout=ANSWER_S)).data
    try:
        return of_stream(name, msgspec.json.decode(answer, type=StreamTold), REPLICAS)
    except msgspec.MsgspecError:
        return [Symptom("the servers do not say how it is", f"stream {name}", "see that enough servers of the cluster run")]


async def _account(client: Client) -> AccountSeen:
    return msgspec.json.decode((await client.request("$JS.API.INFO", b"", timeout=ANSWER_S)).data, type=AccountSeen)


async def _of_hosts(client: Client, cluster: str, shards: int) -> Findings:
    ahead_s: dict[str, list[float]] = {}

    def heard(beat: Beat) -> None:
        if beat.wall_ms:
            ahead_s.setdefault(beat.name, []).append(beat.wall_ms / 1_000 - time.time())

    live = await listen(client, cluster, LISTEN_S, heard)
    placement, _ = await PlacementRecord(client, cluster, shards).read()
    found = of_clocks({name: max(all_of_it) for name, all_of_it in ahead_s.items()})  # Of what came soonest.
    if not live:
        found.problems.append(Symptom("no host is there: nothing is served", f"cluster {cluster}", "start one"))
    found.problems += [Symptom(each.what, each.where, each.next) for each in picture(placement, live).problems]
    return found
