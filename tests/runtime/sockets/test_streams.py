"""Streams of clients on this host, on real sockets and a real loop: what `test_endpoint` has for ZeroMQ."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.endpoint_server import Server
from tests.support.waiting import WITHIN_S
from tidegate.runtime.limits import TURN_REQUESTS_MAX
from tidegate.runtime.sockets.frames import GREETING, Frames, head_of_length
from tidegate.runtime.sockets.outbox import Outbox
from tidegate.runtime.wire.protocol import OK, Message

pack = msgspec.msgpack.encode


class Caller:
    """A plain client, which blocks."""

    def __init__(self, path: Path, *, greets: bool = True) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(WITHIN_S)
        self.socket.connect(str(path))
        self._frames = Frames()
        self._bodies: list[bytes] = []
        if greets:
            self.socket.sendall(GREETING)

    def send(self, *bodies: bytes) -> None:
        self.socket.sendall(b"".join(head_of_length(len(body)) + body for body in bodies))

    def ask(self, *requests: list[Any]) -> None:
        self.send(pack(list(requests)))

    def body(self) -> bytes | None:
        """None: the connection was closed."""
        while not self._bodies:
            try:
                data = self.socket.recv(self._frames.wanted)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self._bodies += self._frames.feed(data)
        return self._bodies.pop(0)

    def answers(self, count: int) -> list[Any]:
        found: list[Any] = []
        while len(found) < count:
            body = self.body()
            assert body is not None, "closed"
            decoded = msgspec.msgpack.decode(body)
            found += decoded if isinstance(decoded[0], list) else [decoded]
        return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "door.str"


@pytest.fixture
def server(path: Path) -> Iterator[Server]:
    server = Server(stream=path)
    yield server
    server.stop()
    assert not server.errors


def test_messages_are_answered_in_the_form_in_which_they_came(server: Server, path: Path) -> None:
    caller = Caller(path)
    caller.send(pack([1, "C", "n", "m", [7]]), b'[2, "C", "n", "m", [8]]')
    answers = {msgspec.json.decode(body)[0] if body[:1] == b"[" else msgspec.msgpack.decode(body)[0]: body for body in
               (caller.body() or b"", caller.body() or b"")}  # fmt: skip
    assert msgspec.msgpack.decode(answers[1]) == [1, 0, [7]]
    assert msgspec.json.decode(answers[2]) == [2, 0, [8]]
    caller.ask([3, "C", "n", "m", [9]], [4, "C", "n", "m", [10]])
    assert caller.answers(2) == [[3, 0, [9]], [4, 0, [10]]]


def test_the_file_is_for_the_services_user_alone_and_goes_with_the_door(path: Path) -> None:
    umask = os.umask(0)
    server = Server(stream=path)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    server.stop()
    assert not path.exists()


def test_all_replies_of_a_turn_to_a_client_are_one_message_and_all_clients_share_the_turn(server: Server, path: Path) -> None:
    callers = [Caller(path) for _ in range(20)]
    server.wait_until(lambda statistics: statistics.streams == 20)

    def send_all() -> None:  # In the loop: all are there when it looks.
        for caller in callers:
            for number in range(5):
                caller.ask([number, "C", "n", "m", [number]])
        server.turns[:] = [[]]

    server.in_loop(send_all)
    for caller in callers:
        body = caller.body()
        assert body is not None
        assert msgspec.msgpack.decode(body) == [[number, 0, [number]] for number in range(5)]
    assert [sum(turn) for turn in server.turns if turn] == [100]


def test_a_turn_takes_as_many_requests_as_one_may_have_and_no_client_is_left_behind(server: Server, path: Path) -> None:
    greedy, modest = Caller(path), Caller(path)
    server.wait_until(lambda statistics: statistics.streams == 2)

    def send_all() -> None:
        greedy.send(*[pack([number, "C", "n", "m"]) for number in range(4_000)])
        modest.ask([1, "C", "n", "m", ["modest"]])
        server.turns[:] = [[]]

    server.in_loop(send_all)
    assert modest.answers(1) == [[1, 0, ["modest"]]]
    for number in range(4_000):
        body = greedy.body()
        assert body is not None
        assert msgspec.msgpack.decode(body)[0] == number
    turns = [sum(turn) for turn in server.turns if turn]
    assert max(turns) <= TURN_REQUESTS_MAX
    assert sum(turns) == 4_001


def test_somebody_else_gets_in_while_the_only_client_has_something_to_say_in_every_turn(server: Server, path: Path) -> None:
    first = Caller(path)
    first.ask([1, "C", "n", "m", [1]])
    first.answers(1)
    turns, is_over = itertools.count(), threading.Event()

    def echo_and_let_ask_again(message: Message) -> None:
        server.echo(message)
        if message.requests[0].id == 1 and not is_over.is_set():
            if next(turns):
                first.answers(1)  # To the turn before.
            first.ask([1, "C", "n", "m", [1]])

    server.handle = echo_and_let_ask_again
    first.ask([1, "C", "n", "m", [1]])
    second = Caller(path)
    second.ask([2, "C", "n", "m", [2]])
    assert second.answers(1) == [[2, 0, [2]]]
    is_over.set()


def test_nothing_is_heard_behind_a_frame_that_is_too_long_of_the_only_client_either(server: Server, path: Path) -> None:
    caller = Caller(path)
    caller.ask([1, "C", "n", "m", [7]])
    caller.answers(1)

    def send_all() -> None:
        caller.socket.sendall(b"\xff\xff\xff\xff")
        caller.ask([2, "C", "n", "m", [8]])
        server.turns[:] = [[]]

    server.in_loop(send_all)
    assert caller.body() is None
    assert not [turn for turn in server.turns if turn]


def test_large_messages_go_both_ways_whole(server: Server, path: Path) -> None:
    caller = Caller(path)
    large = os.urandom(900_000)
    for number in range(3):
        caller.ask([number, "C", "n", "m", [large]])
        assert caller.answers(1) == [[number, 0, [large]]]


def test_a_frame_that_is_too_large_ends_the_connection_and_what_came_before_it_is_answered(server: Server, path: Path) -> None:
    caller = Caller(path)
    caller.send(pack([[1, "C", "n", "m", [1]]]))
    caller.socket.sendall(head_of_length((1 << 20) + 1) + b"x" * 1_000)
    assert caller.answers(1) == [[1, 0, [1]]]
    assert caller.body() is None
    server.wait_until(lambda statistics: statistics.malformed == 1 and statistics.streams == 0)


@pytest.mark.parametrize("body", [b"", b"\xc1", b"hello", pack({"a": 1}), pack([]), b"\xff" * 100], ids=repr)
def test_a_body_that_is_no_message_is_counted_and_the_next_one_is_heard(server: Server, path: Path, body: bytes) -> None:
    caller = Caller(path)
    caller.send(body, pack([[1, "C", "n", "m", [1]]]))
    assert caller.answers(1) == [[1, 0, [1]]]
    server.wait_until(lambda statistics: statistics.malformed == 1)


@pytest.mark.parametrize("hello", [b"GET / HTTP/1.1\r\n\r\n", b"\xff" + bytes(8) + b"\x7f\x03" + bytes(53), b"\0"])
def test_who_does_not_greet_is_closed_counted_and_never_heard(
    server: Server, path: Path, hello: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(1, 4):
        stranger = Caller(path, greets=False)
        with contextlib.suppress(BrokenPipeError):
            stranger.socket.sendall(hello + head_of_length(20) + bytes(20))
        assert stranger.body() is None
        server.wait_until(lambda statistics, number=number: statistics.foreign_peers == number)  # type: ignore[misc]  # its default
    assert [record.getMessage().count("no client of Tidegate's") for record in caplog.records] == [1]
    assert server.in_loop(server.endpoint.statistics).messages_in == 0


@pytest.mark.parametrize("start", [b"", GREETING[:5]])
def test_who_does_not_greet_in_time_is_closed_and_counted(
    server: Server, path: Path, start: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidegate.runtime.sockets.streams.HANDSHAKE_MS_MAX", 200)
    strangers = [Caller(path, greets=False) for _ in range(3)]
    for stranger in strangers:
        stranger.socket.sendall(start)
    patient = Caller(path)
    for stranger in strangers:
        assert stranger.body() is None
    server.wait_until(lambda statistics: statistics.foreign_peers == 3 and statistics.streams == 1)
    patient.ask([1, "C", "n", "m", [1]])
    assert patient.answers(1) == [[1, 0, [1]]]


def test_half_a_frame_holds_up_nobody_and_goes_with_its_client(server: Server, path: Path) -> None:
    half = Caller(path)
    half.socket.sendall(head_of_length(500_000) + b"x" * 100_000)
    other = Caller(path)
    other.ask([1, "C", "n", "m", [1]])
    assert other.answers(1) == [[1, 0, [1]]]
    half.socket.close()
    server.wait_until(lambda statistics: statistics.streams == 1 and statistics.malformed == 0)


def test_who_does_not_read_costs_a_bounded_amount_gets_short_errors_and_disturbs_nobody(path: Path) -> None:
    outbox = Outbox(1 << 20)
    server = Server(outbox, stream=path)
    answer = b"x" * 10_000

    def handle(message: Message) -> None:
        for each in message.requests:
            server.endpoint.reply(message.origin, each.id, OK, answer)

    server.handle = handle
    slow, other = Caller(path), Caller(path)
    for first in range(0, 1_000, 10):
        slow.ask(*[[first + nth, "C", "n", "m"] for nth in range(10)])
        server.in_loop(server.endpoint.statistics)  # A turn has gone by.
    server.wait_until(lambda statistics: statistics.undeliverable > 0)
    assert 0 < outbox.kept_bytes < 2 << 20
    other.ask([1, "C", "n", "m"])
    assert other.answers(1) == [[1, 0, answer]]
    answers = slow.answers(1_000)
    assert [request_id for request_id, _, _ in answers] == list(range(1_000)), "in order, nothing lost"
    refused = [result for _, status, result in answers if status]
    assert refused
    assert {(error["code"], error["outcome"]) for error in refused} == {("overloaded", "unknown")}
    server.wait_until(lambda statistics: statistics.untaken_bytes == 0)
    server.in_loop(outbox.check_invariants)
    slow.ask([1, "C", "n", "m"])
    assert slow.answers(1) == [[1, 0, answer]]
    server.stop()
    assert not server.errors


def test_what_was_kept_for_a_client_that_has_gone_is_let_go(path: Path) -> None:
    outbox = Outbox(8 << 20)
    server = Server(outbox, stream=path)
    server.handle = lambda message: server.endpoint.reply(message.origin, message.requests[0].id, OK, bytes(900_000))
    gone = Caller(path)
    for number in range(4):
        gone.ask([number, "C", "n", "m"])
    server.wait_until(lambda statistics: statistics.kept_bytes > 0)
    gone.socket.close()
    server.wait_until(lambda statistics: (statistics.kept_bytes, statistics.untaken_bytes, statistics.streams) == (0, 0, 0))
    server.stop()
    assert not server.errors


def test_replies_to_who_has_gone_are_dropped_and_counted(server: Server, path: Path) -> None:
    waiting: list[Message] = []
    server.handle = waiting.append
    caller = Caller(path)
    caller.ask([1, "C", "n", "m"])
    server.wait_until(lambda statistics: len(waiting) == 1)
    caller.socket.close()
    server.wait_until(lambda statistics: statistics.streams == 0)

    def reply() -> None:
        server.endpoint.reply(waiting[0].origin, 1, OK, None)
        server.endpoint.flush()

    server.in_loop(reply)
    assert server.in_loop(server.endpoint.statistics).undeliverable == 1


def test_what_was_asked_by_who_has_gone_is_run_all_the_same(server: Server, path: Path) -> None:
    caller = Caller(path)
    caller.ask(*[[number, "C", "n", "m"] for number in range(100)])
    caller.socket.close()
    server.wait_until(lambda statistics: statistics.streams == 0 and statistics.messages_in == 1)
    assert sum(map(sum, server.turns)) == 100


def test_a_batch_of_more_calls_than_a_turn_has_is_run_in_parts_and_others_come_in_between(server: Server, path: Path) -> None:
    greedy, other = Caller(path), Caller(path)
    greedy.ask(*[[number, "C", "n", "m"] for number in range(20_000)])
    other.ask([1, "C", "n", "m", ["other"]])
    assert other.answers(1) == [[1, 0, ["other"]]]
    assert [row[0] for row in greedy.answers(20_000)] == list(range(20_000))
    assert max(sum(turn) for turn in server.turns) <= TURN_REQUESTS_MAX + 1


def test_a_fault_in_a_handler_is_answered_and_takes_nothing_else_along(server: Server, path: Path) -> None:
    def fail(message: Message) -> None:
        raise RuntimeError("a fault of ours")

    caller = Caller(path)
    server.handle = fail
    caller.ask([1, "C", "n", "m"])
    ((request_id, status, error),) = caller.answers(1)
    assert (request_id, status, error["code"]) == (1, 1, "internal")
    server.handle = server.echo
    caller.ask([2, "C", "n", "m", [2]])
    assert caller.answers(1) == [[2, 0, [2]]]


def test_a_flood_of_connections_is_let_in_and_all_are_served(server: Server, path: Path) -> None:
    callers = [Caller(path) for _ in range(400)]
    for number, caller in enumerate(callers):
        caller.ask([number, "C", "n", "m", [number]])
    assert [caller.answers(1) for caller in callers] == [[[number, 0, [number]]] for number in range(400)]
    for caller in callers:
        caller.socket.close()
    server.wait_until(lambda statistics: statistics.streams == 0)


def test_where_few_descriptors_are_left_nobody_else_comes_in_and_who_is_there_is_served(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_use = len(os.listdir("/proc/self/fd"))
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    limit = max(in_use, highest) + 100
    monkeypatch.setattr("tidegate.runtime.sockets.connections.descriptors.limit", lambda: limit)
    server = Server(stream=path)
    callers: list[Caller] = []
    with contextlib.suppress(OSError):
        for _ in range(300):
            callers.append(Caller(path))
            server.wait_until(lambda statistics: statistics.streams >= len(callers) or statistics.refuses_connections)
    assert len(callers) < 300, "the file is not there for a while"
    server.wait_until(lambda statistics: statistics.times_full > 0 and statistics.refuses_connections)
    callers[0].ask([1, "C", "n", "m", [1]])
    assert callers[0].answers(1) == [[1, 0, [1]]]
    for caller in callers[1:]:
        caller.socket.close()
    server.wait_until(lambda statistics: not statistics.refuses_connections)
    newcomer = Caller(path)
    newcomer.ask([1, "C", "n", "m", [1]])
    assert newcomer.answers(1) == [[1, 0, [1]]]
    server.stop()
    assert not server.errors


def test_what_the_kernel_has_taken_arrives_after_the_endpoint_has_closed(path: Path) -> None:
    server = Server(stream=path)
    caller = Caller(path)
    caller.ask([1, "C", "n", "m", ["last"]])
    server.wait_until(lambda statistics: statistics.messages_out == 1)
    server.stop()
    assert caller.answers(1) == [[1, 0, ["last"]]]
    assert caller.body() is None


def test_a_turn_that_could_not_be_ended_leaves_nobody_behind(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(stream=path)
    going, staying = Caller(path), Caller(path)
    server.wait_until(lambda statistics: statistics.streams == 2)
    faults = [RuntimeError("a fault of ours"), RuntimeError("another one")]

    def flush() -> None:
        if faults:
            raise faults.pop()
        monkeypatch.undo()
        server.endpoint.flush()

    monkeypatch.setattr(server.endpoint, "flush", flush)
    going.socket.close()
    server.wait_until(lambda statistics: statistics.streams == 1)
    staying.ask([1, "C", "n", "m", [1]])
    assert staying.answers(1) == [[1, 0, [1]]]
    server.stop()
    assert [str(error) for error in server.errors] == ["another one", "a fault of ours"]
