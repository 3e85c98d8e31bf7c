"""What is looked at before a nats-server is trusted, and what its answers become."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.support.nats_cluster import ask
from tidegate.runtime.cluster.nats_servers import NatsServers
from tidegate.runtime.errors import OperatorError
from tidegate.shard.replicated import servers
from tidegate.shard.replicated import stream as module
from tidegate.shard.replicated.owner import (
    Acknowledged,
    FenceRefused,
    MessagesRead,
    PublishUnanswered,
    ReadUnanswered,
    StreamSeen,
)
from tidegate.shard.replicated.servers import check_fence, check_version
from tidegate.shard.replicated.settings import stream_settings
from tidegate.shard.replicated.shard_log import ShardLog
from tidegate.shard.replicated.stream import ShardStream


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServers]:
    with NatsServers(tmp_path_factory.mktemp("nats"), servers=1, max_payload=4_096) as started:
        yield started


def test_the_server_of_debian_is_refused_with_the_reason() -> None:
    with pytest.raises(OperatorError, match=r"it is version 2\.9\.10, whose fences have let two owners in \(install 2\.15\.1"):
        check_version((2, 9, 10), "nats://127.0.0.1:4222")
    check_version((2, 15, 1), "")
    check_version((3, 0, 0), "")


def test_publishes_and_reads_become_events(server: NatsServers) -> None:
    async def use() -> None:
        stream = await ShardStream.open(server.urls, "events", create=True, replicas=1)
        try:
            assert await stream.read(1) == MessagesRead([])
            assert await stream.publish(b"one", 0) == Acknowledged(1)
            assert await stream.publish(b"other", 0) == FenceRefused()
            assert await stream.publish(b"other", 7) == FenceRefused()
            assert await stream.publish(b"two", 1) == Acknowledged(2)
            assert await stream.read(1) == MessagesRead([(1, b"one"), (2, b"two")])
            assert await stream.read(2) == MessagesRead([(2, b"two")])
            assert await stream.read(3) == MessagesRead([])
        finally:
            await stream.close()

    asyncio.run(use())


def test_more_messages_than_one_read_gives_are_read_in_several(server: NatsServers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READ_MESSAGES", 3)

    async def use() -> None:
        stream = await ShardStream.open(server.urls, "many", create=True, replicas=1)
        try:
            for number in range(5):
                await stream.publish(b"%d" % number, number)
            assert await stream.read(1) == MessagesRead([(1, b"0"), (2, b"1"), (3, b"2")])
            assert await stream.read(4) == MessagesRead([(4, b"3"), (5, b"4")])
        finally:
            await stream.close()

    asyncio.run(use())


def test_a_message_that_is_too_large_is_not_sent(server: NatsServers) -> None:
    async def use() -> None:
        stream = await ShardStream.open(server.urls, "large", create=True, replicas=1)
        try:
            with pytest.raises(OperatorError, match="this server takes 4096 with headers"):
                await stream.publish(bytes(4_096), 0)
            assert await stream.publish(b"one", 0) == Acknowledged(1)
        finally:
            await stream.close()

    asyncio.run(use())


def test_how_far_a_stream_goes(server: NatsServers) -> None:
    async def use() -> None:
        stream = await ShardStream.open(server.urls, "far", create=True, replicas=1)
        try:
            assert await stream.look() == StreamSeen(0, 0)
            for number in range(3):
                await stream.publish(b"%d" % number, number)
            assert await stream.look() == StreamSeen(1, 3)
            await stream._client.request("$JS.API.STREAM.PURGE.far", b"")
            assert await stream.look() == StreamSeen(4, 3)
            await stream._client.request("$JS.API.STREAM.DELETE.far", b"")
            assert await stream.look() == ReadUnanswered()
        finally:
            await stream.close()

    asyncio.run(use())


def test_a_stream_that_is_gone_does_not_answer(server: NatsServers) -> None:
    async def use() -> None:
        stream = await ShardStream.open(server.urls, "gone", create=True, replicas=1)
        try:
            await stream._client.request("$JS.API.STREAM.DELETE.gone", b"")
            assert await stream.publish(b"one", 0) == PublishUnanswered()
        finally:
            await stream.close()

    asyncio.run(use())


def test_a_claim_that_comes_no_further_is_given_up_with_the_reason(server: NatsServers) -> None:
    async def claim(name: str, bytes_max: int, *, gone: bool) -> OperatorError:
        stream = await ShardStream.open(server.urls, name, create=True, replicas=1, bytes_max=bytes_max)
        try:
            if gone:
                await stream._client.request(f"$JS.API.STREAM.DELETE.{name}", b"")
            with pytest.raises(OperatorError) as raised:
                await ShardLog(0, stream).claim(lambda effect: None, 0.1)
            return raised.value
        finally:
            await stream.close()

    full = asyncio.run(claim("without-room", 50, gone=False))
    assert "it is full" in full.problem
    assert not full.passes
    silent = asyncio.run(claim("silent", -1, gone=True))
    assert "nothing was confirmed for 0 s" in silent.problem
    assert silent.passes


@pytest.mark.parametrize("fence", ["nats-expected-last-sequence", "Nats-Expected-Last-Sequenz", "X-Fence"])
def test_a_header_that_is_no_fence_is_noticed(server: NatsServers, fence: str) -> None:
    """The engine says nothing of it, and stores whatever comes."""

    async def use() -> None:
        client = await servers.connect(server.urls)
        try:
            await check_fence(client, 1)
            with pytest.raises(OperatorError, match=r"stored as 3 although .* was 1: two owners could both"):
                await check_fence(client, 1, fence)
        finally:
            await client.close()

    asyncio.run(use())


def test_a_fence_of_the_subject_is_not_taken_for_one_of_the_stream(server: NatsServers) -> None:
    async def use() -> None:
        client = await servers.connect(server.urls)
        try:
            with pytest.raises(OperatorError, match="two owners"):
                await check_fence(client, 1, "Nats-Expected-Last-Subject-Sequence")
        finally:
            await client.close()

    asyncio.run(use())


def test_the_check_of_the_fence_leaves_no_stream_behind(server: NatsServers) -> None:
    async def use() -> None:
        await (await ShardStream.open(server.urls, "alone", create=True, replicas=1)).close()

    asyncio.run(use())
    assert not [name for name in ask(server, "STREAM.NAMES")["streams"] if "fence" in name]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_age", 10**9),
        ("max_msgs", 5),
        ("discard", "old"),
        ("deny_delete", False),
        ("no_ack", True),
        ("max_msg_size", 1_000),
        ("allow_msg_ttl", True),
        ("first_seq", 7),
        ("sources", [{"name": "alone"}]),
        ("republish", {"src": ">", "dest": "elsewhere.>"}),
    ],
)
def test_a_stream_that_could_lose_something_is_refused(server: NatsServers, key: str, value: object) -> None:
    name = f"lossy-{key}"
    settings = {**stream_settings(name, f"tidegate.log.{name}", 1, -1), key: value}
    if key == "max_age":
        settings["duplicate_window"] = value
    assert "error" not in ask(server, f"STREAM.CREATE.{name}", settings)

    async def use() -> None:
        await (await ShardStream.open(server.urls, name, create=True, replicas=1)).close()

    with pytest.raises(OperatorError, match=f"it could lose what it has confirmed: {key} is"):
        asyncio.run(use())


def test_nobody_there_is_said_with_the_address_and_without_the_password(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(servers, "START_S", 0.5)

    async def use() -> None:
        await ShardStream.open(["nats://me:password@127.0.0.1:1"], "nobody")

    with (
        caplog.at_level(0),
        pytest.raises(OperatorError, match=r"to nats://\*\*\*@127\.0\.0\.1:1: .*\(start nats-server there") as raised,
    ):
        asyncio.run(use())
    assert "password" not in str(raised.value) + caplog.text
