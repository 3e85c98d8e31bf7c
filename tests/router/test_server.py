"""The router as a process: real sockets, fake workers, plain clients, and strangers who send anything."""

from __future__ import annotations

import os
import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import psutil
import pytest
import zmq

from tests.support.router_world import World, ask, collect
from tests.support.waiting import WITHIN_S, wait_until
from tidegate.runtime.wire.slots import SlotTable, topology_from_reply
from tidegate.runtime.wire.supervisor_messages import Drained, Ping, Pong, Ready


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as world:
        world.start_worker(0)
        world.start_worker(1)
        yield world


def batch(*requests: Any) -> bytes:
    return msgspec.msgpack.encode(list(requests))


# Clients of every kind


def test_a_req_client_with_json_gets_a_json_reply(world: World) -> None:
    client = world.req()
    client.send(b'[1, "Counter", "alice", "echo", ["\xc3\xa9", 2.5, null]]')
    assert client.recv_multipart() == ['[1,0,["é",2.5,null]]'.encode()]


def test_a_req_client_with_a_batch_gets_one_message_however_the_replies_arrive(world: World) -> None:
    client = world.req()
    for _ in range(3):
        client.send(msgspec.json.encode([[i, "C", f"n{i}", "m", [i]] for i in range(50)]))
        replies = msgspec.json.decode(client.recv())
        assert sorted(replies) == [[i, 0, [i]] for i in range(50)]
        assert not client.getsockopt(zmq.RCVMORE)


def test_a_req_client_with_several_bodies_gets_one_message_with_as_many(world: World) -> None:
    client = world.req()
    for _ in range(3):
        client.send_multipart([b'[1,"C","a","m",[1]]', batch([2, "C", "b", "m", [2]], [3, "C", "c", "m"]), b'{"id": 4}'])
        json, refused, packed = sorted(client.recv_multipart(), key=lambda body: (body[:1] != b"[", len(body)))
        assert msgspec.json.decode(json) == [1, 0, [1]]
        assert msgspec.json.decode(refused)[2]["code"] == "bad_request"
        assert sorted(msgspec.msgpack.decode(packed)) == [[2, 0, [2]], [3, 0, None]]


def test_a_dealer_pipelines_and_gets_every_reply(world: World) -> None:
    client = world.dealer()
    for start in range(0, 2_000, 50):
        client.send(batch(*[[i, "C", f"n{i}", "m", [i]] for i in range(start, start + 50)]))
    assert sorted(collect(client, 2_000)) == [[i, 0, [i]] for i in range(2_000)]


def test_a_dealer_that_sends_single_requests_gets_single_replies(world: World) -> None:
    client = world.dealer()
    assert ask(client, "text id", "C", "n", "m", {"by": "name"}) == ["text id", 0, {"by": "name"}]


def test_a_dealer_that_sends_json_batches_gets_json_arrays(world: World) -> None:
    client = world.dealer()
    client.send(msgspec.json.encode([[i, "C", f"n{i}", "m", [i]] for i in range(10)]))
    replies: list[Any] = []
    while len(replies) < 10:
        replies += msgspec.json.decode(client.recv())
    assert sorted(replies) == [[i, 0, [i]] for i in range(10)]


def test_json_numbers_beyond_64_bits_survive_as_ids(world: World) -> None:
    client = world.req()
    client.send(b'[123456789012345678901234567890,"C","n","m",[]]')
    assert client.recv() == b"[123456789012345678901234567890,0,[]]"


def test_calls_of_one_client_to_one_object_arrive_in_the_order_sent_whatever_the_codec(world: World) -> None:
    client = world.dealer()
    for i in range(0, 300, 3):
        client.send(batch([i, "C", "same", "m", [i]]))
        client.send(msgspec.json.encode([[i + 1, "C", "same", "m", [i + 1]]]))
        client.send(msgspec.msgpack.encode([i + 2, "C", "same", "m", [i + 2]]))
    world.wait_seen(300)
    owner = next(worker for worker in world.up() if worker.seen)
    assert [row[4][0] for row in owner.seen] == list(range(300))


