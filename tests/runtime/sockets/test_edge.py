"""The readiness rule, and the behaviour of the library that makes it necessary."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.support.waiting import wait_until
from tidegate.runtime.sockets.edge import Edge, is_readable

Pair = tuple["zmq.Socket[Any]", "zmq.Socket[Any]"]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with zmq.Context() as context:
        ours, theirs = context.socket(zmq.DEALER), context.socket(zmq.DEALER)
        ours.bind(f"ipc://{tmp_path}/edge")
        theirs.connect(f"ipc://{tmp_path}/edge")
        yield ours, theirs
        context.destroy(linger=0)


def is_told(socket: zmq.Socket[Any]) -> bool:
    return bool(select.select([socket.fileno()], [], [], 0)[0])


@pytest.mark.parametrize(
    "use",
    [lambda ours: ours.send(b"x"), lambda ours: ours.recv(zmq.NOBLOCK), lambda ours: is_readable(ours)],
    ids=["a send", "a receive", "a question"],
)
def test_any_operation_consumes_the_edge_beside_a_message(pair: Pair, use: Callable[[Any], object]) -> None:
    ours, theirs = pair
    theirs.send(b"connected")
    ours.recv()
    for _ in range(2):
        theirs.send(b"message")
    assert ours.poll(5_000)
    use(ours)
    wait_until(lambda: is_readable(ours), "the second message")
    while is_told(ours):  # What the library's thread had still to tell.
        is_readable(ours)
    assert is_readable(ours), "a message waits, and nobody will be told"


def run(pair: Pair, take: Callable[[Edge, list[bytes]], None], messages: int) -> list[bytes]:
    """What an owner receives that does `take` whenever it is called, until all have come or nothing comes for a second."""
    ours, theirs = pair
    received: list[bytes] = []

    async def main() -> None:
        over = asyncio.Event()

        def on_readable() -> None:
            edge.is_due = False
            take(edge, received)
            if len(received) == messages:
                over.set()

        edge = Edge(ours, on_readable)
        edge.start(asyncio.get_running_loop())
        for number in range(messages):
            theirs.send(b"%d" % number)
            if number % 3 == 0:
                await asyncio.sleep(0)
        await asyncio.wait([asyncio.ensure_future(over.wait())], timeout=1)
        edge.stop()

    asyncio.run(main())
    return received


def test_an_owner_that_receives_one_message_at_a_time_and_sends_gets_all_of_them(pair: Pair) -> None:
    def take(edge: Edge, received: list[bytes]) -> None:
        edge.used = True
        if is_readable(pair[0]):
            received.append(pair[0].recv(zmq.NOBLOCK))
            pair[0].send(b"answer")
        edge.rearm()

    assert run(pair, take, 500) == [b"%d" % number for number in range(500)]


def test_an_owner_that_breaks_the_rule_misses_messages(pair: Pair) -> None:
    def take(edge: Edge, received: list[bytes]) -> None:
        if is_readable(pair[0]):
            received.append(pair[0].recv(zmq.NOBLOCK))

    assert len(run(pair, take, 500)) < 500


async def some_turns() -> None:
    """Of the loop: what is due has been called."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_however_often_it_is_armed_again_it_calls_once(pair: Pair) -> None:
    async def main() -> None:
        calls: list[int] = []
        edge = Edge(pair[0], lambda: calls.append(1))
        edge.start(asyncio.get_running_loop())
        pair[1].send(b"message")
        assert pair[0].poll(5_000)
        await some_turns()  # Of the start, and of the message.
        calls.clear()
        for _ in range(5):
            edge.rearm()
        assert not edge.used
        await some_turns()
        assert calls == [1]

    asyncio.run(main())
