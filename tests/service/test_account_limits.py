"""Limits of the account that real nats-servers give the hosts: who meets one is told whose it is, and what to do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tidegate.runtime.cluster import doctor
from tidegate.runtime.cluster.nats_servers import NatsServers
from tidegate.runtime.errors import OperatorError
from tidegate.shard.log.commit_log import LogFull
from tidegate.shard.replicated import founding
from tidegate.shard.replicated import servers as connections
from tidegate.shard.replicated.founding import find_or_found
from tidegate.shard.replicated.servers import close, connect
from tidegate.shard.replicated.shard_log import ShardLog
from tidegate.shard.replicated.stream import ShardStream


@contextlib.contextmanager
def server_whose_account(folder: Path, has: str) -> Iterator[NatsServers]:
    """One: what it says of limits is what three say."""
    users = 'users = [ { user: "hosts", password: "x" } ]'
    more = f'accounts {{ HOSTS {{\n{has}\n{users}\n}} }}\nno_auth_user: "hosts"\n'
    with NatsServers(folder, servers=1, more=more) as started:
        yield started


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replicas, and seconds."""
    for module in (founding, doctor):
        monkeypatch.setattr(module, "REPLICAS", 1)
    for module in (founding, connections):
        monkeypatch.setattr(module, "START_S", 5.0)


async def fill(server: NatsServers, stream: str) -> None:
    opened = await ShardStream.open(server.urls, stream, replicas=1)
    try:
        log = ShardLog(0, opened)
        await log.claim(lambda effect: None)
        for _ in range(100):
            await log.append(bytes(100_000))
    finally:
        await opened.close()


def test_an_account_that_may_store_no_more_is_named_by_who_appends_and_by_the_doctor(tmp_path: Path) -> None:
    with server_whose_account(tmp_path, "jetstream { max_file: 3MB }") as server:
        find_or_found(server.urls, "full", 1)
        with pytest.raises(LogFull) as raised:
            asyncio.run(fill(server, "full-0000"))
        assert raised.value.problem == "the account of the hosts may store no more (10002)"
        assert raised.value.hint == "let the account of the hosts store more: max_file in its jetstream block; replicas count"
        found = doctor.examine(server.urls, "full", server.monitors).problems
        assert [each.next for each in found if each.where == "the account of the hosts"] == [raised.value.hint]


def test_an_account_that_may_have_no_more_streams_is_named_where_a_cluster_is_founded(tmp_path: Path) -> None:
    with server_whose_account(tmp_path, "jetstream { max_streams: 3 }") as server:
        with pytest.raises(OperatorError, match=r"maximum number of streams reached \(10027\)") as raised:
            find_or_found(server.urls, "many", 8)
        assert "max_streams in its jetstream block" in raised.value.hint


@pytest.mark.parametrize(
    ("has", "problem", "hint"),
    [
        ("", r"JetStream not enabled for account \(10039\)", "enable JetStream for the account of the hosts"),
        (
            "jetstream { max_bytes_required: true }",
            r"account requires a stream config to have max bytes set \(10113\)",
            "take max_bytes_required from the account",
        ),
    ],
)
def test_what_an_account_is_not_allowed_is_named_at_the_start(tmp_path: Path, has: str, problem: str, hint: str) -> None:
    with (
        server_whose_account(tmp_path, has) as server,
        pytest.raises(OperatorError, match=problem) as raised,
    ):
        find_or_found(server.urls, "refused", 1)
    assert hint in raised.value.hint


def test_an_account_that_may_have_no_more_connections_is_named(tmp_path: Path) -> None:
    async def connect_twice(urls: list[str]) -> None:
        first = await connect(urls)
        try:
            await connect(urls)
        finally:
            await close(first)

    with (
        server_whose_account(tmp_path, "jetstream: enabled\nlimits { max_connections: 1 }") as server,
        pytest.raises(OperatorError, match="maximum account active connections exceeded") as raised,
    ):
        asyncio.run(connect_twice(server.urls))
    assert "max_connections in its limits block" in raised.value.hint