def test_the_topology_tells_a_client_what_the_router_knows(world: World) -> None:
    expected = [worker.endpoint for worker in world.up()]

    def told() -> SlotTable:
        return SlotTable(topology_from_reply(ask(world.dealer(), 1, "", "", "topology")[2]))

    # The supervisor's word and the client's question come by different ways.
    wait_until(lambda: list(told().endpoints) == expected, f"the topology {expected}", seen=lambda: told().endpoints)
    table = told()
    client = world.dealer()
    ask(client, 1, "C", "somewhere", "m")
    owner = world.up()[table.worker_of("C", "somewhere")]
    assert owner.seen[0][2] == "somewhere"


# Workers come and go


def test_a_call_made_while_the_worker_is_down_waits_for_it(tmp_path: Path) -> None:
    with World(tmp_path, workers=1) as world:
        client = world.dealer()
        client.send(batch([1, "C", "n", "m", [1]], [2, "C", "n", "m", [2]]))
        assert ask(world.dealer(), 1, "", "", "ping") == [1, 0, "pong"]
        worker = world.start_worker()
        assert collect(client, 2) == [[1, 0, [1]], [2, 0, [2]]]
        assert [row[4] for row in worker.seen] == [[1], [2]]


def test_a_call_does_not_wait_beyond_its_deadline(tmp_path: Path) -> None:
    with World(tmp_path, workers=1) as world:
        started = time.monotonic()
        reply = ask(world.dealer(), 1, "C", "n", "m", [], {"deadline_ms": 50})
        assert (reply[1], reply[2]["code"], reply[2]["outcome"]) == (1, "deadline_exceeded", "not_executed")
        assert time.monotonic() - started < 3


def test_calls_in_flight_to_a_lost_worker_are_answered_and_those_of_the_other_go_on(world: World) -> None:
    world.hold()
    client = world.dealer()
    client.send(batch(*[[i, "C", f"n{i}", "m", [i]] for i in range(20)]))
    first, second = world.up()
    world.wait_seen(20)
    world.lose_worker(0)
    lost = collect(client, len(first.seen))
    assert {reply[2]["code"] for reply in lost} == {"shard_lost"}
    assert {reply[2]["outcome"] for reply in lost} == {"unknown"}
    second.release()
    rest = collect(client, len(second.seen))
    assert {reply[1] for reply in rest} == {0}
    assert sorted(reply[0] for reply in lost + rest) == list(range(20))


def test_nothing_sent_to_a_lost_worker_reaches_its_successor(tmp_path: Path) -> None:
    with World(tmp_path, workers=1) as world:
        world.start_worker(hold=True)
        client = world.dealer()
        client.send(batch([1, "C", "n", "m", ["old"]]))
        world.wait_seen(1)
        world.lose_worker()
        assert collect(client, 1)[0][2]["code"] == "shard_lost"
        successor = world.start_worker()
        client.send(batch([2, "C", "n", "m", ["new"]]))
        assert collect(client, 1) == [[2, 0, ["new"]]]
        assert [row[4] for row in successor.seen] == [["new"]]


