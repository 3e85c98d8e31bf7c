"""The record in which hosts agree, as a real nats-server keeps it, and operators delete it or its bucket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from itertools import count
from typing import Any

import msgspec
import pytest
from nats.aio.client import Client
from nats.js.api import KeyValueConfig
from nats.js.kv import KeyValue

from tests.runtime.cluster.test_machine import SHARDS, beat_of, placed
from tidegate.runtime.cluster import membership
from tidegate.runtime.cluster.bucket import PlacementRecord, hosts_secret
from tidegate.runtime.cluster.nats_servers import NatsServers
from tidegate.runtime.cluster.records import empty_placement
from tidegate.shard.replicated.founding import bucket_name
from tidegate.shard.replicated.servers import connect

_numbers = count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServers]:
    with NatsServers(tmp_path_factory.mktemp("nats"), servers=1) as started:
        yield started


@pytest.fixture
def name() -> str:
    return f"bucket-{next(_numbers)}"


def tried(servers: NatsServers, what: Callable[[Client], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        client = await connect(servers.urls)
        try:
            async with asyncio.timeout(30):
                await what(client)
        finally:
            await client.close()

    asyncio.run(run())


async def made(client: Client, name: str) -> KeyValue:
    return await client.jetstream().create_key_value(KeyValueConfig(bucket_name(name), history=1))


def test_a_placement_is_replaced_only_by_who_has_read_its_newest_version(server: NatsServers, name: str) -> None:
    async def what(client: Client) -> None:
        await made(client, name)
        record = PlacementRecord(client, name, SHARDS)
        assert await record.read() == (empty_placement(SHARDS), 0)
        assert await record.replace(placed("aaaa"), 0)
        placement, revision = await record.read()
        assert placement == placed("aaaa")
        assert not await record.replace(placed("bbbb"), 0)
        assert await record.replace(placed("bbbb"), revision)

    tried(server, what)


@pytest.mark.parametrize("how", ["delete", "purge"])
def test_a_placement_that_was_deleted_is_written_again(server: NatsServers, name: str, how: str) -> None:
    async def what(client: Client) -> None:
        bucket = await made(client, name)
        record = PlacementRecord(client, name, SHARDS)
        assert await record.replace(placed("aaaa"), 0)
        _, before = await record.read()
        await getattr(bucket, how)("placement")
        placement, revision = await record.read()
        assert placement == empty_placement(SHARDS)
        assert revision > before, "hosts see that something is new"
        assert not await record.replace(placed("bbbb"), before)
        assert await record.replace(placed("bbbb"), revision)
        assert (await record.read())[0] == placed("bbbb")

    tried(server, what)


def test_the_secret_is_made_once(server: NatsServers, name: str) -> None:
    async def what(client: Client) -> None:
        bucket = await made(client, name)
        secret = await hosts_secret(client, name)
        assert await hosts_secret(client, name) == secret
        await bucket.delete("hosts-secret")
        assert await hosts_secret(client, name) != secret

    tried(server, what)


def test_a_host_that_runs_writes_the_placement_again_into_a_bucket_that_is_made_anew(
    server: NatsServers, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(membership, "BEAT_S", 0.02)
    monkeypatch.setattr(membership, "READ_S", 0.02)
    heard = asyncio.Event()

    async def until(holds: Callable[[], object]) -> None:
        while not holds():
            heard.clear()
            await heard.wait()

    async def what(client: Client) -> None:
        await made(client, name)
        member = membership.Membership(server.urls, name, beat_of("a", 0), SHARDS, heard.set, lambda id: None)
        running = asyncio.create_task(member.run())
        try:
            await until(lambda: member.target == frozenset(range(SHARDS)))
            record = PlacementRecord(client, name, SHARDS)
            for shard in range(8):
                placement, revision = await record.read()
                assert await record.replace(msgspec.structs.replace(placement, pins={shard % SHARDS: "a"}), revision)
            await until(lambda: member.machine.revision >= 9)
            newest = member.machine.placement
            await client.jetstream().delete_key_value(bucket_name(name))
            await made(client, name)
            await until(lambda: member.machine.revision < 9)
            await until(lambda: member.machine.placement == newest)
            placement, revision = await PlacementRecord(client, name, SHARDS).read()
            assert (placement, revision) == (newest, 1)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    tried(server, what)
