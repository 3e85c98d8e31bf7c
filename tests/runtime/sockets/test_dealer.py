"""One link as the operating system sees it, with real sockets on both ends."""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from tidegate.runtime.sockets.dealer import Change, Dealer


@pytest.fixture
def context() -> Iterator[zmq.Context[Any]]:
    with zmq.Context() as context:
        yield context
        context.destroy(linger=0)


def next_change(dealer: Dealer) -> Change | None:
    """Waits for it."""
    while (change := dealer.change(lambda _: None)) is None:
        if not select.select(dealer.monitors(), [], [], 5)[0]:
            return None
    return change


def received(dealer: Dealer, count: int) -> list[bytes]:
    bodies: list[bytes] = []
    while len(bodies) < count and dealer.socket.poll(5_000):
        bodies += dealer.receive(100)
    return bodies


def test_replies_that_arrived_before_the_loss_can_be_received_after_it(context: zmq.Context[Any], tmp_path: Path) -> None:
    router = context.socket(zmq.ROUTER)
    router.bind(f"ipc://{tmp_path}/router")
    dealer = Dealer(context, [f"ipc://{tmp_path}/router"], reconnect=False)
    assert next_change(dealer) == "connected"
    assert dealer.send(b"call")
    client, _ = router.recv_multipart()
    for number in range(3):
        router.send_multipart([client, b"reply %d" % number])
    assert dealer.socket.poll(5_000)
    router.close(linger=1_000)
    assert next_change(dealer) == "lost"
    assert received(dealer, 3) == [b"reply 0", b"reply 1", b"reply 2"]
    dealer.close()


def test_a_link_that_may_not_reconnect_is_lost_when_nobody_listens(context: zmq.Context[Any], tmp_path: Path) -> None:
    dealer = Dealer(context, [f"ipc://{tmp_path}/nobody"], reconnect=False)
    assert next_change(dealer) == "lost"
    dealer.close()


def test_a_link_that_may_reconnect_waits_for_a_listener_and_is_lost_once(context: zmq.Context[Any], tmp_path: Path) -> None:
    dealer = Dealer(context, [f"ipc://{tmp_path}/late"], reconnect=True)
    select.select(dealer.monitors(), [], [], 0.12)
    assert dealer.change(lambda _: None) is None, "a failed attempt is no loss"
    router = context.socket(zmq.ROUTER)
    router.bind(f"ipc://{tmp_path}/late")
    assert next_change(dealer) == "connected"
    router.close(linger=0)
    assert next_change(dealer) == "lost"
    dealer.close()


def test_what_arrives_is_received_in_portions_and_frames_are_bodies(context: zmq.Context[Any], tmp_path: Path) -> None:
    router = context.socket(zmq.ROUTER)
    router.bind(f"ipc://{tmp_path}/router")
    dealer = Dealer(context, [f"ipc://{tmp_path}/router"], reconnect=False)
    assert dealer.receive(10) == []
    dealer.send(b"call")
    client, _ = router.recv_multipart()
    router.send_multipart([client, b"0", b"1", b"2"])
    assert dealer.socket.poll(5_000)
    assert dealer.receive(2) == [b"0", b"1"]
    assert dealer.readable()
    assert dealer.receive(2) == [b"2"]
    assert not dealer.readable()
    dealer.close()


@pytest.mark.parametrize("endpoint", ["nonsense", "tcp://", "carrier://pigeon", ""])
def test_an_endpoint_that_is_none_is_refused_and_leaves_nothing_open(context: zmq.Context[Any], endpoint: str) -> None:
    with pytest.raises(zmq.ZMQError):
        Dealer(context, [endpoint], reconnect=True)


def test_of_several_endpoints_the_one_that_answers_is_taken_and_the_others_are_left(
    context: zmq.Context[Any], tmp_path: Path
) -> None:
    dealer = Dealer(context, [f"ipc://{tmp_path}/nobody", f"ipc://{tmp_path}/late"], reconnect=True)
    select.select(dealer.monitors(), [], [], 0.12)
    assert dealer.change(lambda _: None) is None
    nobody, late = dealer.monitors()
    router = context.socket(zmq.ROUTER)
    router.bind(f"ipc://{tmp_path}/late")
    forgotten: list[int] = []
    while dealer.change(forgotten.append) != "connected":
        select.select(dealer.monitors(), [], [], 5)
    assert forgotten == [nobody]
    assert dealer.monitors() == [late]
    other = context.socket(zmq.ROUTER)
    other.bind(f"ipc://{tmp_path}/nobody")
    for number in range(10):
        assert dealer.send(b"%d" % number)
        assert router.poll(5_000)
        assert router.recv_multipart()[1] == b"%d" % number, "nothing goes to the other"
    assert not other.poll(150)
    dealer.close()
    router.close(linger=0)
    other.close(linger=0)


def test_a_server_that_does_not_speak_the_current_protocol_is_not_heard(context: zmq.Context[Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        dealer = Dealer(context, [f"tcp://127.0.0.1:{server.getsockname()[1]}"], reconnect=False)
        assert dealer.send(b"call")
        other, _ = server.accept()
        with other:
            other.settimeout(10)
            other.sendall(b"220 mail.example.com ready\r\n" * 10)
            with contextlib.suppress(ConnectionResetError):
                while other.recv(100):
                    pass
        assert next_change(dealer) == "lost"
        assert dealer.receive(10) == []
        dealer.close()
