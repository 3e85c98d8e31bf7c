"""The library asks who may connect: real sockets, CURVE, and a loop."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from tests.support.waiting import WITHIN_S, wait_until
from tidegate.runtime.sockets import knocks as knocks_rules
from tidegate.runtime.sockets.dealer import Dealer
from tidegate.runtime.sockets.door import barring_program
from tidegate.runtime.sockets.endpoint import Endpoint
from tidegate.runtime.sockets.guard import Guard
from tidegate.runtime.wire.access import AccessKey, ClientKey
from tidegate.runtime.wire.protocol import OK, Message, encode


class GuardedServer:
    """Answers every call that the guard lets through by what it is called by."""

    def __init__(self, folder: str) -> None:
        server_public, self.secret = (half.decode() for half in zmq.curve_keypair())
        public, secret = (half.decode() for half in zmq.curve_keypair())
        self.key = ClientKey(server_public, public, secret)
        self.guard = Guard(self.secret, [AccessKey("web", public)])
        self.context: zmq.Context[Any] = zmq.Context()
        self.loop = asyncio.new_event_loop()
        self.endpoint = Endpoint(self.context, self._handle, lambda: self.endpoint.flush(), guard=self.guard)
        self.own = self.endpoint.bind(f"ipc://{folder}/own", always=True)
        self.address = self.endpoint.bind("tcp://127.0.0.1:0")
        self.endpoint.start(self.loop)
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()

    def _handle(self, message: Message) -> None:
        for request in message.requests:
            self.endpoint.reply(message.origin, request.id, OK, request.method)

    def in_loop(self, function: Any, *arguments: Any) -> Any:
        async def call() -> Any:
            return function(*arguments)

        return asyncio.run_coroutine_threadsafe(call(), self.loop).result(WITHIN_S)

    def close(self) -> None:
        self.in_loop(self.endpoint.close)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()
        self.context.destroy(linger=0)


@pytest.fixture
def server(tmp_path: Any) -> Iterator[GuardedServer]:
    server = GuardedServer(str(tmp_path))
    yield server
    server.close()


@pytest.fixture
def context() -> Iterator[zmq.Context[Any]]:
    context: zmq.Context[Any] = zmq.Context()
    yield context
    context.destroy(linger=0)


def changes(dealer: Dealer, wanted: str) -> None:
    seen: list[str] = []

    def happened() -> bool:
        while (change := dealer.change(lambda _: None)) is not None:
            seen.append(change)
        return wanted in seen

    wait_until(happened, wanted, seen=lambda: seen)


def asked(dealer: Dealer, method: str) -> bytes:
    assert dealer.send(encode([1, "C", "n", method]))
    bodies: list[bytes] = []
    wait_until(lambda: bool(bodies.extend(dealer.receive(1)) or bodies), "an answer")
    return bodies[0]


def other_key(server: str) -> ClientKey:
    public, secret = (half.decode() for half in zmq.curve_keypair())
    return ClientKey(server, public, secret)


def test_who_has_a_key_on_the_list_is_let_in_and_the_service_itself_needs_none(
    server: GuardedServer, context: zmq.Context[Any]
) -> None:
    for address, key in ((server.address, server.key), (server.own, None)):
        dealer = Dealer(context, [address], reconnect=True, key=key)
        changes(dealer, "connected")
        assert asked(dealer, "hello") == encode([1, OK, "hello"])
        dealer.close()


def test_a_key_that_is_not_on_the_list_is_refused_and_let_in_when_it_is_on_it(
    server: GuardedServer, context: zmq.Context[Any]
) -> None:
    key = other_key(server.key.server)
    dealer = Dealer(context, [server.address], reconnect=True, key=key)
    changes(dealer, "refused")
    dealer.close()
    assert server.guard.unknown_keys == 1
    server.in_loop(server.guard.allow, [AccessKey("new", key.public)])
    dealer = Dealer(context, [server.address], reconnect=True, key=key)
    changes(dealer, "connected")
    dealer.close()


def test_who_has_no_key_or_that_of_another_service_is_turned_away_and_counted(
    server: GuardedServer, context: zmq.Context[Any]
) -> None:
    """Whoever sees first that the two do not fit closes: the service counts its own part of it."""
    other = ClientKey(other_key("").public, server.key.public, server.key.secret)
    for key, count in ((None, "without_key"), (other, "of_another_service")):
        dealer = Dealer(context, [server.address], reconnect=True, key=key)
        changes(dealer, "unfit")
        wait_until(lambda count=count: getattr(server.guard, count), count)  # type: ignore[misc]  # a default
        dealer.close()
    assert server.in_loop(server.endpoint.statistics).messages_in == 0


def test_who_has_the_key_of_another_service_tries_seldom(server: GuardedServer, context: zmq.Context[Any]) -> None:
    """For ever, and the library alone would come twenty times a second."""
    forgotten: list[int] = []
    other = ClientKey(other_key("").public, server.key.public, server.key.secret)
    dealer = Dealer(context, [server.address], reconnect=True, key=other)
    first, before = dealer.monitors(), server.guard.of_another_service
    for again in range(2):
        wait_until(lambda: dealer.change(forgotten.append) == "unfit", f"turned away, after {again} times")
    wait_until(lambda: server.guard.of_another_service >= before + 2, "both were counted")
    assert forgotten == first, "a socket took over from the first"
    assert dealer.socket.getsockopt(zmq.RECONNECT_IVL) >= 1_000
    assert not set(dealer.monitors()) & set(first)
    dealer.close()


def test_a_key_that_is_taken_off_the_list_is_refused_on_the_connection_that_it_has(
    server: GuardedServer, context: zmq.Context[Any]
) -> None:
    dealer = Dealer(context, [server.address], reconnect=True, key=server.key)
    changes(dealer, "connected")
    assert asked(dealer, "hello") == encode([1, OK, "hello"])
    server.in_loop(server.guard.allow, [])
    assert b"unauthorized" in asked(dealer, "hello")
    dealer.close()


def test_a_fault_of_ours_shuts_nobody_out_for_good_and_lets_nobody_in(server: GuardedServer, context: zmq.Context[Any]) -> None:
    """Answered 500 the client would never try again."""
    broken = server.guard.admits
    failed = threading.Event()

    def fails(_: str) -> bool:
        failed.set()
        raise OSError("a fault")

    server.guard.admits = fails  # type: ignore[assignment]  # a fault is put there
    dealer = Dealer(context, [server.address], reconnect=True, key=server.key)
    assert failed.wait(WITHIN_S)
    assert dealer.change(lambda _: None) is None
    server.guard.admits = broken
    changes(dealer, "connected")  # When the time for the greeting was over.
    dealer.close()


def knock(server: GuardedServer, source: str) -> socket.socket:
    host, _, port = server.address.removeprefix("tcp://").rpartition(":")
    return socket.create_connection((host, int(port)), timeout=1.0, source_address=(source, 0))


def test_a_flood_of_connections_is_shed_and_barred_and_a_client_at_another_address_goes_on(
    server: GuardedServer, context: zmq.Context[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(knocks_rules, "KNOCKS_AT_ONCE", 20)
    monkeypatch.setattr(knocks_rules, "KNOCKS_PER_S", 0.1)
    dealer = Dealer(context, [server.address], reconnect=True, key=server.key)
    changes(dealer, "connected")
    knocks = server.endpoint._connections.knocks
    assert knocks is not None
    strangers: list[socket.socket] = []

    def is_barred() -> bool:
        try:
            strangers.append(knock(server, "127.0.0.2"))
        except TimeoutError:  # The kernel drops what it sends.
            return "127.0.0.2" in knocks.barred
        return False

    wait_until(is_barred, "the address is barred", pause_s=0.0)
    assert asked(dealer, "hello") == encode([1, OK, "hello"])
    newcomer = Dealer(context, [server.address], reconnect=True, key=server.key)
    changes(newcomer, "connected")
    assert knocks.turned_out > 0
    assert len(knocks.waiting) <= 20 + 1
    dealer.close()
    newcomer.close()
    for stranger in strangers:
        stranger.close()


def test_who_says_much_before_he_is_greeted_is_closed(server: GuardedServer) -> None:
    stranger = knock(server, "127.0.0.3")
    stranger.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00CURVE" + bytes(47) + b"\x06" + (15 << 20).to_bytes(8, "big"))
    with contextlib.suppress(OSError):
        stranger.sendall(bytes(64 << 10))
    knocks = server.endpoint._connections.knocks
    assert knocks is not None
    wait_until(lambda: knocks.turned_out == 1, "it is closed")
    stranger.close()


@pytest.mark.parametrize(
    "barred", [[], ["192.0.2.1"], ["192.0.2.1", "2001:db8::1", "2001:db8::2"], ["fe80::1%lo", "2001:db8::/64"]]
)
@pytest.mark.parametrize("source", ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2", "2001:db8::3", "fe80::1"])
def test_the_filter_of_the_kernel_drops_what_comes_from_a_barred_address_and_nothing_else(source: str, barred: list[str]) -> None:
    """By a few lines that do as the kernel does."""
    address = ipaddress.ip_address(source)
    header = b"\x45" + bytes(11) + address.packed if address.version == 4 else b"\x60" + bytes(7) + address.packed
    program = [struct.unpack_from("=HBBI", barring_program(barred), at) for at in range(0, len(barring_program(barred)), 8)]
    at = value = 0
    kept = None if program else 1
    while kept is None:
        code, if_so, if_not, number = program[at]
        at += 1
        offset = number - 0xFFF0_0000
        if code == 0x30:
            value = header[offset]
        elif code == 0x20:
            value = int.from_bytes(header[offset : offset + 4], "big")
        elif code == 0x54:
            value &= number
        elif code == 0x15:
            at += if_so if value == number else if_not
        elif code == 0x05:
            at += number
        else:
            kept = number
    assert bool(kept) == all(address not in ipaddress.ip_network(each.partition("%")[0]) for each in barred)
