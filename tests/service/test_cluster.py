"""Services whose logs three real nats-servers keep: what was confirmed is theirs, whatever becomes of the host."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from nats.js.kv import KeyValue

from tests.support.nats_cluster import ask
from tests.support.service import ROOT, Serve, Service, exchange
from tests.support.waiting import wait_until
from tidegate.runtime.client.synchronous import connect_sync
from tidegate.runtime.cluster.nats_servers import NatsServers
from tidegate.runtime.errors import OperatorError
from tidegate.shard.replicated import worker_log
from tidegate.shard.replicated.founding import find_or_found
from tidegate.shard.replicated.stream import ShardStream
from tidegate.shard.replicated.worker_log import WorkerLog
from tidegate.shard.store.interface import (
    ObjectWrites,
    PartlyStored,
    ShardCommit,
    ShardElsewhere,
    ShardUnreachable,
    ShardUnwanted,
)
from tidegate.shard.store.record import CommitRecord, decode_unread_record, encode_record

APP = str(ROOT / "tests" / "service" / "apps" / "tills.py")
NAMES = [f"till-{number}" for number in range(8)]
START_S = 120.0
SHUT_OUT = r"has another owner|served elsewhere"
_numbers = count()


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServers]:
    with NatsServers(tmp_path_factory.mktemp("nats")) as started:
        yield started


@pytest.fixture
def cluster(servers: NatsServers) -> str:
    """Another name for each test."""
    return f"{','.join(servers.urls)}/test-{next(_numbers)}"


def start(serve: Serve, cluster: str, data: Path, workers: int = 1) -> Service:
    service = serve(app=APP, data=data, start=False)
    service.expect("nats: ", "a publish after message", "nothing is read behind message")
    service.launch(workers, "--cluster", cluster)
    service.wait_for_output("is ready on", within_s=START_S)
    return service


def record(shards: list[int], seq: int, value: bytes = b"x") -> bytes:
    return encode_record(
        CommitRecord(1, [ShardCommit(each, seq, [ObjectWrites(b"k" * 16, False, {"k": value})]) for each in shards])
    )


def test_a_service_without_a_cluster_imports_nothing_of_it(serve: Serve) -> None:
    service = serve(1, app=APP)
    assert service.call("Till", "a", "knows_clusters") == []
    asked = "import sys, tidegate.runtime.cli.commands.serve; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()
    assert not [name for name in found if name.startswith(("nats", "tidegate.shard", "tidegate.runtime.cluster"))]


def test_what_was_confirmed_is_found_by_a_host_that_has_nothing(serve: Serve, cluster: str, tmp_path: Path) -> None:
    service = start(serve, cluster, tmp_path / "data", workers=2)
    assert [service.call("Till", name, "add", 5) for name in NAMES] == [5] * len(NAMES)
    assert service.call("Till", NAMES[0], "add_to", NAMES[1], 2) == [7, 7, 7]
    with connect_sync(service.endpoint) as client:  # Whose calls are numbered, and travel past the router.
        assert [client.stub("Till", name).read() for name in NAMES[:3]] == [7, 7, 5]
    service.kill_everything()
    shutil.rmtree(service.data)
    since = len(service.output)
    service.launch(1, "--cluster", cluster)
    service.wait_for_output("is ready on", within_s=START_S, since=since)
    assert [service.call("Till", name, "read") for name in NAMES] == [7, 7] + [5] * (len(NAMES) - 2)
    service.expect("killed by SIGKILL|is ready again")
    assert service.call("Till", NAMES[0], "add") == 8
    os.kill(service.worker_pids()[0], signal.SIGKILL)
    assert wait_until(lambda: exchange(service.endpoint, "Till", NAMES[0], "read") == (0, 8), "the worker's successor")


def served_of(service: Service) -> list[tuple[str, int]]:
    """The state of each host, and how many shards it serves."""
    return sorted((each["state"], each["serves"]) for each in service.status()["cluster"]["hosts"])


def test_a_host_that_slept_answers_nothing_old(serve: Serve, cluster: str, tmp_path: Path) -> None:
    first = start(serve, cluster, tmp_path / "first")
    first.expect(SHUT_OUT, "did not run for", "is lost", "held up its worker")
    assert first.call("Till", "a", "add") == 1
    second = start(serve, cluster, tmp_path / "second")
    pids = first.pids()
    wait_until(lambda: len(second.status()["cluster"]["hosts"]) == 2, "both hosts")
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(lambda: served_of(second) == [("here", 8), ("lost", 0)], "all", START_S, seen=lambda: served_of(second))
        assert second.call("Till", "a", "add") == 2
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    found: list[Any] = []

    def answered() -> bool:
        status, answer = exchange(first.endpoint, "Till", "a", "read", [], {"deadline_ms": 30_000}, timeout_s=START_S)
        found.append(answer)
        return status == 0

    wait_until(answered, "an answer by way of the first host", START_S)
    assert found[-1] == 2, "what it remembers is old: it must not be read"
    assert {answer["code"] for answer in found[:-1]} <= {"object_reset", "unavailable", "moved", "shard_lost"}
    second.stop()


def test_a_cache_of_a_cluster_is_served_by_no_service_without_one(serve: Serve, cluster: str, tmp_path: Path) -> None:
    first = start(serve, cluster, tmp_path / "first")
    first.stop()
    plain = serve(app=APP, data=tmp_path / "first-again", start=False)
    shutil.copytree(tmp_path / "first", plain.data)
    plain.launch(1)
    assert plain.wait() == 1
    assert "it is a cache of the logs of a cluster" in plain.output


def test_without_a_majority_nothing_is_confirmed_and_it_goes_on_by_itself(
    servers: NatsServers, serve: Serve, cluster: str, tmp_path: Path
) -> None:
    service = start(serve, cluster, tmp_path / "data")
    service.expect("the servers that keep the log (do not confirm a commit|confirm again)")
    assert service.call("Till", "a", "add") == 1
    asleep = servers.names[:2]
    try:
        for name in asleep:
            servers.signal(name, signal.SIGSTOP)
        confirmed: list[Any] = []
        unknown = 0

        def refused() -> bool:
            """By the reason, in the end; nothing is confirmed meanwhile."""
            nonlocal unknown
            status, answer = exchange(service.endpoint, "Till", "a", "add", [], {"deadline_ms": 1_000})
            if status == 0:
                confirmed.append(answer)
                return True
            unknown += answer["outcome"] == "unknown"
            return answer["code"] == "unavailable" and "have not confirmed anything for" in answer["message"]

        wait_until(refused, "calls to be refused", 60)
        status, answer = exchange(service.endpoint, "Till", "b", "read")
        assert (status, answer["code"], answer["outcome"]) == (1, "unavailable", "not_executed")
        assert exchange(service.endpoint, "", "", "ping")[0] == 0
        problem = wait_until(lambda: [each for each in service.status()["problems"] if "keep the log" in each["what"]], "a word")
        assert "nothing is lost" in problem[0]["next"]
        assert confirmed == []
    finally:
        for name in asleep:
            servers.signal(name, signal.SIGCONT)
    back = wait_until(lambda: exchange(service.endpoint, "Till", "a", "add", [], {"deadline_ms": 5_000}), "the majority", 60)
    while back[0]:
        back = exchange(service.endpoint, "Till", "a", "add", [], {"deadline_ms": 5_000})
        unknown += back[0] == 1 and back[1]["outcome"] == "unknown"
    service.wait_for_output("the servers that keep the log confirm again")
    assert 2 <= back[1] <= 2 + unknown + 1, "whatever was answered `unknown` happened once or not at all"


def test_a_log_of_several_shards_loses_those_that_others_claim(servers: NatsServers) -> None:
    name = f"test-{next(_numbers)}"
    founding = find_or_found(servers.urls, name, 4)
    assert find_or_found(servers.urls, name, 64) == founding, "who comes later finds what was founded"
    first, second = (WorkerLog(servers.urls, name, "a test") for _ in range(2))
    records: list[tuple[int, bytes]] = []
    try:
        assert first.claim(dict.fromkeys(range(4), b""), lambda *told: records.append(told)) == {}
        assert [first.append(record([0, 1, 2], seq)) for seq in (1, 2)] == [1, 2]
        assert second.claim({1: first.mark(1, 1), 2: b""}, lambda *told: records.append(told)) == {}
        parts = {(shard, tuple((each.shard, each.seq) for each in decode_unread_record(data).shards)) for shard, data in records}
        assert parts == {(1, ((1, 2),)), (2, ((2, 1),)), (2, ((2, 2),))}, "each stream has its own shard's part, from the mark on"
        with pytest.raises(PartlyStored) as raised:
            first.append(record([0, 1, 2, 3], 3))
        assert {shard: isinstance(error, ShardElsewhere) and error.undone for shard, error in raised.value.failed.items()} == {
            1: True,
            2: True,
        }
        assert not first.is_broken
        assert first.append(record([0, 3], 4)) == 4
    finally:
        first.close()
        second.close()


@contextlib.contextmanager
def owner_and_reader(servers: NatsServers, shards: int = 1) -> Iterator[tuple[WorkerLog, WorkerLog]]:
    """Two processes that know a new cluster; the first owns all of its shards, in which there is one record."""
    name = f"test-{next(_numbers)}"
    find_or_found(servers.urls, name, shards)
    owner, reader = (WorkerLog(servers.urls, name, "a test") for _ in range(2))
    try:
        assert owner.claim(dict.fromkeys(range(shards), b""), ignore) == {}
        assert owner.append(record([*range(shards)], 1)) == 1
        assert reader.claim({}, ignore) == {}
        yield owner, reader
    finally:
        owner.close()
        reader.close()


def ignore(shard: int, data: bytes) -> None:
    """What is read is looked at nowhere."""


def test_who_reads_a_log_disturbs_no_owner_and_claims_from_there(servers: NatsServers) -> None:
    told: list[bytes] = []
    with owner_and_reader(servers) as (owner, reader):
        for seq in range(2, 301):
            owner.append(record([0], seq))
        mark = reader.follow(0, b"", lambda shard, data: told.append(data))
        assert isinstance(mark, bytes)
        assert len(told) == 300
        assert owner.append(record([0], 301)) == 301, "it owns the shard still"
        assert reader.take(0, mark, lambda shard, data: told.append(data)) is None
        seqs = [commit.seq for data in told for commit in decode_unread_record(data).shards]
        assert seqs == list(range(1, 302)), "each once"
        assert reader.append(record([0], 302)) == 1
        with pytest.raises(PartlyStored):
            owner.append(record([0], 302))


def test_who_does_not_want_a_shard_any_longer_shuts_nobody_out(servers: NatsServers) -> None:
    with owner_and_reader(servers) as (owner, reader):
        refused = reader.take(0, b"", ignore, lambda: False)
        assert isinstance(refused, ShardUnwanted)
        owner.append(record([0], 2))
        assert reader.take(0, b"", ignore, lambda: True) is None
        with pytest.raises(PartlyStored):
            owner.append(record([0], 3))


def test_an_owner_who_appends_whenever_it_is_read_is_not_followed_for_ever(servers: NatsServers) -> None:
    seqs, told = count(2), list[bytes]()
    with owner_and_reader(servers) as (owner, reader):
        mark = reader.follow(0, b"", lambda *_: owner.append(record([0], next(seqs))))
        assert isinstance(mark, bytes)
        assert reader.take(0, mark, lambda shard, data: told.append(data)) is None
        assert told, "what came last is left for the claim"


def test_a_log_of_which_nothing_comes_any_longer_is_given_up_and_its_owner_goes_on(
    servers: NatsServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(stream: ShardStream, sequence: int) -> None:
        await asyncio.Event().wait()

    with owner_and_reader(servers) as (owner, reader):
        with monkeypatch.context() as patch:
            patch.setattr(worker_log, "STALL_S", 0.5)
            patch.setattr(ShardStream, "read", hang)
            given_up = reader.follow(0, b"", ignore)
        assert isinstance(given_up, ShardUnreachable)
        assert "read shard 0: nothing more of it has come for 0.5 s" in str(given_up)
        assert owner.append(record([0], 2)) == 2
        assert isinstance(reader.follow(0, b"", ignore), bytes)


def test_a_shard_that_was_lost_is_taken_while_what_another_lacks_is_read_and_comes_to_no_end(servers: NatsServers) -> None:
    is_read, goes_on = threading.Event(), threading.Event()

    def held_up(shard: int, data: bytes) -> None:
        is_read.set()
        assert goes_on.wait(60.0)

    with owner_and_reader(servers, shards=2) as (_, reader), ThreadPoolExecutor(1) as threads:
        reading = threads.submit(reader.follow, 0, b"", held_up)
        try:
            assert is_read.wait(60.0)
            assert reader.take(1, b"", ignore) is None
            assert not reading.done()
        finally:
            goes_on.set()
        assert isinstance(reading.result(), bytes)


def test_a_stream_that_is_gone_is_not_made_again(servers: NatsServers) -> None:
    name = f"test-{next(_numbers)}"
    find_or_found(servers.urls, name, 2)
    assert ask(servers, f"STREAM.DELETE.{name}-0001")["success"]
    find_or_found(servers.urls, name, 2)
    log = WorkerLog(servers.urls, name, "a test")
    stopped = log.claim({0: b"", 1: b""}, lambda *told: None)
    assert list(stopped) == [1], "the others are served"
    assert f"use the stream {name}-0001: there is none of that name" in str(stopped[1])
    assert "start the service again" in stopped[1].hint
    assert log.append(record([0], 1)) == 1
    log.close()


def test_a_stream_that_could_lose_something_stops_its_shard_alone(servers: NatsServers) -> None:
    name = f"test-{next(_numbers)}"
    find_or_found(servers.urls, name, 2)
    settings = ask(servers, f"STREAM.INFO.{name}-0001")["config"]
    assert "error" not in ask(servers, f"STREAM.UPDATE.{name}-0001", {**settings, "max_msgs": 5})
    log = WorkerLog(servers.urls, name, "a test")
    stopped = log.claim({0: b"", 1: b""}, lambda *told: None)
    log.close()
    assert list(stopped) == [1]
    assert "it could lose what it has confirmed: max_msgs is 5" in str(stopped[1])
    assert not isinstance(stopped[1], ShardUnreachable)


def test_a_stream_without_a_majority_stops_its_shard_until_it_answers(
    servers: NatsServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"test-{next(_numbers)}"
    find_or_found(servers.urls, name, 1)
    monkeypatch.setattr(worker_log, "CLAIM_S", 1.0)
    monkeypatch.setattr("tidegate.shard.replicated.servers.START_S", 5.0)
    log = WorkerLog(servers.urls[2:], name, "a test")
    asleep = servers.names[:2]
    try:
        for each in asleep:
            servers.signal(each, signal.SIGSTOP)
        stopped = log.claim({0: b""}, lambda *told: None)
    finally:
        for each in asleep:
            servers.signal(each, signal.SIGCONT)
    assert [type(each) for each in stopped.values()] == [ShardUnreachable]
    wait_until(lambda: log.take(0, b"", lambda *told: None) is None, "the claim of a running worker", START_S)
    assert log.append(record([0], 1)) == 1
    log.close()


def test_streams_without_the_record_of_their_founding_are_not_taken_over(servers: NatsServers) -> None:
    name = f"test-{next(_numbers)}"
    find_or_found(servers.urls, name, 2)
    log = WorkerLog(servers.urls, name, "a test")
    log.claim({0: b""}, lambda *told: None)
    log.close()
    assert ask(servers, f"STREAM.DELETE.KV_tidegate-{name}")["success"]
    assert ask(servers, f"STREAM.DELETE.{name}-0001")["success"]
    with pytest.raises(OperatorError, match=r"its streams are there .*, and the record of its founding is not"):
        find_or_found(servers.urls, name, 2)
    assert "error" in ask(servers, f"STREAM.INFO.{name}-0001"), "one that is missing was lost, and would be found empty"


def read_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two reads of a record of a founding give it as it was before there were streams, as by a replica that lags behind."""
    get = KeyValue.get
    left = 2

    async def old(bucket: KeyValue, key: str) -> KeyValue.Entry:
        nonlocal left
        left -= 1
        if left == 0:
            monkeypatch.setattr(KeyValue, "get", get)
        entry = await get(bucket, key)
        assert entry.value is not None
        return replace(entry, value=entry.value.replace(b'"made":true', b'"made":false'), revision=1)

    monkeypatch.setattr(KeyValue, "get", old)


def test_who_reads_an_old_record_is_not_refused(servers: NatsServers, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"test-{next(_numbers)}"
    founding = find_or_found(servers.urls, name, 2)
    log = WorkerLog(servers.urls, name, "a test")
    log.claim({0: b""}, lambda *told: None)
    log.close()
    read_old(monkeypatch)
    assert find_or_found(servers.urls, name, 2) == founding


def test_who_reads_an_old_record_makes_no_stream(servers: NatsServers, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"test-{next(_numbers)}"
    founding = find_or_found(servers.urls, name, 2)
    assert ask(servers, f"STREAM.DELETE.{name}-0001")["success"]
    read_old(monkeypatch)
    assert find_or_found(servers.urls, name, 2) == founding
    assert "error" in ask(servers, f"STREAM.INFO.{name}-0001"), "it was lost: anew, it would be found empty"


def test_hosts_that_found_a_cluster_at_the_same_time_agree(servers: NatsServers) -> None:
    name = f"test-{next(_numbers)}"
    with ThreadPoolExecutor(4) as hosts:
        founded = {*hosts.map(lambda shards: find_or_found(servers.urls, name, shards), (2, 3, 4, 5))}
    assert len(founded) == 1
    assert founded.pop().made
