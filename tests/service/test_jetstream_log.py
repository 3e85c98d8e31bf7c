"""The log over three real nats-servers with three replicas, each of which syncs: two owners, killed and sleeping leaders."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.support.nats_cluster import ask, end_of, leader_of
from tests.support.waiting import wait_until
from tidegate.runtime.cluster.nats_servers import NatsServers
from tidegate.runtime.errors import OperatorError
from tidegate.shard.log.commit_log import LogBroken, LogFull, NoLog
from tidegate.shard.replicated.jetstream_log import JetStreamLog
from tidegate.shard.replicated.owner import Apply, Event
from tidegate.shard.replicated.replay import StreamPlace
from tidegate.shard.replicated.shard_log import LogShutOut
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
        self.log = JetStreamLog.open(
            servers.urls, stream, SHARD, self._applied, place, create=place is None, words="a test", bytes_max=bytes_max
        )

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
        largest = host.log.log.owner._piece_bytes
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


def test_the_place_of_half_a_record_in_pieces_is_not_given_away(servers: NatsServers, stream: str) -> None:
    """Its last piece is on its way when the place is asked for, and is stored then."""
    record = bytes(MAX_PAYLOAD + 1)
    with Host(servers, stream) as host:
        before = host.log.place
        opened = host.log._stream
        assert opened is not None
        publish, go_on, sent = opened.publish, threading.Event(), []

        async def publish_slowly(data: bytes, after: int) -> Event:
            sent.append(after)
            if len(sent) == 2:
                await asyncio.to_thread(go_on.wait)
            return await publish(data, after)

        opened.publish = publish_slowly  # The real one, a moment later.
        thread = threading.Thread(target=host.log.append, args=(record,))
        thread.start()
        wait_until(lambda: len(sent) == 2, "the second piece", 30)
        place = host.log.place
        go_on.set()
        thread.join()
    assert place == before
    with Host(servers, stream, place) as host:
        assert host.records == [record]


def test_a_stream_that_is_not_there_is_not_made_unless_that_was_asked_for(servers: NatsServers, stream: str) -> None:
    with pytest.raises(OperatorError, match=f"use the stream {stream}: there is none of that name"):
        JetStreamLog.open(servers.urls, stream, SHARD, lambda effect: None)
    assert stream not in (ask(servers, "STREAM.NAMES")["streams"] or [])
    with pytest.raises(ValueError, match="not to be made"):
        JetStreamLog.open(servers.urls, stream, SHARD, lambda effect: None, StreamPlace(), create=True)


def test_a_stream_that_was_made_anew_is_another_one(servers: NatsServers, stream: str) -> None:
    with Host(servers, stream) as host:
        host.log.append(b"one")
        place = host.log.place
        assert ask(servers, f"STREAM.DELETE.{stream}")["success"]
        Host(servers, stream).log.close()
        with pytest.raises(LogBroken, match=r"it was made at .*, and what this host has is of one that was made at "):
            host.log.append(b"two")
        assert host.log.is_broken
    with pytest.raises(OperatorError, match="that one was deleted"):
        Host(servers, stream, place)


def test_a_connection_that_is_closed_for_good_breaks_the_log_with_the_reason(servers: NatsServers, stream: str) -> None:
    """As the client closes it at nearly every error of the protocol: here, one byte too many."""
    with Host(servers, stream) as host:
        opened = host.log._stream
        assert opened is not None
        client = opened._client
        too_much = client.publish("elsewhere", bytes(MAX_PAYLOAD), headers={"one": "more"})
        asyncio.run_coroutine_threadsafe(too_much, host.log.thread.loop).result()
        wait_until(lambda: client.is_closed, "the end of the connection", 30)
        for _ in range(2):
            with pytest.raises(LogBroken, match=r"(?i)the connection was closed for good: .*maximum payload"):
                host.log.append(b"one")
        assert host.log.is_broken


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


def test_a_claim_behind_a_purge_of_everything_says_so_and_the_newest_place_goes_on(servers: NatsServers, stream: str) -> None:
    with Host(servers, stream) as host:
        host.log.append(b"one")
        place = host.log.place
    assert ask(servers, f"STREAM.PURGE.{stream}")["success"]
    with pytest.raises(ShardDamaged, match="what follows message 0 is gone, up to message 3"):
        Host(servers, stream)
    with Host(servers, stream, place) as host:
        assert (host.records, host.log.append(b"two")) == ([], 2)


def test_a_claim_behind_the_end_of_the_stream_is_loud_and_can_be_closed(
    servers: NatsServers, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As where an older copy of the stream was put in its place."""
    with Host(servers, stream) as host:
        host.log.append(b"one")
        place = host.log.place._replace(sequence=100)
    log = JetStreamLog(servers.urls, stream, SHARD)
    ended: list[BaseException] = []

    def claim() -> None:
        try:
            log.claim(lambda effect: None, place)
        except LogBroken as error:
            ended.append(error)

    thread = threading.Thread(target=claim)
    thread.start()
    wait_until(lambda: "ends at message 2, and this host has it up to message 100" in caplog.text, "that it is said", 30)
    assert "nothing is read behind message 100 where something has to be" in caplog.text
    log.close()
    thread.join()
    assert "the log was closed" in str(ended[0])
    with pytest.raises(LogBroken, match="the log was closed"):
        log.claim(lambda effect: None, place)


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
        place = host.log.place
    with Host(servers, stream, place) as host:
        assert host.records == []
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
        wait_until(lambda: host.log.log.owner._waited > 0, "that it is in doubt", 30)
        host.log.close()
        thread.join()
        assert "the log was closed" in str(ended[0])


def test_closing_ends_although_the_client_waits_to_write_to_a_server_that_reads_nothing(tmp_path: Path) -> None:
    """Its own close waits until what is to be sent is sent."""
    with NatsServers(tmp_path, max_payload=8 << 20) as servers:
        host = Host(servers, "stuck")
        for name in servers.names:
            servers.signal(name, signal.SIGSTOP)
        ended: list[BaseException] = []

        def append() -> None:
            try:
                host.log.append(bytes(7 << 20))
            except LogBroken as error:
                ended.append(error)

        thread = threading.Thread(target=append)
        thread.start()
        wait_until(lambda: host.log.log.owner._waited > 0, "that it is in doubt", 30)
        host.log.close()
        thread.join()
        assert "the log was closed" in str(ended[0])
