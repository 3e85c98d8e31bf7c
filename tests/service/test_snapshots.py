"""Snapshots of shards in three real nats-servers: taken, read back, purged behind, fetched, damaged, and left half done."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import msgspec
import pytest
from nats.aio.client import Client

from tests.support.nats_cluster import ask
from tests.support.service import ROOT, Serve, Service
from tests.support.waiting import wait_until
from tidegate.runtime.cli.cli import main
from tidegate.runtime.cluster.nats_servers import NatsServers
from tidegate.runtime.errors import OperatorError
from tidegate.shard.log.commit_log import LogBroken
from tidegate.shard.replicated import servers as servers_module
from tidegate.shard.replicated import shared_client, snapshot_taking, worker_log
from tidegate.shard.replicated.founding import find_or_found
from tidegate.shard.replicated.servers import connect
from tidegate.shard.replicated.snapshot import SnapshotPolicy, SnapshotRoom, decode_manifest, parse_name
from tidegate.shard.replicated.snapshot_keeper import SnapshotKeeper
from tidegate.shard.replicated.snapshot_listing import KeptOfShard, kept_of_shards
from tidegate.shard.replicated.snapshot_stream import SnapshotStream
from tidegate.shard.replicated.snapshot_wishes import wish_for_snapshots, wishes_of
from tidegate.shard.replicated.worker_log import NEVER, WorkerLog
from tidegate.shard.store.interface import ObjectWrites, ShardCommit, ShardUnreachable
from tidegate.shard.store.record import CommitRecord, encode_record
from tidegate.shard.store.snapshots import ENDS, SnapshotSaid, SnapshotWish
from tidegate.shard.store.worker_store import WorkerStore
from tidegate.shard.worker import snapshotter

APP = str(ROOT / "tests" / "service" / "apps" / "tills.py")
START_S = 60.0
KEY = b"\0\1" + b"object".ljust(14)
ALWAYS = SnapshotPolicy(1, 1e9)
"""One is due as soon as there is anything new."""
T = TypeVar("T")
_numbers = count()


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServers]:
    with NatsServers(tmp_path_factory.mktemp("nats"), max_payload=64 << 10) as started:
        yield started


@dataclass
class Cluster:
    """Of one shard."""

    servers: NatsServers
    name: str

    @property
    def stream(self) -> str:
        return f"{self.name}-0000"

    def state_of(self, stream: str) -> dict[str, Any]:
        """In a thread: the loop of a test may run."""
        with ThreadPoolExecutor(1) as pool:
            found: dict[str, Any] = pool.submit(ask, self.servers, f"STREAM.INFO.{stream}", {"subjects_filter": ">"}).result()
        state: dict[str, Any] = found["state"]
        return state

    def first(self) -> int:
        return int(self.state_of(self.stream)["first_seq"])

    def snapshots(self) -> dict[str, int]:
        """Messages of each, by subject."""
        found: dict[str, int] = self.state_of(f"{self.name}-snapshots").get("subjects") or {}
        return {".".join(subject.split(".")[-2:]): number for subject, number in found.items()}

    def kept(self) -> set[str]:
        """Of which there is anything."""
        return {each.partition(".")[0] for each in self.snapshots()}

    def names(self) -> list[str]:
        return sorted(each.partition(".")[0] for each in self.snapshots() if each.endswith(".manifest"))


@pytest.fixture
def cluster(servers: NatsServers) -> Cluster:
    name = f"test-{next(_numbers)}"
    find_or_found(servers.urls, name, 1)
    return Cluster(servers, name)


class Owner:
    """Of the shard, as a worker is one, without anybody who calls."""

    def __init__(self, cluster: Cluster, data: Path, policy: SnapshotPolicy = ALWAYS, shards: Sequence[int] = (0,)) -> None:
        (data / "log").mkdir(parents=True, exist_ok=True)
        self.log = WorkerLog(cluster.servers.urls, cluster.name, "a test", policy)
        self.store = WorkerStore.open_shared(data, 0, shards, lambda trouble: None, 1 << 20, self.log)

    @property
    def values(self) -> dict[str, bytes]:
        return dict(self.store.shards[0].scan(KEY, None, None, False, None))

    def put(self, key: str, value: bytes) -> None:
        commit = ShardCommit(0, self.store.shards[0].seq + 1, [ObjectWrites(KEY, False, {key: value})])
        record = CommitRecord(0, [commit])
        self.store.applied(self.store.append(encode_record(record)), record.shards)

    async def snapshot(self) -> None:
        copy = await self.store.copy_of(0)
        assert copy is not None
        copy.look_through()
        try:
            await asyncio.to_thread(self.log.snapshots.take, 0, copy.file, copy.mark, copy.commit)
        finally:
            copy.remove()


@contextlib.asynccontextmanager
async def owner(cluster: Cluster, data: Path, shards: Sequence[int] = (0,)) -> AsyncIterator[Owner]:
    started = Owner(cluster, data, shards=shards)
    try:
        async with asyncio.timeout(90):
            yield started
    finally:
        await started.store.close()


LARGE = Random(7).randbytes(300_000)
"""Which no packing makes smaller: several pieces, of 64 KiB."""


async def with_two(cluster: Cluster, data: Path) -> dict[str, bytes]:
    """Snapshots, and something behind them; what there is then."""
    async with owner(cluster, data) as first:
        for number in range(5):
            first.put(f"k{number}", b"%d" % number)
        first.put("large", LARGE)
        await first.snapshot()
        assert cluster.first() == 1, "nothing is purged behind the newest"
        first.put("k1", b"changed")
        await first.snapshot()
        first.put("k2", b"last")
        return first.values


def test_the_stream_is_purged_behind_the_last_but_one_and_older_snapshots_go(cluster: Cluster, tmp_path: Path) -> None:
    async def take() -> None:
        await with_two(cluster, tmp_path / "one")
        one, two = cluster.names()
        assert cluster.first() == int(one.split("-")[0])
        async with owner(cluster, tmp_path / "one") as again:
            again.put("k3", b"more")
            assert not again.log.snapshots.is_due(0), "that is little of a large shard"
            again.put("large", LARGE[::-1])
            assert again.log.snapshots.is_due(0)
            await again.snapshot()
            assert not again.log.snapshots.is_due(0)
        names = cluster.names()
        assert (names[0], len(names)) == (two, 2)
        assert cluster.first() == int(two.split("-")[0])
        assert not [each for each in cluster.snapshots() if each.startswith(one)]

    asyncio.run(take())


def test_an_empty_directory_gets_everything_that_was_confirmed(cluster: Cluster, tmp_path: Path) -> None:
    async def take() -> None:
        values = await with_two(cluster, tmp_path / "one")
        async with owner(cluster, tmp_path / "two") as second:
            assert second.values == values
            second.put("k5", b"written there")
            values = second.values
        async with owner(cluster, tmp_path / "one") as first:  # Which has its file, and reads on from there.
            assert first.values == values

    asyncio.run(take())


def test_a_directory_that_was_left_behind_gets_a_snapshot_in_place_of_its_file(cluster: Cluster, tmp_path: Path) -> None:
    async def take() -> None:
        async with owner(cluster, tmp_path / "two") as second:
            second.put("k0", b"old")
            await second.store.checkpointer.finish()
        values = await with_two(cluster, tmp_path / "one")
        async with owner(cluster, tmp_path / "two") as second:
            assert second.values == values

    asyncio.run(take())


def of_stream(cluster: Cluster, what: Callable[[SnapshotStream], Coroutine[Any, Any, T]]) -> T:
    async def ask_it() -> T:
        client = await connect(cluster.servers.urls)
        try:
            return await what(SnapshotStream(client, cluster.name))
        finally:
            await client.close()

    return asyncio.run(ask_it())


def damage(cluster: Cluster, name: str) -> None:
    """One of its pieces goes, as by a disk that has lost it."""

    async def look(snapshots: SnapshotStream) -> int:
        found = parse_name(name)
        assert found is not None
        return decode_manifest(await snapshots.manifest(0, found) or b"").pieces[1].sequence

    sequence = of_stream(cluster, look)
    assert ask(cluster.servers, f"STREAM.MSG.DELETE.{cluster.name}-snapshots", {"seq": sequence})["success"]


def test_where_a_piece_is_lost_the_snapshot_before_is_used(cluster: Cluster, tmp_path: Path) -> None:
    values = asyncio.run(with_two(cluster, tmp_path / "one"))
    damage(cluster, cluster.names()[1])

    async def take() -> None:
        async with owner(cluster, tmp_path / "two") as second:
            assert second.values == values

    asyncio.run(take())


@pytest.mark.parametrize("step", ["piece", "listed"])
def test_a_fetch_that_hangs_is_given_up_and_begun_again_and_the_owner_goes_on_meanwhile(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    async def hang(*_: object) -> None:
        await asyncio.Event().wait()

    async def take() -> None:
        values = await with_two(cluster, tmp_path / "one")
        async with owner(cluster, tmp_path / "one") as first, owner(cluster, tmp_path / "two", shards=()) as second:
            with monkeypatch.context() as patch:
                patch.setattr(worker_log, "STALL_S", 0.5)
                patch.setattr(SnapshotStream, step, hang)
                with pytest.raises(ShardUnreachable, match=r"nothing more of it has come for 0\.5 s"):
                    await asyncio.to_thread(second.store.read_ahead, tmp_path / "two", 0, 0)
            first.put("k3", b"it owns the shard still")
            values["k3"] = b"it owns the shard still"
            await asyncio.to_thread(second.store.read_ahead, tmp_path / "two", 0, 0)
            first.put("k4", b"and still")
            second.store.take_over(await asyncio.to_thread(second.store.replay, tmp_path / "two", 0, 0, lambda: True))
            assert second.values == values | {"k4": b"and still"}

    asyncio.run(take())


def test_where_all_are_damaged_the_shard_is_stopped_with_each_reason(cluster: Cluster, tmp_path: Path) -> None:
    values = asyncio.run(with_two(cluster, tmp_path / "one"))
    for name in cluster.names():
        damage(cluster, name)

    async def take() -> None:
        async with owner(cluster, tmp_path / "two") as second:
            said = str(second.store.stopped[0])
            assert said.count("is missing") == 2
            assert "start a host whose data directory has more of shard 0" in said
        async with owner(cluster, tmp_path / "one") as first:  # The next step.
            assert first.values == values
            for _ in range(2):
                first.put("k9", b"x")
                await first.snapshot()
            values["k9"] = b"x"
        async with owner(cluster, tmp_path / "two") as second:
            assert second.values == values

    asyncio.run(take())


def test_what_reads_back_as_another_piece_counts_for_nothing(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(with_two(cluster, tmp_path / "one"))
    before, first = cluster.names(), cluster.first()
    piece = SnapshotStream.piece

    async def changed(snapshots: SnapshotStream, sequence: int) -> bytes | None:
        return (await piece(snapshots, sequence) or b"")[:-1] + b"?"

    async def take() -> None:
        async with owner(cluster, tmp_path / "one") as again:
            again.put("k4", b"more")
            monkeypatch.setattr(SnapshotStream, "piece", changed)
            with pytest.raises(OperatorError, match="is not what was stored"):
                await again.snapshot()
            monkeypatch.undo()
            assert (cluster.names(), cluster.first()) == (before, first)
            assert cluster.kept() == set(before), "its pieces are gone"
            await again.snapshot()
            assert cluster.kept() == set(cluster.names())
            assert len(cluster.names()) == 2

    asyncio.run(take())


def test_what_a_killed_owner_has_left_goes_before_the_first_piece(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(with_two(cluster, tmp_path / "one"))
    given = (cluster.servers.urls, cluster.name, str(tmp_path / "one"), "put_manifest")
    code = f"from tests.service.test_snapshots import die_at; die_at(*{given!r})"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == -signal.SIGKILL
    assert cluster.kept() > set(cluster.names())

    async def refuse(*_: Any) -> int:
        assert await asyncio.to_thread(cluster.kept) == set(cluster.names())
        raise OperatorError("store", "it", "there is no room", "wait")

    async def take() -> None:
        async with owner(cluster, tmp_path / "one") as again:
            monkeypatch.setattr(SnapshotStream, "put_piece", refuse)
            with pytest.raises(OperatorError, match="there is no room"):
                await again.snapshot()

    asyncio.run(take())


def limit(cluster: Cluster, **settings: Any) -> None:
    stream = f"{cluster.name}-snapshots"
    found = ask(cluster.servers, f"STREAM.INFO.{stream}")["config"]
    assert "error" not in ask(cluster.servers, f"STREAM.UPDATE.{stream}", {**found, **settings})


def refused(cluster: Cluster, data: Path, match: str, *, puts: bool) -> None:
    """An attempt to take one, which leaves everything as it is."""
    before, asked = (cluster.kept(), cluster.first()), 0
    put_piece = SnapshotStream.put_piece

    async def count_it(*given: Any) -> int:
        nonlocal asked
        asked += 1
        return await put_piece(*given)

    async def take() -> None:
        async with owner(cluster, data) as again:
            again.put("k4", b"more")
            with pytest.raises(OperatorError, match=match):
                await again.snapshot()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(SnapshotStream, "put_piece", count_it)
        asyncio.run(take())
    assert bool(asked) == puts
    assert (cluster.kept(), cluster.first()) == before
    assert not list(data.rglob("new-*"))


def test_one_that_would_take_all_room_is_not_begun(cluster: Cluster, tmp_path: Path) -> None:
    asyncio.run(with_two(cluster, tmp_path / "one"))
    limit(cluster, max_bytes=cluster.state_of(f"{cluster.name}-snapshots")["bytes"] + 200_000)
    refused(cluster, tmp_path / "one", "its stream has room for 19. KiB more .let it have more", puts=False)


def test_what_is_packed_counts_where_the_file_alone_would_be_too_large(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def take() -> None:
        async with owner(cluster, tmp_path / "one") as first:
            first.put("zeros", bytes(900_000))
            await first.snapshot()
            await asyncio.to_thread(limit, cluster, max_bytes=500_000)
            first.put("k1", b"more")
            await first.snapshot()
        assert len(cluster.names()) == 2

    asyncio.run(take())


def test_where_the_servers_have_no_room_after_all_its_pieces_go_again(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unknown(snapshots: SnapshotStream) -> SnapshotRoom:
        return SnapshotRoom(snapshots.piece_bytes_max)

    monkeypatch.setattr(SnapshotStream, "room", unknown)
    asyncio.run(with_two(cluster, tmp_path / "one"))
    limit(cluster, max_bytes=cluster.state_of(f"{cluster.name}-snapshots")["bytes"] + 200_000)
    refused(cluster, tmp_path / "one", "maximum bytes exceeded", puts=True)


def test_one_of_too_many_pieces_is_not_begun(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.run(with_two(cluster, tmp_path / "one"))
    monkeypatch.setattr(SnapshotStream, "piece_bytes_max", 2_000)
    refused(cluster, tmp_path / "one", "it has too many pieces, 1.. .raise max_payload", puts=False)


def test_nothing_is_purged_behind_a_stream_that_could_lose_snapshots(cluster: Cluster, tmp_path: Path) -> None:
    asyncio.run(with_two(cluster, tmp_path / "one"))
    limit(cluster, max_age=86_400 * 10**9)
    refused(cluster, tmp_path / "one", "it could lose snapshots: max_age is", puts=False)
    limit(cluster, max_age=0)

    async def take() -> None:
        async with owner(cluster, tmp_path / "one") as again:
            await again.snapshot()

    asyncio.run(take())


def closed(keeper: SnapshotKeeper) -> None:
    closing = threading.Thread(target=keeper.close, daemon=True)
    closing.start()
    closing.join(30)
    assert not closing.is_alive(), "who ends waits for it"


def test_its_end_does_not_wait_for_a_server_that_reads_nothing(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = SnapshotKeeper(cluster.servers.urls, cluster.name, "", NEVER, lambda _: cluster.stream)
    keeper.is_due(0)
    close = Client.close

    async def never(client: Client) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await close(client)

    monkeypatch.setattr(Client, "close", never)
    monkeypatch.setattr(servers_module, "ANSWER_S", 0.1)
    closed(keeper)


def test_its_end_does_not_wait_for_servers_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = threading.Event()

    async def nobody(_: Any) -> Client:
        tried.set()
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(shared_client, "connect", nobody)
    keeper = SnapshotKeeper(["nats://127.0.0.1:1"], "nobody", "", NEVER, str)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(keeper.is_due, 0)
        assert tried.wait(30)
        closed(keeper)
        with pytest.raises(LogBroken):
            asked.result(30)


STEPS = ("put_piece", "put_manifest", "purge", "remove")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_an_owner_that_ends_at_any_step_leaves_what_a_claim_needs(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, when: str
) -> None:
    asyncio.run(with_two(cluster, tmp_path / "one"))

    class Ended(Exception):
        pass

    target, name = (snapshot_taking, "purge_before") if step == "purge" else (SnapshotStream, step)
    real = getattr(target, name)

    async def end(*given: Any) -> None:
        if when == "after":
            await real(*given)
        raise Ended

    async def take() -> None:
        async with owner(cluster, tmp_path / "one") as first:
            first.put("k4", b"before it ended")
            monkeypatch.setattr(target, name, end)
            with pytest.raises(Ended):
                await first.snapshot()
            monkeypatch.undo()
            values = first.values
        async with owner(cluster, tmp_path / "two") as second:
            assert second.values == values
            second.put("k5", b"more")
            await second.snapshot()
            values = second.values
        assert len({each.partition(".")[0] for each in cluster.snapshots()}) == 2
        async with owner(cluster, tmp_path / "three") as third:
            assert third.values == values
        assert cluster.first() == int(cluster.names()[0].split("-")[0])

    asyncio.run(take())


def die_at(urls: list[str], name: str, data: str, step: str) -> None:
    """In a process of its own: the owner of the shard takes a snapshot, and is killed by SIGKILL at that step."""

    async def die(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    async def take() -> None:
        async with owner(Cluster(cast("NatsServers", SimpleNamespace(urls=urls)), name), Path(data)) as first:
            first.put("k4", b"before it died")
            target, what = (snapshot_taking, "purge_before") if step == "purge" else (SnapshotStream, step)
            setattr(target, what, die)
            await first.snapshot()

    asyncio.run(take())


@pytest.mark.parametrize("step", STEPS)
def test_an_owner_that_is_killed_in_the_middle_leaves_what_a_claim_needs(cluster: Cluster, tmp_path: Path, step: str) -> None:
    values = asyncio.run(with_two(cluster, tmp_path / "one"))
    given = (cluster.servers.urls, cluster.name, str(tmp_path / "one"), step)
    code = f"from tests.service.test_snapshots import die_at; die_at(*{given!r})"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == -signal.SIGKILL
    values["k4"] = b"before it died"

    async def take() -> None:
        for folder in ("two", "one"):
            async with owner(cluster, tmp_path / folder) as next_one:
                assert next_one.values == values
                assert not list((tmp_path / folder).rglob("new-*"))
                next_one.put("k5", folder.encode())
                await next_one.snapshot()
                values["k5"] = folder.encode()
        assert len({each.partition(".")[0] for each in cluster.snapshots()}) == 2

    asyncio.run(take())


def test_what_is_shown_is_the_newest_that_is_whole_and_what_the_stream_has_since(cluster: Cluster, tmp_path: Path) -> None:
    assert kept(cluster).newest is None
    assert kept(cluster).grown_bytes == kept(cluster).stream.bytes
    asyncio.run(with_two(cluster, tmp_path / "one"))
    one, two = cluster.names()
    newest, grown = kept(cluster).newest, kept(cluster).grown_bytes
    assert newest is not None
    assert newest.place.sequence == int(two.split("-")[0])
    assert newest.file_bytes > newest.packed_bytes > len(LARGE)
    assert 0 < grown < kept(cluster).stream.bytes
    damage(cluster, two)
    newest = kept(cluster).newest
    assert newest is not None
    assert newest.place.sequence == int(one.split("-")[0]), "of that which is damaged nobody could begin"
    assert kept(cluster).grown_bytes > grown


def kept(cluster: Cluster) -> KeptOfShard:
    async def ask_it() -> dict[int, KeptOfShard]:
        client = await connect(cluster.servers.urls)
        try:
            return await kept_of_shards(client, cluster.name, (0, 1), lambda shard: f"{cluster.name}-{shard:04d}", 10.0)
        finally:
            await client.close()

    found = asyncio.run(ask_it())
    assert found.keys() == {0}, "of a shard whose stream is not there nothing is known"
    return found[0]


def test_the_age_of_the_oldest_newest_snapshot_is_told(cluster: Cluster, tmp_path: Path) -> None:
    asyncio.run(with_two(cluster, tmp_path / "one"))
    newest = kept(cluster).newest
    assert newest is not None
    later = newest.taken_ms / 1_000 + 3_600
    keeper = SnapshotKeeper(cluster.servers.urls, cluster.name, "", NEVER, lambda _: cluster.stream, lambda: later)
    try:
        assert keeper.oldest_s() == 0
        keeper.is_due(0)
        assert keeper.oldest_s() == pytest.approx(3_600)
        keeper.forget(0)
        assert keeper.oldest_s() == 0
    finally:
        keeper.close()


# Wishes of operators


@contextlib.asynccontextmanager
async def wishing(cluster: Cluster, data: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Owner, Client]]:
    """An owner that takes none by itself, with its snapshotter, and a connection of an operator."""
    monkeypatch.setattr(snapshotter, "LOOK_S", 0.1)
    started, client = Owner(cluster, data, NEVER), await connect(cluster.servers.urls)
    taker = snapshotter.Snapshotter(asyncio.get_running_loop(), started.store, started.log.snapshots)
    try:
        started.put("k0", LARGE)
        taker.start()
        async with asyncio.timeout(90):
            yield started, client
    finally:
        taker.end()
        await client.close()
        await started.store.close()


async def wish(client: Client, cluster: Cluster) -> tuple[SnapshotSaid, list[str]]:
    """What came of it, and each state that was told."""
    told: list[SnapshotSaid] = []
    (said,) = await wish_for_snapshots(client, cluster.name, [0], told.append)
    assert told[-1] == said
    return said, [each.state for each in told]


def test_the_owner_takes_one_when_an_operator_wishes_it(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def take() -> None:
        async with wishing(cluster, tmp_path / "one", monkeypatch) as (first, client):
            said, states = await wish(client, cluster)
            assert (said.state, said.by, states[-1]) == ("taken", "a test", "taken")
            (name,) = cluster.names()
            assert said.snapshot is not None
            assert said.snapshot.sequence == int(name.split("-")[0])
            assert said.snapshot.packed_bytes > len(LARGE)
            again, _ = await wish(client, cluster)
            assert (again.state, again.snapshot) == ("kept", said.snapshot), "nothing has changed since"
            first.put("k1", b"more")
            assert (await wish(client, cluster))[0].state == "taken"
            assert len(cluster.names()) == 2
            await asyncio.to_thread(damage, cluster, cluster.names()[1])
            assert (await wish(client, cluster))[0].state == "taken", "the newest is not whole"

    asyncio.run(take())


def test_the_same_wish_is_fulfilled_once_however_often_it_is_said(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def take() -> None:
        async with wishing(cluster, tmp_path / "one", monkeypatch) as (first, client):
            await wish(client, cluster)  # From now on it hears.

            async def say(id: str) -> SnapshotSaid:
                wished = msgspec.json.encode(SnapshotWish(0, id))
                return msgspec.json.decode((await client.request(wishes_of(cluster.name), wished)).data, type=SnapshotSaid)

            async def ended(id: str) -> SnapshotSaid:
                while (said := await say(id)).state not in ENDS:
                    await asyncio.sleep(0.01)
                return said

            first.put("k1", b"more")
            taken = await ended("one")
            assert (taken.state, len(cluster.names())) == ("taken", 2)
            first.put("k2", b"more")
            assert await ended("one") == taken
            await client.publish(wishes_of(cluster.name), b"\xff", reply="nobody")
            await client.publish(wishes_of(cluster.name), b'{"shard": 7, "id": "x"}', reply="nobody")
            assert (await ended("two")).state == "taken"

    asyncio.run(take())


def test_a_wish_is_heard_by_whoever_takes_the_shard_later(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def take() -> None:
        client = await connect(cluster.servers.urls)
        waits = asyncio.create_task(wish(client, cluster))
        try:
            await client.flush()
            async with wishing(cluster, tmp_path / "one", monkeypatch):
                assert (await waits)[0].state == "taken"
        finally:
            waits.cancel()
            await client.close()

    asyncio.run(take())


def test_why_one_could_not_be_taken_is_told_to_whoever_wished_it(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lost(snapshots: SnapshotStream, sequence: int) -> bytes | None:
        return None

    async def take() -> None:
        async with wishing(cluster, tmp_path / "one", monkeypatch) as (_, client):
            with monkeypatch.context() as patched:
                patched.setattr(SnapshotStream, "piece", lost)
                said, _ = await wish(client, cluster)
            assert said.state == "failed"
            assert "is not what was stored" in said.why
            assert "look at the disks" in said.next
            assert (await wish(client, cluster))[0].state == "taken", "it is tried again for whoever wishes again"

    asyncio.run(take())


def test_operators_have_snapshots_taken_by_a_service_and_see_them_in_the_status(
    serve: Serve, cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = f"{','.join(cluster.servers.urls)}/{cluster.name}"
    service = serve(app=APP, data=tmp_path / "one", start=False)
    service.expect("nats: ", "a publish after message", "nothing is read behind message")
    launch(service, cluster)
    for number in range(5):
        service.call("Till", f"till-{number}", "add")
    assert main(["cluster", "status", "--cluster", place]) == 0
    assert any(line.startswith("0      none") and line.endswith(" KiB") for line in capsys.readouterr().out.splitlines())
    assert main(["cluster", "snapshot", "--cluster", place]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("shard 0: a snapshot was taken: ") for line in lines)
    assert lines[-1] == "1 of 1 shard with a snapshot of now"
    (name,) = cluster.names()
    assert main(["cluster", "snapshot", "0", "--json", "--cluster", place]) == 0
    (said,) = json.loads(capsys.readouterr().out)
    assert (said["state"], said["snapshot"][0]) == ("kept", int(name.split("-")[0]))
    service.call("Till", "till-0", "add")
    assert main(["cluster", "status", "--json", "--cluster", place]) == 0
    log = json.loads(capsys.readouterr().out)["shards"][0]["log"]
    assert log["snapshot"]["sequence"] == int(name.split("-")[0])
    assert log["snapshot"]["age_s"] < START_S
    assert 0 < log["since_bytes"] < log["stream_bytes"]
    assert main(["cluster", "status", "--cluster", place]) == 0
    assert any(line.startswith("0      ") and " old " in line for line in capsys.readouterr().out.splitlines())


def start(serve: Serve, cluster: Cluster, data: Path) -> Service:
    service = serve(app=APP, data=data, start=False)
    service.expect("nats: ", "a publish after message", "nothing is read behind message")
    service.environment |= {"TIDEGATE_SERVICE_SNAPSHOT_MIB": "1", "TIDEGATE_SERVICE_SNAPSHOT_S": "1"}
    launch(service, cluster)
    return service


def launch(service: Service, cluster: Cluster) -> None:
    since = len(service.output)
    service.launch(1, "--cluster", f"{','.join(cluster.servers.urls)}/{cluster.name}")
    service.wait_for_output("is ready on", within_s=START_S, since=since)


def test_a_service_takes_snapshots_by_itself_and_a_host_that_has_nothing_begins_with_one(
    serve: Serve, cluster: Cluster, tmp_path: Path
) -> None:
    service = start(serve, cluster, tmp_path / "one")
    done = 0

    def is_purged() -> bool:
        nonlocal done
        done = service.call("Till", "a", "add")
        return cluster.first() > 1

    wait_until(is_purged, "the purge behind a second snapshot", 60)
    service.kill_everything()
    shutil.rmtree(service.data)
    launch(service, cluster)
    assert service.call("Till", "a", "read") == done
    service.wait_for_output("a snapshot that was taken behind message")
    second = start(serve, cluster, tmp_path / "two")
    service.stop()
    assert second.call("Till", "a", "add") == done + 1
    second.wait_for_output("a snapshot that was taken behind message")
