"""The log over three real nats-servers with three replicas, each of which syncs: two owners, killed and sleeping leaders."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.support.nats_cluster import ask, end_of, leader_of
from tests.support.waiting import wait_until
from tidegate.benchmarks.nats_servers import NatsServers
from tidegate.shard.log.commit_log import LogBroken, LogFull, NoLog
from tidegate.shard.replicated.jetstream_log import JetStreamLog, LogShutOut
from tidegate.shard.replicated.owner import Apply
from tidegate.shard.replicated.replay import StreamPlace
from tidegate.shard.store.interface import ShardDamaged

SHARD = 4
MAX_PAYLOAD = 64 << 10
_numbers = count()


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServers]:
    with NatsServers(tmp_path_factory.mktemp("nats"), max_payload=MAX_PAYLOAD) as started:
        yield started


@pytest.fixture
def stream() -> str:
    return f"test-{next(_numbers)}"


class Host:
    """One that has the shard, and what it has been told of it."""

    def __init__(self, servers: NatsServers, stream: str, place: StreamPlace | None = None, bytes_max: int = -1) -> None:
        self.records: list[bytes] = []
        self.log = JetStreamLog.open(servers.urls, stream, SHARD, self._applied, place, words="a test", bytes_max=bytes_max)

    def _applied(self, effect: Apply) -> None:
        assert effect.place.position == effect.position
        self.records.append(effect.record)

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        self.log.close()


def records_of(servers: NatsServers, stream: str) -> list[bytes]:
    with Host(servers, stream) as host:
        return host.records


def test_it_has_the_face_of_a_log() -> None:
    face = {name for name in dir(NoLog) if not name.startswith("_")} | {
        "is_broken",
        "needs_segment",
        "segments_used",
        "segments_max",
    }
    assert face <= set(dir(JetStreamLog))


def test_what_was_appended_is_there_for_the_next_owner(servers: NatsServers, stream: str) -> None:
    with Host(servers, stream) as host:
        assert [host.log.append(b"%d" % number) for number in range(5)] == [1, 2, 3, 4, 5]
        assert host.log.statistics().appends == 5
    assert records_of(servers, stream) == [b"0", b"1", b"2", b"3", b"4"]


def test_an_append_is_one_message(servers: NatsServers, stream: str) -> None:
    with Host(servers, stream) as host:
        before = end_of(servers, stream)
        host.log.append(bytes(50_000))
        assert end_of(servers, stream) == before + 1


def test_a_record_larger_than_a_message_travels_in_pieces(servers: NatsServers, stream: str) -> None:
    record = bytes(range(256)) * 1_000
    with Host(servers, stream) as host:
        host.log.append(b"small")
        host.log.append(record)
    assert records_of(servers, stream) == [b"small", record]


def test_a_record_that_fills_a_message_to_the_last_byte_leaves_the_connection_alone(servers: NatsServers, stream: str) -> None:
    """One byte more would close it for good."""
    with Host(servers, stream) as host:
        before = end_of(servers, stream)
        largest = host.log._owner._piece_bytes
        host.log.append(bytes(largest))
        assert end_of(servers, stream) == before + 1
        host.log.append(bytes(largest + 1))
        assert end_of(servers, stream) == before + 3


def test_the_next_owner_shuts_out_the_one_before(servers: NatsServers, stream: str) -> None:
    with Host(servers, stream) as first:
        first.log.append(b"one")
        with Host(servers, stream) as second:
            assert second.records == [b"one"]
            with pytest.raises(LogShutOut, match="epoch 2 has another owner; the record is not stored") as raised:
                first.log.append(b"late")
            assert raised.value.undone
            assert first.log.is_broken
            with pytest.raises(LogShutOut):
                first.log.append(b"later")
            second.log.append(b"two")
    assert records_of(servers, stream) == [b"one", b"two"]


def test_many_claims_at_once_leave_one_owner_and_lose_nothing(servers: NatsServers, stream: str) -> None:
    with Host(servers, stream) as host:
        host.log.append(b"one")
    hosts: list[Host] = []

    def claim() -> None:
        try:
            hosts.append(Host(servers, stream))
        except LogShutOut:
            pass

    threads = [threading.Thread(target=claim) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    confirmed: list[Host] = []
    for host in hosts:
        try:
            host.log.append(b"%d" % len(confirmed))
        except LogShutOut:
            continue
        confirmed.append(host)
    for host in hosts:
        host.log.close()
    assert len(confirmed) == 1
    assert records_of(servers, stream) == [b"one", b"0"]


def test_a_host_goes_on_from_the_place_that_it_has(servers: NatsServers, stream: str) -> None:
    with Host(servers, stream) as host:
        host.log.append(b"one")
        place = host.log.place
        host.log.append(b"two")
    with Host(servers, stream, place) as host:
        assert host.records == [b"two"]


def test_a_full_stream_refuses_and_the_shard_stays_owned(servers: NatsServers, stream: str) -> None:
    with Host(servers, stream, bytes_max=20_000) as host:
        host.log.append(bytes(10_000))
        with pytest.raises(LogFull, match="it is full"):
            host.log.append(bytes(15_000))
        assert host.log.append(b"small") == 2
    assert records_of(servers, stream) == [bytes(10_000), b"small"]


def test_what_was_purged_is_not_passed_over(servers: NatsServers, stream: str) -> None:
    with Host(servers, stream) as host:
        for number in range(3):
            host.log.append(b"%d" % number)
        assert ask(servers, f"STREAM.PURGE.{stream}", {"seq": 3})["success"]
    with pytest.raises(ShardDamaged, match="what follows message 0 is gone, up to message 3"):
        Host(servers, stream)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_appends_outlive_the_leader_of_the_stream(servers: NatsServers, stream: str, number: signal.Signals) -> None:
    """It is killed, or sleeps and wakes up later, in the middle of appends: what was confirmed is there once."""
    confirmed: list[bytes] = []
    stop = threading.Event()
    failed: list[BaseException] = []

    def write(log: JetStreamLog) -> None:
        try:
            while not stop.is_set():
                record = b"%d" % len(confirmed)
                log.append(record)
                confirmed.append(record)
        except BaseException as error:
            failed.append(error)

    def go_on(what: str) -> None:
        goal = len(confirmed) + 20
        wait_until(lambda: len(confirmed) >= goal or failed, what, 60)

    with Host(servers, stream) as host:
        writer = threading.Thread(target=write, args=(host.log,))
        writer.start()
        for _ in range(2):
            go_on("appends")
            leader = leader_of(servers, stream)
            servers.signal(leader, number)
            go_on("appends without the leader")
            if number is signal.SIGKILL:
                servers.start(leader)
            else:
                servers.signal(leader, signal.SIGCONT)
        go_on("appends with all three")
        stop.set()
        writer.join()
        assert not failed
    assert records_of(servers, stream) == confirmed


def test_closing_ends_an_append_that_waits_for_the_majority(tmp_path: Path) -> None:
    with NatsServers(tmp_path) as servers:
        host = Host(servers, "waits")
        host.log.append(b"one")
        others = [name for name in servers.names if name != leader_of(servers, "waits")]
        for name in others:
            servers.signal(name, signal.SIGSTOP)
        ended: list[BaseException] = []

        def append() -> None:
            try:
                host.log.append(b"two")
            except LogBroken as error:
                ended.append(error)

        thread = threading.Thread(target=append)
        thread.start()
        wait_until(lambda: host.log._owner._waited > 0, "that it is in doubt", 30)
        host.log.close()
        thread.join()
        assert "the log was closed" in str(ended[0])