def test_under_losses_every_call_is_answered_once_and_only_with_what_is_true(tmp_path: Path) -> None:
    with World(tmp_path, workers=2) as world:
        world.start_worker(0)
        world.start_worker(1)
        client = world.dealer()
        sent = 0
        replies: list[list[Any]] = []
        for round_number in range(20):
            client.send(batch(*[[sent + i, "C", f"n{i}", "m", [sent + i]] for i in range(100)]))
            sent += 100
            if round_number % 2:
                world.lose_worker(round_number // 2 % 2)
                world.start_worker(round_number // 2 % 2)
            replies += collect(client, 50)
        replies += collect(client, sent - len(replies))
        assert sorted(reply[0] for reply in replies) == list(range(sent))
        for request_id, status, result in replies:
            assert (status == 0 and result == [request_id]) or result["code"] == "shard_lost"


# Strangers


@pytest.fixture
def neighbour(world: World) -> Iterator[list[float]]:
    """A client that asks all the time; nobody may disturb it. Yields its latencies."""
    client = world.dealer()
    latencies: list[float] = []
    failures: list[Any] = []
    stop = threading.Event()

    def run() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            started = time.monotonic()
            reply = ask(client, number, "C", f"neighbour {number}", "m", [number])
            latencies.append(time.monotonic() - started)
            if reply != [number, 0, [number]]:
                failures.append(reply)
            stop.wait(0.002)

    thread = threading.Thread(target=run)
    thread.start()
    yield latencies
    before = len(latencies)
    try:
        wait_until(lambda: len(latencies) >= before + 3, "answers to the neighbour")
    finally:
        stop.set()
        thread.join()
    assert not failures
    assert world.process.poll() is None


def pieces_of_garbage() -> list[list[bytes]]:
    chance = random.Random(7)
    good = batch([1, "C", "n", "m", [1]])
    pieces = [[chance.randbytes(chance.randrange(1, 200))] for _ in range(300)]
    pieces += [[b"[" + chance.randbytes(50)] for _ in range(100)]
    pieces += [[b"\x91\x96" + chance.randbytes(50)] for _ in range(100)]
    pieces += [[good[:cut]] for cut in range(len(good))]
    pieces += [[bytes([byte])] for byte in range(256)]
    shapes: list[Any] = [None, 1, "x", [], {}, [[]], [[[]]], [1], [1, 2, 3, 4], ["a", "b", "c"], {"id": 1}, [{"id": 1}]]
    shapes += [[request_id, "C", "n", "m"] for request_id in (None, 1.5, True)] + [[[1, "C", "n"]], [1, "C", "n", 7]]
    pieces += [[codec.encode(shape)] for shape in shapes for codec in (msgspec.msgpack, msgspec.json)]
    pieces += [[b""], [b"", b""], [b"", b"", b""], [b"", b"x"], [b"a", b"", good], [good, b"", b"\xc1"], [b""] * 2_000]
    pieces += [[b"x"] * 1_100, [good] * 1_100, [b"", *[b"\x00\x00\x00\x00\x01"] * 50], [b"\x00abcd", good]]
    pieces += [[b"[" * 100_000], [b"\x91" * 100_000], [b"\xdd\xff\xff\xff\xff\x91"], [b"\xc6\xff\xff\xff\xff"]]
    pieces += [[b'[1,"C","n","m",' + b"[" * depth + b"]" * depth + b"]"] for depth in (900, 990, 995, 5_000)]
    pieces += [[b'[1,"\\ud800","n","m"]'], [b'["\xed\xa0\x80","C","n","m"]'], [b"\x94\x01\xa1\xff\xa1n\xa1m"]]
    return pieces


def test_garbage_of_every_kind_disturbs_nobody(world: World, neighbour: list[float]) -> None:
    strangers = [world.dealer() for _ in range(3)]
    for i, piece in enumerate(pieces_of_garbage()):
        strangers[i % 3].send_multipart(piece)
    client = world.dealer()
    assert ask(client, 1, "C", "n", "m", [1]) == [1, 0, [1]]
    for stranger in strangers:  # Each is still served itself, after the errors it is owed.
        stranger.send(msgspec.msgpack.encode(["the end", "C", "n", "m", ["served"]]))
        while b"served" not in stranger.recv():
            pass
    statistics = ask(client, 2, "", "", "status")[2]["router"]
    assert statistics["malformed"] > 500
    assert sum(statistics["in_flight"]) <= 1


def test_frames_above_the_limit_end_the_connection_of_their_sender_and_no_other(world: World, neighbour: list[float]) -> None:
    stranger = world.dealer()
    stranger.send(b"x" * (17 << 20))
    assert ask(world.dealer(), 1, "C", "n", "m", [1]) == [1, 0, [1]]
    stranger.send(msgspec.msgpack.encode([1, "C", "n", "m", [1]]))  # Its socket connects again by itself.
    assert msgspec.msgpack.decode(stranger.recv()) == [1, 0, [1]]


def test_many_frames_that_are_too_large_together_are_dropped(world: World, neighbour: list[float]) -> None:
    stranger = world.dealer()
    stranger.send_multipart([b"x" * (9 << 20), b"x" * (9 << 20)])
    assert ask(stranger, 1, "", "", "status")[2]["router"]["malformed"] == 2


def test_the_largest_legal_message_passes_through_to_the_worker_and_back(world: World, neighbour: list[float]) -> None:
    client = world.dealer()
    size = (16 << 20) - 64
    request = msgspec.msgpack.encode([1, "C", "n", "m", b"x" * size])
    assert len(request) <= 16 << 20
    client.send(request)
    reply = msgspec.msgpack.decode(client.recv())
    assert reply[0] == 1
    assert reply[1] == 0
    assert len(reply[2]) == size


def test_a_batch_of_100_000_is_answered_and_the_neighbour_goes_on(world: World, neighbour: list[float]) -> None:
    client = world.dealer()
    began = time.monotonic()
    client.send(batch(*[[i, "C", f"n{i}", "m", [i]] for i in range(100_000)]))
    replies = collect(client, 100_000)
    took_s = time.monotonic() - began
    assert sorted(reply[0] for reply in replies) == list(range(100_000))
    assert all(result == [request_id] for request_id, status, result in replies if status == 0)
    assert {result["code"] for _, status, result in replies if status} <= {"overloaded"}
    assert max(neighbour) < max(
        3, took_s / 2
    )  # Half a second of several, of which the fake workers in this process take the most.


def test_no_client_gets_the_replies_of_another_whatever_identity_it_chooses(world: World) -> None:
    world.hold()
    owner = world.dealer(b"someone")
    owner.send(batch([1, "C", "n", "m", ["secret"]]))
    world.wait_seen(1)
    spoofers = [world.dealer(b"someone"), world.dealer(b"worker-0"), world.dealer(b"router")]
    for spoofer in spoofers:
        spoofer.send(batch([1, "", "", "ping"]))
        spoofer.send_multipart([b"someone", batch([2, "", "", "ping"])])
    assert collect(spoofers[2], 2) == [[1, 0, "pong"], [2, 0, "pong"]]
    world.release()
    assert collect(owner, 1) == [[1, 0, ["secret"]]]
    for spoofer in spoofers:
        spoofer.setsockopt(zmq.RCVTIMEO, 20)
        while True:
            try:
                assert b"secret" not in spoofer.recv()
            except zmq.Again:
                break


def test_bytes_that_are_not_zeromq_disturb_nobody(tmp_path: Path) -> None:
    with World(tmp_path, listen="tcp://127.0.0.1:0") as world:
        assert isinstance(world.ready, Ready)
        host, port = world.ready.endpoint.removeprefix("tcp://").split(":")
        strangers = []
        for greeting in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 1_000, os.urandom(500), b""):
            stranger = socket.create_connection((host, int(port)))
            stranger.sendall(greeting)
            strangers.append(stranger)
        assert ask(world.dealer(), 1, "", "", "ping") == [1, 0, "pong"]
        for stranger in strangers:
            stranger.close()


def test_clients_that_die_with_calls_in_flight_leave_nothing_behind(world: World, neighbour: list[float]) -> None:
    world.hold()
    router = psutil.Process(world.process.pid)
    before = router.num_fds()
    for _ in range(20):
        client = world.dealer()
        client.setsockopt(zmq.LINGER, 1_000)
        client.send(batch(*[[i, "C", f"n{i}", "m", [i]] for i in range(10)]))
        client.close()
    world.wait_seen(200)
    wait_until(lambda: router.num_fds() < before + 10, "the end of connections")  # Until then replies could still be sent.
    world.release()
    client = world.dealer()

    def statistics() -> dict[str, Any]:
        return cast("dict[str, Any]", ask(client, 1, "", "", "status")[2]["router"])

    def forgotten() -> bool:
        now = statistics()
        return sum(now["in_flight"]) <= 1 and now["undeliverable"] >= 10  # The neighbour may have come since, and some still go.

    wait_until(forgotten, "the end of the calls of those who left", seen=statistics)


def test_a_client_that_does_not_read_is_served_to_the_end_when_it_does(world: World, neighbour: list[float]) -> None:
    client = world.context.socket(zmq.DEALER)
    client.setsockopt(zmq.RCVHWM, 1)
    client.setsockopt(zmq.RCVBUF, 4_096)
    client.setsockopt(zmq.LINGER, 0)
    client.setsockopt(zmq.RCVTIMEO, int(WITHIN_S * 1_000))
    client.connect(world.endpoint)
    count = 3_000
    for i in range(count):
        client.send(msgspec.msgpack.encode([i, "C", "same", "m", b"x" * 4_000]))
    watcher = world.dealer()
    wait_until(lambda: ask(watcher, 1, "", "", "status")[2]["router"]["kept_bytes"], "replies that are kept")
    assert [msgspec.msgpack.decode(client.recv())[0] for _ in range(count)] == list(range(count))
    assert ask(watcher, 1, "", "", "status")[2]["router"]["kept_bytes"] == 0


# The supervisor


def test_a_ping_is_answered_with_statistics(world: World) -> None:
    world.tell(Ping(7))
    pong = world.hear()
    assert isinstance(pong, Pong)
    assert pong.number == 7
    assert pong.statistics["in_flight"] == [0, 0]


def test_status_and_classes_are_what_the_supervisor_said(world: World) -> None:
    world.tell_status({"service": "up", "classes": {"C": {}}})
    world.tell(Ping(1))
    world.hear()
    client = world.req()
    client.send(b'[1,"","","classes"]')
    assert client.recv() == b'[1,0,{"C":{}}]'
    client.send(b'[1,"","","status"]')
    assert msgspec.json.decode(client.recv())[2]["service"] == "up"


def test_a_drain_answers_what_was_accepted_refuses_what_comes_and_exits_0(world: World) -> None:
    world.hold()
    client = world.dealer()
    client.send(batch([1, "C", "n", "m", [1]]))
    world.wait_seen(1)
    world.drain(WITHIN_S)
    world.tell(Ping(1))
    assert isinstance(world.hear(), Pong)
    client.send(batch([2, "C", "n", "m", [2]]))
    refused = collect(client, 1)[0]
    assert (refused[0], refused[2]["code"], refused[2]["outcome"]) == (2, "unavailable", "not_executed")
    world.release()
    assert collect(client, 1) == [[1, 0, [1]]]
    assert isinstance(world.hear(), Pong), "its last counts"
    assert world.hear() == Drained(0)
    assert world.process.wait(WITHIN_S) == 0


def test_a_drain_refuses_what_was_sent_before_it_and_not_yet_read(world: World) -> None:
    client = world.dealer()
    ask(client, 0, "", "", "ping")
    os.kill(world.process.pid, signal.SIGSTOP)
    for number in range(1, 301):  # More than are read in one turn.
        client.send(batch([number, "C", "n", "m", [number]]))
    world.drain(WITHIN_S)
    os.kill(world.process.pid, signal.SIGCONT)
    answers = collect(client, 300)
    assert sorted(answer[0] for answer in answers) == list(range(1, 301))
    assert {answer[2]["code"] for answer in answers if answer[1]} <= {"unavailable"}
    assert isinstance(world.hear(), Pong), "its last counts"
    assert world.hear() == Drained(0)


def test_a_client_that_goes_on_asking_does_not_keep_a_drain_from_ending(world: World) -> None:
    client, drained = world.dealer(), threading.Event()

    def ask_all_the_time() -> None:
        while not drained.is_set():
            client.send(batch([1, "C", "n", "m"]))
            if client.poll(1):
                client.recv()

    asking = threading.Thread(target=ask_all_the_time)
    asking.start()
    began_at = time.monotonic()
    world.drain(WITHIN_S)
    assert isinstance(world.hear(), Pong), "its last counts"
    assert world.hear() == Drained(0)
    assert time.monotonic() - began_at < 2
    drained.set()
    asking.join()


def test_a_drain_that_takes_too_long_answers_the_rest_and_says_how_many(world: World) -> None:
    world.hold()
    client = world.dealer()
    client.send(batch([1, "C", "n", "m", [1]]))
    world.wait_seen(1)
    world.drain(0.05)
    reply = collect(client, 1)[0]
    assert (reply[2]["code"], reply[2]["outcome"]) == ("shard_lost", "unknown")
    assert isinstance(world.hear(), Pong), "its last counts"
    assert world.hear() == Drained(1)
    assert world.process.wait(WITHIN_S) == 0


def test_the_router_ends_with_its_supervisor(world: World) -> None:
    world.control.close()
    assert world.process.wait(WITHIN_S) == 1


def test_an_idle_router_uses_no_cpu(world: World) -> None:
    client = world.dealer()
    for i in range(50):
        ask(client, i, "C", "n", "m", [i])
    before = world.cpu_s()
    assert not client.poll(300)
    assert world.cpu_s() - before <= 0.02
