"""The door of router and workers, on real sockets and a real loop, with plain clients in threads."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from tests.support.endpoint_server import Server
from tests.support.raw_zmtp import frame, greeted
from tests.support.waiting import WITHIN_S, wait_until
from tidegate.runtime.limits import (
    BATCH_AHEAD_CALLS,
    BATCH_PATIENCE_S,
    LARGE_BYTES,
    PUT_OFF_CALL_BYTES,
    RECEIVE_AHEAD_MESSAGES,
    REPLIES_PER_MESSAGE_MAX,
    TURN_MESSAGES_MAX,
    TURN_REQUESTS_MAX,
)
from tidegate.runtime.sockets.door import bytes_taken
from tidegate.runtime.sockets.edge import is_readable
from tidegate.runtime.sockets.endpoint import EndpointStatistics
from tidegate.runtime.sockets.outbox import Outbox
from tidegate.runtime.sockets.slices import Slices
from tidegate.runtime.wire.protocol import OK, Batch, Message, parse_body, parse_options
from tidegate.runtime.wire.sessions import Session, give_keys, head_row, is_head, without_head


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()
    assert not server.errors


def request(request_id: int | str, args: Any = None) -> bytes:
    return msgspec.msgpack.encode([request_id, "C", "n", "m", args])


def answer(client: zmq.Socket[Any]) -> Any:
    return msgspec.msgpack.decode(client.recv())


def test_a_req_client_reads_one_message_for_one_however_many_bodies_it_sent(server: Server) -> None:
    client = server.client(zmq.REQ)
    for number in range(20):
        client.send_multipart([request(number, [1]), b"[%d]" % number, msgspec.msgpack.encode([[number, "C", "n", "m", [2]]])])
        single, refused, batch = sorted(client.recv_multipart(), key=lambda body: (body[:1] == b"\x91", body[:1] == b"["))
        assert msgspec.msgpack.decode(single) == [number, 0, [1]]
        assert msgspec.json.decode(refused)[:2] == [number, 1]
        assert msgspec.msgpack.decode(batch) == [[number, 0, [2]]]


def test_a_req_client_reads_one_message_even_if_its_replies_must_be_split(server: Server) -> None:
    client = server.client(zmq.REQ)
    large = b"x" * (9 << 20)

    def handle(message: Message) -> None:
        for incoming in message.requests:
            server.endpoint.reply(message.origin, incoming.id, OK, large)

    server.handle = handle
    client.send(msgspec.msgpack.encode([[number, "C", "n", "m"] for number in range(2)]))
    bodies = client.recv_multipart()
    assert [msgspec.msgpack.decode(body)[0][0] for body in bodies] == [0, 1]
    server.handle = server.echo
    client.send(request(3))
    assert answer(client) == [3, 0, None]


def test_replies_to_a_req_client_are_gathered_over_turns(server: Server) -> None:
    waiting: list[Message] = []
    server.handle = waiting.append
    client = server.client(zmq.REQ)
    client.send_multipart([msgspec.msgpack.encode([[1, "C", "n", "m"], [2, "C", "n", "m"]]), request(3)])
    server.wait_until(lambda statistics: len(waiting) == 2)
    for message, index in ((waiting[1], 0), (waiting[0], 1), (waiting[0], 0)):
        assert not client.poll(5)

        def reply(message: Message = message, index: int = index) -> None:
            server.endpoint.reply(message.origin, message.requests[index].id, OK, None)
            server.endpoint.flush()

        server.in_loop(reply)
    single, batch = client.recv_multipart()
    assert msgspec.msgpack.decode(single) == [3, 0, None]
    assert msgspec.msgpack.decode(batch) == [[2, 0, None], [1, 0, None]]


@contextlib.contextmanager
def proxies(address: str, hops: int) -> Iterator[str]:
    """`zmq_proxy` as many times, one behind the other; gives the address of the outermost."""
    context: zmq.Context[Any] = zmq.Context()
    threads = []

    def forward(front: zmq.Socket[Any], back: zmq.Socket[Any]) -> None:
        with contextlib.suppress(zmq.ContextTerminated):
            zmq.proxy(front, back)
        front.close(0)
        back.close(0)

    for _ in range(hops):
        front, back = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
        back.connect(address)
        front.bind("tcp://127.0.0.1:0")
        address = front.getsockopt_string(zmq.LAST_ENDPOINT)
        threads.append(threading.Thread(target=forward, args=(front, back)))
        threads[-1].start()
    yield address
    context.term()
    for thread in threads:
        thread.join(WITHIN_S)


BODIES = [request(1, ["single"]), b"[2]", msgspec.msgpack.encode([[3, "C", "n", "m"], [4, "C", "n", "m"]])]


def ids_of(bodies: list[bytes]) -> list[Any]:
    answers = [msgspec.json.decode(body) if body[:1] == b"[" else msgspec.msgpack.decode(body) for body in bodies]
    return sorted(row[0] for rows in answers for row in (rows if isinstance(rows[0], list) else [rows]))


@pytest.mark.parametrize("hops", [0, 1, 2])
@pytest.mark.parametrize("options", [{}, {"REQ_CORRELATE": 1}, {"REQ_CORRELATE": 1, "REQ_RELAXED": 1}], ids=str)
def test_a_req_client_of_any_options_is_answered_through_any_number_of_proxies(
    server: Server, hops: int, options: dict[str, Any]
) -> None:
    with proxies(server.address, hops) as address:
        client = server.client(zmq.REQ, address=address, **options)
        for _ in range(3):
            client.send_multipart(BODIES)
            assert ids_of(client.recv_multipart()) == [1, 2, 3, 4]
    assert server.in_loop(server.endpoint.statistics).malformed == 0


def test_a_relaxed_req_client_that_asks_again_gets_the_answer_to_its_newest_request(server: Server) -> None:
    waiting: list[Message] = []
    server.handle = waiting.append
    client = server.client(zmq.REQ, REQ_CORRELATE=1, REQ_RELAXED=1)
    for number in range(3):
        client.send(request(number))
        server.wait_until(lambda statistics, number=number: len(waiting) > number)  # type: ignore[misc]  # its default
    for message in waiting:
        server.in_loop(lambda message=message: (server.echo(message), server.endpoint.flush()))  # type: ignore[misc]  # likewise
    assert answer(client)[0] == 2


@pytest.mark.parametrize("hops", [0, 1, 2])
@pytest.mark.parametrize("envelope", [[], [b""], [b"\0id", b"more", b""]], ids=str)
def test_a_dealer_is_answered_through_any_number_of_proxies_with_the_frames_it_put_in_front(
    server: Server, hops: int, envelope: list[bytes]
) -> None:
    with proxies(server.address, hops) as address:
        client = server.client(zmq.DEALER, address=address)
        for _ in range(3):
            client.send_multipart([*envelope, *BODIES])
            bodies: list[bytes] = []
            while len(bodies) < len(BODIES):
                frames = client.recv_multipart()
                assert frames[: len(envelope)] == envelope
                bodies += frames[len(envelope) :]
            assert ids_of(bodies) == [1, 2, 3, 4]
    assert server.in_loop(server.endpoint.statistics).malformed == 0


def test_an_envelope_beyond_its_bounds_is_dropped_and_counted_and_not_executed(server: Server) -> None:
    client = server.client()
    client.send_multipart([b"x"] * 40 + [b"", request(1)])
    client.send_multipart([b"x" * 10_000, b"", request(2)])
    client.send(request(3))
    assert answer(client)[0] == 3
    assert server.in_loop(server.endpoint.statistics).malformed == 2
    assert sum(map(sum, server.turns)) == 1


def test_replies_of_one_turn_to_a_pipelining_client_share_one_message(server: Server) -> None:
    client = server.client()
    client.send(msgspec.msgpack.encode([[number, "C", "n", "m"] for number in range(100)]))
    assert len(answer(client)) == 100
    client.send(msgspec.json.encode([[number, "C", "n", "m"] for number in range(100)]))
    assert len(msgspec.json.decode(client.recv())) == 100


def test_no_edge_is_lost_however_sends_and_receives_interleave(server: Server) -> None:
    """A client that asks again only when answered hangs at the first edge that is lost."""
    turn = 0

    def handle(message: Message) -> None:
        nonlocal turn
        turn += 1
        if turn % 3 == 0:
            server.echo(message)
            server.endpoint.flush()  # In the middle of a burst.
        elif turn % 3 == 1:
            server.echo(message)
        else:

            def later() -> None:
                server.echo(message)
                server.endpoint.flush()

            server.loop.call_soon(later)

    server.handle = handle

    def ask_many(kind: int) -> int:
        client = server.client(kind)
        for number in range(400):
            client.send(request(number))
            assert answer(client) == [number, 0, None]
        client.close()
        return 400

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(ask_many, [zmq.REQ, zmq.DEALER] * 4)) == 3_200


def test_a_turn_reads_a_bounded_number_of_messages_and_of_requests(server: Server) -> None:
    client = server.client()
    blocked = threading.Event()
    server.loop.call_soon_threadsafe(blocked.wait, WITHIN_S)
    for number in range(300):
        client.send(request(number))
    while_blocked = server.client()
    great = msgspec.msgpack.encode([[number, "C", "n", "m"] for number in range(TURN_REQUESTS_MAX)])
    for _ in range(5):
        while_blocked.send(great)
    blocked.set()
    assert [answer(client)[0] for _ in range(300)] == list(range(300))
    for _ in range(5):
        assert len(answer(while_blocked)) == TURN_REQUESTS_MAX
    assert RECEIVE_AHEAD_MESSAGES <= max(map(len, server.turns)) <= TURN_MESSAGES_MAX
    assert max(map(sum, server.turns)) < TURN_REQUESTS_MAX + TURN_MESSAGES_MAX


def test_a_req_client_gets_one_whole_answer_though_the_handler_raised_in_the_middle(server: Server) -> None:
    later: list[Any] = []

    def handle(message: Message) -> None:
        first, second, third = message.requests
        server.endpoint.reply(message.origin, first.id, OK, first.args)
        later.append((message.origin, second.id))
        second.id, message.requests = 1_000, [third]
        raise RuntimeError("a fault of ours")

    server.handle = handle
    client = server.client(zmq.REQ)
    client.send(msgspec.msgpack.encode([[number, "C", "n", "m", [number]] for number in (7, 8, 9)]))
    assert not client.poll(150), "one reply is still to come"
    server.in_loop(
        lambda: [server.endpoint.reply(origin, number, OK, None) for origin, number in later] and server.endpoint.flush()
    )
    rows = answer(client)
    assert sorted(row[:2] for row in rows) == [[7, 0], [8, 0], [9, 1]]
    assert next(row[2]["code"] for row in rows if row[0] == 9) == "internal"


@pytest.mark.parametrize(
    "leave", [lambda server: None, lambda server: server.endpoint._connections.door.shut()], ids=["open", "shut"]
)
def test_the_file_of_a_unix_socket_goes_with_its_endpoint(leave: Callable[[Server], None], tmp_path: Path) -> None:
    server = Server(address=f"ipc://{tmp_path}/door")
    server.wait_until(lambda statistics: bool(server.endpoint._connections.door._listening))
    assert (tmp_path / "door").is_socket()
    server.in_loop(lambda: leave(server))
    server.stop()
    assert not list(tmp_path.iterdir())


def test_the_file_of_a_unix_socket_that_another_has_taken_over_stays(tmp_path: Path) -> None:
    server = Server(address=f"ipc://{tmp_path}/door")
    with socket.socket(socket.AF_UNIX) as other:
        (tmp_path / "door").rename(tmp_path / "moved away")
        other.bind(str(tmp_path / "door"))
        server.stop()
        assert (tmp_path / "door").is_socket()


def test_a_handler_that_raises_costs_its_own_message_and_no_other() -> None:
    server = Server()

    def handle(message: Message) -> None:
        if message.requests[0].method == "raise":
            raise RuntimeError("a bug")
        server.echo(message)

    server.handle = handle
    client = server.client()
    for number in range(10):
        client.send(msgspec.msgpack.encode([number, "C", "n", "raise"]))
        client.send(request(number))
    for number in range(10):
        request_id, status, error = answer(client)
        assert (request_id, status, error["code"]) == (number, 1, "internal")
        assert answer(client)[:2] == [number, 0]
    server.stop()
    assert not server.errors


def test_extra_frames_never_make_the_next_frame_an_identity(server: Server) -> None:
    victim = server.client(identity=b"victim")
    victim.send(request(1))
    assert answer(victim) == [1, 0, None]
    stranger = server.client()
    for count in (2, 3, 1_023, 1_024, 1_025, 5_000):
        stranger.send_multipart([b"victim", b"", request(666)] * count)
        stranger.send_multipart([b"", b"victim", request(667)])
    victim.send(request(2))
    assert answer(victim) == [2, 0, None]
    assert not victim.poll(50)


def test_messages_of_too_many_frames_are_read_to_the_end_and_counted(server: Server) -> None:
    client = server.client()
    client.send_multipart([request(1)] * 2_000)
    client.send_multipart([b"x" * (600 << 10)] * 3)
    client.send(request(2))
    assert answer(client) == [2, 0, None]
    assert server.in_loop(server.endpoint.statistics).malformed >= 1_024 + 2


def test_an_identity_belongs_to_its_connection_while_that_is_open(server: Server) -> None:
    waiting: list[Message] = []
    server.handle = waiting.append
    owner = server.client(identity=b"same")
    owner.send(request("secret"))
    server.wait_until(lambda statistics: len(waiting) == 1)
    other = server.client(identity=b"same")
    other.send(request("other"))
    fresh = server.client()
    fresh.send(request("fresh"))
    server.wait_until(lambda statistics: len(waiting) >= 2)
    server.in_loop(lambda: [server.echo(message) for message in waiting] and server.endpoint.flush())
    assert answer(owner)[0] == "secret"
    assert answer(fresh)[0] == "fresh"
    assert not other.poll(50)


def test_a_second_connection_of_a_routing_id_is_heard_when_it_connects_again_after_the_first_has_gone(server: Server) -> None:
    """What docs/protocol.md tells clients with routing ids of their own."""
    first = server.client(identity=b"same")
    first.send(request(1))
    assert answer(first)[0] == 1
    second = server.client(identity=b"same")
    second.send(request(2))
    assert not second.poll(200)
    first.close()
    assert not second.poll(200), "mute, although the first has gone"
    for number in range(3, 20):
        second.disconnect(server.address)
        second.connect(server.address)
        second.send(request(number))
        if second.poll(500):
            break
    assert answer(second)[0] == number


def test_replies_to_a_client_that_has_gone_are_dropped_and_counted(server: Server) -> None:
    waiting: list[Message] = []
    server.handle = waiting.append
    client = server.client(LINGER=1_000)
    client.send_multipart([request(1), request(2)])
    server.wait_until(lambda statistics: len(waiting) == 2)
    client.close()

    def undeliverable(statistics: EndpointStatistics) -> bool:
        server.in_loop(lambda: server.echo(waiting[0]) or server.endpoint.flush())
        return statistics.undeliverable > 0

    server.wait_until(undeliverable)


def test_of_clients_that_have_gone_nothing_is_remembered(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidegate.runtime.sockets.endpoint._REMEMBERED_CLIENTS_MAX", 10)
    large = b"[" + b" " * LARGE_BYTES + b"]"  # No message, so that nothing is sent in answer to it.
    for number in range(100):
        client = server.client(LINGER=10_000)
        client.send(request(number))
        client.recv()
        client.send(large)
        client.close()
    server.wait_until(lambda statistics: statistics.malformed == 100 and statistics.connections == 0)
    endpoint = server.endpoint
    assert max(server.in_loop(lambda: (len(endpoint._unproven), len(endpoint._senders_of_much)))) <= 11


def test_a_client_that_reads_late_gets_everything_in_order_and_nobody_else_waits(server: Server) -> None:
    slow = server.client(RCVHWM=1, RCVBUF=4_096)
    for number in range(3_000):
        slow.send(request(number, b"x" * 3_000))
    server.wait_until(lambda statistics: statistics.kept_bytes > 0)
    other = server.client()
    started = time.monotonic()
    for number in range(100):
        other.send(request(number))
        answer(other)
    assert time.monotonic() - started < 2
    assert [answer(slow)[0] for _ in range(3_000)] == list(range(3_000))
    server.wait_until(lambda statistics: statistics.kept_bytes == 0)


def test_a_turn_ends_when_the_last_reply_that_was_kept_has_left(server: Server) -> None:
    """A process that drains waits for it."""
    retry, turns_ended = server.endpoint._retry_outbox, []

    def retried() -> None:
        turns, had_kept = len(server.turns), server.endpoint.statistics().kept_bytes > 0
        retry()
        if had_kept and server.endpoint.statistics().kept_bytes == 0:
            turns_ended.append(len(server.turns) - turns)

    server.endpoint._retry_outbox = retried
    slow = server.client(RCVHWM=1, RCVBUF=4_096)
    for number in range(3_000):
        slow.send(request(number, b"x" * 3_000))
    server.wait_until(lambda statistics: statistics.messages_in == 3_000)
    for _ in range(3_000):
        answer(slow)
    server.wait_until(lambda statistics: statistics.kept_bytes == 0)
    assert turns_ended
    assert set(turns_ended) == {1}


def test_a_client_that_never_reads_gets_short_errors_for_what_is_above_its_bound() -> None:
    server = Server(Outbox(2 << 20))
    slow = server.client(RCVHWM=1, RCVBUF=4_096)
    for number in range(1, 6_001):
        slow.send(request(number, b"x" * 3_000))
    server.wait_until(lambda statistics: statistics.messages_in == 6_000)
    statistics = server.in_loop(server.endpoint.statistics)
    assert (1 << 20) < statistics.kept_bytes < (3 << 20)
    answers = [answer(slow) for _ in range(6_000)]
    assert [row[0] for row in answers] == list(range(1, 6_001))
    errors = [row[2] for row in answers if row[1]]
    assert errors
    told = {(error["code"], error["outcome"], error["retryable"]) for error in errors}
    assert told == {("overloaded", "unknown", True)}, "who has a key may ask again"
    server.stop()


# Strangers

HELLOS = {
    "HTTP GET": b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n",
    "HTTP POST": b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello",
    "TLS client hello": b"\x16\x03\x01\x00\x2f\x01\x00\x00\x2b\x03\x03" + bytes(32) + b"\x00\x00\x02\x13\x01\x01\x00",
    "Redis PING": b"*1\r\n$4\r\nPING\r\n",
    "Redis inline PING": b"PING\r\n",
    "SSH banner": b"SSH-2.0-OpenSSH_9.2\r\n",
    "ZMTP 1": b"\x01\x00",
    "ZMTP 2": b"\xff" + bytes(8) + b"\x7f\x01\x05\x00\x00",
    "ZMTP 3 with a password": b"\xff" + bytes(8) + b"\x7f\x03\x00PLAIN" + bytes(47),
    "random": bytes(range(100, 200)),
}


def connect(address: str) -> socket.socket:
    if address.startswith("ipc://"):
        stranger = socket.socket(socket.AF_UNIX)
        stranger.connect(address.removeprefix("ipc://"))
    else:
        host, port = address.removeprefix("tcp://").split(":")
        stranger = socket.create_connection((host, int(port)))
    stranger.settimeout(WITHIN_S)
    return stranger


def read_to_the_end(stranger: socket.socket) -> bytes:
    read = b""
    with contextlib.suppress(ConnectionResetError):  # What it sent was not read.
        while piece := stranger.recv(4_096):
            read += piece
    stranger.close()
    return read


@pytest.mark.parametrize("kind", ["tcp", "ipc"])
@pytest.mark.parametrize("hello", HELLOS)
def test_who_does_not_speak_the_current_protocol_is_closed_and_counted_and_never_heard(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, hello: str, kind: str
) -> None:
    server = Server(address=f"ipc://{tmp_path}/door" if kind == "ipc" else None)
    try:
        client = server.client()
        client.send(request(1))
        assert answer(client)[0] == 1
        for number in range(1, 4):
            stranger = connect(server.address)
            stranger.sendall(HELLOS[hello])
            read_to_the_end(stranger)
            server.wait_until(lambda statistics, number=number: statistics.foreign_peers == number)  # type: ignore[misc]  # its default
        client.send(request(2))
        assert answer(client)[0] == 2
        statistics = server.in_loop(server.endpoint.statistics)
        assert (statistics.messages_in, statistics.malformed, statistics.foreign_peers) == (2, 0, 3)
        assert [record.getMessage().count("closed 1 connection") for record in caplog.records] == [1]
    finally:
        server.stop()


@pytest.mark.parametrize("start", [b"", b"\xff", b"\xff" + bytes(8) + b"\x7f\x03"], ids=["silent", "a byte", "a greeting cut"])
def test_who_does_not_complete_the_greeting_in_time_is_closed_and_counted(start: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidegate.runtime.sockets.endpoint.HANDSHAKE_MS_MAX", 200)
    server = Server()
    stranger = connect(server.address)
    stranger.sendall(start)
    read_to_the_end(stranger)
    server.wait_until(lambda statistics: statistics.foreign_peers == 1)
    server.stop()


def test_who_leaves_before_the_greeting_is_over_is_neither_counted_nor_in_the_log(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    for start in (b"", b"\xff" + bytes(8) + b"\x7f\x03"):
        stranger = connect(server.address)
        stranger.sendall(start)
        stranger.close()
    stranger = connect(server.address)
    stranger.sendall(HELLOS["SSH banner"])
    read_to_the_end(stranger)
    server.wait_until(lambda statistics: statistics.foreign_peers == 1)
    assert [record.getMessage().count("closed 1 connection") for record in caplog.records] == [1]


def test_clients_that_come_and_go_by_the_thousand_are_no_strangers_and_strangers_among_them_are_counted(server: Server) -> None:
    def come_and_go(number: int) -> None:
        if number % 10 == 0:
            stranger = connect(server.address)
            stranger.sendall(HELLOS["HTTP GET"])
            read_to_the_end(stranger)
        client = server.client()
        client.send(request(number))
        assert answer(client)[0] == number
        client.close()

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(come_and_go, range(1_000)))
    server.wait_until(lambda statistics: statistics.foreign_peers == 100)
    assert server.in_loop(server.endpoint.statistics).messages_in == 1_000


def test_hundreds_of_connections_at_once_are_all_served(server: Server) -> None:
    clients = [server.client() for _ in range(450)]
    for number, client in enumerate(clients):
        client.send(request(number))
    assert [answer(client)[0] for client in clients] == list(range(450))
    assert server.in_loop(server.endpoint.statistics).foreign_peers == 0


def test_who_sends_a_message_that_does_not_end_is_turned_out_and_nobody_else(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    polite, large = server.client(), server.client()
    large.send(request(0, bytes(900_000)))
    assert answer(large)[0] == 0
    stranger, piece = greeted(server.address), frame(bytes(1 << 20), more=True)

    def send() -> None:
        for number in range(4_096):
            stranger.sendall(piece)
            if number % 16 == 0:
                polite.send(request(number))
                assert answer(polite)[0] == number

    with pytest.raises(OSError, match=r"reset|Broken"):
        send()
    large.send(request(1, bytes(900_000)))
    assert answer(large)[0] == 1
    assert server.in_loop(lambda: dict(server.endpoint.counts()["drops"])[("unfinished",)]) == 1
    assert [record.getMessage().count("of a message which had not ended; 1 closed so far") for record in caplog.records] == [1]


def test_what_was_read_of_each_client_is_what_the_kernel_gave(server: Server) -> None:
    def send(client: zmq.Socket[Any], frames: list[bytes]) -> None:
        client.send_multipart(frames)
        for _ in frames:
            answer(client)

    clients = [server.client() for _ in range(3)]
    for number in range(100):
        send(clients[0], [request(number)])
        send(clients[1], [request(number, bytes(LARGE_BYTES * (number % 3)))])
        send(clients[2], [request(n, bytes(300)) for n in range(1 + number % 5)])
    clients[2].send_multipart([request(0)] * 2_000)  # More frames than a message may have.
    send(clients[2], [request(1)])
    unfinished = server.endpoint._unfinished
    known = server.in_loop(lambda: {fd: (bytes_taken(fd), unfinished.read[client]) for fd, client in unfinished._clients.items()})
    assert len(known) == 3
    for taken, read in known.values():
        assert taken is not None
        assert taken - 200 <= read <= taken + 9 * 3_000, "the greeting, and heads of frames that may have been shorter"


def test_what_is_remembered_of_clients_goes_with_them(server: Server) -> None:
    for number in range(20):
        client = server.client()
        client.send(request(number))
        assert answer(client)[0] == number
        client.close()
    server.wait_until(lambda statistics: statistics.connections == 0)
    assert server.in_loop(lambda: (len(server.endpoint._unfinished), server.endpoint._unfinished.read)) == (0, {})


def test_flushing_and_replying_after_the_end_is_harmless(server: Server) -> None:
    messages: list[Message] = []
    server.handle = messages.append
    client = server.client()
    client.send(request(1))
    server.wait_until(lambda statistics: len(messages) == 1)

    def end() -> None:
        server.endpoint.close()
        server.echo(messages[0])
        server.endpoint.flush()
        server.endpoint.close()

    server.in_loop(end)


MANY = 10 * TURN_REQUESTS_MAX


def many(first: int) -> bytes:
    return msgspec.msgpack.encode([[number, "C", "n", "m"] for number in range(first, first + MANY)])


class Sliced(Server):
    """Waits with each part until the next message is there, as long as there are to be more."""

    def __init__(self) -> None:
        super().__init__(slices=Slices(3 * len(many(MANY))))
        self.messages_to_come = 0
        """In all."""
        self.seen: list[Any] = []
        self.handle = self.note

    def note(self, message: Message) -> None:
        if self.endpoint.messages_in < self.messages_to_come:
            wait_until(lambda: is_readable(self.endpoint._socket), "the next message")
            self.endpoint._edge.used = True
        assert len(message.requests) <= TURN_REQUESTS_MAX
        self.seen += [request.id for request in message.requests]
        self.echo(message)


@pytest.fixture
def sliced() -> Iterator[Sliced]:
    server = Sliced()
    yield server
    server.stop()
    assert not server.errors


def answers(client: zmq.Socket[Any], count: int) -> list[Any]:
    rows: list[Any] = []
    while len(rows) < count:
        body = answer(client)
        rows += body if isinstance(body[0], list) else [body]
    return rows


def many_of_a_session(first: int, count: int, session: str) -> bytes:
    return msgspec.msgpack.encode(
        [head_row(Session(session, 7)), *([number, "C", "n", "m"] for number in range(first, first + count))]
    )


@pytest.mark.parametrize("lines", [1, 3])
def test_every_part_of_a_message_of_a_session_begins_with_its_head(lines: int) -> None:
    slices, count = Slices(), 3 * TURN_REQUESTS_MAX
    messages = [parse_body(b"client %d" % line, many_of_a_session(10, count, f"s{line}")) for line in range(lines)]
    for message in messages:
        assert slices.put(message)
    keys: list[str | None] = []
    ended: list[Batch] = []
    while slices:
        for part, batch in slices.take(0.0):
            assert len(part.requests) <= TURN_REQUESTS_MAX + 1
            assert is_head(part.requests[0])
            assert not give_keys(part)
            part.origin.missing -= len(part.requests)  # As if they were answered.
            ended += [] if batch is None else [batch]
            keys += [parse_options(request.options, json=False).key for request in part.requests]
    assert sorted(map(str, keys)) == sorted(f"s{line}.{number}" for line in range(lines) for number in range(10, 10 + count))
    assert ended == messages
    assert all(message.all_cut() for message in ended)


def test_no_more_is_cut_off_a_batch_while_its_calls_are_not_answered_or_its_client_does_not_read_but_now_and_then() -> None:
    slices = Slices()
    batch = parse_body(b"slow", many_of_a_session(1, 20 * TURN_REQUESTS_MAX, "s"))
    assert slices.put(batch)
    taken = 0
    while parts := slices.take(10.0):
        taken += sum(len(part.requests) - 1 for part, _ in parts)
    assert BATCH_AHEAD_CALLS - TURN_REQUESTS_MAX <= taken <= BATCH_AHEAD_CALLS + TURN_REQUESTS_MAX
    assert not slices.take(10.0 + BATCH_PATIENCE_S / 2)
    assert slices.take(10.0 + BATCH_PATIENCE_S)
    batch.origin.missing = 1
    assert not slices.take(11.0, {b"slow"})
    assert slices.take(11.0)


def test_who_is_put_off_may_have_as_much_as_is_free_and_small_messages_count_for_what_they_take() -> None:
    batch = many_of_a_session(1, MANY, "s")
    slices = Slices(3 * len(batch), others=lambda: len(batch) // 2)
    assert slices.put(parse_body(b"greedy", batch))
    assert not slices.put(parse_body(b"greedy", batch))
    assert slices.put(parse_body(b"other", batch))
    slices, count = Slices(1 << 20), 0
    while slices.put(parse_body(b"many", msgspec.msgpack.encode([[n, "C", "n", "m"] for n in range(10)]))):
        count += 1
    assert 0 < count * 10 * PUT_OFF_CALL_BYTES < 1 << 20


def test_a_req_client_is_answered_a_batch_of_any_length_in_one_frame(server: Server) -> None:
    client = server.client(zmq.REQ)
    for codec in (msgspec.msgpack, msgspec.json):
        client.send(codec.encode([[number, "C", "n", "m"] for number in range(3 * REPLIES_PER_MESSAGE_MAX)]))
        (body,) = client.recv_multipart()
        assert [row[0] for row in codec.decode(body)] == list(range(3 * REPLIES_PER_MESSAGE_MAX))
    server.wait_until(lambda statistics: statistics.untaken_bytes == 0)  # It looks now and then whether they have left.


def test_an_answer_that_takes_more_than_its_client_may_have_is_dropped_before_it_is_whole() -> None:
    server = Server(Outbox(1 << 20))
    try:

        def answer_much(message: Message) -> None:
            for each in message.requests:
                server.endpoint.reply(message.origin, each.id, OK, "x" * 200)

        server.handle = answer_much
        client = server.client(zmq.REQ)
        client.send(msgspec.msgpack.encode([[number, "C", "n", "m"] for number in range(3 * REPLIES_PER_MESSAGE_MAX)]))
        server.wait_until(lambda statistics: statistics.undeliverable > 0 and statistics.untaken_bytes == 0)
        assert not client.poll(50)
        other = server.client()
        other.send(request(1))
        assert answer(other)[:2] == [1, 0]
    finally:
        server.stop()


def test_a_batch_in_which_nothing_can_be_answered_is_counted(server: Server) -> None:
    client = server.client(zmq.REQ)
    client.send_multipart([b"\xdd\x00\x00\x20\x00" + b"\x90" * 8_192, request(7)])
    (body,) = client.recv_multipart()
    assert msgspec.msgpack.decode(body)[0] == 7
    server.wait_until(lambda statistics: statistics.malformed == 1)


def test_the_head_of_a_message_for_which_there_is_no_room_is_not_answered(sliced: Sliced) -> None:
    def without_heads(message: Message) -> None:
        without_head(message)
        sliced.echo(message)

    sliced.handle = without_heads
    client = sliced.client()

    def one_at_least_is_refused() -> bool:
        """Of four at once: unless each was done before the next one had come."""
        for _ in range(4):
            client.send(many_of_a_session(1, MANY, "s"))
        rows = answers(client, 4 * MANY)
        assert len(rows) == 4 * MANY
        assert 0 not in {number for number, _, _ in rows}
        return any(status for _, status, _ in rows)

    wait_until(one_at_least_is_refused, "a message for which there is no room")


def test_others_are_served_between_parts_of_a_message_of_many_requests_and_its_sender_is_served_in_order(sliced: Sliced) -> None:
    greedy, polite = sliced.client(), sliced.client()
    polite.send(request("first"))
    answer(polite)
    sliced.messages_to_come = 4
    greedy.send(many(0))
    greedy.send(request("behind"))
    polite.send(request("polite"))
    assert answer(polite) == ["polite", 0, None]
    assert len(answers(greedy, MANY + 1)) == MANY + 1
    assert [each for each in sliced.seen if isinstance(each, int)] == list(range(MANY))
    assert sliced.seen[-1] == "behind"
    assert sliced.seen.index("polite") < MANY
    assert not sliced.in_loop(lambda: sliced.endpoint.is_behind)


def test_what_is_read_and_not_handled_is_bounded_and_the_rest_is_refused_as_not_executed(sliced: Sliced) -> None:
    greedy = sliced.client()
    sliced.messages_to_come = 3
    for part in range(3):
        greedy.send(many(part * MANY))
    rows = answers(greedy, 3 * MANY)
    refused = [row for row in rows if row[1] != 0]
    assert {(row[2]["code"], row[2]["outcome"]) for row in refused} == {("overloaded", "not_executed")}
    assert len(refused) in (MANY, 2 * MANY)
    assert sorted(row[0] for row in rows) == list(range(3 * MANY))
    assert sliced.seen[:MANY] == list(range(MANY))
